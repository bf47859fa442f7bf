"""Pictures of real lenses, resampled to the one pinhole camera of a scan."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from gnesf_core.data import images
from gnesf_core.data.captures import open_scan
from gnesf_core.data.nerfstudio import read_nerfstudio
from gnesf_core.data.posed_images import PosedImages, natural_order
from gnesf_core.errors import BadInput
from gnesf_core.geometry.camera import pixel_rays
from gnesf_core.geometry.lens import Lens, common_pinhole, covered
from tests import posed_rooms, tiny_room

POSES = posed_rooms.camera_path(12)[:4]
MATRIX = tiny_room.intrinsics(posed_rooms.SIZE)
BARREL = {"k1": -0.22, "k2": 0.06, "p1": 0.004, "p2": -0.003, "k3": -0.01}
FISHEYE = {"k1": -0.04, "k2": 0.01, "k3": -0.002, "k4": 0.0005}


def lens_rays(about, fisheye):
    """Return the direction that each pixel of a bent picture shows, by OpenCV."""
    width, height = posed_rooms.SIZE
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)
    uv = grid.reshape(-1, 1, 2).astype(np.float64)
    stop = (cv2.TERM_CRITERIA_MAX_ITER | cv2.TERM_CRITERIA_EPS, 200, 1e-12)
    if fisheye:
        factors = np.array([about[name] for name in ("k1", "k2", "k3", "k4")])
        xy = cv2.fisheye.undistortPoints(uv, MATRIX, factors, criteria=stop)
    else:
        factors = np.array([about[name] for name in ("k1", "k2", "p1", "p2", "k3")])
        xy = cv2.undistortPoints(uv, MATRIX, factors, criteria=stop)
    xy = xy.reshape(height, width, 2)
    return np.concatenate([xy, np.ones((height, width, 1))], -1)


@pytest.mark.parametrize("fisheye", [False, True])
def test_bent_pictures_become_those_of_a_pinhole_camera(tmp_path, fisheye):
    about = FISHEYE if fisheye else BARREL
    rays = lens_rays(about, fisheye)
    model = "OPENCV_FISHEYE" if fisheye else "OPENCV"
    path = posed_rooms.write_nerfstudio(
        tmp_path / "c", POSES, rays=rays, camera_model=model, **about
    )
    for index, pose in enumerate(POSES):  # depth by the same lens, at full size
        depth_m, _ = tiny_room.cast_rays(pose, rays)
        units = np.rint(1000 * depth_m).astype(np.uint16)
        png = images.encode_png16(units)
        (path.parent / f"depth/frame_{index:05d}.png").write_bytes(png)
    scan = open_scan("capture", path)
    straight = pixel_rays(scan.info.color_intrinsics, *posed_rooms.SIZE)
    for index, pose in enumerate(POSES):
        expected = posed_rooms.picture(pose, straight).astype(int)
        found = scan.decode_color(index).astype(int)
        assert np.median(np.abs(found - expected)) <= 1
        assert np.mean(np.abs(found - expected) <= 8) > 0.97  # edges of the block
        bent = posed_rooms.picture(pose, rays).astype(int)
        assert np.mean(np.abs(bent - expected) <= 8) < 0.9  # the lens matters
        expected_m, _ = tiny_room.cast_rays(pose, straight)
        found_m = scan.decode_depth(index) / 1000
        assert np.mean(np.abs(found_m - expected_m) < 0.1) > 0.95
        assert (found_m > 0).all()  # no blank corners


def test_pictures_that_fit_are_copied_untouched(tmp_path):
    path = posed_rooms.write_nerfstudio(tmp_path / "c", POSES, kind="jpg")
    scan = open_scan("capture", path)
    for index in range(len(POSES)):
        file = path.parent / f"images/frame_{index:05d}.jpg"
        assert scan.color_bytes(index) == file.read_bytes()
    np.testing.assert_allclose(scan.info.color_intrinsics, MATRIX)
    # Depth is half as large, and its pixels are twice as large.
    expected = tiny_room.intrinsics(posed_rooms.DEPTH_SIZE)
    np.testing.assert_allclose(scan.info.depth_intrinsics, expected)
    assert scan.info.depth_units_per_metre == 1000


def test_a_picture_of_another_size_and_kind_is_brought_to_the_others(tmp_path):
    capture = read_nerfstudio(posed_rooms.write_nerfstudio(tmp_path / "c", POSES))
    large = tuple(3 * side for side in posed_rooms.SIZE)
    rays = pixel_rays(tiny_room.intrinsics(large), *large)
    file = tmp_path / "c/images/large.jpg"
    file.write_bytes(posed_rooms.shoot(POSES[0], rays, "jpg"))
    odd = replace(
        capture.images[0], color=file, lens=capture.images[0].lens.resized(*large)
    )
    scan = PosedImages(replace(capture, images=(*capture.images, odd)))
    found, expected = scan.decode_color(4).astype(int), scan.decode_color(0).astype(int)
    assert found.shape == expected.shape
    assert np.median(np.abs(found - expected)) <= 4  # JPEG of a finer picture
    assert scan.info.color_encoding == "png"


def test_views_that_have_too_little_in_common_are_refused(tmp_path):
    capture = read_nerfstudio(posed_rooms.write_nerfstudio(tmp_path / "c", POSES))
    zoomed = replace(capture.images[1].lens, fx=900.0, fy=900.0)
    odd = replace(capture.images[1], lens=zoomed)
    with pytest.raises(BadInput, match=r"frame_00001.png: camera: .*shows \d+% of it"):
        PosedImages(replace(capture, images=(*capture.images, odd)))


def test_the_common_camera_sees_only_what_every_lens_sees():
    bent = Lens(640, 480, 500.0, 500.0, 319.5, 239.5, (0.3, 0.1))
    others = [replace(bent, fx=500.0 + k, fy=500.0 + k) for k in range(5)]
    pinhole = common_pinhole(others)
    assert pinhole.is_pinhole and (pinhole.width, pinhole.height) == (640, 480)
    assert all(covered(lens, pinhole) == 1 for lens in others)
    wider = replace(pinhole, fx=pinhole.fx * 0.98, fy=pinhole.fy * 0.98)
    assert any(covered(lens, wider) < 1 for lens in others)


def test_directions_beyond_a_lens_are_nowhere_rather_than_folded_back():
    folding = Lens(640, 480, 500.0, 500.0, 319.5, 239.5, (-0.3,))
    # r - 0.3 r^3 is largest at r = 1.054: what lies beyond comes back in.
    uv = folding.pixels(np.array([[1.0, 0.0], [1.1, 0.0], [2.0, 0.0]]))
    assert np.isfinite(uv[0]).all() and not np.isfinite(uv[1:, 0]).any()


def test_frames_come_in_the_order_of_the_numbers_in_their_names():
    names = ["b2.png", "a10.png", "a9.png", "a09.png", "a.png"]
    assert sorted(names, key=natural_order)[-1] == "b2.png"
    assert sorted(names[1:3], key=natural_order) == ["a9.png", "a10.png"]


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (posed_rooms.write_nerfstudio, "transforms.json"),
        (posed_rooms.write_colmap, "sparse/0/cameras.txt"),
        (posed_rooms.write_exported, "intrinsic/intrinsic_color.txt"),
        (posed_rooms.write_exported, "intrinsic/intrinsic_depth.txt"),
    ],
)
def test_files_besides_the_pictures_may_not_lie_elsewhere_either(tmp_path, write, name):
    write(tmp_path / "c", POSES)
    file = tmp_path / "c" / name
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadInput, match=rf"{name}.*a file inside"):
        open_scan("capture", tmp_path / "c")


def test_links_within_the_folder_are_files_like_any_other(tmp_path):
    path = posed_rooms.write_nerfstudio(tmp_path / "c", POSES)
    path.rename(tmp_path / "c/poses.json")
    path.symlink_to("poses.json")
    assert len(open_scan("capture", path).sha256()) == 64


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path):
    path = posed_rooms.write_nerfstudio(tmp_path / "c", POSES)
    scan = open_scan("capture", path)
    before = scan.sha256()
    scan.check_unchanged()
    picture = tmp_path / "c/images/frame_00002.png"
    picture.write_bytes(picture.read_bytes() + b"\0")
    with pytest.raises(BadInput, match=r"frame_00002\.png"):
        scan.check_unchanged()
    assert open_scan("capture", path).sha256() != before
