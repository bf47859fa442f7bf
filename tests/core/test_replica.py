import numpy as np
import pytest

from gnesf_core.data.images import encode_png, encode_png8, encode_png16
from gnesf_core.data.replica import ReplicaScan
from gnesf_core.errors import BadInput
from gnesf_core.geometry.camera import scale_intrinsics

FRAMES = 12


def _pose(index):
    pose = np.eye(4)
    pose[:3, 3] = [index, 0.5, -2]
    return pose


@pytest.fixture
def room(tmp_path):
    folder = tmp_path / "room_0"
    for name in ("rgb", "depth", "semantic_class"):
        (folder / name).mkdir(parents=True)
    for index in range(FRAMES):
        image = np.full((6, 8), index)
        rgb = np.stack([image, image + 100, image * 0], axis=2).astype(np.uint8)
        (folder / f"rgb/rgb_{index}.png").write_bytes(encode_png(rgb))
        depth = encode_png16((image * 500 + 1).astype(np.uint16))
        (folder / f"depth/depth_{index}.png").write_bytes(depth)
        classes = encode_png8((image * 9).astype(np.uint8))
        (folder / f"semantic_class/semantic_class_{index}.png").write_bytes(classes)
        # Drawn for people beside the class images; not a frame.
        (folder / f"semantic_class/vis_sem_class_{index}.png").write_bytes(b"")
    poses = np.stack([_pose(index).ravel() for index in range(FRAMES)])
    np.savetxt(folder / "traj_w_c.txt", poses)
    return folder


def test_frames_come_in_the_order_of_their_numbers_not_names(room):
    scan = ReplicaScan(room)
    assert scan.info.frame_count == FRAMES
    for index in (0, 2, 10, 11):
        assert (scan.decode_color(index)[0, 0] == [index, index + 100, 0]).all()
        assert (scan.decode_depth(index) == index * 500 + 1).all()
        assert (scan.semantic_ids(index) == index * 9).all()
        np.testing.assert_array_equal(scan.world_from_camera[index], _pose(index))


def test_both_cameras_are_one_with_a_right_angle_of_view(room):
    info = ReplicaScan(room).info
    assert (info.color_width, info.color_height) == (8, 6)
    assert (info.depth_width, info.depth_height) == (8, 6)
    np.testing.assert_array_equal(info.color_intrinsics, info.depth_intrinsics)
    # The outer edges of the image, half a pixel beyond the outer centres, are seen
    # under 45 degrees: (u - cx) / f = +-1 at u = -0.5 and u = 7.5.
    f, _, cx = info.color_intrinsics[0]
    assert (-0.5 - cx) / f == -1 and (7.5 - cx) / f == 1
    assert info.color_intrinsics[1].tolist() == [0, 4, 2.5]
    assert info.depth_units_per_metre == 1000
    assert (info.color_encoding, info.depth_encoding) == ("png", "png")


def test_the_released_typo_moves_cy_alone_and_only_where_it_is_asked_for(room):
    truth = ReplicaScan(room).info.color_intrinsics
    info = ReplicaScan(room, released_intrinsics=True).info
    np.testing.assert_array_equal(info.color_intrinsics, info.depth_intrinsics)
    assert np.argwhere(info.color_intrinsics != truth).tolist() == [[1, 2]]
    # As a picture of 640 x 480 with cy = 229.5 has it once it is resized.
    full = np.array([[320, 0, 319.5], [0, 320, 229.5], [0, 0, 1]])
    resized = scale_intrinsics(full, (640, 480), (8, 6))
    np.testing.assert_allclose(info.color_intrinsics, resized, atol=1e-12)


def test_the_typo_is_that_of_the_released_code_at_its_own_size(room):
    for path in room.glob("*/*_0.png"):
        if path.stem != "vis_sem_class_0":
            path.write_bytes(encode_png16(np.zeros((480, 640), np.uint16)))
    info = ReplicaScan(room, released_intrinsics=True).info
    assert info.color_intrinsics.tolist() == [
        [320, 0, 319.5],
        [0, 320, 229.5],
        [0, 0, 1],
    ]
    assert ReplicaScan(room).info.color_intrinsics[1, 2] == 239.5


def test_bytes_are_handed_out_untouched(room):
    scan = ReplicaScan(room)
    assert scan.color_bytes(3) == (room / "rgb/rgb_3.png").read_bytes()
    assert scan.depth_bytes(3) == (room / "depth/depth_3.png").read_bytes()


