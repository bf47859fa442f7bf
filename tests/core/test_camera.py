"""Conventions of poses, pixels and depth, pinned by hand-computed cases."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gnesf_core.geometry import camera

INTRINSICS = np.array([[500.0, 0.0, 320.0], [0.0, 400.0, 240.0], [0.0, 0.0, 1.0]])
EITHER = pytest.mark.parametrize("make", [np.array, torch.tensor])


def numpy_of(array):
    return array.numpy() if isinstance(array, torch.Tensor) else array


@EITHER
def test_projection_of_a_point_worked_out_by_hand(make):
    # u = 500 * 0.2 / 2 + 320 = 370, v = 400 * -0.5 / 2 + 240 = 140.
    uv, depth = camera.project(make([[0.2, -0.5, 2.0]]), INTRINSICS)
    np.testing.assert_allclose(numpy_of(uv), [[370.0, 140.0]], rtol=1e-12)
    np.testing.assert_array_equal(numpy_of(depth), [2.0])


@EITHER
def test_points_behind_the_camera_are_in_no_image(make):
    points = make([[0.0, 0.0, -1.0], [0.0, 0.0, 0.0], [0.0, 0.0, float("nan")]])
    uv, _ = camera.project(points, INTRINSICS)
    assert not numpy_of(camera.in_image(uv, 640, 480)).any()
    assert np.isfinite(numpy_of(uv)).all()


@EITHER
def test_points_barely_in_front_of_the_camera_can_still_be_rounded(make):
    uv, _ = camera.project(make([[1.0, -1.0, 1e-30]]), INTRINSICS)
    np.testing.assert_array_equal(numpy_of(uv), [[1e6, -1e6]])


def test_an_image_spans_half_a_pixel_beyond_its_outer_centres():
    uv = np.array([[-0.5, 0.0], [-0.51, 0.0], [639.49, 479.49], [639.5, 0], [0, 479.5]])
    expected = [True, False, True, False, False]
    np.testing.assert_array_equal(camera.in_image(uv, 640, 480), expected)


@EITHER
def test_transform_of_a_point_worked_out_by_hand(make):
    # A quarter turn about z takes x to y; then one metre up.
    matrix = np.array([[0, -1.0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1]])
    moved = camera.transform(matrix, make([[2.0, 0.0, 0.0], [0.0, 3.0, 5.0]]))
    np.testing.assert_array_equal(numpy_of(moved), [[0, 2, 1], [-3, 0, 6]])


def test_batches_of_matrices_move_batches_of_points():
    poses = np.stack([camera.look_at((i, 0, 1), (5, 5, 0)) for i in range(3)])
    points = np.random.default_rng(0).normal(size=(3, 7, 3))
    moved = camera.transform(poses, points)
    for pose, some, expected in zip(poses, points, moved, strict=True):
        homogeneous = np.concatenate([some, np.ones((7, 1))], 1) @ pose.T
        np.testing.assert_allclose(expected, homogeneous[:, :3], atol=1e-12)


def test_torch_keeps_the_type_of_the_points_and_passes_gradients():
    points = torch.tensor([[0.2, -0.5, 2.0], [0.0, 0.0, -1.0]], requires_grad=True)
    moved = camera.transform(np.eye(4), points)
    uv, depth = camera.project(moved, INTRINSICS)
    assert uv.dtype == depth.dtype == torch.float32
    uv.sum().backward()
    # d(u + v)/dx = 500 / 2, d/dy = 400 / 2, d/dz = -(500 * 0.2 - 400 * 0.5) / 4.
    expected = torch.tensor([[250.0, 200.0, 25.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(points.grad, expected)


@EITHER
def test_inverse_poses_undo_poses(make):
    poses = np.stack([camera.look_at((1, 2, 3), (4, 4, 2), roll=0.3), np.eye(4)])
    inverse = numpy_of(camera.invert_rigid(make(poses)))
    np.testing.assert_allclose(inverse @ poses, np.stack([np.eye(4)] * 2), atol=1e-14)
    np.testing.assert_array_equal(inverse[:, 3], [[0, 0, 0, 1]] * 2)


def test_poses_with_bad_entries_are_not_rigid():
    good = camera.look_at((1, 2, 3), (4, 4, 2))
    assert camera.is_rigid(good) and camera.is_rigid(good.astype(np.float32))
    for row, column, value in [
        (0, 0, -np.inf),
        (1, 3, np.nan),
        (2, 3, 1001.0),
        (3, 3, 2.0),
        (0, 0, 1e200),
    ]:
        bad = good.copy()
        bad[row, column] = value
        assert not camera.is_rigid(bad)
    mirrored = good * [[-1], [1], [1], [1]]
    assert not camera.is_rigid(mirrored)
    assert not camera.is_rigid(np.zeros((4, 4)))
    assert not camera.is_rigid(np.eye(3))


def test_a_rounded_rotation_is_still_rigid():
    rounded = np.round(camera.look_at((1, 2, 3), (4, 4, 2)), 2)
    rounded[3] = [0, 0, 0, 1]
    assert camera.is_rigid(rounded)


def test_a_level_camera_sees_up_above_and_left_on_the_left():
    # Looking along +x with z up, +y is to the left.
    world_from_camera = camera.look_at((0, 0, 1), (5, 0, 1))
    points = np.array([[2.0, 0, 1], [2.0, 0, 2], [2.0, 1, 1]])
    in_camera = camera.transform(camera.invert_rigid(world_from_camera), points)
    np.testing.assert_allclose(in_camera, [[0, 0, 2], [0, -1, 2], [-1, 0, 2]])


def test_looking_straight_down_puts_plus_y_at_the_upper_edge():
    world_from_camera = camera.look_at((0, 0, 3), (0, 0, 0))
    in_camera = camera.transform(
        camera.invert_rigid(world_from_camera), np.array([[0.0, 1, 0], [1.0, 0, 0]])
    )
    np.testing.assert_allclose(in_camera, [[0, -1, 3], [1, 0, 3]], atol=1e-15)


def test_a_roll_is_clockwise_from_behind():
    # After a quarter turn clockwise, what was up is seen on the left.
    world_from_camera = camera.look_at((0, 0, 1), (5, 0, 1), roll=np.pi / 2)
    above = camera.transform(
        camera.invert_rigid(world_from_camera), np.array([[2.0, 0, 2]])
    )
    np.testing.assert_allclose(above, [[-1, 0, 2]], atol=1e-15)


@given(
    st.tuples(*[st.floats(-5, 5)] * 3),
    st.tuples(*[st.floats(-5, 5)] * 3),
    st.floats(-4, 4),
)
def test_every_view_direction_gives_a_rigid_pose(eye, target, roll):
    if np.linalg.norm(np.subtract(eye, target)) < 1e-3:
        return
    pose = camera.look_at(eye, target, roll=roll)
    rotation = pose[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
    assert camera.is_rigid(pose)


def test_pixel_rays_project_onto_their_pixels_and_carry_depth():
    rays = camera.pixel_rays(INTRINSICS, 64, 48)
    assert rays.shape == (48, 64, 3)
    uv, depth = camera.project(rays * 3.7, INTRINSICS)
    columns, rows = np.meshgrid(np.arange(64), np.arange(48))
    np.testing.assert_allclose(uv, np.stack([columns, rows], -1), atol=1e-9)
    np.testing.assert_array_equal(depth, 3.7)


def test_halving_an_image_keeps_its_edges_in_place():
    # 8x6 -> 4x3: centre 3.5 -> (3.5 + 0.5) / 2 - 0.5 = 1.5; both are image centres.
    intrinsics = np.array([[10.0, 0, 3.5], [0, 12.0, 2.5], [0, 0, 1]])
    scaled = camera.scale_intrinsics(intrinsics, (8, 6), (4, 3))
    np.testing.assert_allclose(scaled, [[5, 0, 1.5], [0, 6, 1.0], [0, 0, 1]])
    rays = camera.pixel_rays(intrinsics, 8, 6)
    # The mean ray of each 2x2 block passes through the small image's pixel.
    blocks = rays.reshape(3, 2, 4, 2, 3).mean((1, 3))
    np.testing.assert_allclose(blocks, camera.pixel_rays(scaled, 4, 3), atol=1e-12)
