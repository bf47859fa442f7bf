"""Plain folders, as 7-Scenes and ScanNet's exporter write them."""

import numpy as np
import pytest

from gnesf_core.data.captures import capture_file, open_scan
from gnesf_core.errors import BadInput
from tests import posed_rooms, tiny_room

POSES = posed_rooms.camera_path(12)
WORLD = posed_rooms.capture_from_room()


def test_seven_scenes_files_belong_together_by_name(tmp_path):
    path = posed_rooms.write_seven_scenes(tmp_path / "c", POSES, WORLD)
    scan = open_scan("capture", path)
    assert scan.info.frame_count == len(POSES)
    for index in (0, 10):
        pose = posed_rooms.moved(WORLD, POSES[index])
        np.testing.assert_allclose(scan.world_from_camera[index], pose)
        depth_m, _ = tiny_room.cast(POSES[index], posed_rooms.SIZE)
        np.testing.assert_allclose(scan.decode_depth(index) / 1000, depth_m, atol=6e-4)


def test_exported_numbers_are_counted_not_spelt(tmp_path):
    path = posed_rooms.write_exported(tmp_path / "c", POSES, WORLD)
    scan = open_scan("capture", path)
    for index in (2, 10):  # 10.jpg comes after 2.jpg
        pose = posed_rooms.moved(WORLD, POSES[index])
        np.testing.assert_allclose(scan.world_from_camera[index], pose)
    own = tiny_room.intrinsics(posed_rooms.DEPTH_SIZE)
    np.testing.assert_allclose(scan.info.depth_intrinsics, own)


def test_other_names_of_the_subfolders_do_as_well(tmp_path):
    path = posed_rooms.write_exported(tmp_path / "c", POSES, WORLD)
    root = tmp_path / "c"
    (root / "color").rename(root / "rgb")
    (root / "pose").rename(root / "poses")
    path.rename(root / "intrinsics.txt")
    assert capture_file(root) == root / "intrinsics.txt"
    assert open_scan("capture", root).info.frame_count == len(POSES)


def test_missing_intrinsics_name_the_file_to_write(tmp_path):
    path = posed_rooms.write_seven_scenes(tmp_path / "c", POSES)
    path.unlink()
    for name in (path, tmp_path / "c"):
        with pytest.raises(BadInput, match=r"c/intrinsics\.txt.*7-Scenes.*585"):
            open_scan("capture", name)


def test_intrinsics_of_another_size_are_noticed(tmp_path):
    path = posed_rooms.write_exported(tmp_path / "c", POSES)
    matrix = np.loadtxt(path)
    matrix[:2] *= 4  # as of pictures that were shrunk later
    np.savetxt(path, matrix)
    with pytest.raises(BadInput, match="96x72.*for the pictures as they are"):
        open_scan("capture", path)


@pytest.mark.parametrize("text", ["", "1 2 3", "a " * 9, "1 " * 12])
def test_bad_matrices_are_refused(tmp_path, text):
    path = posed_rooms.write_seven_scenes(tmp_path / "c", POSES)
    whole = path.read_text()
    path.write_text(text)
    with pytest.raises(BadInput, match=r"intrinsics\.txt"):
        open_scan("capture", path)
    path.write_text(whole)
    (tmp_path / "c/frame-000003.pose.txt").write_text(text)
    with pytest.raises(BadInput, match=r"frame-000003\.pose\.txt"):
        open_scan("capture", path)


def test_pictures_without_a_pose_are_left_out_and_poses_need_pictures(tmp_path):
    path = posed_rooms.write_seven_scenes(tmp_path / "c", POSES)
    (tmp_path / "c/frame-000003.pose.txt").unlink()
    scan = open_scan("capture", path)
    assert scan.info.frame_count == len(POSES) - 1
    assert scan.warnings == ("pictures without a pose, left out: 1",)
    (tmp_path / "c/frame-000005.color.png").unlink()
    with pytest.raises(BadInput, match=r"000005\.pose\.txt.*without a picture"):
        open_scan("capture", path)


def test_one_picture_is_no_scene(tmp_path):
    path = posed_rooms.write_seven_scenes(tmp_path / "c", POSES[:1])
    with pytest.raises(BadInput, match="2 to 100000 pictures"):
        open_scan("capture", path)


def test_a_folder_of_something_else_says_what_is_looked_for(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(BadInput, match=r"transforms\.json.*COLMAP.*pose files"):
        open_scan("capture", tmp_path)
