"""What geometry is shown and learns from: one world for pictures, depth and targets."""

import dataclasses
import itertools
import pickle

import numpy as np
import pytest
import torch
from scipy.interpolate import RegularGridInterpolator

from gnesf_core.config import (
    FragmentDataConfig,
    FramesConfig,
    NeuconConfig,
    TargetsConfig,
    TrainingConfig,
)
from gnesf_core.data import images, store
from gnesf_core.data.captures import open_scan
from gnesf_core.data.extraction import extract
from gnesf_core.data.keyframes import fragments_of
from gnesf_core.data.provenance import provenance
from gnesf_core.data.scan import ScanInfo
from gnesf_core.errors import BadInput
from gnesf_core.geometries.fragments import (
    FragmentInputs,
    FragmentSamples,
    fragment_inputs,
    measured_depth,
    volume_origin,
)
from gnesf_core.geometries.targets import (
    TargetBox,
    read_box,
    sample_box,
    seen_by_views,
)
from gnesf_core.geometry.camera import look_at
from gnesf_core.geometry.scan_fusion import fuse_scan
from tests import tiny_room

COLOR, DEPTH = (48, 32), (24, 16)  # width, height
SETTINGS = NeuconConfig(
    image_width=24, image_height=16, encoder_width=1.0, encoder_weights="", channels=8,
    voxel_size_m=0.08, truncation_m=0.12, volume_x=24, volume_y=16, volume_z=12,
    volume_bottom_m=-0.16, view_range_m=2.0, statistics="mean-variance",
    fusion="gru", occupancy_threshold=0.5,
    positive_weight=1.5, coarser_weight=0.8, sparse_engine="auto",
)  # fmt: skip
DATA = FragmentDataConfig(
    scenes=0, held_out_scenes=0,
    rotation_deg=180.0, shift_m=0.7, color_jitter=0.2, min_weight=1,
    max_voxels=4096, sequence_from_step=20, sequence_fragments=3,
)  # fmt: skip
PLAIN = dataclasses.replace(DATA, rotation_deg=0.0, shift_m=0.0, color_jitter=0.0)
TRAINING = TrainingConfig(
    seed=5, steps=100, batch=2, learning_rate=1e-3, backbone_rate=1.0, weight_decay=0.0,
    schedule="constant", warmup_steps=0, clip_norm=0.0, precision="float32", workers=0,
    report_steps=1, state_steps=1, validate_steps=0,
)  # fmt: skip


def pinhole(size, focal=0.7):
    width, height = size
    return np.array(
        [[focal * width, 0, 0.48 * width], [0, 0.8 * width, 0.53 * height], [0, 0, 1.0]]
    )


def walk(count):
    """Level cameras that move along x and turn, some of them looking down."""
    poses = []
    for n in range(count):
        eye = np.array([0.1 * n, 0.05 * n, 1.2])
        ahead = [np.cos(0.2 * n), np.sin(0.2 * n), -0.1 * (n % 3)]
        poses.append(look_at(eye, eye + ahead))
    return poses


def write_frames(
    path, rows, poses=None, pictures=None, depth=None, encode=images.encode_png
):
    """Write a frames file whose fragments are `rows`; return the path."""
    rng = np.random.default_rng([*path.stem.encode()])
    poses = walk(np.max(rows, initial=0) + 1) if poses is None else poses
    count = len(poses)
    info = ScanInfo(
        path, count, *COLOR, *DEPTH, pinhole(COLOR), pinhole(DEPTH), 1000.0,
        "png" if encode is images.encode_png else "jpeg", "zlib",
    )  # fmt: skip
    every = np.ones(count, bool)
    fragments = np.array(rows, np.int64).reshape(len(rows), -1)
    selection = store.Selection(np.arange(count), every, ~every, fragments)
    made_by = provenance("test", {}, {})
    status = np.zeros(count, np.uint8)
    with store.write_frames(
        path, path.stem, info, np.stack(poses), status, selection, False, made_by
    ) as writer:
        for n in range(count):
            picture = rng.integers(0, 255, (*COLOR[::-1], 3), dtype=np.uint8)
            picture = picture if pictures is None else pictures[n]
            units = rng.integers(500, 3000, DEPTH[::-1], dtype=np.uint16)
            units = units if depth is None else depth[n]
            coded = picture if isinstance(picture, bytes) else encode(picture)
            writer.add(coded, units, None)
    return path


NORMAL, DISTANCE_M = np.array([0.48, 0.64, 0.6]), 1.0  # a plane in the scan's world


