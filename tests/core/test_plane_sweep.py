"""Stereo on pictures in closed form: planes painted with sums of waves."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gnesf_core.config import PlaneSweepConfig
from gnesf_core.data import images, store
from gnesf_core.data.provenance import provenance
from gnesf_core.data.scan import ScanInfo
from gnesf_core.errors import BadInput
from gnesf_core.geometries import plane_sweep
from gnesf_core.geometries.interface import Geometry
from gnesf_core.geometry import stereo
from gnesf_core.geometry.camera import look_at, pixel_rays
from gnesf_core.geometry.grid import Grid
from gnesf_core.geometry.mesh import extract_surface

SIZE = (80, 60)
INTRINSICS = np.array([[64.0, 0, 39.5], [0, 64, 29.5], [0, 0, 1]])
SETTINGS = PlaneSweepConfig(
    image_width=80, image_height=60, patch=5, depths=32, near_m=0.8, far_m=4.0,
    neighbours=4, baseline_m=0.3, min_score=0.5, voxel_size_m=0.08,
    truncation_voxels=3.0,
)  # fmt: skip
CPU = "cpu"


class Plane:
    """A plane `normal @ x = offset`, painted; at least `left_m` along world y."""

    def __init__(self, normal, offset, seed=0, left_m=-np.inf, contrast=60.0):
        self.normal, self.offset, self.left_m = np.array(normal), offset, left_m
        rng = np.random.default_rng(seed)
        directions = rng.normal(size=(24, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        lengths_m = rng.uniform(0.15, 0.8, (24, 1))
        self._waves = 2 * np.pi * directions / lengths_m
        self._phases = rng.uniform(0, 2 * np.pi, 24)
        self._height = contrast / np.sqrt(12)

    def depth(self, pose):
        """Depth where it is hit, infinity elsewhere."""
        rays = pixel_rays(INTRINSICS, *SIZE) @ pose[:3, :3].T
        with np.errstate(divide="ignore"):
            depth = (self.offset - self.normal @ pose[:3, 3]) / (rays @ self.normal)
        y = pose[1, 3] + rays[..., 1] * depth
        return np.where((depth > 0) & (y >= self.left_m), depth, np.inf)

    def grey(self, points):
        waves = np.sin(points @ self._waves.T + self._phases)
        return 128 + self._height * waves.sum(-1)


def photograph(pose, planes):
    """Return the picture and the true depth that a camera sees."""
    depths = np.stack([plane.depth(pose) for plane in planes])
    rays = pixel_rays(INTRINSICS, *SIZE) @ pose[:3, :3].T
    depth = depths.min(0)
    points = pose[:3, 3] + rays * np.where(np.isfinite(depth), depth, 0)[..., None]
    shades = np.stack([plane.grey(points) for plane in planes])
    grey = np.take_along_axis(shades, depths.argmin(0)[None], 0)[0]
    return np.rint(grey.clip(0, 255)), depth


def stand(*places, target=(2.2, 0.0, 1.0)):
    """Cameras at places (y, z), looking along +x and slightly at one target."""
    return np.stack([look_at((0.0, y, z), target) for y, z in places])


AROUND = stand((0, 1), (0.3, 1), (-0.3, 1), (0, 1.3), (0, 0.7))
WALL = Plane((1.0, 0, 0), 2.2)
SLANTED = Plane((0.9, 0.25, 0.36), 2.3)


def pictures_of(poses, planes):
    grey = np.stack([photograph(pose, planes)[0] for pose in poses])
    grey = torch.from_numpy(grey.astype(np.float32))
    return stereo.PosedPictures(grey, INTRINSICS, poses)


def estimate(pictures, settings=SETTINGS):
    """Depth of the first picture from all others."""
    others = [[*range(1, len(pictures.grey))]]
    return plane_sweep.estimate_depth(pictures, others, settings)[0].numpy()


@pytest.mark.parametrize("plane", [WALL, SLANTED], ids=["wall", "slanted"])
def test_a_textured_plane_is_found_within_a_percent(plane):
    depth = estimate(pictures_of(AROUND, [plane]))

    truth = photograph(AROUND[0], [plane])[1]
    assert (depth > 0).mean() > 0.97
    error = np.abs(depth / truth - 1)[4:-4, 4:-4]  # windows end at the edge
    assert np.median(error) < 0.004
    assert np.percentile(error, 90) < 0.01


def test_a_cameras_exposure_does_not_matter():
    pictures = pictures_of(AROUND, [WALL])
    grey = pictures.grey.clone()
    grey[1:] = 0.6 * grey[1:] + 40
    dimmed = replace(pictures, grey=grey)

    np.testing.assert_allclose(estimate(dimmed), estimate(pictures), rtol=2e-3)


def test_two_depths_are_told_apart():
    planes = [WALL, Plane((1.0, 0, 0), 1.4, seed=1, left_m=0.1)]
    depth = estimate(pictures_of(AROUND, planes))

    truth = photograph(AROUND[0], planes)[1]
    front = truth < 1.8
    columns = np.flatnonzero(np.diff(front[30].astype(int)))
    assert len(columns) == 1  # the edge between them
    away = np.abs(np.arange(SIZE[0]) - columns[0]) > 6
    sure = (depth > 0) & away
    assert sure[front].mean() > 0.7 and sure[~front].mean() > 0.7
    assert np.percentile(np.abs(depth / truth - 1)[sure], 97) < 0.02


def test_what_is_hidden_from_some_neighbours_is_found_by_the_others():
    pictures = pictures_of(AROUND, [WALL])
    grey = pictures.grey.clone()
    for neighbour, seed in ((1, 5), (3, 6)):  # something stands before these two
        obstacle = Plane((1.0, 0, 0), 0.3, seed)
        grey[neighbour] = torch.from_numpy(photograph(AROUND[neighbour], [obstacle])[0])
    depth = estimate(replace(pictures, grey=grey))

    truth = photograph(AROUND[0], [WALL])[1]
    # At the rim, only the two that are blocked would see the wall.
    assert (np.abs(depth / truth - 1) < 0.01).mean() > 0.9


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_blank_wall_has_no_depth_rather_than_a_wrong_one(noise):
    pictures = pictures_of(AROUND, [WALL])
    blank = torch.full_like(pictures.grey, 200)
    blank += noise * torch.randn(blank.shape, generator=torch.manual_seed(0))

    depth = estimate(replace(pictures, grey=blank))

    assert (depth > 0).mean() <= (0.01 if noise else 0)


def test_half_a_blank_wall_is_not_filled_in():
    planes = [WALL, Plane((1.0, 0, 0), 2.19, left_m=0.0, contrast=0.0)]
    depth = estimate(pictures_of(AROUND, planes))

    blank = photograph(AROUND[0], planes[1:])[1] < np.inf
    deep_inside = blank & np.roll(blank, 6, 1) & np.roll(blank, -6, 1)
    assert deep_inside.any() and not depth[deep_inside].any()
    assert (depth[~blank] > 0).mean() > 0.95


@pytest.mark.parametrize("depth_m", [0.7, 9.0])
def test_a_best_hypothesis_at_either_end_is_no_depth(depth_m):
    inverse_depth = stereo.inverse_depths(1.0, 4.0, 9)
    scores = 0.9 - (inverse_depth - 1 / depth_m).abs().view(-1, 1, 1)

    depth = stereo.depth_of(scores, scores.argmax(0), inverse_depth, 0.0)

    assert depth.item() == 0


def test_scores_are_correlations_of_windows_seen_through_the_plane():
    poses = AROUND[:2]
    pictures = pictures_of(poses, [SLANTED])
    inverse_depth = torch.tensor([0.3, 0.45, 0.6])
    scores = stereo.sweep(pictures, 0, [1], inverse_depth, 5)

    motion = np.linalg.inv(poses[1]) @ poses[0]
    rays = pixel_rays(INTRINSICS, *SIZE)
    own, other = pictures.grey.double().numpy()
    for d, v, u in [(0, 20, 30), (1, 29, 41), (2, 35, 50), (2, 2, 2)]:
        window = np.s_[v - 2 : v + 3, u - 2 : u + 3]
        points = rays[window] / inverse_depth[d].item()
        points = points @ motion[:3, :3].T + motion[:3, 3]
        uv = points[..., :2] / points[..., 2:] * 64 + [39.5, 29.5]
        seen = [bilinear(other, *place) for place in uv.reshape(-1, 2)]
        expected = np.corrcoef(own[window].ravel(), seen)[0, 1]
        assert scores[d, v, u] == pytest.approx(expected, abs=1e-3)


def test_only_what_projects_into_the_neighbour_is_scored():
    poses = np.stack([AROUND[0], look_at((0.3, -0.4, 1.3), (2.2, -0.5, 1.6))])
    pictures = pictures_of(poses, [WALL])
    scores = stereo.sweep(pictures, 0, [1], torch.tensor([0.5]), 5)[0]

    motion = np.linalg.inv(poses[1]) @ poses[0]
    points = pixel_rays(INTRINSICS, *SIZE) * 2.0 @ motion[:3, :3].T + motion[:3, 3]
    u, v = (points[..., :2] / points[..., 2:] * 64 + [39.5, 29.5]).transpose(2, 0, 1)
    across, down = (u >= 0) & (u <= SIZE[0] - 1), (v >= 0) & (v <= SIZE[1] - 1)
    inside = across & down
    assert inside.any() and (across & ~down).any() and (down & ~across).any()
    seen = (scores > stereo.UNSEEN).numpy()
    np.testing.assert_array_equal(seen[2:-2, 2:-2], inside[2:-2, 2:-2])


def bilinear(image, u, v):
    u, v = np.clip(u, 0, SIZE[0] - 1.001), np.clip(v, 0, SIZE[1] - 1.001)
    left, upper = int(u), int(v)
    a, b = u - left, v - upper
    rows = image[upper : upper + 2, left : left + 2]
    return np.array([1 - b, b]) @ rows @ np.array([1 - a, a])


def test_the_better_half_of_those_that_see_a_pixel_counts():
    pictures = pictures_of(AROUND[:4], [SLANTED])
    grey = pictures.grey.clone()
    grey[2] = 255 - grey[2]  # correlates with nothing
    pictures = replace(pictures, grey=grey)
    inverse_depth = torch.tensor([0.4, 0.5])
    each = [stereo.sweep(pictures, 0, [n], inverse_depth, 5) for n in (1, 2, 3)]

    together = stereo.sweep(pictures, 0, [1, 2, 3], inverse_depth, 5)

    best, second, _ = torch.stack(each).sort(0, descending=True).values
    expected = torch.where(second > stereo.UNSEEN, (best + second) / 2, best)
    torch.testing.assert_close(together, expected)
    assert (second == stereo.UNSEEN).any() and (second > stereo.UNSEEN).any()


def test_nobody_behind_the_reference_camera_has_a_score():
    back = look_at((0.0, 0.3, 1.0), (-2.0, 0.3, 1.0))
    pictures = pictures_of(np.stack([AROUND[0], back]), [WALL, Plane((-1.0, 0, 0), 2)])

    scores = stereo.sweep(pictures, 0, [1], torch.tensor([0.3, 0.6]), 5)

    assert (scores == stereo.UNSEEN).all()


def test_smoothing_finds_the_best_paths():
    """Against the textbook's recurrence, one pixel at a time."""
    scores = torch.rand((5, 4, 6), generator=torch.manual_seed(3))
    penalty = 0.4
    total = np.zeros((4, 6, 5))
    for dv, du in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        path = np.zeros((4, 6, 5))
        rows, columns = range(4)[:: dv or 1], range(6)[:: du or 1]
        for v in rows:
            for u in columns:
                for d in range(5):
                    path[v, u, d] = -scores[d, v, u]
                    if 0 <= v - dv < 4 and 0 <= u - du < 6:
                        last = path[v - dv, u - du]
                        steps = [
                            last[e] + (0, penalty / 5, penalty)[min(abs(e - d), 2)]
                            for e in range(5)
                        ]
                        path[v, u, d] += min(steps) - last.min()
        total += path

    np.testing.assert_array_equal(stereo.smooth(scores, penalty), total.argmin(-1))
    np.testing.assert_array_equal(stereo.smooth(scores, 0.0), scores.argmax(0))