def test_sixteen_bit_class_images_are_read_too(room):
    path = room / "semantic_class/semantic_class_0.png"
    path.write_bytes(encode_png16(np.full((6, 8), 300, np.uint16)))
    assert (ReplicaScan(room).semantic_ids(0) == 300).all()


def test_lost_poses_are_handed_out_as_they_stand(room):
    path = room / "traj_w_c.txt"
    lines = path.read_text().splitlines()
    lines[4] = " ".join(["-inf"] * 16)
    path.write_text("\r\n".join(lines) + "\r\n\r\n")
    poses = ReplicaScan(room).world_from_camera
    assert np.isneginf(poses[4]).all() and np.isfinite(poses[5]).all()


def test_a_sequence_without_class_images_is_read_until_they_are_asked_for(room):
    for path in (room / "semantic_class").iterdir():
        path.unlink()
    (room / "semantic_class").rmdir()
    scan = ReplicaScan(room)
    assert scan.decode_depth(1).shape == (6, 8)
    with pytest.raises(BadInput, match="semantic_class"):
        scan.semantic_ids(0)


def test_the_digest_tells_any_byte_and_name_apart(room):
    reference = ReplicaScan(room).sha256()
    assert reference == ReplicaScan(room).sha256()
    first, second = room / "rgb/rgb_0.png", room / "rgb/rgb_1.png"
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    assert ReplicaScan(room).sha256() != reference
    first.write_bytes(one)
    second.write_bytes(two)
    assert ReplicaScan(room).sha256() == reference
    with (room / "traj_w_c.txt").open("a") as file:
        file.write("\n")
    assert ReplicaScan(room).sha256() != reference


def test_the_digest_tells_where_one_file_ends_and_the_next_begins(room):
    reference = ReplicaScan(room).sha256()
    first, second = room / "rgb/rgb_1.png", room / "rgb/rgb_2.png"
    data = first.read_bytes()
    first.write_bytes(data[:-1])
    second.write_bytes(data[-1:] + second.read_bytes())
    assert ReplicaScan(room).sha256() != reference


def test_a_missing_image_is_refused_with_its_name_and_a_remedy(room):
    (room / "depth/depth_7.png").unlink()
    with pytest.raises(BadInput, match=r"depth_7\.png.*remedy: use a whole folder"):
        ReplicaScan(room)


def test_images_without_a_pose_and_poses_without_images_are_refused(room):
    path = room / "traj_w_c.txt"
    lines = path.read_text().splitlines()
    for rows in (lines[:-1], [*lines, lines[0]]):
        path.write_text("\n".join(rows))
        with pytest.raises(BadInput, match="one a row of traj_w_c"):
            ReplicaScan(room)


def test_one_frame_under_two_names_is_refused(room):
    (room / "rgb/rgb_01.png").write_bytes((room / "rgb/rgb_1.png").read_bytes())
    with pytest.raises(BadInput, match="rgb"):
        ReplicaScan(room)


@pytest.mark.parametrize("text", ["1 2 3\n", "a " * 16, "", "1 " * 17])
def test_a_bad_trajectory_is_refused(room, text):
    (room / "traj_w_c.txt").write_text(text)
    with pytest.raises(BadInput, match="traj_w_c"):
        ReplicaScan(room)


def test_images_of_different_sizes_are_refused(room):
    small = encode_png16(np.zeros((3, 4), np.uint16))
    (room / "depth/depth_5.png").write_bytes(small)
    with pytest.raises(BadInput, match=r"depth_5\.png"):
        ReplicaScan(room).decode_depth(5)
    (room / "depth/depth_0.png").write_bytes(small)
    with pytest.raises(BadInput, match=r"depth_0\.png"):
        ReplicaScan(room)


def test_what_is_no_image_is_refused(room):
    (room / "semantic_class/semantic_class_2.png").write_bytes(b"hello")
    with pytest.raises(BadInput, match=r"semantic_class_2\.png"):
        ReplicaScan(room).semantic_ids(2)
    (room / "rgb/rgb_0.png").write_bytes(b"")
    with pytest.raises(BadInput, match=r"rgb_0\.png"):
        ReplicaScan(room)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(BadInput, match="readable file"):
        ReplicaScan(tmp_path / "room_9")
