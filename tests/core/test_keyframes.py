"""Key frames and fragments against hand-made paths and the published rule."""

import dataclasses

import numpy as np
import pytest

from gnesf_core.config import FramesConfig
from gnesf_core.data.keyframes import select_key_frames

CONFIG = FramesConfig(
    key_angle_deg=15.0,
    key_distance_m=0.1,
    fragment_views=3,
    released_fragments=False,
    view_stride=0,
    view_offset=0,
)
RELEASED = dataclasses.replace(CONFIG, released_fragments=True)


def pose(x=0.0, yaw_deg=0.0):
    yaw = np.deg2rad(yaw_deg)
    matrix = np.eye(4)
    matrix[:3, 0] = [np.sin(yaw), -np.cos(yaw), 0]
    matrix[:3, 1] = [0, 0, -1]
    matrix[:3, 2] = [np.cos(yaw), np.sin(yaw), 0]
    matrix[0, 3] = x
    return matrix


def walk(*xs):
    return np.stack([pose(x) for x in xs])


def select(poses, config=CONFIG, usable=None):
    usable = np.ones(len(poses), bool) if usable is None else np.array(usable, bool)
    return select_key_frames(poses, usable, config)


def random_path(rng, frames):
    steps = rng.uniform(0, 0.06, frames).cumsum()
    yaws = rng.normal(0, 5, frames).cumsum()
    return np.stack([pose(x, yaw) for x, yaw in zip(steps, yaws, strict=True)])


def test_a_frame_is_taken_once_the_camera_has_moved_far_enough_from_the_last_taken():
    # 0.06 and 0.09 are near 0; 0.12 is far; 0.2 is near 0.12; 0.23 is far from it.
    keys = select(walk(0, 0.06, 0.09, 0.12, 0.2, 0.23))
    np.testing.assert_array_equal(keys.indices, [0, 3, 5])
    np.testing.assert_array_equal(keys.fragments, [[0, 1, 2]])


def test_a_frame_is_taken_once_the_optical_axis_has_turned_enough():
    poses = np.stack([pose(0, yaw) for yaw in (0, 14, 16, 30, 32, -170, 180)])
    # 14 < 15; 16 taken; 30 - 16 = 14; 32 taken; -170 is 158 away; 180 is 10 from -170.
    np.testing.assert_array_equal(select(poses).indices, [0, 2, 4, 5])


def test_rolling_about_the_optical_axis_is_not_turning():
    poses = np.stack([pose(), pose()])
    poses[1, :3, :2] = poses[1, :3, :2] @ [[0, 1], [-1, 0]]
    np.testing.assert_array_equal(select(poses).indices, [0])


def test_standing_still_adds_no_key_frame():
    # Axes whose product with themselves exceeds 1 by rounding have an angle all the
    # same.
    poses = np.stack([pose(yaw_deg=33.3)] * 5)
    poses[:, :3, 2] *= 1 + 1e-9
    np.testing.assert_array_equal(select(poses).indices, [0])
    assert len(select(poses, RELEASED).indices) == 0


def test_unusable_frames_are_passed_over_whatever_their_pose():
    poses = walk(0, 0, 1, 2, 3, 4)
    poses[[0, 3]] = -np.inf
    keys = select(poses, usable=[0, 1, 1, 0, 1, 1])
    np.testing.assert_array_equal(keys.indices, [1, 2, 4, 5])


def test_the_tail_fragment_overlaps_its_predecessor():
    keys = select(walk(*range(8)))
    np.testing.assert_array_equal(keys.fragments, [[0, 1, 2], [3, 4, 5], [5, 6, 7]])


def test_a_multiple_of_the_window_needs_no_overlap():
    keys = select(walk(*range(6)))
    np.testing.assert_array_equal(keys.fragments, [[0, 1, 2], [3, 4, 5]])


def test_few_key_frames_make_one_padded_fragment():
    np.testing.assert_array_equal(select(walk(0, 1)).fragments, [[0, 1, -1]])


@pytest.mark.parametrize("config", [CONFIG, RELEASED])
@pytest.mark.parametrize("frames", [0, 4])
def test_no_usable_frame_makes_no_fragment(config, frames):
    keys = select(walk(*range(4))[:frames], config, usable=[False] * frames)
    assert keys.indices.shape == (0,)
    assert keys.fragments.shape == (0, 3)
    assert keys.indices.dtype == keys.fragments.dtype == np.int64


def test_released_windows_restart_at_the_very_next_frame_and_drop_the_tail():
    # The window 0, 1, 2 closes; 2.01 starts the next although it has barely moved;
    # 2.05 is too near; the last window has two frames only.
    keys = select(walk(0, 1, 2, 2.01, 2.05, 3, 4, 5, 6), RELEASED)
    np.testing.assert_array_equal(keys.indices, [0, 1, 2, 3, 5, 6])
    np.testing.assert_array_equal(keys.fragments, [[0, 1, 2], [3, 4, 5]])


def test_a_short_capture_has_no_released_fragment():
    keys = select(walk(0, 1), RELEASED)
    assert len(keys.indices) == 0 and keys.fragments.shape == (0, 3)


def published_windows(poses, views):
    """The published rule as a state machine over windows of frame numbers."""
    windows, current = [], []
    for frame, matrix in enumerate(poses):
        if not current:
            current = [frame]
        else:
            last = poses[current[-1]]
            relative = np.linalg.inv(matrix[:3, :3]) @ last[:3, :3]
            with np.errstate(invalid="ignore"):
                turned = np.arccos(relative[2, 2]) > 15 / 180 * np.pi
            moved = np.sqrt(((matrix[:3, 3] - last[:3, 3]) ** 2).sum()) > 0.1
            if turned or moved:
                current.append(frame)
        if len(current) == views:
            windows.append(current)
            current = []
    return windows


@pytest.mark.parametrize("seed", range(5))
def test_released_fragments_equal_the_published_rule_on_random_paths(seed):
    poses = random_path(np.random.default_rng(seed), 400)
    config = dataclasses.replace(RELEASED, fragment_views=9)
    keys = select(poses, config)
    windows = published_windows(poses, 9)
    assert len(windows) > 5
    np.testing.assert_array_equal(keys.indices[keys.fragments], windows)


def degrees_between(axes, others):
    return np.degrees(np.arccos(np.clip((axes * others).sum(1), -1, 1)))


@pytest.mark.parametrize("seed", range(5))
def test_every_skipped_frame_is_near_the_key_frame_before_it(seed):
    poses = random_path(np.random.default_rng(seed), 300)
    keys = select(poses)
    assert set(keys.fragments.ravel()) == set(range(len(keys.indices)))
    before = keys.indices[np.searchsorted(keys.indices, range(300), side="right") - 1]
    angles = degrees_between(poses[:, :3, 2], poses[before, :3, 2])
    moves = np.abs(poses[:, 0, 3] - poses[before, 0, 3])
    assert (angles <= 15).all() and (moves <= 0.1).all()
    keyed = poses[keys.indices]
    steps = np.abs(np.diff(keyed[:, 0, 3]))
    turns = degrees_between(keyed[1:, :3, 2], keyed[:-1, :3, 2])
    assert ((steps > 0.1) | (turns > 15)).all()
