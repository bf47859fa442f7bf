"""Fusion against closed forms; the fast twin against the truth."""

import os
import subprocess
import sys

import numpy as np
import pytest

from gnesf_core.config import TargetsConfig
from gnesf_core.geometry import tsdf, tsdf_numba
from gnesf_core.geometry.camera import invert_rigid, look_at, pixel_rays, transform
from gnesf_core.geometry.grid import Grid
from gnesf_core.geometry.tsdf import TsdfVolume
from tests import tiny_room

CONFIG = TargetsConfig(
    voxel_size_m=0.04, levels=3, truncation_voxels=3.0, max_depth_m=3.0
)
SIZE = (160, 120)
INTRINSICS = tiny_room.intrinsics(SIZE)


def truth(volume, *frames):
    tsdf.integrate(volume, *frames)


def fast(volume, *frames):
    tsdf_numba.integrate([volume], *frames)


BOTH = pytest.mark.parametrize("integrate", [truth, fast])


def plane_depth(pose, normal, offset, size=SIZE):
    """Depth of the plane `normal @ x = offset`; 0 where a ray misses it."""
    rays = pixel_rays(tiny_room.intrinsics(size), *size) @ pose[:3, :3].T
    with np.errstate(divide="ignore"):
        depth = (offset - normal @ pose[:3, 3]) / (rays @ normal)
    return np.where(depth > 0, depth, 0).astype(np.float32)


def sphere_depth(pose, centre, radius, size=SIZE):
    """Depth of a sphere seen from outside; 0 where a ray misses it."""
    rays = pixel_rays(tiny_room.intrinsics(size), *size) @ pose[:3, :3].T
    to_centre = pose[:3, 3] - centre
    a, b = (rays**2).sum(-1), rays @ to_centre
    root = b**2 - a * (to_centre @ to_centre - radius**2)
    depth = (-b - np.sqrt(np.maximum(root, 0))) / a
    return np.where(root > 0, depth, 0).astype(np.float32)


def voxel_centres(grid):
    indices = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)
    return grid.origin_world + grid.voxel_size_m * indices


def room_frames(count=6, size=SIZE):
    poses = tiny_room.camera_path(count)
    depth = np.stack([tiny_room.cast(pose, size)[0] for pose in poses])
    return depth.astype(np.float32), tiny_room.intrinsics(size), poses


def room_volume(voxel_size_m=0.05):
    low, high = tiny_room.LOW - 0.3, tiny_room.HIGH + 0.3
    shape = tuple(int(n) for n in np.ceil((high - low) / voxel_size_m))
    return TsdfVolume.empty(Grid(low, voxel_size_m, shape), 3 * voxel_size_m)


@BOTH
@pytest.mark.parametrize(
    ("eye", "target"),
    [((0, 0, 0), (0, 1, 0)), ((0, 0, 3), (0, 0, 0)), ((0.1, 0.2, 0), (1, 2, 3))],
    ids=["level", "straight down", "tilted"],
)
def test_a_plane_seen_head_on_has_its_exact_distances(integrate, eye, target):
    pose = look_at(eye, target)
    depth = np.full((1, *SIZE[::-1]), 1.5, np.float32)
    middle = transform(pose, np.array([[0, 0, 1.5]]))[0]
    volume = TsdfVolume.empty(Grid(middle - 0.25, 0.025, (20, 21, 22)), 0.15)
    integrate(volume, depth, INTRINSICS, pose[None], 3.0)
    # The volume is well inside the image and the frustum.
    in_camera = transform(invert_rigid(pose), voxel_centres(volume.grid))
    sdf = 1.5 - in_camera[..., 2]
    clear = np.abs(sdf + 0.15) > 1e-4  # from the end of the truncation
    seen = sdf > -0.15
    np.testing.assert_array_equal(volume.arrays()[1][clear], seen[clear])
    expected = np.where(seen, np.minimum(sdf / 0.15, 1), 1)
    np.testing.assert_allclose(volume.arrays()[0][clear], expected[clear], atol=1e-5)
    assert 0.2 < seen.mean() < 0.9 and (expected < 0).any()