def test_the_peak_between_hypotheses_is_exact_for_a_parabola():
    inverse_depth = stereo.inverse_depths(1.0, 4.0, 9)
    peaks = torch.linspace(0.3, 0.9, 12).view(3, 4)
    scores = 0.9 - (inverse_depth[:, None, None] - peaks) ** 2

    depth = stereo.depth_of(scores, scores.argmax(0), inverse_depth, 0.5)

    torch.testing.assert_close(depth, 1 / peaks, rtol=1e-4, atol=0)


def test_depth_that_no_neighbour_shares_is_not_confirmed():
    pictures = pictures_of(AROUND[:3], [WALL])
    truth = np.stack([photograph(pose, [WALL])[1] for pose in AROUND[:3]])
    depth = torch.from_numpy(truth.astype(np.float32))
    wrong = np.s_[0, 20:30, 30:40]
    depth[wrong] *= 1.1
    depth[0, 40:45, 30:40] = 0

    known = stereo.confirmed(pictures, depth, [[1, 2], [0], []], 0.05)

    assert not known[wrong].any() and not known[0, 40:45, 30:40].any()
    assert known[0, 5:18, 20:60].all() and not known[2].any()
    assert stereo.confirmed(pictures, depth, [[1, 2], [0], []], 0.2)[wrong].all()


