import json

import numpy as np
import pytest

from gnesf_core.config import EvaluationConfig
from gnesf_core.evaluation.depth import (
    depth_scores,
    mean_over_frames,
    mean_over_scenes,
    render_depth,
)
from gnesf_core.geometry.camera import look_at
from gnesf_core.geometry.raycast import make_caster

CONFIG = EvaluationConfig(
    threshold_m=0.05,
    coarse_threshold_m=0.1,
    down_sample_m=0.02,
    trim_tolerance_m=0.1,
    trim_depth_m=10.0,
    depth_max_m=10.0,
)
INTRINSICS = np.array([[20.0, 0, 7.5], [0, 20.0, 5.5], [0, 0, 1]])
# A square of 20 m in the plane z = 0, and the same cut down to x >= 0.
GROUND = np.array([[-10.0, -10, 0], [10, -10, 0], [10, 10, 0], [-10, 10, 0]])
HALF_GROUND = np.maximum(GROUND, [0.0, -10, 0])
QUADS = np.array([[0, 1, 2], [0, 2, 3]])


def scores_of(predicted, truth):
    return depth_scores(
        np.array([predicted], np.float32), np.array([truth], np.float32), CONFIG
    )


def test_errors_equal_hand_computed_numbers():
    # Two pixels have both depths: 2 for 2.5, and 4 for 4.
    scores = scores_of([2.0, 4.0, 0.0, 3.0], [2.5, 4.0, 1.0, 0.0])

    assert scores["abs_diff_m"] == pytest.approx(0.5 / 2)
    assert scores["abs_rel"] == pytest.approx(0.2 / 2)
    assert scores["sq_rel_m"] == pytest.approx(0.25 / 2.5 / 2)
    assert scores["rmse_m"] == pytest.approx(np.sqrt(0.25 / 2))
    assert scores["log_rmse"] == pytest.approx(np.log(1.25) / np.sqrt(2))


def test_ratios_must_stay_below_powers_of_five_quarters():
    # Ratios to truth 1: 1.25 (not below 1.25), 1/1.5, 1.9 and 2.5.
    scores = scores_of([1.25, 1 / 1.5, 1.9, 2.5], [1.0, 1.0, 1.0, 1.0])

    assert scores["r1"] == 0.0
    assert scores["r2"] == 0.5
    assert scores["r3"] == 0.75


def test_completeness_is_a_share_of_the_pixels_with_truth():
    # Truth has 3 valid pixels, of which 2 are predicted; 3 of 5 pixels are predicted.
    scores = scores_of([1.0, 1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0, 11.0])

    assert scores["completeness"] == pytest.approx(2 / 3)
    assert scores["completeness_all_pixels"] == pytest.approx(3 / 5)


def test_truth_at_or_beyond_the_limit_is_ignored():
    scores = scores_of([2.0, 2.0, 2.0], [2.0, 10.0, 30.0])

    assert scores["abs_diff_m"] == 0.0
    assert scores["completeness"] == 1.0


def test_a_frame_without_common_pixels_has_no_errors():
    nothing_predicted = scores_of([0.0, 0.0], [1.0, 1.0])
    no_truth = scores_of([1.0, 0.0], [0.0, 0.0])

    assert nothing_predicted["abs_rel"] is None
    assert nothing_predicted["completeness"] == 0.0
    assert no_truth["rmse_m"] is None
    assert no_truth["completeness"] is None
    assert no_truth["completeness_all_pixels"] == 0.5


def test_frames_weigh_the_same_and_empty_ones_are_counted_and_left_out():
    half_off = scores_of([1.5, 1.5, 1.5], [1.0, 1.0, 1.0])
    exact = scores_of([1.0, 0.0, 0.0], [1.0, 1.0, 0.0])
    blind = scores_of([0.0, 0.0, 0.0], [1.0, 1.0, 1.0])
    no_truth = scores_of([1.0, 1.0, 1.0], [0.0, 0.0, 0.0])

    means = mean_over_frames(iter([half_off, exact, blind, no_truth]))

    assert means["abs_rel"] == pytest.approx((0.5 + 0.0) / 2)
    assert means["completeness"] == pytest.approx((1.0 + 0.5 + 0.0) / 3)
    assert means["frames"] == 4
    assert means["frames_without_error"] == 2


def test_scenes_weigh_the_same_however_many_frames_they_have():
    off = scores_of([2.0], [1.0])
    exact = scores_of([1.0], [1.0])
    long_scene = mean_over_frames([exact] * 9)
    short_scene = mean_over_frames([off])
    empty_scene = mean_over_frames([])

    means = mean_over_scenes([long_scene, short_scene, empty_scene])

    assert means["abs_rel"] == pytest.approx(0.5)
    assert means["scenes"] == 3
    assert means["scenes_without_error"] == 1
    assert empty_scene["frames"] == 0
    assert empty_scene["abs_rel"] is None
    assert json.loads(json.dumps(means, allow_nan=False)) == means


def test_rendered_depth_is_along_the_axis_and_not_along_the_ray():
    caster = make_caster(GROUND, QUADS)
    straight_down = look_at((0.3, 0.2, 3.0), (0.3, 0.2, 0.0))

    depth_m = render_depth(caster, INTRINSICS, straight_down, 16, 12)

    assert depth_m.shape == (12, 16)
    assert depth_m.dtype == np.float32
    np.testing.assert_allclose(depth_m, 3.0, rtol=1e-6)


def test_rendered_depth_of_a_slanted_plane_has_its_closed_form():
    eye, target = np.array([0.0, -2.0, 1.5]), np.array([0.0, 1.0, 0.0])
    pose = look_at(eye, target)

    depth_m = render_depth(make_caster(GROUND, QUADS), INTRINSICS, pose, 16, 12)

    # At pixel (u, v) the ray is forward + x right + y down; it meets z = 0 after
    # depth = height / -(ray's z).
    u, v = np.meshgrid(np.arange(16), np.arange(12))
    x, y = (u - 7.5) / 20, (v - 5.5) / 20
    ray_z = pose[2, 2] + x * pose[2, 0] + y * pose[2, 1]
    np.testing.assert_allclose(depth_m, 1.5 / -ray_z, rtol=1e-5)


def test_rendered_depth_is_zero_where_there_is_no_surface():
    pose = look_at((0.0, 0.0, 3.0), (0.0, 0.0, 0.0))  # +x to the right, +y up

    depth_m = render_depth(make_caster(HALF_GROUND, QUADS), INTRINSICS, pose, 16, 12)

    assert (depth_m[:, :8] == 0).all()
    np.testing.assert_allclose(depth_m[:, 8:], 3.0, rtol=1e-6)
