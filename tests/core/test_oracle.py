"""Votes counted by hand."""

import numpy as np
import pytest

from gnesf_core.config import OracleConfig
from gnesf_core.fields.oracle import SurfaceVotes
from gnesf_core.geometry.camera import look_at, scale_intrinsics
from gnesf_core.labels import IGNORE

CONFIG = OracleConfig(depth_tolerance_m=0.05, max_depth_m=3.0)
# 5x3 pixels; pixel (u, v) looks along ((u - 2) / 2, (v - 1) / 2, 1).
INTRINSICS = np.array([[2.0, 0, 2], [0, 2.0, 1], [0, 0, 1]])
POSE = np.eye(4)
LABELS = np.arange(15, dtype=np.uint8).reshape(3, 5)
DEPTH = np.full((3, 5), 2.0, np.float32)


def at(u, v, depth):
    return [(u - 2) / 2 * depth, (v - 1) / 2 * depth, depth]


def vote(points, labels=LABELS, depth=DEPTH, color=None, **changes):
    votes = SurfaceVotes(np.array(points, np.float32))
    arguments = {
        "color_intrinsics": INTRINSICS,
        "depth_intrinsics": INTRINSICS,
        "world_from_camera": POSE,
        "config": CONFIG,
    } | changes
    votes.add_view(labels, color, depth_m=depth, **arguments)
    return votes


def classes(*arguments, **changes):
    return vote(*arguments, **changes).result()[0].tolist()


def test_a_point_takes_the_label_of_its_nearest_pixel():
    points = [at(0, 0, 2), at(3.4, 1.4, 2), at(3.5, 1.6, 2), at(4.4, 2.4, 2)]
    assert classes(points) == [0, 8, 14, 14]


def test_points_outside_the_image_get_no_vote():
    points = [at(-0.6, 1, 2), at(4.6, 1, 2), at(2, -0.6, 2), at(2, 2.6, 2)]
    assert classes(points) == [IGNORE] * 4


def test_points_behind_the_camera_get_no_vote():
    behind = [0.0, 0.0, -2.0]
    assert classes([behind], depth=np.full((3, 5), -2.0, np.float32)) == [IGNORE]


def test_occluded_points_and_points_in_free_space_get_no_vote():
    points = [at(2, 1, z) for z in (1.9, 1.96, 2.0, 2.04, 2.1, 2.9)]
    assert classes(points) == [IGNORE, 7, 7, 7, IGNORE, IGNORE]


def test_no_depth_is_no_evidence():
    depth = DEPTH.copy()
    depth[1, 2] = 0
    # A point that touches the camera is as close to "no depth" as can be.
    assert classes([at(2, 1, 2), at(2, 1, 0.01), at(3, 1, 2)], depth=depth) == [
        IGNORE,
        IGNORE,
        8,
    ]


def test_far_points_get_no_vote():
    depth = np.full((3, 5), 3.0, np.float32)
    points = [at(2, 1, 2.99), at(2, 1, 3.01)]
    assert classes(points, depth=depth) == [7, IGNORE]


def test_ignored_pixels_cast_no_vote_but_give_colour():
    labels = np.full((3, 5), IGNORE, np.uint8)
    color = np.full((3, 5, 3), (10, 20, 30), np.uint8)
    class_id, confidence, rgb = vote([at(2, 1, 2)], labels, color=color).result()
    assert class_id.tolist() == [IGNORE] and confidence.tolist() == [0]
    assert rgb.tolist() == [[10, 20, 30]]


def test_the_two_cameras_have_their_own_intrinsics():
    # Labels at three times the size; the depth image has a hole where u is 4.
    labels = np.kron(LABELS, np.ones((3, 3), np.uint8))
    labels[4, 7] = 19  # the middle of old pixel (2, 1)
    depth = DEPTH.copy()
    depth[:, 4] = 0
    found = classes(
        [at(2, 1, 2), at(2.3, 1, 2), at(4, 1, 2)],
        labels,
        depth,
        color_intrinsics=scale_intrinsics(INTRINSICS, (5, 3), (15, 9)),
    )
    assert found == [19, 7, IGNORE]


