"""Score a reconstructed surface against the true one, by points on both.

Both point sets are thinned to one mean point per voxel, then nearest distances are
taken in both directions. The direction is part of every name, because published code
disagrees on which one is called precision: here, and in NeuralRecon,

* predicted -> truth: accuracy (mean, metres) and precision (share within a threshold);
* truth -> predicted: completeness (mean, metres) and recall (share within it).
"""

from collections.abc import Callable, Iterable

import numpy as np

from gnesf_core.config import EvaluationConfig
from gnesf_core.geometry.camera import in_image, invert_rigid, project, transform
from gnesf_core.ops.threads import thread_count
from gnesf_core.shapes import Bool, Float, Float64, Int64

# A posed depth image: metres (0 = none), intrinsics, world_from_camera.
View = tuple[
    Float[np.ndarray, "h w"], Float[np.ndarray, "3 3"], Float[np.ndarray, "4 4"]
]
# Scores that are shares of points within a threshold, and their harmonic mean.
SHARES = ("precision_predicted_to_truth", "recall_truth_to_predicted", "f_score")
_BRUTE_FORCE_PAIRS = 1 << 24  # distances held at once without a tree


def nearest_points(
    points: Float[np.ndarray, "points 3"], queries: Float[np.ndarray, "queries 3"]
) -> tuple[Int64[np.ndarray, " queries"], Float64[np.ndarray, " queries"]]:
    """Return the index of and distance to the nearest of `points` for each query.

    Which of several equally near points is taken is not defined. Uses SciPy's tree
    where SciPy is installed, on all threads that may be used, and compares all pairs
    where it is not.
    """
    assert len(points) > 0
    try:
        from scipy.spatial import cKDTree
    except ImportError:
        return nearest_by_brute_force(points, queries)
    # Midpoint splits build twice as fast as medians and suit evenly spread surfaces.
    tree = cKDTree(points, balanced_tree=False, compact_nodes=False)
    distance, index = tree.query(queries, workers=thread_count())
    return index.astype(np.int64, copy=False), distance


