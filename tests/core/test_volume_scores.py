"""Scores of volumes whose surface is a plane at a known place."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.interpolate import RegularGridInterpolator

from gnesf_core.config import EvaluationConfig
from gnesf_core.data import store
from gnesf_core.errors import BadInput
from gnesf_core.evaluation.volume import (
    distance_scores,
    read_truth,
    score_volume,
    surface_of,
    surface_scores,
)
from gnesf_core.geometry.mesh import dense_points
from tests.made_up import write_frames_file

CONFIG = EvaluationConfig(
    threshold_m=0.02,
    coarse_threshold_m=0.05,
    down_sample_m=0.01,
    trim_tolerance_m=0.1,
    trim_depth_m=10.0,
    depth_max_m=10.0,
)
ACCURACY = "accuracy_predicted_to_truth_m"
COMPLETENESS = "completeness_truth_to_predicted_m"
FLAT = np.array([0.0, 0.0, 1.0])
OBLIQUE = np.array([0.48, 0.6, 0.64])


def centres(grid):
    ijk = np.stack(np.meshgrid(*map(np.arange, grid.tsdf.shape), indexing="ij"), -1)
    return grid.origin_world + grid.voxel_size_m * ijk


def plane_grid(
    height_m, normal=FLAT, origin=(0, 0, 0), voxel_m=0.08, shape=(16, 16, 16), band=3
):
    """Observe the half space behind `normal @ x = height_m` everywhere."""
    values, weight = np.zeros(shape, np.float32), np.full(shape, 5, np.uint16)
    grid = store.DistanceGrid(
        np.array(origin, float), voxel_m, band * voxel_m, values, weight
    )
    distance_m = centres(grid) @ normal - height_m
    tsdf = np.clip(distance_m / grid.truncation_m, -1, 1).astype(np.float32)
    return replace(grid, tsdf=tsdf)


def square(height_m, size_m=1.2):
    """Return a level square as two big triangles."""
    corners = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]) * size_m
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    return corners + [0, 0, height_m], faces


@pytest.fixture
def frames(tmp_path):
    with store.Frames(write_frames_file(tmp_path, "scene0000_00")) as kept:
        yield kept


def test_points_on_triangles_leave_no_gap_and_lie_on_them():
    rng = np.random.default_rng(0)
    vertices = rng.normal(0, 0.2, (30, 3))
    faces = rng.permutation(30).reshape(10, 3)
    spacing_m = 0.08

    points = dense_points(vertices, faces, spacing_m)

    shares = rng.dirichlet([0.5, 0.5, 0.5], (10, 100))
    anywhere = np.einsum("fpc,fcx->fpx", shares, vertices[faces]).reshape(-1, 3)
    apart = np.linalg.norm(anywhere[:, None] - points, axis=2).min(axis=1)
    assert apart.max() < spacing_m
    # In the basis of a triangle's edges a point has barycentric coordinates.
    on_some = np.zeros(len(points), bool)
    for a, b, c in vertices[faces]:
        basis = np.stack([b - a, c - a, np.cross(b - a, c - a)], axis=1)
        u, v, height = np.linalg.solve(basis, (points - a).T)
        on_some |= (u > 0) & (v > 0) & (u + v < 1) & (np.abs(height) < 1e-9)
    assert on_some.all()


def test_a_triangle_is_cut_into_equal_parts():
    corners = np.array([[0.0, 0, 0], [0.3, 0, 0], [0, 0.4, 0]])  # the longest edge: 0.5

    points = dense_points(corners, np.array([[0, 1, 2]]), 0.11)

    assert len(points) == 5**2
    np.testing.assert_allclose(points.mean(axis=0), corners.mean(axis=0), atol=1e-12)
    # Second moments of equal parts' centres: the triangle's own, less one part's.
    moments = [np.cov(p.T, bias=True)[:2, :2] for p in (points, corners)]
    np.testing.assert_allclose(moments[0], moments[1] / 4 * (1 - 1 / 25), atol=1e-12)


def test_small_triangles_have_one_point_and_clouds_keep_theirs():
    corners = np.array([[0.0, 0, 0], [0.01, 0, 0], [0, 0.01, 0], [5, 5, 5]])
    flat = np.array([[0, 1, 2], [3, 3, 3]])
    points = dense_points(corners.astype(np.float32), flat, 0.02)
    np.testing.assert_allclose(points, [[0.01 / 3, 0.01 / 3, 0], [5, 5, 5]], atol=1e-9)
    cloud = dense_points(corners, np.zeros((0, 3), np.int32), 0.02)
    np.testing.assert_array_equal(cloud, corners)
    assert len(dense_points(corners[:0], flat[:0], 0.02)) == 0


def test_a_triangle_as_large_as_a_city_is_refused():
    with pytest.raises(ValueError, match="stray points"):
        dense_points(*square(0.0, 1e5), 0.02)


def test_a_plane_that_is_3_cm_off_is_3_cm_off(frames):
    surface = surface_of(plane_grid(0.53))
    assert len(surface[0]) < 300  # 8 cm voxels: its vertices alone are far apart

    scores = surface_scores(surface, square(0.5), frames, CONFIG)["whole"]

    assert scores[ACCURACY] == pytest.approx(0.03, abs=5e-4)
    assert scores[COMPLETENESS] == pytest.approx(0.03, abs=5e-4)
    assert scores["f_score"] == 0.0
    assert scores["coarse_f_score"] == 1.0
    assert (scores["threshold_m"], scores["coarse_threshold_m"]) == (0.02, 0.05)


def test_sparse_vertices_of_the_right_surface_are_right(frames):
    surface = surface_of(plane_grid(0.5))
    truth = square(0.5)
    points = dense_points(*truth, 0.005), np.zeros((0, 3), np.int32)

    of_mesh = surface_scores(surface, truth, frames, CONFIG)["whole"]
    of_points = surface_scores(surface, points, frames, CONFIG)["whole"]

    assert of_mesh["f_score"] == of_points["f_score"] == 1.0
    assert of_mesh[ACCURACY] < 0.01
    assert of_points[ACCURACY] == pytest.approx(of_mesh[ACCURACY], abs=2e-3)


def test_half_a_surface_recalls_half(frames):
    half = plane_grid(0.5, shape=(8, 16, 16))  # its voxels reach 0.56 of 1.2 m

    scores = surface_scores(surface_of(half), square(0.5), frames, CONFIG)["whole"]

    assert scores["precision_predicted_to_truth"] == 1.0
    assert scores["recall_truth_to_predicted"] == pytest.approx(0.58 / 1.2, abs=0.01)


def test_what_no_camera_saw_is_trimmed_from_both_surfaces(frames):
    # The cameras look along +x from x <= 0.2: nothing is seen behind them.
    truth = square(1.2)
    behind = truth[0] - [5, 0, 0], truth[1]

    scores = surface_scores(behind, truth, frames, CONFIG)["trimmed"]

    assert scores["points_predicted"] == 0 and scores["empty_prediction"] is True
    assert scores["seen_share_of_predicted"] == 0.0
    assert scores["points_truth"] > 0 and scores["coarse_f_score"] == 0.0
    assert scores["trim_depth_m"] == 10.0


def test_an_empty_volume_scores_zero_and_has_no_distances(frames):
    grid = plane_grid(0.5)
    nothing = replace(grid, weight=np.zeros_like(grid.weight))

    scores = score_volume(volume_of(nothing), grid, square(1.2), frames, CONFIG)

    assert scores["vertices"] == scores["faces"] == scores["voxels_observed"] == 0
    for extent in ("whole", "trimmed"):
        surface = scores["surface"][extent]
        assert surface["f_score"] == surface["coarse_f_score"] == 0.0
        assert surface[ACCURACY] is surface[COMPLETENESS] is None
    assert scores["depth"]["completeness"] == 0.0
    assert scores["depth"]["abs_rel"] is None
    signed = scores["signed_distance"]
    assert signed["coverage"] == signed["free_space_occupied"] == 0.0
    assert signed["mean_error_m"] is signed["sign_agreement"] is None
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def volume_of(grid, encoded=0):
    ijk = np.stack(np.unravel_index(np.arange(encoded), grid.tsdf.shape), 1)
    confidence = np.zeros_like(grid.tsdf)
    return store.SceneVolume(grid, confidence, ijk, np.zeros((encoded, 7), np.float32))


def test_a_volume_is_counted(frames):
    grid = plane_grid(0.5)
    grid.weight[0] = 0

    scores = score_volume(volume_of(grid, 11), grid, square(0.5), frames, CONFIG)

    assert (scores["voxels_with_encoding"], scores["encoding_channels"]) == (11, 7)
    assert scores["voxels_observed"] == 15 * 16 * 16
    # A level plane crosses 14 x 15 cells, each in two triangles.
    assert (scores["vertices"], scores["faces"]) == (15 * 16, 14 * 15 * 2)


@pytest.mark.parametrize("shift_m", [0.0, 0.03, -0.05])
def test_a_shifted_plane_has_its_shift_as_mean_error(shift_m):
    fused = plane_grid(0.55, OBLIQUE, (0.16, 0.16, 0.16), 0.04, (24, 24, 24))
    # Another voxel size, another origin, a wider band: linear distances stay exact.
    coarse = plane_grid(0.55 + shift_m, OBLIQUE, (-0.11, -0.07, -0.02), 0.09)

    scores = distance_scores(coarse, fused)

    true_m = centres(fused) @ OBLIQUE - 0.55
    true_m = true_m[np.abs(true_m) < 0.999 * 0.12]
    ours_m = np.clip(true_m - shift_m, -0.12, 0.12)
    assert scores["voxels_near_surface"] == len(true_m) > 1000
    assert scores["coverage"] == 1.0
    assert scores["compared_up_to_m"] == pytest.approx(0.12)
    expected = np.abs(ours_m - true_m).mean()
    assert scores["mean_error_m"] == pytest.approx(expected, abs=1e-6)
    assert 0.8 * abs(shift_m) <= scores["mean_error_m"] <= abs(shift_m) + 1e-6
    agree = np.mean((true_m < 0) == (true_m - shift_m < 0))
    assert scores["sign_agreement"] == pytest.approx(agree, abs=2e-3)
    assert scores["free_space_occupied"] == 0.0


def test_interpolation_agrees_with_another_library():
    rng = np.random.default_rng(3)
    predicted = plane_grid(0.5, shape=(7, 9, 8))
    values = rng.uniform(-1, 1, predicted.tsdf.shape).astype(np.float32)
    predicted = replace(predicted, tsdf=values)
    predicted.weight[rng.random(values.shape) < 0.1] = 0
    # No voxel on another: to SciPy nothing times "not a number" is not a number.
    fused = plane_grid(0.3, OBLIQUE, (-0.051, 0.107, 0.023), 0.05, (14, 10, 15))

    scores = distance_scores(predicted, fused)

    axes = [0.08 * np.arange(count) for count in values.shape]
    known = np.where(predicted.weight > 0, values * predicted.truncation_m, np.nan)
    theirs = RegularGridInterpolator(axes, known, bounds_error=False)(centres(fused))
    near = np.abs(fused.tsdf) < 0.999
    covered = near & np.isfinite(theirs)
    assert scores["coverage"] == covered.sum() / near.sum()
    assert 0.1 < scores["coverage"] < 0.9
    ours = np.clip(theirs[covered], -0.15, 0.15)
    error = np.abs(ours - fused.tsdf[covered] * fused.truncation_m).mean()
    assert scores["mean_error_m"] == pytest.approx(error, rel=1e-5)
    free = fused.tsdf >= 0.999
    occupied = (theirs[free] < 0).sum() / free.sum()
    assert scores["free_space_occupied"] == pytest.approx(occupied) and occupied > 0


def test_a_voxel_on_a_voxel_asks_no_neighbour():
    # Origins whose difference is a whole voxel only up to rounding.
    fused = plane_grid(0.5, OBLIQUE, (0.1, 0.2, 0.3), 0.04)
    holes = np.random.default_rng(0).random(fused.tsdf.shape) < 0.5
    fused.weight[holes] = 0
    offset = 7
    padded = [np.pad(values, offset) for values in (fused.tsdf, fused.weight)]
    origin = fused.origin_world - 0.04 * offset
    wider = replace(fused, origin_world=origin, tsdf=padded[0], weight=padded[1])

    scores = distance_scores(wider, fused)

    assert scores["coverage"] == scores["sign_agreement"] == 1.0
    assert scores["mean_error_m"] == 0.0


def test_coarser_levels_share_voxels_with_the_finest():
    fused = plane_grid(0.3, FLAT, (0.4, -0.8, 0), 0.04, (17, 17, 17))
    level1 = plane_grid(0.3, FLAT, (0.4, -0.8, 0), 0.08, (9, 9, 9))

    assert distance_scores(level1, fused)["coverage"] == 1.0
    assert distance_scores(level1, fused)["mean_error_m"] < 1e-6


def test_floaters_count_as_occupied_free_space_and_unknown_space_does_not():
    fused = plane_grid(0.2, voxel_m=0.04, shape=(20, 20, 20))
    predicted = replace(fused, tsdf=fused.tsdf.copy(), weight=fused.weight.copy())
    predicted.tsdf[4:7, 4:7, 15:18] = -0.5
    predicted.tsdf[10:14, 10:14, 15:18] = -0.5
    predicted.weight[10:14, 10:14, 15:18] = 0

    scores = distance_scores(predicted, fused)

    assert scores["voxels_free"] == 20 * 20 * (fused.tsdf[0, 0] >= 0.999).sum()
    assert scores["free_space_occupied"] == 27 / scores["voxels_free"]
    assert scores["mean_error_m"] == 0.0


def test_voxels_that_one_frame_saw_judge_nothing():
    fused = plane_grid(0.5)
    fused.weight[:] = 1
    scores = distance_scores(fused, fused)
    assert scores["voxels_near_surface"] == scores["voxels_free"] == 0
    assert scores["coverage"] is scores["mean_error_m"] is None
    assert scores["free_space_occupied"] is None


def test_a_volume_somewhere_else_covers_nothing():
    fused = plane_grid(0.5)
    far = replace(fused, origin_world=np.array([50.0, 0, 0]))
    flat = replace(fused, tsdf=fused.tsdf[:0], weight=fused.weight[:0])
    for other in (far, flat):
        scores = distance_scores(other, fused)
        assert scores["coverage"] == scores["free_space_occupied"] == 0.0
        assert scores["mean_error_m"] is None


def test_a_truth_without_vertices_is_refused(tmp_path):
    from gnesf_core.data.ply import write_ply

    path = tmp_path / "t.ply"
    write_ply(path, np.zeros((0, 3)), np.zeros((0, 3), np.int32))
    with pytest.raises(BadInput, match=r"t\.ply: element vertex: .* no vertices"):
        read_truth(path)
