"""COLMAP models: text and binary say the same, and neither can hurt."""

import struct

import numpy as np
import pytest

from gnesf_core.config import CaptureConfig
from gnesf_core.data.capture_world import find_world
from gnesf_core.data.captures import capture_file, open_scan
from gnesf_core.data.colmap import read_colmap
from gnesf_core.errors import BadInput
from tests import posed_rooms, tiny_room

POSES = posed_rooms.camera_path(12)[:4]
WORLD = posed_rooms.capture_from_room(scale=0.4)


@pytest.fixture
def text(tmp_path):
    return posed_rooms.write_colmap(tmp_path / "text", POSES, WORLD)


@pytest.fixture
def binary(tmp_path):
    return posed_rooms.write_colmap(tmp_path / "binary", POSES, WORLD, text=False)


def test_poses_are_inverted_and_pixel_centres_whole_numbers(text):
    capture = read_colmap(text)
    assert len(capture.images) == len(POSES)  # not the unregistered picture
    for image, pose in zip(capture.images, POSES, strict=True):
        expected = posed_rooms.moved(WORLD, pose)
        np.testing.assert_allclose(image.world_from_camera, expected, atol=1e-12)
        matrix = tiny_room.intrinsics(posed_rooms.SIZE)
        np.testing.assert_allclose(image.lens.intrinsics, matrix)


def test_text_and_binary_say_the_same(text, binary):
    one, two = read_colmap(text), read_colmap(binary)
    for a, b in zip(one.images, two.images, strict=True):
        assert (a.color.name, a.depth.name, a.lens) == (
            b.color.name, b.depth.name, b.lens,
        )  # fmt: skip
        np.testing.assert_array_equal(a.world_from_camera, b.world_from_camera)
    np.testing.assert_array_equal(one.points, two.points)
    assert len(one.sightings.point) > 200
    for name in ("image", "uv", "point"):
        np.testing.assert_array_equal(
            getattr(one.sightings, name), getattr(two.sightings, name)
        )


def test_what_is_left_out_is_said(text):
    assert read_colmap(text).warnings == ("pictures without a pose, left out: 1",)
    root = text.parent.parent.parent
    (root / "images/unregistered.png").unlink()
    for number in (10, 2):
        (root / f"sparse/{number}").mkdir()
        (root / f"sparse/{number}/images.bin").touch()
    assert read_colmap(text).warnings == ("further models in sparse/, left out: 2, 10",)


def test_pictures_in_subfolders_are_registered_by_their_whole_names(text):
    root = text.parent.parent.parent
    (root / "images/left").mkdir()
    (root / "images/0.png").rename(root / "images/left/0.png")
    text.write_text(text.read_text().replace(" 5 0.png", " 5 left/0.png"))
    capture = read_colmap(text)
    assert capture.images[-1].color == root / "images/left/0.png"
    assert capture.warnings == ("pictures without a pose, left out: 1",)


@pytest.mark.parametrize("kind", ["text", "binary"])
def test_a_model_without_pictures_is_refused(kind, request):
    path = request.getfixturevalue(kind)
    path.write_bytes(b"# none\n" if kind == "text" else struct.pack("<Q", 0))
    with pytest.raises(BadInput, match="pictures: expected registered ones"):
        read_colmap(path)


def test_several_cameras_are_kept_apart(binary):
    extra = struct.pack("<iiQQ", 9, 2, *posed_rooms.SIZE)
    extra += struct.pack("<4d", 80.0, 48.0, 36.0, -0.1)
    cameras = binary.parent / "cameras.bin"
    data = cameras.read_bytes()
    cameras.write_bytes(struct.pack("<Q", 2) + data[8:] + extra)
    images = bytearray(binary.read_bytes())
    struct.pack_into("<i", images, 8 + 4 + 56, 9)  # the first picture's camera
    binary.write_bytes(bytes(images))
    lenses = [image.lens for image in read_colmap(binary).images]
    assert (lenses[0].fx, lenses[0].fy, lenses[0].cx) == (80, 80, 47.5)
    assert lenses[0].radial[0] == -0.1 and lenses[1].is_pinhole


