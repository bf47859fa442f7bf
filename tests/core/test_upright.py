"""Up from cameras, floors from points: rooms whose up and floor are known."""

import numpy as np
import pytest

from gnesf_core.geometry import upright
from gnesf_core.geometry.camera import look_at
from tests.posed_rooms import turn

TILTED = turn([0.3, -1, 0.4], 77)
UP = TILTED @ [0, 0, 1.0]


def cameras(count=80, yaw_deg=(0, 360), pitch_deg=(-40, 10), roll_deg=4.0, lie=0.0):
    """Return poses in a tilted world; `lie` turns every picture, in degrees."""
    rng = np.random.default_rng(0)
    yaw = np.deg2rad(rng.uniform(*yaw_deg, count))
    pitch = np.deg2rad(rng.uniform(*pitch_deg, count))
    forward = np.stack(
        [np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)], -1
    )
    roll = np.deg2rad(rng.normal(lie, roll_deg, count))
    eyes = rng.normal([0, 0, 1.5], [1, 1, 0.05], (count, 3))
    poses = np.stack(
        [look_at(e, e + f, roll=r) for e, f, r in zip(eyes, forward, roll, strict=True)]
    )
    world = np.eye(4)
    world[:3, :3] = TILTED
    return world @ poses


def degrees_between(one, other):
    return np.rad2deg(np.arccos(np.clip(one @ other, -1, 1)))


def test_up_is_square_to_the_level_axes_of_unsteady_hands():
    up = upright.up_of_cameras(cameras())
    assert degrees_between(up.direction, UP) < 1.5
    assert not up.lie_sideways


def test_looking_steeply_down_does_not_tilt_the_world():
    # The mean of the cameras' own up directions is no guide here.
    poses = cameras(pitch_deg=(-70, -50), yaw_deg=(0, 150))
    assert degrees_between(-poses[:, :3, 1].mean(0), UP) > 10
    assert degrees_between(upright.up_of_cameras(poses).direction, UP) < 4


def test_cameras_that_all_look_one_way_still_have_an_up():
    poses = cameras(yaw_deg=(10, 11), pitch_deg=(-6, 6), roll_deg=0.5)
    up = upright.up_of_cameras(poses)
    assert degrees_between(up.direction, UP) < 3
    assert "one line" in up.how


def test_cameras_that_look_two_opposite_ways_have_the_same_up():
    there = cameras(yaw_deg=(10, 11), pitch_deg=(-6, 6), roll_deg=0.5)
    back = cameras(yaw_deg=(190, 191), pitch_deg=(-6, 6), roll_deg=0.5)
    up = upright.up_of_cameras(np.concatenate([there, back]))
    assert degrees_between(up.direction, UP) < 3
    assert "one line" in up.how


def test_a_telephone_held_upright_is_noticed_whichever_side_is_up():
    for lie in (90.0, -90.0):
        up = upright.up_of_cameras(cameras(lie=lie, pitch_deg=(-40, 0)))
        assert up.lie_sideways
        assert degrees_between(up.direction, UP) < 1.5


def furnished_room(noise_m=0.01):
    """Return points of a floor at 0.2, a larger table top, walls, and dirt below."""
    rng = np.random.default_rng(3)
    floor = rng.uniform([-2, -2, 0.2], [0, 1, 0.2], (4000, 3))
    table = rng.uniform([-2, -2, 0.95], [2, 2, 0.95], (9000, 3))
    wall = rng.uniform([2, -2, 0.2], [2, 2, 2.6], (6000, 3))
    ceiling = rng.uniform([-2, -2, 2.6], [2, 2, 2.6], (9000, 3))
    dirt = rng.uniform([-3, -3, -2.0], [3, 3, 0.2], (300, 3))
    points = np.concatenate([floor, table, wall, ceiling, dirt])
    return points + rng.normal(0, noise_m, points.shape)


def test_the_floor_is_the_lowest_large_plane_and_not_the_largest():
    points, poses = furnished_room(), cameras()
    # Cameras may be as wrong as hands are unsteady: points correct them.
    guess = turn([1, 0, 0], 5) @ UP
    floor = upright.floor_of_points(points @ TILTED.T, poses[:, :3, 3], guess)
    assert degrees_between(floor.up, UP) < 0.3
    assert abs(floor.height - 0.2) < 0.01


def test_a_stated_up_is_not_turned():
    points, poses = furnished_room() @ TILTED.T, cameras()
    floor = upright.floor_of_points(points, poses[:, :3, 3], UP, turn=False)
    np.testing.assert_array_equal(floor.up, UP)
    assert abs(floor.height - 0.2) < 0.01


def test_equal_points_give_equal_floors():
    points, poses = furnished_room() @ TILTED.T, cameras()
    one = upright.floor_of_points(points, poses[:, :3, 3], UP)
    two = upright.floor_of_points(points, poses[:, :3, 3], UP)
    np.testing.assert_array_equal(one.up, two.up)
    assert one.height == two.height


@pytest.mark.parametrize("count", [0, 30])
def test_too_few_points_make_no_floor(count):
    points = furnished_room()[:count] @ TILTED.T
    assert upright.floor_of_points(points, cameras()[:, :3, 3], UP) is None


def test_a_cloud_without_any_plane_makes_no_floor():
    cloud = np.random.default_rng(0).normal(0, 1.5, (5000, 3))
    assert upright.floor_of_points(cloud, cameras()[:, :3, 3], UP) is None


@pytest.mark.parametrize(
    "up", [UP, np.array([0, 0, 1.0]), np.array([0, 0, -1.0]), np.array([0, 1.0, 0])]
)
def test_the_world_is_turned_as_little_as_can_be(up):
    rotation = upright.turn_upright(up)
    np.testing.assert_allclose(rotation @ up, [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) > 0
    angle = np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))
    assert abs(angle - np.arccos(np.clip(up[2], -1, 1))) < 1e-6