def test_poses_move_the_camera_and_not_the_points():
    pose = look_at((1, 2, 3), (1, 5, 3))
    # Two metres ahead is y = 4; one pixel to the right is x + 1.
    assert classes([[1, 4, 3], [2, 4, 3]], world_from_camera=pose) == [7, 8]


def test_the_majority_wins_and_ties_go_to_the_lowest_class():
    votes = SurfaceVotes(np.array([at(0, 0, 2), at(1, 0, 2), at(2, 0, 2)]))
    # Columns are points, rows are views.
    for view, colour in zip([[3, 9, 19], [5, 4, IGNORE], [3, 4, 19], [IGNORE, 9, 0]],
                            [0, 1, 1, 1], strict=True):  # fmt: skip
        labels = np.full((3, 5), 11, np.uint8)
        labels[0, :3] = view
        color = np.full((3, 5, 3), colour, np.uint8)
        votes.add_view(labels, color, INTRINSICS, DEPTH, INTRINSICS, POSE, CONFIG)
    class_id, confidence, color = votes.result()
    assert class_id.tolist() == [3, 4, 19]
    np.testing.assert_allclose(confidence, [2 / 3, 2 / 4, 2 / 3], rtol=1e-6)
    assert (color == 1).all()  # 3 / 4, rounded
    assert class_id.dtype == color.dtype == np.uint8
    assert confidence.dtype == np.float32


def test_points_no_view_sees_are_grey():
    class_id, confidence, color = vote([at(2, 1, 9)]).result()
    assert (class_id.tolist(), confidence.tolist()) == ([IGNORE], [0])
    assert color.tolist() == [[127, 127, 127]]


def test_an_empty_surface_gets_empty_votes():
    class_id, confidence, color = vote(np.zeros((0, 3))).result()
    assert class_id.shape == confidence.shape == (0,) and color.shape == (0, 3)


@pytest.mark.parametrize("seed", range(3))
def test_votes_equal_a_loop_over_points_and_views(seed):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-1, 1, (60, 3))
    poses = [look_at(rng.uniform(-2, 2, 3), rng.uniform(-1, 1, 3)) for _ in range(12)]
    images = rng.integers(0, 22, (12, 3, 5)).astype(np.uint8)
    depths = rng.uniform(0.5, 3, (12, 6, 10)).astype(np.float32)
    small = scale_intrinsics(INTRINSICS, (5, 3), (10, 6))
    config = OracleConfig(depth_tolerance_m=0.8, max_depth_m=2.5)
    votes = SurfaceVotes(points)
    for pose, labels, depth in zip(poses, images, depths, strict=True):
        votes.add_view(labels, None, INTRINSICS, depth, small, pose, config)
    class_id, confidence, _ = votes.result()
    for index, point in enumerate(points):
        counts = [0] * 20
        for pose, labels, depth in zip(poses, images, depths, strict=True):
            x, y, z = pose[:3, :3].T @ (point - pose[:3, 3])
            if not 0 < z <= 2.5:
                continue
            row, column = round(1 + 2 * y / z), round(2 + 2 * x / z)
            if not (0 <= row < 3 and 0 <= column < 5):
                continue
            v, u = round(2.5 + 4 * y / z), round(4.5 + 4 * x / z)
            if not (0 <= v < 6 and 0 <= u < 10) or abs(depth[v, u] - z) >= 0.8:
                continue
            if labels[row, column] < 20:
                counts[labels[row, column]] += 1
        if sum(counts) == 0:
            assert class_id[index] == IGNORE and confidence[index] == 0
        else:
            assert class_id[index] == counts.index(max(counts))
            assert confidence[index] == pytest.approx(max(counts) / sum(counts))
    assert (class_id != IGNORE).sum() > 20
