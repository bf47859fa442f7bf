"""Time the evaluation of one scene beside the way published code does it.

Run `python -m bench.bench_evaluation [--vertices 150000] [--repeats 3]`.

The peer is restated from the protocol of Atlas, NeuralRecon and the released GNeSF: a
Python loop that asks Open3D's KDTreeFlann for the nearest neighbour of one vertex at a
time, Open3D's voxel_down_sample, and a bincount for the confusion. Both sides run in
turn on the same arrays, and must agree.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import open3d

from gnesf_core.config import EvaluationConfig
from gnesf_core.evaluation.geometry import surface_scores
from gnesf_core.evaluation.semantics import confusion, transfer_labels
from gnesf_core.labels import IGNORE

PREDICTED_PER_TRUE = 1.22  # 183,000 predicted for 150,000 true vertices
CONFIG = EvaluationConfig(
    threshold_m=0.05,
    coarse_threshold_m=0.1,
    down_sample_m=0.02,
    trim_tolerance_m=0.1,
    trim_depth_m=10.0,
    depth_max_m=10.0,
)
Scores = tuple[np.ndarray, np.ndarray, dict[str, float]]


def sample_room(
    count: int, noise_m: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return points and labels on the faces of a room of 7 x 6 x 2.6 m with boxes."""
    low, high = [np.zeros(3)], [np.array([7.0, 6.0, 2.6])]
    for _ in range(12):
        size = rng.uniform((0.4, 0.4, 0.4), (2.0, 1.2, 1.2))
        corner = rng.uniform(0, (7.0, 6.0, 0.01)) * 0.7
        low.append(corner)
        high.append(corner + size)
    extent = np.array(high) - np.array(low)
    areas = np.prod(extent, axis=1)[:, None] / extent  # of a face across each axis
    face = rng.choice(areas.size, count, p=(areas / areas.sum()).ravel())
    box, axis = np.divmod(face, 3)
    points = np.array(low)[box] + rng.random((count, 3)) * extent[box]
    side = np.where(rng.random(count) < 0.5, np.array(low)[box, axis], 0)
    points[np.arange(count), axis] = np.where(side > 0, side, np.array(high)[box, axis])
    labels = np.where(rng.random(count) < 0.05, IGNORE, (box + axis) % 20)
    points += rng.normal(0, noise_m, points.shape)
    # Vertices of a mesh stand near their neighbours, which caches like.
    order = np.lexsort(np.floor(points / 0.04).T)
    return points[order].astype(np.float32), labels[order].astype(np.uint8)


def ours(
    truth: np.ndarray, truth_labels: np.ndarray, predicted: np.ndarray, of: np.ndarray
) -> Scores:
    """Evaluate one scene with this project's functions."""
    labels = transfer_labels(truth, predicted, of)
    surface = surface_scores(predicted, truth, CONFIG)
    return labels, confusion(truth_labels, labels), surface


def peer(
    truth: np.ndarray, truth_labels: np.ndarray, predicted: np.ndarray, of: np.ndarray
) -> Scores:
    """Evaluate one scene vertex by vertex with Open3D."""
    index, _ = nearest_one_by_one(predicted.astype(np.float64), truth)
    labels = of[index]
    rows = np.where(truth_labels == IGNORE, 20, truth_labels).astype(np.int64)
    columns = np.where(labels == IGNORE, 20, labels).astype(np.int64)
    counts = np.bincount(rows * 21 + columns, minlength=441).reshape(21, 21)
    thin_truth, thin_predicted = thinned(truth), thinned(predicted)
    _, to_truth = nearest_one_by_one(thin_truth, thin_predicted)
    _, to_predicted = nearest_one_by_one(thin_predicted, thin_truth)
    precision = float((to_truth < CONFIG.threshold_m).mean())
    recall = float((to_predicted < CONFIG.threshold_m).mean())
    f_score = 2 * precision * recall / (precision + recall)
    return labels, counts, {"f_score": f_score}


def nearest_one_by_one(
    points: np.ndarray, queries: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Ask a tree for the nearest point of each query in turn."""
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points))
    tree = open3d.geometry.KDTreeFlann(cloud)
    index, distance = [], []
    for query in queries:
        _, found, squared = tree.search_knn_vector_3d(query, 1)
        index.append(found[0])
        distance.append(np.sqrt(squared[0]))
    return np.array(index), np.array(distance)


def thinned(points: np.ndarray) -> np.ndarray:
    """Return one mean point per voxel, by Open3D."""
    vector = open3d.utility.Vector3dVector(points.astype(np.float64))
    cloud = open3d.geometry.PointCloud(vector)
    return np.asarray(cloud.voxel_down_sample(CONFIG.down_sample_m).points)


def seconds(evaluate: Callable[..., Scores], *scene: np.ndarray) -> tuple:
    """Return the time that an evaluation took and what it found."""
    start = time.perf_counter()
    scores = evaluate(*scene)
    return time.perf_counter() - start, scores


def main() -> None:
    """Print medians, their ratio, and whether both sides agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vertices", type=int, default=150_000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    count = arguments.vertices
    truth, truth_labels = sample_room(count, 0.0, np.random.default_rng(0))
    predicted, labels = sample_room(
        int(count * PREDICTED_PER_TRUE), 0.015, np.random.default_rng(0)
    )
    scene = truth, truth_labels, predicted, labels
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(arguments.repeats):
        took, mine = seconds(ours, *scene)
        times["ours"].append(took)
        took, theirs = seconds(peer, *scene)
        times["peer"].append(took)
    median = {name: statistics.median(taken) for name, taken in times.items()}
    same_labels = (mine[0] == theirs[0]).mean()
    same_counts = np.array_equal(mine[1], theirs[1])
    difference = abs(mine[2]["f_score"] - theirs[2]["f_score"])
    print(f"{len(truth)} true and {len(predicted)} predicted vertices")
    for name, taken in times.items():
        runs = ", ".join(f"{value:.2f}" for value in taken)
        print(f"{name}: median {median[name]:.2f} s of {runs}")
    print(f"ratio: {median['peer'] / median['ours']:.1f}")
    print(
        f"agreement: labels {same_labels:.6f}, confusion {same_counts}, "
        f"f-score differs by {difference:.1e}"
    )


if __name__ == "__main__":
    main()