def plane_levels(levels=3, truncation_m=0.12, weight=9):
    """Return a pyramid of the plane's distances, in closed form."""
    made = []
    for level in range(levels):
        size_m = 0.04 * 2**level
        shape = tuple(n // 2**level for n in (48, 40, 32))
        origin = np.array([-0.16, -0.16, -0.16])
        points = origin + size_m * np.stack(
            np.meshgrid(*map(np.arange, shape), indexing="ij"), -1
        )
        tsdf = (points @ NORMAL - DISTANCE_M) / (truncation_m * 2**level)
        made.append(
            store.DistanceGrid(
                origin, size_m, truncation_m * 2**level,
                tsdf.clip(-1, 1).astype(np.float32), np.full(shape, weight, np.uint16),
            )
        )  # fmt: skip
    return made


def write_scene(folder, scene, rows, levels=None, **how):
    """Write both files of a scene; return their paths."""
    frames = write_frames(folder / f"{scene}.h5", rows, **how)
    targets = folder / f"{scene}.targets.h5"
    with store.Frames(frames) as file:
        made_by = provenance("test", {}, {"frames": file.fingerprint})
    levels = plane_levels() if levels is None else levels
    store.write_targets(targets, scene, levels, made_by)
    return frames, targets


def windows(count, views=2):
    return np.arange(count * views).reshape(count, views)


def samples_of(scenes, settings=SETTINGS, data=DATA, training=TRAINING):
    frames, targets = zip(*scenes, strict=True)
    return FragmentSamples(frames, targets, settings, data, training)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Four scenes of 5, 1, 0 and 3 fragments."""
    folder = tmp_path_factory.mktemp("scenes")
    rows = {
        "scene0003_00": windows(5),
        "scene0001_00": np.array([[0, -1]]),
        "scene0002_00": np.full((1, 2), -1),
        "scene0000_00": windows(3),
    }
    return [write_scene(folder, scene, own) for scene, own in rows.items()]


def moved(angle_deg=37.0, shift=(0.3, -0.2, 0.11)):
    angle = np.deg2rad(angle_deg)
    world_from_scan = np.eye(4)
    world_from_scan[:2, :2] = [
        [np.cos(angle), -np.sin(angle)],
        [np.sin(angle), np.cos(angle)],
    ]
    world_from_scan[:3, 3] = shift
    return world_from_scan


def motion(plain, other):
    """Return what takes the world of one set of view matrices to another's."""
    last = torch.tensor([[0, 0, 0, 1.0]], dtype=torch.float64)
    return torch.linalg.inv(torch.cat([other[0], last])) @ torch.cat([plain[0], last])


def apply(matrix, points):
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def pixels(matrix, points):
    uvz = points @ matrix[:, :3].T + matrix[:, 3]
    return uvz[:, :2] / uvz[:, 2:]


def leaves(value):
    """Return all tensors and plain values of nested containers."""
    if isinstance(value, dict):
        return [leaf for key in value for leaf in leaves(value[key])]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


def same(one, other):
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for a, b in zip(leaves(one), leaves(other), strict=True)
    )


# Pictures and matrices


def test_pictures_show_a_point_where_the_matrices_put_it(tmp_path):
    # Colours that grow linearly with the place: resized pictures tell it exactly.
    v, u = np.mgrid[: COLOR[1], : COLOR[0]]
    ramp = np.stack([4 * u, 6 * v, 0 * u], -1).astype(np.uint8)
    path = write_frames(tmp_path / "s.h5", windows(1), pictures=[ramp, ramp])
    with store.Frames(path) as frames:
        inputs = fragment_inputs(frames, [1], SETTINGS)
        pose, intrinsics = frames.world_from_camera[1], frames.color_intrinsics
    for u, v in ((10, 5), (30, 20), (37, 11)):
        ray = np.linalg.inv(intrinsics) @ [u, v, 1]
        point = pose[:3, :3] @ (1.7 * ray) + pose[:3, 3]
        found = pixels(inputs.pixel_from_world[0], torch.from_numpy(point)[None])[0]
        place = found.round().long()
        shown = inputs.pictures[0, :2, place[1], place[0]].double()
        # A pixel of the half-size picture is two wide.
        off = (shown / torch.tensor([4.0, 6.0]) - torch.tensor([u, v])) / 2
        assert ((off - (place - found)).abs() < 0.15).all()


