import json

import numpy as np
import pytest

from gnesf_core.config import EvaluationConfig
from gnesf_core.evaluation.geometry import (
    nearest_by_brute_force,
    nearest_points,
    seen_by_cameras,
    surface_scores,
    trimmed_surface_scores,
    voxel_down_sample,
)
from gnesf_core.geometry.camera import look_at

CONFIG = EvaluationConfig(
    threshold_m=0.05,
    coarse_threshold_m=0.1,
    down_sample_m=0.02,
    trim_tolerance_m=0.1,
    trim_depth_m=10.0,
    depth_max_m=10.0,
)
PRECISION, RECALL = "precision_predicted_to_truth", "recall_truth_to_predicted"
ACCURACY = "accuracy_predicted_to_truth_m"
COMPLETENESS = "completeness_truth_to_predicted_m"
# A 4 x 3 camera with a 2 pixel focal length: pixel (u, v) at depth z is seen at
# x = (u - 1.5) * z / 2, y = (v - 1) * z / 2.
INTRINSICS = np.array([[2.0, 0, 1.5], [0, 2.0, 1.0], [0, 0, 1]])
IDENTITY = np.eye(4)


def plane(width_m, length_m, step_m=0.05):
    x, y = np.meshgrid(
        np.arange(0, width_m, step_m), np.arange(0, length_m, step_m), indexing="ij"
    )
    return np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1)


def test_half_a_surface_is_precise_and_recalls_half():
    truth = plane(4.0, 2.0)
    prediction = truth[truth[:, 0] < 1.975]

    scores = surface_scores(prediction, truth, CONFIG)

    # Published code disagrees on the direction; here precision is of the prediction.
    assert scores[PRECISION] == 1.0
    assert scores[RECALL] == pytest.approx(0.5, abs=0.02)
    assert scores[ACCURACY] == pytest.approx(0.0, abs=1e-12)
    assert scores[COMPLETENESS] > 0.4
    recall = scores[RECALL]
    assert scores["f_score"] == pytest.approx(2 * recall / (1 + recall))


def test_a_surface_and_a_ghost_recalls_all_and_is_half_precise():
    truth = plane(2.0, 2.0)
    ghost = truth + [0, 0, 0.5]

    scores = surface_scores(np.concatenate([truth, ghost]), truth, CONFIG)

    assert scores[PRECISION] == 0.5
    assert scores[RECALL] == 1.0
    assert scores[ACCURACY] == pytest.approx(0.25)
    assert scores[COMPLETENESS] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("offset_m", "within"), [(0.049, 1.0), (0.051, 0.0)])
def test_distances_are_metres_and_the_threshold_divides(offset_m, within):
    truth = plane(1.0, 1.0, 0.25)

    scores = surface_scores(truth + [0, 0, offset_m], truth, CONFIG)

    assert scores[ACCURACY] == pytest.approx(offset_m)
    assert scores[COMPLETENESS] == pytest.approx(offset_m)
    assert scores[PRECISION] == scores[RECALL] == scores["f_score"] == within


def test_dense_areas_do_not_outweigh_sparse_ones():
    truth = plane(1.0, 1.0, 0.1)
    # One place is sampled a thousand times and right; the other 99 are wrong.
    wrong = truth[1:] + [0, 0, 1.0]
    crowd = truth[0] + np.linspace(0, 1e-4, 1000)[:, None]

    scores = surface_scores(np.concatenate([wrong, crowd]), truth, CONFIG)

    assert scores["points_predicted"] == 100
    assert scores[PRECISION] == pytest.approx(0.01)


def test_an_empty_prediction_scores_zero_and_says_so():
    scores = surface_scores(np.zeros((0, 3)), plane(1, 1), CONFIG)

    assert scores["empty_prediction"] is True
    assert scores[PRECISION] == scores[RECALL] == scores["f_score"] == 0.0
    assert scores[ACCURACY] is None
    assert scores[COMPLETENESS] is None


def test_without_truth_nothing_is_scored():
    scores = surface_scores(plane(1, 1), np.zeros((0, 3)), CONFIG)

    assert scores["f_score"] is None
    assert scores[RECALL] is None
    assert scores["empty_prediction"] is False


def test_scores_are_json():
    scores = surface_scores(plane(1, 1).astype(np.float32), plane(1, 2), CONFIG)

    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_a_voxel_keeps_the_mean_of_its_points():
    # The grid starts at -0.5: voxels end at 0.5, 1.5, ...
    points = np.array([[0.0, 0, 0], [0.4, 0.2, 0], [0.6, 0, 0], [0, 0, 3.0]])

    kept = voxel_down_sample(points, 1.0)

    expected = [[0.2, 0.1, 0], [0, 0, 3.0], [0.6, 0, 0]]
    np.testing.assert_allclose(kept, expected, atol=1e-15)


def test_down_sampling_equals_open3d():
    open3d = pytest.importorskip("open3d")
    points = np.random.default_rng(0).normal(0, 1.0, (5000, 3))
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points))

    theirs = np.asarray(cloud.voxel_down_sample(0.3).points)
    ours = voxel_down_sample(points, 0.3)

    assert len(ours) < 4000
    np.testing.assert_allclose(
        ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)], atol=1e-12
    )


def test_coordinates_that_no_scene_has_are_refused():
    for stray in (np.nan, np.inf, 1e30):
        with pytest.raises(ValueError, match="stray points"):
            voxel_down_sample(np.array([[0.0, 0, 0], [stray, stray, stray]]), 0.02)


