"""People's own captures end at the same upright room, whatever they were written as."""

import json
import logging
from dataclasses import asdict, replace

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gnesf_core.config import (
    CaptureConfig,
    FramesConfig,
    PlaneSweepConfig,
    TargetsConfig,
)
from gnesf_core.data import store
from gnesf_core.data.capture_world import find_world
from gnesf_core.data.captures import open_scan
from gnesf_core.errors import BadInput
from gnesf_core.geometries import neucon
from stages import extract_frames, fuse_features, fuse_targets
from tests import posed_rooms, tiny_room
from tests.room_files import ENCODER

FRAMES = FramesConfig(15.0, 0.1, 9, False, 10, 5)
TARGETS = TargetsConfig(0.08, 2, 3.0, 5.0)
PLANE_SWEEP = PlaneSweepConfig(
    image_width=96, image_height=72, patch=7, depths=32, near_m=0.4, far_m=6.0,
    neighbours=2, baseline_m=0.3, min_score=0.5, voxel_size_m=0.1,
    truncation_voxels=3.0,
)  # fmt: skip
FOUND = CaptureConfig("auto", 0.0, None)
POSES = posed_rooms.camera_path()

KINDS = {
    "nerfstudio": posed_rooms.write_nerfstudio,
    "seven-scenes": posed_rooms.write_seven_scenes,
    "exported": posed_rooms.write_exported,
    "colmap-text": posed_rooms.write_colmap,
    "colmap-binary": lambda *a: posed_rooms.write_colmap(*a, text=False),
}


def extract(path, out, config=FOUND):
    extract_frames.main(path, out, "room", "capture", FRAMES, capture=config)
    return out


def assert_upright_room(poses):
    """Check poses against the room's, up to heading and shift along the floor."""
    world_from_room = poses @ np.linalg.inv(POSES)
    rotation = world_from_room[:, :3, :3]
    # Vertical stays vertical to a fifth of a degree, and all cameras agree.
    assert np.rad2deg(np.arccos(np.clip(rotation[:, 2, 2], -1, 1))).max() < 0.2
    np.testing.assert_allclose(rotation, rotation[:1].repeat(len(poses), 0), atol=1e-6)
    height_m = poses[:, 2, 3] - POSES[:, 2, 3]
    assert np.abs(height_m).max() < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_folder_ends_at_the_same_upright_room(kind, tmp_path):
    scan = KINDS[kind](tmp_path / "capture", POSES)
    frames, targets = tmp_path / "frames.h5", tmp_path / "targets.h5"
    extract(scan, frames)
    fuse_targets.main(scan, frames, targets, "capture", TARGETS)
    with store.Frames(frames) as kept, store.Targets(targets) as fused:
        assert (kept.raw_status == store.USABLE).all()
        poses = kept.raw_world_from_camera
        assert_upright_room(poses)
        room_from_world = POSES[0] @ np.linalg.inv(poses[0])
        level = fused.level(0)
        distances_m = surface_errors_m(level, room_from_world)
    assert len(distances_m) > 2000
    assert np.mean(distances_m) < 0.03 and np.mean(distances_m < 0.08) > 0.95


def surface_errors_m(level, room_from_world):
    """Return how wrong the fused distances near the surface are, in the room."""
    near = (level.weight > 2) & (np.abs(level.tsdf) < 0.3)
    ijk = np.argwhere(near)
    points = level.origin_world + level.voxel_size_m * ijk
    points = points @ room_from_world[:3, :3].T + room_from_world[:3, 3]
    walls = np.minimum(points - tiny_room.LOW, tiny_room.HIGH - points).min(1)
    beyond = np.maximum(tiny_room.BLOCK_LOW - points, points - tiny_room.BLOCK_HIGH)
    outside = np.linalg.norm(np.maximum(beyond, 0), axis=1)
    block = outside + np.minimum(beyond.max(1), 0)
    true_m = np.minimum(walls, block)
    return np.abs(level.tsdf[near] * level.truncation_m - true_m)


def test_what_was_done_to_the_world_is_recorded_and_said_in_one_line(tmp_path, caplog):
    world = posed_rooms.capture_from_room(scale=0.4)
    scan = posed_rooms.write_colmap(tmp_path / "c", POSES, world)
    with caplog.at_level(logging.INFO):
        frames = extract(scan, tmp_path / "f.h5")
    assert sum("up is" in line and "floor" in line for line in caplog.messages) == 1
    with h5py.File(frames) as file:  # no code of ours
        stored = file["raw/world_from_capture"]
        about = dict(stored.attrs)
        matrix = stored[:]
        poses = file["raw/world_from_camera"][:]
    assert abs(about["metres_per_unit"] - 1 / 0.4) < 0.02
    assert b"depth" in about["scale_by"] and b"floor" in about["up_by"]
    np.testing.assert_allclose(
        json.loads(about["up_capture"]), world[:3, 2] / 0.4, atol=0.01
    )
    # A point of the room's floor goes to height 0, and cameras where they stand.
    floor = world @ [1.0, 2.0, 0.0, 1.0]
    assert abs((matrix @ floor)[2]) < 0.02
    centre = world @ np.append(POSES[3][:3, 3], 1)
    np.testing.assert_allclose((matrix @ centre)[:3], poses[3, :3, 3], atol=1e-9)