def test_a_jpeg_that_is_decoded_smaller_shows_the_same(tmp_path):
    v, u = np.mgrid[: COLOR[1], : COLOR[0]]
    ramp = np.stack([4 * u, 6 * v, 90 + 0 * u], -1).astype(np.uint8)
    jpeg = images.encode_jpeg(ramp, 95)
    where = ("file", "place")
    for least, size in (((24, 16), (16, 24)), ((25, 16), (32, 48)), ((6, 4), (4, 6))):
        decoded = images.decode_color_reduced(jpeg, "jpeg", *COLOR, least, where)
        assert decoded.shape == (*size, 3)
    paths = [
        write_frames(tmp_path / f"{n}.h5", [[0]], pictures=[ramp], encode=encode)
        for n, encode in enumerate([images.encode_png, lambda _: jpeg])
    ]
    whole, reduced = (
        fragment_inputs(store.Frames(path), [0], SETTINGS).pictures.int()
        for path in paths
    )
    difference = (whole - reduced)[..., 1:-1, 1:-1].abs()
    assert difference.max() <= 6 and difference.float().mean() < 2  # a pixel is 8 or 12


def test_sizes_that_cannot_be_halved_are_decoded_whole():
    rgb = np.zeros((30, 45, 3), np.uint8)
    jpeg = images.encode_jpeg(rgb, 90)
    decoded = images.decode_color_reduced(jpeg, "jpeg", 45, 30, (4, 4), ("f", "p"))
    assert decoded.shape == rgb.shape


def test_moving_the_world_moves_matrices_and_not_pictures(tmp_path):
    path = write_frames(tmp_path / "s.h5", windows(1, 4))
    rng = np.random.default_rng(0)
    points = torch.from_numpy(rng.uniform(-1, 3, (50, 3)))
    motion_of_world = torch.from_numpy(moved())
    with store.Frames(path) as frames:
        plain = fragment_inputs(frames, range(4), SETTINGS)
        other = fragment_inputs(frames, range(4), SETTINGS, moved())
        depth, depth_matrices = measured_depth(frames, [2], np.eye(4))
        same_depth, moved_matrices = measured_depth(frames, [2], moved())
    assert torch.equal(plain.pictures, other.pictures)
    assert torch.equal(depth, same_depth)
    ours = torch.cat([plain.pixel_from_world, depth_matrices])
    theirs = torch.cat([other.pixel_from_world, moved_matrices])
    for before, after in zip(ours, theirs, strict=True):
        expected = pixels(before, points)
        found = pixels(after, apply(motion_of_world, points))
        assert torch.allclose(found, expected, rtol=1e-9, atol=1e-6)