@BOTH
def test_distance_to_an_oblique_plane_is_measured_along_z(integrate):
    pose = look_at((0, 0, 0), (0, 1, 0))
    normal = np.array([0.6, 0.8, 0.0])
    size = (1600, 1200)
    depth = plane_depth(pose, normal, 1.2, size)[None]
    volume = TsdfVolume.empty(Grid(np.array([-0.4, 1.0, -0.4]), 0.05, (16,) * 3), 0.15)
    integrate(volume, depth, tiny_room.intrinsics(size), pose[None], 3.0)
    points = voxel_centres(volume.grid)
    # The ray to a point x reaches the plane at x * 1.2 / (normal @ x); z is y here.
    sdf = points[..., 1] * (1.2 / (points @ normal) - 1)
    expected = np.clip(sdf / 0.15, None, 1)
    clear = np.abs(sdf + 0.15) > 0.002
    seen = sdf > -0.15
    np.testing.assert_array_equal(volume.arrays()[1][clear], seen[clear])
    # Half a pixel is 0.7 mm sideways at 1.75 m; depth changes less than that on this
    # slope.
    error = np.abs(volume.arrays()[0] - expected)[clear & seen]
    assert error.max() < 0.7e-3 / 0.15


@BOTH
def test_a_sphere_crosses_zero_where_it_is(integrate):
    centre, radius = np.array([0.3, -0.2, 1.0]), 0.6
    eyes = [(2, 0, 1), (-2, 0, 1), (0, 2, 1), (0, -2, 1), (0.3, -0.2, 3), (1, 1, -1)]
    poses = np.stack([look_at(eye, centre) for eye in eyes])
    size = (640, 480)
    depth = np.stack([sphere_depth(pose, centre, radius, size) for pose in poses])
    volume = TsdfVolume.empty(Grid(centre - 0.8, 0.05, (33, 33, 33)), 0.15)
    integrate(volume, depth, tiny_room.intrinsics(size), poses, 4.0)
    values, observed = volume.arrays()[0], volume.arrays()[1] > 0
    radii = np.linalg.norm(voxel_centres(volume.grid) - centre, axis=-1)
    errors = []
    for axis in range(3):
        first, second = np.arange(32), np.arange(1, 33)
        a, b = values.take(first, axis), values.take(second, axis)
        both = observed.take(first, axis) & observed.take(second, axis)
        # Steps as long as the truncation are shadows, not surface.
        crossed = both & (a * b < 0) & (np.maximum(a, b) < 0.9)
        share = (a / np.where(crossed, a - b, 1))[crossed]
        r, s = radii.take(first, axis)[crossed], radii.take(second, axis)[crossed]
        errors.append(np.abs(r + share * (s - r) - radius))
    errors = np.concatenate(errors)
    assert len(errors) > 2000
    # Averaging views of a curved surface is biased where some look along it.
    assert np.median(errors) < 0.1 * 0.05
    assert np.quantile(errors, 0.9) < 0.25 * 0.05
    assert errors.max() < 0.05


@BOTH
def test_a_box_room_is_positive_inside_and_unobserved_outside(integrate):
    volume = room_volume()
    integrate(volume, *room_frames(8), 5.0)
    points = voxel_centres(volume.grid)
    to_walls = np.minimum(points - tiny_room.LOW, tiny_room.HIGH - points).min(-1)
    values, weight = volume.arrays()[0], volume.arrays()[1]
    beyond = (points < tiny_room.LOW - 0.16).any(-1)
    beyond |= (points > tiny_room.HIGH + 0.16).any(-1)
    # Oblique rays make the projective distance longer than the true one, never
    # shorter: nothing further than the truncation behind a wall can be observed.
    assert (weight[beyond] == 0).all() and (values[beyond] == 1).all()
    observed = weight > 0
    low, high = tiny_room.BLOCK_LOW - 0.11, tiny_room.BLOCK_HIGH + 0.11
    block = ((points > low) & (points < high)).all(-1)
    assert (values[observed & (to_walls > 0.01) & ~block] > 0).all()
    assert (values[observed & (to_walls < -0.03)] < 0).all()
    assert observed.mean() > 0.4


@BOTH
def test_pixels_without_usable_depth_change_nothing(integrate):
    depth = np.full((1, *SIZE[::-1]), 1.5, np.float32)
    depth[0, :, :80] = 0
    depth[0, :40] = 3.01
    depth[0, 80:] = np.nan
    pose = look_at((0, 0, 0), (0, 1, 0))
    volume = TsdfVolume.empty(Grid(np.array([-1.0, 0.5, -1.0]), 0.05, (41,) * 3), 0.15)
    integrate(volume, depth, INTRINSICS, pose[None], 3.0)
    points = voxel_centres(volume.grid)
    u = 128 * points[..., 0] / points[..., 1] + 79.5
    v = -128 * points[..., 2] / points[..., 1] + 59.5
    usable = (u >= 79.5) & (u < 159.5) & (v >= 39.5) & (v < 79.5)
    clear = (np.abs(u - 79.5) > 1e-3) & (np.abs(points[..., 1] - 1.65) > 1e-3)
    clear &= (np.abs(v - 39.5) > 1e-3) & (np.abs(v - 79.5) > 1e-3)
    clear &= np.abs(u - 159.5) > 1e-3
    expected = usable & (points[..., 1] < 1.65)
    np.testing.assert_array_equal(volume.arrays()[1][clear], expected[clear])
    assert expected.any()