def test_no_depth_is_never_confirmed():
    """Not even by a camera for which the reference camera itself is at its depth."""
    poses = np.stack([look_at((x, 0, 1), (5.0, 0, 1)) for x in (1.0, 0.0)])
    pictures = pictures_of(poses, [WALL])
    depth = torch.zeros_like(pictures.grey)
    depth[1] = 1.0

    assert not stereo.confirmed(pictures, depth, [[1], []], 0.05).any()


def test_depths_are_looked_up_at_the_nearest_pixel():
    pictures = pictures_of(AROUND[[0, 0]], [WALL])
    depth = 1 + torch.rand((1, 60, 80), generator=torch.manual_seed(0)).expand(
        2, 60, 80
    )

    assert stereo.confirmed(pictures, depth, [[1], [0]], 1e-3).all()


def test_neighbours_are_well_placed_and_see_the_same():
    poses = stand(*[(0.1 * step, 1.0) for step in range(8)], target=(40.0, 0.0, 1.0))
    poses = np.concatenate([poses, poses[3:4].copy()])
    poses[8, :3, :3] = look_at((0, 0, 1), (-40.0, 0, 1))[:3, :3]  # looks back
    pictures = pictures_of(poses, [WALL])

    one = stereo.choose_neighbours(pictures, 1, 0.3, 2.0)
    assert one[0] == [3] and one[1] == [4] and one[7] == [4]
    assert one[8] == []
    many = stereo.choose_neighbours(pictures, 20, 0.3, 2.0)
    assert all(own not in chosen and 8 not in chosen for own, chosen in enumerate(many))
    assert {len(chosen) for chosen in many[:8]} <= {4, 5, 6, 7}