def test_every_fourth_pixel_of_depth_is_found_by_its_own_ray(tmp_path):
    v, u = np.mgrid[: DEPTH[1], : DEPTH[0]]
    units = (1000 + 100 * v + u).astype(np.uint16)  # says which pixel it is
    path = write_frames(tmp_path / "s.h5", [[0]], depth=[units])
    with store.Frames(path) as frames:
        depth, matrices = measured_depth(frames, [0], np.eye(4))
        pose, intrinsics = frames.world_from_camera[0], frames.depth_intrinsics
    assert depth.shape == (1, DEPTH[1] // 4, DEPTH[0] // 4)
    for row, column in itertools.product(range(depth.shape[1]), range(depth.shape[2])):
        v, u = divmod(round(float(depth[0, row, column]) * 1000) - 1000, 100)
        ray = np.linalg.inv(intrinsics) @ [u, v, 1]
        point = pose[:3, :3] @ (2.0 * ray) + pose[:3, 3]
        found = pixels(matrices[0], torch.from_numpy(point)[None])[0]
        assert torch.allclose(found, torch.tensor([column, row]).double(), atol=1e-9)


# Volumes


def test_the_volume_is_around_the_middle_of_what_the_views_see(tmp_path):
    # Two level cameras, back to back on the x axis: their frusta have a closed form.
    poses = [look_at((0.5, 0, 1), (2, 0, 1)), look_at((-0.1, 0, 1), (-2, 0, 1))]
    path = write_frames(tmp_path / "s.h5", [[0, 1]], poses=poses)
    with store.Frames(path) as frames:
        origin = volume_origin(frames, [0, 1], SETTINGS).numpy()
        alone = volume_origin(frames, [0], SETTINGS).numpy()
    left, right = (0.48 * 48 + 0.5) / (0.7 * 48), (48 - 0.5 - 0.48 * 48) / (0.7 * 48)
    both = np.array([(0.5 + 2 - 0.1 - 2) / 2, 0])  # one looks where the other does not
    first = np.array([0.5 + 2 / 2, 2 * (left - right) / 2])
    for found, middle in ((origin, both), (alone, first)):
        assert (found % 4 == 0).all() and found[2] == -4
        centre = 0.08 * (found[:2] + (np.array([24, 16]) - 1) / 2)
        assert (middle - centre >= -1e-6).all() and (middle - centre < 4 * 0.08).all()


def test_volumes_of_any_turned_fragment_hold_the_middle_of_its_frusta(tmp_path):
    path = write_frames(tmp_path / "s.h5", windows(6, 3))
    with store.Frames(path) as frames:
        for number, views in enumerate(fragments_of(frames)):
            motion_of_world = moved(71.0 * number, (0.3 * number, -3, 0.2))
            inputs = fragment_inputs(frames, views, SETTINGS, motion_of_world)
            assert (inputs.origin_voxel % 4 == 0).all()
            assert inputs.origin_voxel[2] == -4
            corners = []
            for matrix in inputs.pixel_from_world:
                inverse = torch.linalg.inv(matrix[:, :3])
                for u, v in itertools.product((-0.5, 23.5), (-0.5, 15.5)):
                    for z in (0.0, 2.0):
                        uvz = torch.tensor([u * z, v * z, z], dtype=torch.float64)
                        corners.append(inverse @ (uvz - matrix[:, 3]))
            corners = torch.stack(corners)[:, :2]
            middle = (corners.min(0)[0] + corners.max(0)[0]) / 2 / 0.08
            inside = middle - inputs.origin_voxel[:2]
            assert (inside > 0).all()
            assert (inside < torch.tensor([24, 16])).all()
            # Closer to the volume's own middle than the lattice forces it to be.
            off = inside - (torch.tensor([24, 16]) - 1) / 2
            assert ((off > -1e-6) & (off < 4)).all()


def test_missing_views_are_left_out_and_one_is_enough(tmp_path):
    path = write_frames(tmp_path / "s.h5", np.array([[0, 1, -1], [1, -1, -1]]))
    with store.Frames(path) as frames:
        assert fragments_of(frames) == [[0, 1], [1]]
        padded = fragment_inputs(frames, frames.fragments[1], SETTINGS)
        assert padded.pictures.shape == (1, 3, 16, 24)
        assert same(padded, fragment_inputs(frames, [1], SETTINGS))
        with pytest.raises(ValueError, match="at least one view"):
            fragment_inputs(frames, [-1, -1], SETTINGS)


# Targets


def test_a_box_of_targets_is_that_part_of_the_level(tmp_path):
    rng = np.random.default_rng(1)
    shape = (9, 11, 30)
    grid = store.DistanceGrid(
        np.array([0.4, -0.8, 0.0]), 0.04, 0.12,
        rng.uniform(-1, 1, shape).astype(np.float16).astype(np.float32),
        rng.integers(0, 900, shape, dtype=np.uint16),
    )  # fmt: skip
    path = tmp_path / "t.h5"
    store.write_targets(path, "s", [grid], provenance("test", {}, {}))
    with store.Targets(path) as targets:
        lower, upper = np.array([0.45, -0.9, 0.33]), np.array([0.59, -0.53, 0.41])
        box = targets.box(0, lower, upper)
        assert np.array_equal(box.tsdf, grid.tsdf[1:6, 0:8, 8:12])
        assert np.array_equal(box.weight, grid.weight[1:6, 0:8, 8:12])
        assert np.allclose(box.origin_world, [0.44, -0.8, 0.32])
        for far in (np.full(3, 50.0), np.array([0.45, -50.0, 0.33])):
            assert targets.box(0, far, far + 0.1).tsdf.size == 0
        whole = targets.box(0, np.full(3, -50.0), np.full(3, 50.0))
        for found in (whole, targets.level(0)):
            assert np.array_equal(found.tsdf, grid.tsdf)
            assert np.array_equal(found.weight, grid.weight)
            assert np.array_equal(found.origin_world, grid.origin_world)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_sampled_distances_are_those_of_the_turned_plane(tmp_path, level):
    path = tmp_path / "t.h5"
    store.write_targets(path, "s", plane_levels(), provenance("test", {}, {}))
    world_from_scan = moved()
    rng = np.random.default_rng(level)
    # Points of the scan well inside of its grid, and the box around where they moved.
    points = apply(world_from_scan, rng.uniform(0, (1.5, 1.2, 0.9), (500, 3)))
    with store.Targets(path) as targets:
        box = read_box(targets, level, points.min(0), points.max(0), world_from_scan)
    tsdf, known = sample_box(box, torch.from_numpy(points).float(), 9)
    assert known.all()
    normal = world_from_scan[:3, :3] @ NORMAL
    distance = DISTANCE_M + normal @ world_from_scan[:3, 3]
    true = (points @ normal - distance) / (0.12 * 2**level)
    # Interpolation cuts the corner where the distance is clipped; float16 elsewhere.
    reach = np.sqrt(3) / 3
    exact = np.abs(true) < 1 - reach
    assert exact.sum() > 20
    assert np.abs(tsdf.numpy() - true)[exact].max() < 2e-3
    assert np.abs(tsdf.numpy() - true.clip(-1, 1)).max() < reach / 2
    _, known = sample_box(box, torch.from_numpy(points), 10)
    assert not known.any()


def box_of(tsdf, weight):
    """A box whose voxels are one metre apart, with voxel 0 at the origin."""
    return TargetBox(
        torch.as_tensor(tsdf, dtype=torch.float32),
        torch.as_tensor(weight, dtype=torch.uint8),
        torch.eye(4, dtype=torch.float64),
    )


def test_between_observed_voxels_distances_are_interpolated():
    rng = np.random.default_rng(2)
    values = rng.uniform(-1, 1, (5, 6, 7)).astype(np.float32)
    points = rng.uniform(0, 1, (300, 3)) * (np.array(values.shape) - 1)
    tsdf, known = sample_box(
        box_of(values, np.ones(values.shape)), torch.from_numpy(points), 1
    )
    theirs = RegularGridInterpolator([np.arange(n) for n in values.shape], values)
    assert known.all()
    assert np.abs(tsdf.numpy() - theirs(points)).max() < 1e-5


def test_next_to_unobserved_voxels_the_nearest_counts_and_it_must_be_known():
    values = np.linspace(-0.7, 0.8, 27).reshape(3, 3, 3)
    weight = np.full((3, 3, 3), 5)
    weight[2, 2, 2] = 0
    weight[0, 0, 0] = 2
    box = box_of(values, weight)
    points = torch.tensor(
        [
            [1.2, 1.4, 1.3],  # the unobserved voxel is one of the eight
            [1.6, 1.9, 1.7],  # it is the nearest
            [0.2, 0.2, 0.2],  # the nearest is known, but not well
            [-0.4, 1.3, 1.2],  # half a voxel outside there is still a nearest one
            [-0.6, 1.0, 1.0],
            [2.51, 1.0, 1.0],
            [1.0, 1.0, 400.0],
        ]
    )
    tsdf, known = sample_box(box, points, 3)
    assert known.tolist() == [True, False, False, True, False, False, False]
    expected = [values[1, 1, 1], 1, 1, values[0, 1, 1], 1, 1, 1]
    assert np.allclose(tsdf.numpy(), expected, atol=1e-6)
    _, known = sample_box(box, points, 2)
    assert known.tolist() == [True, False, True, True, False, False, False]
    # Nothing is known of what nobody saw, whatever is asked for.
    assert not sample_box(box, points[1:2], 0)[1].any()


def test_an_empty_box_knows_nothing():
    tsdf, known = sample_box(box_of(np.zeros((0, 3, 3)), np.zeros((0, 3, 3))),
                             torch.zeros(4, 3), 1)  # fmt: skip
    assert tsdf.tolist() == [1, 1, 1, 1] and not known.any()


def test_views_see_what_is_before_or_hardly_behind_a_surface():
    # A camera at the origin looks along z at a wall at 2 m; one pixel has no depth.
    depth = torch.full((2, 3, 5), 2.0)
    depth[0, 1, 2] = 0
    depth[1] = 0
    ahead = torch.tensor([[1.0, 0, 2, 0], [0, 1.0, 1, 0], [0, 0, 1, 0]]).double()
    matrices = torch.stack([ahead, ahead])
    points = torch.tensor(
        [
            [1.0, 0, 1.0],  # in front, at u = 3
            [2.0, 0, 2.09],
            [2.0, 0, 2.11],  # too far behind
            [0.0, 0, 1.0],  # no depth there
            [0.99, 0, 2.0],  # u = 2.495 is still that pixel
            [1.01, 0, 2.0],
            [5.1, 0, 2.0],  # u = 4.55: outside
            [-5.1, 0, 2.0],
            [-1.0, 0, -1.0],  # behind the camera
            [1.0, 0, 0.0],
        ]
    )
    seen = seen_by_views(points, depth, matrices, 0.1)
    assert seen.tolist() == [True, True, False, False, False] + [True] + 4 * [False]
    depth[1] = 2.0
    assert seen_by_views(points, depth, matrices, 0.1)[3]  # the other view has it


# Samples


def test_an_epoch_shows_every_fragment_once_in_an_order_of_its_own(scenes):
    settings = dataclasses.replace(SETTINGS, fusion="none")
    samples = samples_of(scenes, settings)
    names = [f"scene0000_00 fragment {n}" for n in range(3)]
    names += ["scene0001_00 fragment 0"]
    names += [f"scene0003_00 fragment {n}" for n in range(5)]
    shown = [[samples[9 * e + n]["name"] for n in range(9)] for e in range(3)]
    for epoch in shown:
        assert sorted(epoch) == names
    assert len({tuple(epoch) for epoch in shown}) == 3
    # Without a memory there is nothing to be shown in runs.
    assert not samples.has_memory(10**6)


def test_a_memory_that_would_never_learn_is_refused(scenes):
    training = dataclasses.replace(TRAINING, steps=DATA.sequence_from_step)
    with pytest.raises(BadInput, match="sequence_from_step"):
        samples_of(scenes, training=training)
    settings = dataclasses.replace(SETTINGS, fusion="none")
    assert not samples_of(scenes, training=training, settings=settings).has_memory(999)


def test_later_every_run_of_fragments_is_shown_once(scenes):
    samples = samples_of(scenes)
    first = DATA.sequence_from_step * TRAINING.batch
    assert not samples.has_memory(first - 1) and samples.has_memory(first)
    assert len(samples[first - 1]["fragments"]) == 1
    shown = [samples[first + n] for n in range(5)]
    assert sorted(sample["name"] for sample in shown) == [
        "scene0000_00 fragments 0-2",
        "scene0001_00 fragment 0",
        "scene0003_00 fragments 0-2",
        "scene0003_00 fragments 1-3",
        "scene0003_00 fragments 2-4",
    ]
    lengths = {sample["name"][:12]: len(sample["fragments"]) for sample in shown}
    assert lengths == {"scene0000_00": 3, "scene0001_00": 3, "scene0003_00": 3}
    alone = next(own for own in shown if own["name"].startswith("scene0001"))
    first, *others = (own["inputs"].origin_voxel.tolist() for own in alone["fragments"])
    assert others == [first, first]  # a scene that is too short stands still


def test_the_fragments_of_a_run_follow_each_other_in_one_world(scenes):
    samples, plain = samples_of(scenes), samples_of(scenes, data=PLAIN)
    number = DATA.sequence_from_step * TRAINING.batch
    while "scene0003" not in samples[number]["name"]:
        number += 1
    run, still = samples[number], plain[number]
    assert run["name"] == still["name"]
    with store.Frames(scenes[0][0]) as frames:
        first = int(run["name"][-3])
        for fragment, views in zip(
            still["fragments"], fragments_of(frames)[first:], strict=False
        ):
            own = fragment_inputs(frames, views, SETTINGS)
            assert same(fragment["inputs"], own)
    motions = [
        motion(a["inputs"].pixel_from_world, b["inputs"].pixel_from_world)
        for a, b in zip(still["fragments"], run["fragments"], strict=True)
    ]
    assert all(torch.allclose(m, motions[0], atol=1e-9) for m in motions)
    assert not torch.allclose(motions[0], torch.eye(4).double(), atol=1e-2)
    for fragment in run["fragments"]:
        assert (fragment["inputs"].origin_voxel % 4 == 0).all()


def test_worlds_turn_about_the_vertical_within_bounds(scenes):
    data = dataclasses.replace(DATA, rotation_deg=30.0, shift_m=0.25)
    samples, plain = samples_of(scenes, data=data), samples_of(scenes, data=PLAIN)
    angles, shifts = [], []
    for number in range(16):
        one, other = (s[number]["fragments"][0]["inputs"] for s in (plain, samples))
        found = motion(one.pixel_from_world, other.pixel_from_world).numpy()
        assert np.allclose(found[2, :3], [0, 0, 1], atol=1e-9)
        assert np.allclose(found[:3, :3] @ found[:3, :3].T, np.eye(3), atol=1e-9)
        angles.append(np.rad2deg(np.arctan2(found[1, 0], found[0, 0])))
        shifts.append(found[:3, 3])
    assert np.abs(angles).max() <= 30 and np.ptp(angles) > 30
    assert np.abs(shifts).max() <= 0.25 and (np.ptp(shifts, axis=0) > 0.3).all()


def test_pictures_depth_and_targets_are_moved_alike(scenes):
    samples, plain = samples_of(scenes), samples_of(scenes, data=PLAIN)
    rng = np.random.default_rng(0)
    in_scan = torch.from_numpy(rng.uniform(0, (1.5, 1.2, 0.9), (200, 3)))
    compared = 0
    for number in range(6):
        before = plain[number]["fragments"][0]
        after = samples[number]["fragments"][0]
        world_from_scan = motion(
            before["inputs"].pixel_from_world, after["inputs"].pixel_from_world
        )
        points = apply(world_from_scan, in_scan)
        for one, other in zip(
            before["depth_from_world"], after["depth_from_world"], strict=True
        ):
            assert torch.allclose(pixels(one, in_scan), pixels(other, points))
        for level in range(3):
            true = (in_scan.numpy() @ NORMAL - DISTANCE_M) / (0.12 * 2**level)
            box = after["targets"][level]
            tsdf, known = sample_box(box, points, 1)
            index = apply(box.index_from_world, points).numpy()
            amid = ((index >= 0) & (index < np.array(box.tsdf.shape) - 1)).all(1)
            assert known[amid].all()
            exact = amid & (np.abs(true) < 1 - np.sqrt(3) / 3)
            compared += exact.sum()
            assert np.abs(tsdf.numpy() - true)[exact].max(initial=0) < 2e-3
    assert compared > 100


def test_a_volume_gets_all_the_targets_there_are_for_it(scenes):
    samples, plain = samples_of(scenes), samples_of(scenes, data=PLAIN)
    far = np.full(3, 100.0)
    axes = [torch.arange(n) for n in (24, 16, 12)]
    ijk = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    for number in range(4):
        fragment, before = (s[number]["fragments"][0] for s in (samples, plain))
        world_from_scan = motion(
            before["inputs"].pixel_from_world, fragment["inputs"].pixel_from_world
        ).numpy()
        points = (fragment["inputs"].origin_voxel + ijk) * SETTINGS.voxel_size_m
        for level, box in enumerate(fragment["targets"]):
            with store.Targets(scenes[0][1]) as targets:  # all scenes have the same
                whole = read_box(targets, level, -far, far, world_from_scan)
            assert box.tsdf.numel() < whole.tsdf.numel()
            found, expected = sample_box(box, points, 1), sample_box(whole, points, 1)
            assert expected[1].any() and not expected[1].all()
            assert torch.equal(found[1], expected[1])
            assert torch.allclose(found[0], expected[0], atol=1e-5)


def test_colours_vary_between_samples_and_not_between_views(tmp_path):
    rng = np.random.default_rng(0)
    picture = rng.integers(60, 180, (*COLOR[::-1], 3), dtype=np.uint8)
    scene = write_scene(tmp_path, "s", windows(3), pictures=[picture] * 6)
    run = samples_of([scene])[DATA.sequence_from_step * TRAINING.batch]
    other = samples_of([scene])[DATA.sequence_from_step * TRAINING.batch + 1]
    shown = torch.cat([f["inputs"].pictures for f in run["fragments"]])
    assert len(shown) == 6
    assert all(torch.equal(view, shown[0]) for view in shown)
    assert not torch.equal(shown[0], other["fragments"][0]["inputs"].pictures[0])
    plain = samples_of([scene], data=PLAIN)[0]["fragments"][0]["inputs"].pictures
    assert not torch.equal(shown[0], plain[0])


def test_a_sample_is_a_function_of_its_number(scenes):
    samples = samples_of(scenes)
    reordered = pickle.loads(pickle.dumps(samples_of(scenes[::-1])))
    samples[3]
    for number in (41, 0, 3, 47):
        assert same(samples[number], reordered[number])
    other = samples_of(scenes, training=dataclasses.replace(TRAINING, seed=6))
    assert not all(same(samples[number], other[number]) for number in range(3))


def test_samples_survive_the_way_from_a_worker(scenes):
    samples = samples_of(scenes)
    batch = samples.collate([samples[40], samples[41]])
    twin = pickle.loads(pickle.dumps(batch))
    assert same(batch, twin)
    assert batch["number"] == [40, 41] and len(batch["name"]) == 2
    fragment = twin["samples"][1][0]
    assert isinstance(fragment["inputs"], FragmentInputs)
    assert isinstance(fragment["targets"][2], TargetBox)


def test_held_out_scenes_are_never_shown_and_shown_whole_when_asked(tmp_path):
    scenes = [
        write_scene(tmp_path, f"scene{n:04}_00", windows(2 + n % 2)) for n in range(6)
    ]
    data = dataclasses.replace(DATA, held_out_scenes=2, sequence_from_step=10)
    samples = samples_of(scenes, data=data)
    # The middles of two halves of six.
    held_out = {"scene0001_00", "scene0004_00"}
    # An epoch of fragments, and one of runs.
    numbers = [*range(10), *range(20, 24)]
    shown = {samples[n]["name"].split()[0] for n in numbers}
    assert shown == {f"scene{n:04}_00" for n in range(6)} - held_out
    assert len(samples.fingerprints) == 12
    whole = list(samples.held_out())
    assert [len(origins) for origins, _ in whole] == [3, 2]
    for (_, fragments), (path, _) in zip(whole, (scenes[1], scenes[4]), strict=True):
        with store.Frames(path) as frames:
            for fragment, views in zip(fragments, fragments_of(frames), strict=True):
                expected = fragment_inputs(frames, views, SETTINGS)
                assert same(fragment["inputs"], expected)
    assert not list(samples_of(scenes).held_out())


def test_fingerprints_name_every_file(scenes):
    found = samples_of(scenes).fingerprints
    for frames, targets in scenes:
        with store.Frames(frames) as file:
            assert found[f"frames {file.scene}"] == file.fingerprint
            name = f"targets {file.scene}"
        with store.Targets(targets) as file:
            assert found[name] == file.fingerprint
    assert len(found) == 8


@pytest.mark.slow
def test_depth_and_targets_meet_in_a_real_room(tmp_path):
    room = tiny_room.write_room(tmp_path, frames=12)
    scan = open_scan("scannet", room.sens)
    frames_path, targets_path = tmp_path / "f.h5", tmp_path / "t.h5"
    config = FramesConfig(15.0, 0.1, 4, False, 0, 0)
    made_by = provenance("test", {}, {"scan": scan.sha256()})
    extract(frames_path, scan, room.scene, None, config, made_by)
    with store.Frames(frames_path) as frames:
        levels = fuse_scan(scan, frames, TargetsConfig(0.04, 3, 3.0, 5.0))
        made_by = provenance("test", {}, {"frames": frames.fingerprint})
        store.write_targets(targets_path, room.scene, levels, made_by)
    scan.close()
    settings = dataclasses.replace(
        SETTINGS, volume_x=64, volume_y=64, volume_z=40, view_range_m=3.0
    )
    samples = samples_of([(frames_path, targets_path)], settings)
    fragment = samples[0]["fragments"][0]
    surface = []
    for image, matrix in zip(
        fragment["depth_m"], fragment["depth_from_world"], strict=True
    ):
        v, u = (image > 0).nonzero().T
        z = image[v, u].double()
        uvz = torch.stack([u * z, v * z, z], 1)
        inverse = torch.linalg.inv(matrix[:, :3])
        surface.append((uvz - matrix[:, 3]) @ inverse.T)
    points = torch.cat(surface)
    for level in range(3):
        tsdf, known = sample_box(fragment["targets"][level], points, 1)
        assert known.float().mean() > 0.95
        assert tsdf[known].abs().median() < 0.1
        matrices = fragment["depth_from_world"]
        assert seen_by_views(points, fragment["depth_m"], matrices, 0.01).all()


# What cannot be used


def test_holding_everything_out_is_refused(scenes):
    # One of the four scenes has no fragments.
    data = dataclasses.replace(DATA, held_out_scenes=3)
    with pytest.raises(BadInput, match="held_out_scenes: expected fewer than the 3"):
        samples_of(scenes, data=data)
    samples_of(scenes, data=dataclasses.replace(DATA, held_out_scenes=2))


def test_nothing_to_train_on_is_said_at_once(scenes):
    with pytest.raises(BadInput, match="fragments to train on"):
        samples_of([scenes[2]])
    with pytest.raises(BadInput, match="fragments to train on"):
        FragmentSamples([], [], SETTINGS, DATA, TRAINING)


def test_targets_of_other_frames_or_sizes_are_refused(tmp_path):
    frames, targets = write_scene(tmp_path, "s", windows(1))
    other, _ = write_scene(tmp_path, "other", windows(1))
    with pytest.raises(BadInput, match="attribute scene"):
        samples_of([(other, targets)])
    depth = np.full((2, *DEPTH[::-1]), 900, np.uint16)
    again = write_frames(tmp_path / "s.h5", windows(1), depth=depth)
    with pytest.raises(BadInput, match="input frames"):
        samples_of([(again, targets)])
    few = write_scene(tmp_path, "few", windows(1), plane_levels(2))
    with pytest.raises(BadInput, match=r"targets\.levels: expected >= 3.* found 2"):
        samples_of([few])
    thick = write_scene(tmp_path, "thick", windows(1), plane_levels(3, 0.2))
    with pytest.raises(BadInput, match=r"level0: expected 0\.12 m.*found 0\.2"):
        samples_of([thick])


def test_fragments_of_frames_that_are_not_there_are_refused(tmp_path):
    scene = write_scene(tmp_path, "s", [[0, 7]], poses=walk(3))
    with pytest.raises(BadInput, match="fragments: expected positions below 3"):
        samples_of([scene])


def test_pictures_that_do_not_decode_are_named(tmp_path):
    rgb = np.zeros((*COLOR[::-1], 3), np.uint8)
    cut = images.encode_jpeg(rgb, 90)[:-40]
    scene = write_scene(
        tmp_path, "s", [[0]], pictures=[cut], encode=lambda picture: picture
    )
    samples = samples_of([scene])
    with pytest.raises(BadInput, match="colour of frame 0"):
        samples[0]