def nearest_by_brute_force(
    points: Float[np.ndarray, "points 3"], queries: Float[np.ndarray, "queries 3"]
) -> tuple[Int64[np.ndarray, " queries"], Float64[np.ndarray, " queries"]]:
    """Find nearest points by comparing all pairs, in chunks of bounded memory."""
    points = np.asarray(points, np.float64)
    rows = max(1, _BRUTE_FORCE_PAIRS // len(points))
    index = np.empty(len(queries), np.int64)
    distance = np.empty(len(queries), np.float64)
    for start in range(0, len(queries), rows):
        chunk = np.asarray(queries[start : start + rows], np.float64)
        # Differences, as the matrix-product shortcut loses small ones to cancellation.
        squared = np.square(np.subtract.outer(chunk[:, 0], points[:, 0]))
        for axis in (1, 2):
            squared += np.square(np.subtract.outer(chunk[:, axis], points[:, axis]))
        index[start : start + rows] = squared.argmin(1)
        distance[start : start + rows] = np.sqrt(squared.min(1))
    return index, distance


def voxel_down_sample(
    points: Float[np.ndarray, "points 3"], voxel_m: float
) -> Float64[np.ndarray, "kept 3"]:
    """Return the mean of the points of each occupied voxel, in the order of voxels.

    The grid starts half a voxel below the smallest coordinates, as Open3D's does, so
    results agree with numbers published with it.
    """
    points = np.asarray(points, np.float64)
    if len(points) == 0:
        return points
    lowest = points.min(axis=0) - 0.5 * voxel_m
    voxel = np.floor((points - lowest) / voxel_m)
    size = voxel.max(axis=0) + 1
    if not size.prod() < 2**63:
        raise ValueError(
            f"points: expected finite coordinates within a scene, found an extent of "
            f"{size * voxel_m} m; remedy: remove stray points"
        )
    x, y, z = voxel.astype(np.int64).T
    key = (x * int(size[1]) + y) * int(size[2]) + z
    _, group, count = np.unique(key, return_inverse=True, return_counts=True)
    sums = [np.bincount(group, weights=axis) for axis in points.T]
    return np.stack(sums, axis=1) / count[:, None]


def surface_scores(
    predicted_vertices: Float[np.ndarray, "predicted 3"],
    truth_vertices: Float[np.ndarray, "truth 3"],
    config: EvaluationConfig,
) -> dict[str, object]:
    """Compare two surfaces by their vertices, ready for JSON: see `point_scores`."""
    predicted = voxel_down_sample(predicted_vertices, config.down_sample_m)
    truth = voxel_down_sample(truth_vertices, config.down_sample_m)
    return point_scores(predicted, truth, config)


def point_scores(
    predicted: Float[np.ndarray, "predicted 3"],
    truth: Float[np.ndarray, "truth 3"],
    config: EvaluationConfig,
    coarse: bool = False,
) -> dict[str, object]:
    """Compare two surfaces by points that are thinned already, ready for JSON.

    An empty prediction scores precision, recall and F-score 0, has no distances
    (`None`), and says so in `empty_prediction`. Without truth nothing can be scored.
    With `coarse` scores within `coarse_threshold_m` are added.
    """
    to_truth, to_predicted = np.zeros(0), np.full(len(truth), np.inf)
    scores: dict[str, object] = {
        "down_sample_m": config.down_sample_m,
        "points_predicted": len(predicted),
        "points_truth": len(truth),
        "empty_prediction": len(predicted) == 0,
        "accuracy_predicted_to_truth_m": None,
        "completeness_truth_to_predicted_m": None,
    }
    if len(predicted) and len(truth):
        to_truth = nearest_points(truth, predicted)[1]
        to_predicted = nearest_points(predicted, truth)[1]
        scores["accuracy_predicted_to_truth_m"] = float(to_truth.mean())
        scores["completeness_truth_to_predicted_m"] = float(to_predicted.mean())
    scores |= _within(to_truth, to_predicted, config.threshold_m)
    if coarse:
        further = _within(to_truth, to_predicted, config.coarse_threshold_m)
        scores |= {f"coarse_{name}": value for name, value in further.items()}
    return scores


def _within(
    to_truth: Float64[np.ndarray, " predicted"],
    to_predicted: Float64[np.ndarray, " truth"],
    threshold_m: float,
) -> dict[str, object]:
    scores: dict[str, object] = dict.fromkeys(SHARES)
    if len(to_predicted):
        precision = float((to_truth < threshold_m).mean()) if len(to_truth) else 0.0
        recall = float((to_predicted < threshold_m).mean())
        both = precision + recall
        f_score = 2 * precision * recall / both if both else 0.0
        scores = dict(zip(SHARES, (precision, recall, f_score), strict=True))
    return {"threshold_m": threshold_m} | scores


def trimmed_surface_scores(
    predicted_vertices: Float[np.ndarray, "predicted 3"],
    truth_vertices: Float[np.ndarray, "truth 3"],
    views: Iterable[View],
    config: EvaluationConfig,
    score: Callable[..., dict[str, object]] = surface_scores,
) -> dict[str, object]:
    """Compare two surfaces where cameras saw them; adds the share of each that stays.

    Both sides are trimmed by the same rule, so that a prediction is neither blamed for
    surface that nobody filmed nor credited with leaving it out.
    """
    everything = np.concatenate([predicted_vertices, truth_vertices])
    seen = seen_by_cameras(
        everything, views, config.trim_tolerance_m, config.trim_depth_m
    )
    split = len(predicted_vertices)
    scores = score(
        predicted_vertices[seen[:split]], truth_vertices[seen[split:]], config
    )
    scores["trim_tolerance_m"] = config.trim_tolerance_m
    scores["trim_depth_m"] = config.trim_depth_m
    scores["seen_share_of_predicted"] = _share(seen[:split])
    scores["seen_share_of_truth"] = _share(seen[split:])
    return scores


def _share(chosen: Bool[np.ndarray, " points"]) -> float | None:
    return float(chosen.mean()) if len(chosen) else None


def seen_by_cameras(
    points_world: Float[np.ndarray, "points 3"],
    views: Iterable[View],
    tolerance_m: float,
    max_depth_m: float,
) -> Bool[np.ndarray, " points"]:
    """Tell which points at least one depth camera saw.

    A view sees a point that projects to a pixel with depth, lies at most
    `tolerance_m` behind that depth, and is no further than `max_depth_m`. So free space
    in front of a surface counts as seen, and what is hidden behind it does not.
    """
    seen = np.zeros(len(points_world), bool)
    for depth_m, intrinsics, world_from_camera in views:
        open_points = np.flatnonzero(~seen)
        if len(open_points) == 0:
            break
        visible = _seen_by_view(
            points_world[open_points],
            (depth_m, intrinsics, world_from_camera),
            tolerance_m,
            max_depth_m,
        )
        seen[open_points[visible]] = True
    return seen


def _seen_by_view(
    points_world: Float[np.ndarray, "points 3"],
    view: View,
    tolerance_m: float,
    max_depth_m: float,
) -> Bool[np.ndarray, " points"]:
    depth_m, intrinsics, world_from_camera = view
    points_camera = transform(invert_rigid(world_from_camera), points_world)
    uv, z = project(points_camera, intrinsics)
    height, width = depth_m.shape
    inside = np.flatnonzero(in_image(uv, width, height) & (z > 0) & (z <= max_depth_m))
    # Rounding half up keeps u = -0.5, the image's edge, on pixel 0.
    column, row = np.floor(uv[inside] + 0.5).astype(np.int64).T
    depth = depth_m[row, column].astype(np.float64)
    seen = np.zeros(len(points_world), bool)
    seen[inside] = (depth > 0) & (z[inside] <= depth + tolerance_m)
    return seen