def test_lenses_that_are_not_read_are_named_with_the_remedy(tmp_path):
    camera = "OPENCV_FISHEYE", [77.0, 77, 48, 36, 0, 0, 0, 0]
    for is_text in (True, False):
        folder = tmp_path / str(is_text)
        path = posed_rooms.write_colmap(
            folder, POSES, WORLD, text=is_text, camera=camera
        )
        with pytest.raises(BadInput, match="OPENCV_FISHEYE.*colmap image_undistorter"):
            read_colmap(path)


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin", "points3D.bin"])
def test_a_binary_file_cut_anywhere_is_refused(binary, name):
    path = binary.parent / name
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for length in [0, 7, 8, len(whole) - 1, *rng.integers(9, len(whole), 20).tolist()]:
        path.write_bytes(whole[:length])
        with pytest.raises(BadInput, match=name):
            read_colmap(binary)
    path.write_bytes(whole + b"\0")
    with pytest.raises(BadInput, match="the file's end"):
        read_colmap(binary)


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin", "points3D.bin"])
def test_huge_counts_are_refused_before_memory_is_asked_for(binary, name):
    path = binary.parent / name
    data = path.read_bytes()
    for count in (1 << 63, 1 << 40, (1 << 64) - 1):
        path.write_bytes(struct.pack("<Q", count) + data[8:])
        with pytest.raises(BadInput, match=rf"room for the {count} records"):
            read_colmap(binary)


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("0.png", "../../x.png", "a file inside"),
        (" 5 0.png", " 6 0.png", "a camera of the model"),
        ("0.png", "nowhere.png", r"nowhere\.png"),
        ("1 ", "nan ", "line 2"),
    ],
)
def test_pictures_that_do_not_fit_their_model_are_refused(text, old, new, match):
    text.write_text(text.read_text().replace(old, new, 1))
    with pytest.raises(BadInput, match=match):
        read_colmap(text)


def test_poses_that_are_none_are_refused(text):
    lines = text.read_text().splitlines()
    words = lines[1].split()
    words[1:5] = ["nan"] * 4
    text.write_text("\n".join([lines[0], " ".join(words), *lines[2:]]))
    with pytest.raises(BadInput, match=r"pose of 0\.png.*quaternion"):
        read_colmap(text)


def test_swapped_quaternions_are_found_by_the_points(text):
    lines = text.read_text().splitlines()
    for row in range(1, len(lines), 2):
        words = lines[row].split()
        words[1:5] = [*words[2:5], words[1]]
        lines[row] = " ".join(words)
    text.write_text("\n".join(lines))
    with pytest.raises(BadInput, match=r"quaternions are \(w, x, y, z\)"):
        find_world(open_scan("capture", text), CaptureConfig("auto", 0.0, None))


def test_depth_of_another_scene_tells_no_scale(text):
    rng = np.random.default_rng(0)
    for path in (text.parent.parent.parent / "depth").iterdir():
        noise = rng.integers(300, 9000, posed_rooms.DEPTH_SIZE[::-1], dtype=np.uint16)
        path.write_bytes(posed_rooms.images.encode_png16(noise))
    with pytest.raises(BadInput, match="points whose depth tells one scale"):
        find_world(open_scan("capture", text), CaptureConfig("auto", 0.0, None))


def test_the_model_is_found_wherever_it_usually_is(text, tmp_path):
    root = tmp_path / "text"
    assert capture_file(root) == text
    for name in ("cameras", "images", "points3D"):
        (text.parent / f"{name}.txt").rename(root / f"{name}.txt")
    assert capture_file(root) == root / "images.txt"
    assert len(open_scan("capture", root).world_from_camera) == len(POSES)
    (root / "images").rename(root / "pictures")
    with pytest.raises(BadInput, match="the pictures in images/"):
        open_scan("capture", root)