def test_neighbours_on_both_sides_cover_the_picture():
    """Two cameras look left, one looks right and is worse placed."""
    poses = stand((0, 1), (0.3, 1), (0.31, 1), (0.4, 1))
    for place, y in ((1, 1.2), (2, 1.2), (3, -1.2)):
        poses[place] = look_at(poses[place, :3, 3], (2.2, y, 1.0))
    chosen = stereo.choose_neighbours(pictures_of(poses, [WALL]), 2, 0.3, 2.2)[0]

    assert 3 in chosen and len(chosen) == 2


def write_scene(path, poses, planes, is_key=None):
    """Write pictures of planes as a frames file without depth."""
    count = len(poses)
    is_key = np.ones(count, bool) if is_key is None else is_key
    info = ScanInfo(
        path, count, *SIZE, *SIZE, INTRINSICS, INTRINSICS, 1000.0, "png", "zlib"
    )
    selection = store.Selection(np.arange(count), is_key, ~is_key, np.full((0, 9), -1))
    status = np.zeros(count, np.uint8)
    made_by = provenance("test", {}, {})
    with store.write_frames(
        path, "s", info, poses, status, selection, False, made_by
    ) as writer:
        for pose in poses:
            grey = photograph(pose, planes)[0].astype(np.uint8)
            rgb = np.repeat(grey[..., None], 3, axis=2)
            writer.add(images.encode_png(rgb), np.zeros(SIZE[::-1], np.uint16), None)
    return path


def reconstruct(path, settings=SETTINGS):
    with store.Frames(path) as frames:
        geometry = plane_sweep.open_geometry(settings, None, CPU)
        assert isinstance(geometry, Geometry) and not geometry.needs_targets
        return geometry.reconstruct(frames, None)


@pytest.fixture(scope="module")
def wall_scene(tmp_path_factory):
    path = tmp_path_factory.mktemp("wall") / "frames.h5"
    return write_scene(path, AROUND, [WALL])


def test_the_fused_surface_is_where_the_wall_is(wall_scene):
    volume = reconstruct(wall_scene)

    surface = volume.surface
    assert surface.voxel_size_m == 0.08
    assert surface.truncation_m == pytest.approx(0.24)
    whole_voxels = surface.origin_world / 0.08
    np.testing.assert_allclose(whole_voxels, np.rint(whole_voxels), atol=1e-9)
    grid = Grid(surface.origin_world, 0.08, surface.tsdf.shape)
    vertices, faces = extract_surface(surface.tsdf, surface.weight, grid)
    assert len(faces) > 100
    error_m = np.abs(vertices[:, 0] - 2.2)
    assert np.median(error_m) < 0.005 and np.percentile(error_m, 90) < 0.04
    # Most of what the first camera sees of it: 2.75 m wide, 2.06 m high.
    assert np.ptp(vertices[:, 1]) > 2.5 and np.ptp(vertices[:, 2]) > 1.9
    near = (surface.weight > 0) & (np.abs(surface.tsdf) < 1)
    np.testing.assert_array_equal(volume.confidence, near)
    assert surface.weight.max() == len(AROUND)