def test_tree_and_brute_force_agree(monkeypatch):
    rng = np.random.default_rng(1)
    points = rng.random((400, 3)).astype(np.float32)
    queries = rng.random((300, 3)).astype(np.float32) * 3
    monkeypatch.setattr("gnesf_core.evaluation.geometry._BRUTE_FORCE_PAIRS", 5000)

    tree = nearest_points(points, queries)
    brute = nearest_by_brute_force(points, queries)

    np.testing.assert_array_equal(tree[0], brute[0])
    np.testing.assert_allclose(tree[1], brute[1], rtol=1e-12)


def test_without_scipy_all_pairs_are_compared(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "scipy.spatial", None)

    index, distance = nearest_points(
        np.array([[0.0, 0, 0], [1, 0, 0]]), np.array([[0.8, 0, 0]])
    )

    assert index.tolist() == [1]
    assert distance[0] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("point", "seen"),
    [
        ((0.5, 0, 2.0), True),  # on the surface, pixel (2, 1)
        ((0.525, 0, 2.1), True),  # behind it by the tolerance
        ((0.53, 0, 2.12), False),  # behind it by more
        ((0.25, 0, 1.0), True),  # free space in front of it
        ((-0.5, 0, 2.0), False),  # pixel (1, 1) has no depth
        ((0.5, 0, -2.0), False),  # behind the camera
        ((1.99, 0, 2.0), True),  # u = 3.49, the last of the image
        ((2.01, 0, 2.0), False),  # u = 3.51, outside
        ((-1.99, 0, 2.0), True),  # u = -0.49
        ((0.0, 1.51, 2.0), False),  # v = 2.51, outside
    ],
)
def test_a_camera_sees_up_to_the_surface_within_its_image(point, seen):
    depth_m = np.full((3, 4), 2.0, np.float32)
    depth_m[1, 1] = 0.0

    found = seen_by_cameras(
        np.array([point]), [(depth_m, INTRINSICS, IDENTITY)], 0.1001, 10.0
    )

    assert found.tolist() == [seen]


def test_nothing_is_seen_beyond_the_greatest_depth():
    depth_m = np.full((3, 4), 5.0)
    points = np.array([[0.0, 0, 2.9], [0, 0, 3.1]])

    found = seen_by_cameras(points, [(depth_m, INTRINSICS, IDENTITY)], 0.1, 3.0)

    assert found.tolist() == [True, False]


def test_one_view_is_enough_and_no_view_sees_nothing():
    depth_m = np.full((3, 4), 2.0)
    points = np.array([[0.0, 0, 2.0], [0, 0, -2.0], [0, 0, 9.0]])
    backwards = look_at((0, 0, 0), (0, 0, -1), up=(0, 1, 0))
    views = [(depth_m, INTRINSICS, pose) for pose in (IDENTITY, backwards)]

    assert seen_by_cameras(points, views, 0.1, 10.0).tolist() == [True, True, False]
    assert not seen_by_cameras(points, [], 0.1, 10.0).any()


def test_seen_equals_a_loop_over_points_and_views():
    rng = np.random.default_rng(2)
    points = rng.uniform(-2, 2, (400, 3))
    views = [
        (
            np.where(rng.random((3, 4)) < 0.3, 0, rng.uniform(0.5, 3, (3, 4))),
            INTRINSICS,
            look_at(rng.uniform(-1, 1, 3), rng.uniform(-1, 1, 3)),
        )
        for _ in range(4)
    ]

    def sees(view, point):
        depth_m, _, pose = view
        x, y, z = pose[:3, :3].T @ (point - pose[:3, 3])
        if not 0 < z <= 2.5:
            return False
        column, row = round(2 * x / z + 1.5), round(2 * y / z + 1.0)
        if not (0 <= column < 4 and 0 <= row < 3):
            return False
        return depth_m[row, column] > 0 and z <= depth_m[row, column] + 0.1

    expected = [any(sees(view, point) for view in views) for point in points]

    found = seen_by_cameras(points, views, 0.1, 2.5)

    assert 0.2 < np.mean(expected) < 0.9
    np.testing.assert_array_equal(found, expected)


def test_trimming_both_sides_forgives_what_no_camera_saw():
    # The camera sees 3 x 2.25 m of a plane 3 m below; the prediction has that part.
    truth = plane(8.0, 8.0, 0.1) - [4.0, 4.0, 0]
    pose = look_at((0, 0, 3.0), (0, 0, 0))
    intrinsics = np.array([[40.0, 0, 19.5], [0, 40.0, 14.5], [0, 0, 1]])
    view = (np.full((30, 40), 3.0), intrinsics, pose)
    seen = seen_by_cameras(truth, [view], 0.1, 10.0)
    ghost = truth[~seen] + [0, 0, -1.0]
    prediction = np.concatenate([truth[seen], ghost])

    everything = surface_scores(prediction, truth, CONFIG)
    trimmed = trimmed_surface_scores(prediction, truth, iter([view]), CONFIG)

    assert 0 < everything["f_score"] < 0.2
    assert trimmed["f_score"] == 1.0
    # 39 of 40 pixels' width fit 29 steps of 10 cm, 29 of 30 fit 22: of 80 x 80 points.
    assert trimmed["seen_share_of_truth"] == pytest.approx(30 * 23 / 6400, rel=0.1)
    assert trimmed["points_predicted"] == trimmed["points_truth"] == seen.sum()


def test_trimming_away_everything_is_told_from_predicting_nothing():
    truth = plane(1.0, 1.0)
    away = (np.full((3, 4), 2.0), INTRINSICS, look_at((0, 0, 1), (0, 0, 2)))

    unseen = trimmed_surface_scores(truth, truth, [away], CONFIG)
    nothing = trimmed_surface_scores(np.zeros((0, 3)), truth, [away], CONFIG)

    assert unseen["f_score"] is None
    assert unseen["seen_share_of_predicted"] == 0.0
    assert nothing["seen_share_of_predicted"] is None
