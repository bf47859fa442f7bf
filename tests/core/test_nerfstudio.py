"""transforms.json as nerfstudio's tools write it, and as nobody should."""

import json

import numpy as np
import pytest

from gnesf_core.data.nerfstudio import read_nerfstudio
from gnesf_core.errors import BadInput
from tests import posed_rooms, tiny_room

POSES = posed_rooms.camera_path(12)[:3]


@pytest.fixture
def transforms(tmp_path):
    return posed_rooms.write_nerfstudio(tmp_path / "c", POSES)


def edit(path, change):
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))


def test_poses_are_opencv_and_pixel_centres_whole_numbers(transforms):
    capture = read_nerfstudio(transforms)
    world = posed_rooms.capture_from_room()
    for image, pose in zip(capture.images, POSES, strict=True):
        expected = posed_rooms.moved(world, pose)
        np.testing.assert_allclose(image.world_from_camera, expected, atol=1e-12)
        matrix = tiny_room.intrinsics(posed_rooms.SIZE)
        np.testing.assert_allclose(image.lens.intrinsics, matrix)


def test_what_a_frame_says_of_its_camera_counts_more_than_the_file(transforms):
    edit(transforms, lambda about: about["frames"][0].update(fl_x=99.0, k1=0.1))
    images = read_nerfstudio(transforms).images
    # The first frame of the file is the last by name.
    assert [image.lens.fx for image in images] == pytest.approx([76.8, 76.8, 99])
    assert [image.lens.is_pinhole for image in images] == [True, True, False]


def test_matrices_of_three_rows_and_missing_defaults_are_fine(transforms):
    def shorten(about):
        for key in ("cx", "cy", "w", "h", "fl_y", "k1", "k2", "p1", "p2"):
            del about[key]
        for frame in about["frames"]:
            del frame["transform_matrix"][3]

    expected = read_nerfstudio(transforms).images
    edit(transforms, shorten)
    for image, other in zip(read_nerfstudio(transforms).images, expected, strict=True):
        assert image.lens == other.lens  # square pixels, centred
        np.testing.assert_array_equal(image.world_from_camera, other.world_from_camera)


def test_units_of_depth_and_of_poses_are_read(transforms):
    edit(
        transforms,
        lambda about: about.update(depth_unit_scale_factor=0.0002, applied_scale=0.5),
    )
    capture = read_nerfstudio(transforms)
    assert capture.depth_units_per_metre == pytest.approx(5000)
    assert capture.metres_per_unit == 2


@pytest.mark.parametrize(
    "name", ["/etc/hostname", "../secret.png", "a/../../b.png", "", 3, "x\0.png"]
)
def test_names_that_lead_out_of_the_folder_are_refused(transforms, name):
    edit(transforms, lambda about: about["frames"][1].update(file_path=name))
    with pytest.raises(BadInput, match="transforms.json"):
        read_nerfstudio(transforms)


def test_links_that_lead_out_of_the_folder_are_refused(transforms, tmp_path):
    picture = transforms.parent / "images/frame_00001.png"
    picture.rename(tmp_path / "elsewhere.png")
    picture.symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(BadInput, match="a file inside"):
        read_nerfstudio(transforms)
    picture.unlink()
    picture.symlink_to(picture)
    with pytest.raises(BadInput, match="a file inside"):
        read_nerfstudio(transforms)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[" * 100_000, "JSON"),
        ("[1, 2]", "a JSON object"),
        ("{", "JSON"),
        ('{"frames": []}', "frames"),
        ('{"frames": [7]}', r"frames\[0\]"),
        ('{"frames": NaN}', "JSON"),
        ('{"frames": [{"file_path": 1' + "0" * 5000 + "}]}", "JSON"),
    ],
)
def test_bad_json_is_refused(transforms, text, match):
    transforms.write_text(text)
    with pytest.raises(BadInput, match=match):
        read_nerfstudio(transforms)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("fl_x", None, "fl_x"),
        ("fl_x", -3, "above 0"),
        ("cx", "wide", "cx"),
        ("k1", "1e400", "k1"),  # which JSON's grammar allows
        ("fl_x", 10**400, "finite number"),
        ("camera_model", "EQUIRECTANGULAR", "camera_model.*undistort"),
        ("w", 1296, "the picture's size, 96 x 72"),
        ("applied_scale", 0, "factors above 0"),
    ],
)
def test_bad_cameras_are_refused_by_name(transforms, key, value, match):
    edit(transforms, lambda about: about.update({key: value}))
    transforms.write_text(transforms.read_text().replace('"1e400"', "1e400"))
    with pytest.raises(BadInput, match=match):
        read_nerfstudio(transforms)


@pytest.mark.parametrize("rows", [None, [[1] * 4] * 2, [[1] * 3] * 4, [["1"] * 4] * 4])
def test_bad_matrices_are_refused(transforms, rows):
    edit(transforms, lambda about: about["frames"][2].update(transform_matrix=rows))
    with pytest.raises(BadInput, match=r"frames\[2\].transform_matrix"):
        read_nerfstudio(transforms)


def test_missing_and_broken_pictures_are_named(transforms):
    picture = transforms.parent / "images/frame_00001.png"
    picture.write_bytes(b"hello")
    with pytest.raises(BadInput, match=r"frame_00001\.png"):
        read_nerfstudio(transforms)
    picture.unlink()
    with pytest.raises(BadInput, match=r"frame_00001\.png.*no such file"):
        read_nerfstudio(transforms)
    edit(transforms, lambda about: about["frames"][0].update(file_path="a.heic"))
    with pytest.raises(BadInput, match="convert the pictures"):
        read_nerfstudio(transforms)