def test_the_volume_comes_back_from_its_file(wall_scene, tmp_path):
    volume = reconstruct(wall_scene)
    with store.Frames(wall_scene) as frames:
        made_by = provenance("test", {}, {"frames": frames.fingerprint})
        store.write_volume(tmp_path / "v.h5", frames, volume, made_by)
        with store.VolumeFile(tmp_path / "v.h5", frames) as file:
            back = file.volume()

    np.testing.assert_allclose(back.surface.tsdf, volume.surface.tsdf, atol=1e-3)
    np.testing.assert_array_equal(back.surface.weight, volume.surface.weight)
    np.testing.assert_array_equal(back.surface.origin_world,
                                  volume.surface.origin_world)  # fmt: skip
    np.testing.assert_array_equal(back.confidence, volume.confidence)
    assert back.encoding_ijk.shape == (0, 3)


def test_only_key_frames_are_looked_at(wall_scene, tmp_path):
    others = np.concatenate([AROUND, stand((0.2, 1.2))])  # well placed, but a view
    is_key = np.arange(6) < 5
    path = write_scene(tmp_path / "f.h5", others, [WALL], is_key)

    np.testing.assert_array_equal(
        reconstruct(path).surface.tsdf, reconstruct(wall_scene).surface.tsdf
    )


def test_pictures_are_compared_at_the_size_that_the_recipe_asks_for(wall_scene):
    settings = replace(SETTINGS, image_width=60, image_height=40)
    surface = reconstruct(wall_scene, settings).surface

    grid = Grid(surface.origin_world, 0.08, surface.tsdf.shape)
    vertices, _ = extract_surface(surface.tsdf, surface.weight, grid)
    assert np.median(np.abs(vertices[:, 0] - 2.2)) < 0.01
    assert np.ptp(vertices[:, 1]) > 2.5 and np.ptp(vertices[:, 2]) > 1.9


def test_depth_that_only_one_key_frame_claims_is_not_fused(wall_scene, monkeypatch):
    truth = np.stack([photograph(pose, [WALL])[1] for pose in AROUND])
    truth[0, 20:40, 30:50] = 3.0  # behind the wall, where no other view looks

    def claimed(*_):
        return torch.from_numpy(truth.astype(np.float32))

    monkeypatch.setattr(plane_sweep, "estimate_depth", claimed)
    surface = reconstruct(wall_scene).surface

    x = surface.origin_world[0] + 0.08 * np.arange(surface.tsdf.shape[0])
    assert (surface.weight[x > 2.6] == 0).all()


def test_two_key_frames_are_enough(tmp_path):
    path = write_scene(tmp_path / "f.h5", AROUND[:2], [WALL])

    assert reconstruct(path).surface.weight.max() == 2


@pytest.mark.parametrize("count", [0, 1])
def test_a_scene_of_too_few_key_frames_is_refused(count, tmp_path):
    is_key = np.arange(3) < count
    path = write_scene(tmp_path / "f.h5", AROUND[:3], [WALL], is_key)

    with pytest.raises(BadInput, match=rf"f\.h5: kept/.* found {count} key frames"):
        reconstruct(path)


def test_key_frames_that_see_nothing_in_common_are_refused(tmp_path):
    poses = AROUND[:2].copy()
    poses[1] = look_at(poses[1, :3, 3], (-2.0, 0, 1))
    path = write_scene(tmp_path / "f.h5", poses, [WALL, Plane((-1.0, 0, 0), 2.0)])

    with pytest.raises(BadInput, match="2 key frames without any such pair"):
        reconstruct(path)


def test_pictures_without_texture_are_refused(tmp_path):
    blank = Plane((1.0, 0, 0), 2.2, contrast=0.0)
    path = write_scene(tmp_path / "f.h5", AROUND, [blank])

    with pytest.raises(BadInput, match=r"f\.h5: color: .*texture.*min_score"):
        reconstruct(path)


def test_a_volume_that_no_memory_holds_is_refused(wall_scene):
    settings = replace(SETTINGS, voxel_size_m=0.001, truncation_voxels=3.0)

    with pytest.raises(BadInput, match="voxel_size_m"):
        reconstruct(wall_scene, settings)