@BOTH
def test_halves_of_pixels_round_up(integrate):
    # Focal length and depth are powers of two: u = 4 * x / 1 + 1 is exact.
    intrinsics = np.array([[4.0, 0, 1], [0, 4.0, 1], [0, 0, 1]])
    depth = np.array([[[1.0, 1.125, 1.25]] * 3], np.float32)
    grid = Grid(np.array([-0.375, 0.0, 1.0]), 0.125, (7, 1, 1))
    volume = TsdfVolume.empty(grid, 0.5)
    integrate(volume, depth, intrinsics, np.eye(4)[None], 3.0)
    # u = -0.5, 0, 0.5, 1, 1.5, 2, 2.5 falls on pixels 0, 0, 1, 1, 2, 2, none.
    expected = [0, 0, 0.25, 0.25, 0.5, 0.5, 1]
    np.testing.assert_array_equal(volume.arrays()[0].ravel(), expected)
    np.testing.assert_array_equal(volume.arrays()[1].ravel(), [1] * 6 + [0])


@BOTH
def test_the_order_of_frames_does_not_matter(integrate):
    depth, intrinsics, poses = room_frames(6)
    volumes = room_volume(0.1), room_volume(0.1)
    integrate(volumes[0], depth, intrinsics, poses, 5.0)
    integrate(volumes[1], depth[:2], intrinsics, poses[:2], 5.0)
    integrate(volumes[1], depth[:1:-1], intrinsics, poses[:1:-1], 5.0)
    np.testing.assert_array_equal(volumes[0].weight, volumes[1].weight)
    np.testing.assert_allclose(volumes[0].tsdf, volumes[1].tsdf, atol=1e-6, rtol=0)


@BOTH
def test_the_mean_of_two_frames_is_their_mean(integrate):
    volume = TsdfVolume.empty(Grid(np.array([0, 0, 1.0]), 0.1, (1, 1, 1)), 0.4)
    depth = np.ones((2, *SIZE[::-1]), np.float32)
    depth[0] += 0.1
    depth[1] -= 0.2
    integrate(volume, depth, INTRINSICS, np.stack([np.eye(4)] * 2), 3.0)
    assert volume.tsdf.item() == pytest.approx((0.25 - 0.5) / 2, abs=1e-6)
    assert volume.weight.item() == 2


def assert_twins_agree(volumes, others):
    for ours, theirs in zip(volumes, others, strict=True):
        observed = theirs.weight > 0
        assert observed.any()
        differs = (ours.weight != theirs.weight)[observed]
        distant = (np.abs(ours.tsdf - theirs.tsdf) > 1e-4)[observed]
        # A voxel on the border between two pixels may take either.
        assert differs.mean() < 1e-3
        assert distant.mean() < 1e-3
        # What the truth left alone the twin leaves alone, but for such borders.
        assert (ours.weight[~observed] > 0).mean() < 1e-3


def test_the_twins_agree_on_a_room_with_holes():
    depth, intrinsics, poses = room_frames(11, (320, 240))
    rng = np.random.default_rng(0)
    for image in depth:
        for row, column in rng.integers((0, 0), (240, 320), (15, 2)):
            image[row : row + 20, column : column + 30] = 0
    low, high = tiny_room.LOW, tiny_room.HIGH
    grids = tsdf.pyramid_grids(low, high, CONFIG)
    volumes, others = (
        [TsdfVolume.empty(grid, 3 * grid.voxel_size_m) for grid in grids]
        for _ in range(2)
    )
    tsdf.fuse(volumes, depth, intrinsics, poses, 3.0)
    for volume in others:
        tsdf.integrate(volume, depth, intrinsics, poses, 3.0)
    assert_twins_agree(volumes, others)