def test_equal_captures_give_equal_files(tmp_path):
    scan = posed_rooms.write_seven_scenes(tmp_path / "c", POSES)
    one, two = (extract(scan, tmp_path / name) for name in ("a.h5", "b.h5"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("reading", ["flipped", "inverse", "flipped inverse"])
@pytest.mark.parametrize("depth", [True, False])
def test_poses_in_another_convention_are_named_with_the_fix(tmp_path, reading, depth):
    scan = posed_rooms.write_seven_scenes(tmp_path / "c", POSES, depth=depth)
    for path in scan.parent.glob("*.pose.txt"):
        pose = np.loadtxt(path)
        if "flipped" in reading:
            pose = pose @ posed_rooms.OPENGL_FROM_OPENCV
        np.savetxt(path, np.linalg.inv(pose) if "inverse" in reading else pose)
    fix = {
        "flipped": "remedy: negate the second and the third column",
        "inverse": "remedy: invert every matrix$",
        "flipped inverse": "remedy: invert every matrix, then negate",
    }[reading]
    with pytest.raises(BadInput, match=fix):
        extract(scan, tmp_path / "f.h5")


@pytest.mark.parametrize("depth", [True, False])
def test_opencv_poses_in_a_transforms_file_are_named(tmp_path, depth):
    scan = posed_rooms.write_nerfstudio(tmp_path / "c", POSES, depth=depth)
    about = json.loads(scan.read_text())
    for frame in about["frames"]:
        matrix = np.array(frame["transform_matrix"]) @ posed_rooms.OPENGL_FROM_OPENCV
        frame["transform_matrix"] = matrix.tolist()
    scan.write_text(json.dumps(about))
    with pytest.raises(BadInput, match=r"OpenGL.*OpenCV.*remedy: negate the second"):
        extract(scan, tmp_path / "f.h5")


def test_depth_in_another_unit_than_the_poses_is_named(tmp_path):
    scan = posed_rooms.write_nerfstudio(
        tmp_path / "c", POSES, depth_unit_scale_factor=0.0002
    )
    with pytest.raises(BadInput, match=r"multiplication by 5"):
        extract(scan, tmp_path / "f.h5")


def test_applied_scale_is_undone(tmp_path):
    world = posed_rooms.capture_from_room(scale=0.25)
    scan = posed_rooms.write_nerfstudio(
        tmp_path / "c", POSES, world, applied_scale=0.25
    )
    with store.Frames(extract(scan, tmp_path / "f.h5")) as kept:
        assert_upright_room(kept.raw_world_from_camera)


def test_what_is_stated_of_the_world_is_believed(tmp_path):
    world = np.diag([1.0, 1, 1, 1])
    world[:3, :3] = posed_rooms.turn([1, 0, 0], -90)  # the room's z is y
    world[1, 3] = 0.3
    stated = CaptureConfig("y", 0.0, 0.1)
    scan = posed_rooms.write_nerfstudio(tmp_path / "c", POSES, world, depth=False)
    with store.Frames(extract(scan, tmp_path / "f.h5", stated)) as kept:
        height_m = kept.raw_world_from_camera[:, 2, 3] - POSES[:, 2, 3]
        np.testing.assert_allclose(height_m, 0.3 - 0.1, atol=1e-9)
        assert (np.abs(np.diff(height_m)) < 1e-9).all()


def warned_of_the_unit(caplog, scan, **about):
    caplog.clear()
    find_world(open_scan("capture", scan), replace(FOUND, **about))
    return any("metres_per_unit" in message for message in caplog.messages)


def test_a_unit_that_nothing_tells_is_assumed_and_warned_of(tmp_path, caplog):
    blind = posed_rooms.write_nerfstudio(tmp_path / "blind", POSES, depth=False)
    assert warned_of_the_unit(caplog, blind)


def test_a_unit_that_is_stated_or_measured_is_not_warned_of(tmp_path, caplog):
    blind = posed_rooms.write_nerfstudio(tmp_path / "blind", POSES, depth=False)
    assert not warned_of_the_unit(caplog, blind, metres_per_unit=1.0)
    measured = posed_rooms.write_nerfstudio(tmp_path / "measured", POSES)
    assert not warned_of_the_unit(caplog, measured)


def test_without_depth_a_floor_is_assumed_and_said_so(tmp_path):
    scan = posed_rooms.write_seven_scenes(tmp_path / "c", POSES, depth=False)
    frames = extract(scan, tmp_path / "f.h5")
    with h5py.File(frames) as file:
        assert b"assumed" in file["raw/world_from_capture"].attrs["floor_by"]
        poses = file["raw/world_from_camera"][:]
        assert "depth" not in file
    assert abs(np.median(poses[:, 2, 3]) - 1.4) < 1e-9
    tilt = (poses @ np.linalg.inv(POSES))[:, 2, 2]
    assert np.rad2deg(np.arccos(tilt)).max() < 2
    with store.Frames(frames) as kept:
        assert not kept.has_depth
        with pytest.raises(BadInput, match="neucon or plane_sweep"):
            kept.depth_m(0)
    with pytest.raises(BadInput, match="neucon, plane_sweep"):
        fuse_targets.main(scan, frames, tmp_path / "t.h5", "capture", TARGETS)


def test_colmap_without_depth_asks_for_its_scale_and_takes_it(tmp_path):
    world = posed_rooms.capture_from_room(scale=0.4)
    scan = posed_rooms.write_colmap(tmp_path / "c", POSES, world, depth=False)
    with pytest.raises(BadInput, match=r"scale.*measure something in the room"):
        extract(scan, tmp_path / "f.h5")
    stated = CaptureConfig("auto", 2.5, None)
    with store.Frames(extract(scan, tmp_path / "f.h5", stated)) as kept:
        assert_upright_room(kept.raw_world_from_camera)


def test_pictures_that_share_no_view_are_refused(tmp_path):
    scan = posed_rooms.write_seven_scenes(tmp_path / "c", POSES[[0, 12]])
    with pytest.raises(BadInput, match="look at the same things"):
        extract(scan, tmp_path / "f.h5")


def test_lost_poses_are_unusable_frames_and_only_lost_ones_an_error(tmp_path):
    scan = posed_rooms.write_exported(tmp_path / "c", POSES)
    lost = np.full((4, 4), -np.inf)
    np.savetxt(scan.parent.parent / "pose/7.txt", lost)
    with store.Frames(extract(scan, tmp_path / "f.h5")) as kept:
        assert store.FRAME_STATUS[kept.raw_status[7]] == "pose is not finite"
        assert np.count_nonzero(kept.raw_status) == 1
    for index in range(len(POSES)):
        np.savetxt(scan.parent.parent / f"pose/{index}.txt", lost)
    with pytest.raises(BadInput, match="at least 2 that turn and shift"):
        extract(scan, tmp_path / "g.h5")


def test_frames_without_depth_in_a_capture_with_depth_are_unusable(tmp_path):
    scan = posed_rooms.write_seven_scenes(tmp_path / "c", POSES)
    (scan.parent / "frame-000004.depth.png").unlink()
    with store.Frames(extract(scan, tmp_path / "f.h5")) as kept:
        assert store.FRAME_STATUS[kept.raw_status[4]] == "depth is missing or empty"
        assert np.count_nonzero(kept.raw_status) == 1


def test_one_damaged_depth_image_costs_one_frame(tmp_path):
    scan = posed_rooms.write_seven_scenes(tmp_path / "c", POSES)
    cut_in_half(scan.parent / "frame-000004.depth.png")
    with store.Frames(extract(scan, tmp_path / "f.h5")) as kept:
        assert store.FRAME_STATUS[kept.raw_status[4]] == "depth cannot be decoded"
        assert np.count_nonzero(kept.raw_status) == 1
        assert_upright_room(kept.raw_world_from_camera)


def test_one_damaged_picture_costs_one_frame_without_depth_too(tmp_path):
    scan = posed_rooms.write_seven_scenes(tmp_path / "c", POSES, depth=False)
    cut_in_half(scan.parent / "frame-000004.color.png")
    with store.Frames(extract(scan, tmp_path / "f.h5")) as kept:
        assert store.FRAME_STATUS[kept.raw_status[4]] == "colour cannot be decoded"
        assert np.count_nonzero(kept.raw_status) == 1


def cut_in_half(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.slow
@pytest.mark.parametrize("module", ["plane_sweep", "neucon"])
def test_geometries_that_look_at_pictures_need_no_depth(tmp_path, module):
    scan = posed_rooms.write_seven_scenes(tmp_path / "c", POSES, depth=False)
    frames, volume = extract(scan, tmp_path / "f.h5"), tmp_path / "v.h5"
    if module == "plane_sweep":
        recipe, weights = PLANE_SWEEP, None
    else:
        recipe = replace(ENCODER, image_width=64, image_height=48)
        weights = tmp_path / "model.safetensors"
        torch.manual_seed(0)
        network = neucon.build(recipe, torch.device("cpu"))
        state = {k: v.contiguous() for k, v in network.state_dict().items()}
        save_file(state, weights)
    fuse_features.main(
        frames, volume, module, json.dumps(asdict(recipe)), weights=weights
    )
    with store.Frames(frames) as kept, store.VolumeFile(volume, kept) as made:
        assert made.volume().surface.weight.any()