@pytest.mark.parametrize("seed", range(8))
def test_the_twins_agree_from_anywhere_on_anything(seed):
    # Cameras in, near and beside the volume, rolled, and depth that defies tiles.
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(20, 90, 2).tolist())
    eyes, targets = rng.uniform(-1.5, 1.5, (2, 10, 3))
    rolls = rng.uniform(-3, 3, 10)
    poses = np.stack(
        [
            look_at(eye, target, roll=roll)
            for eye, target, roll in zip(eyes, targets, rolls, strict=True)
        ]
    )
    depth = rng.uniform(0.1, 2.5, (10, *size[::-1])).astype(np.float32)
    depth[::2] = np.round(depth[::2, :1, :1], 1)  # flat images allow shortcuts
    depth[rng.uniform(size=depth.shape) < rng.choice([0, 0.001, 0.5])] = 0
    shape = tuple(rng.integers(1, 40, 3).tolist())
    grid = Grid(rng.uniform(-1.5, 0, 3), 0.05, shape)
    volumes = TsdfVolume.empty(grid, 0.15), TsdfVolume.empty(grid, 0.15)
    frames = depth, tiny_room.intrinsics(size, rng.uniform(0.4, 2)), poses, 2.0
    fast(volumes[0], *frames)
    truth(volumes[1], *frames)
    different = (volumes[0].weight != volumes[1].weight).sum().item()
    distant = (np.abs(volumes[0].tsdf - volumes[1].tsdf) > 1e-4).sum().item()
    allowed = 2 + 1e-3 * volumes[0].weight.size
    assert different < allowed and distant < allowed


def test_the_number_of_threads_does_not_change_a_bit():
    depth, intrinsics, poses = room_frames(9)
    volumes = room_volume(), room_volume()
    for volume, threads in zip(volumes, (1, 3), strict=True):
        tsdf_numba.integrate([volume], depth, intrinsics, poses, 5.0, threads)
    assert np.array_equal(volumes[0].tsdf, volumes[1].tsdf)
    assert np.array_equal(volumes[0].weight, volumes[1].weight)


def test_fusion_without_numba_gives_the_truth():
    program = """
import sys
sys.modules["numba"] = None
import numpy as np
from gnesf_core.geometry import tsdf
from gnesf_core.geometry.grid import Grid
volume = tsdf.TsdfVolume.empty(Grid(np.array([0, 0, 1.0]), 0.1, (1, 1, 1)), 0.4)
depth = np.full((1, 3, 3), 1.1, np.float32)
tsdf.fuse([volume], depth, np.eye(3), np.eye(4)[None], 3.0)
print(volume.tsdf.item())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(0.25, abs=1e-6)


def test_levels_share_their_origin_and_enclose_the_bounds():
    lower, upper = np.array([-1.23, 0.4, -0.05]), np.array([3.33, 2.2, 2.51])
    grids = tsdf.pyramid_grids(lower, upper, CONFIG)
    assert [grid.voxel_size_m for grid in grids] == [0.04, 0.08, 0.16]
    finest = np.array(grids[0].shape)
    for level, grid in enumerate(grids):
        np.testing.assert_array_equal(np.array(grid.shape) * 2**level, finest)
        np.testing.assert_array_equal(grid.origin_world, grids[0].origin_world)
        last = grid.origin_world + grid.voxel_size_m * (np.array(grid.shape) - 1)
        assert (grid.origin_world <= lower - 0.48 + 1e-9).all()
        assert (last >= upper + 0.48 - 1e-9).all()
    steps = grids[0].origin_world / 0.16
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-9)
    # Padded by 0.48 m and to whole voxels on both sides, and by no more.
    assert ((finest - 1) * 0.04 < upper - lower + 0.96 + 0.32 + 0.16).all()


@pytest.mark.parametrize(
    "upper", [(1e4, 1e4, 1e4), (np.inf, 1, 1), (np.nan, 1, 1), (-1, 1, 1)]
)
def test_absurd_bounds_are_refused_before_anything_is_allocated(upper):
    with pytest.raises(ValueError, match="bounds|voxels"):
        tsdf.pyramid_grids(np.zeros(3), np.array(upper, np.float64), CONFIG)


def test_bounds_are_the_extremes_of_the_usable_points():
    # Pixels (0, 0), (1, 0), (0, 1), (1, 1) look along (-+0.5, -+0.5, 1).
    intrinsics = np.array([[1.0, 0, 0.5], [0, 1.0, 0.5], [0, 0, 1]])
    depth = np.array([[1.0, 2.0], [0.0, 9.0]], np.float32)
    pose = np.eye(4)
    pose[:3, 3] = [10, 20, 30]
    lower, upper = tsdf.depth_bounds(depth, intrinsics, pose, 3.0)
    np.testing.assert_allclose(lower, [9.5, 19, 31])
    np.testing.assert_allclose(upper, [11, 19.5, 32])
    lower, upper = tsdf.depth_bounds(depth * 0, intrinsics, pose, 3.0)
    assert (lower == np.inf).all() and (upper == -np.inf).all()
