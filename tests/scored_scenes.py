"""Scores of made-up scenes by two fields, as a stage would write them."""

import numpy as np

from gnesf_core.evaluation import depth, semantics
from gnesf_core.labels import CLASS_NAMES

WALL, FLOOR, BED = (CLASS_NAMES.index(name) for name in ("wall", "floor", "bed"))


def row(scene, field, right, wrong=()):
    """Score `right` {class: vertices} and `wrong` {(truth, said): vertices}."""
    counts = np.zeros((21, 21), np.int64)
    for label, number in dict(right).items():
        counts[label, label] = number
    for (truth, said), number in dict(wrong).items():
        counts[truth, said] = number
    names = "accuracy_predicted_to_truth_m completeness_truth_to_predicted_m"
    names += " precision_predicted_to_truth recall_truth_to_predicted"
    surface = dict.fromkeys(names.split(), 0.01) | {"f_score": 0.875}
    surface |= {"down_sample_m": 0.02, "threshold_m": 0.05, "empty_prediction": False}
    return {
        "scene": scene,
        "field": field,
        "confusion": counts.tolist(),
        "depth": dict.fromkeys(depth.ERRORS + depth.COVERAGES),
        "semantics": semantics.scannet_scores(counts),
        "geometry": {"trimmed": surface, "whole": surface},
    }


ROWS = [
    row("a", "vote", {WALL: 8, FLOOR: 9}, {(WALL, FLOOR): 2}),
    row("b", "vote", {WALL: 1}, {(BED, WALL): 5, (FLOOR, WALL): 6}),
    row("c", "vote", {WALL: 5}),
    row("d", "vote", {}),  # nothing to be judged by
    row("a", "mean", {WALL: 10}, {(FLOOR, WALL): 9}),
    row("b", "mean", {WALL: 1, BED: 5, FLOOR: 6}),
    row("c", "mean", {WALL: 5}),
    row("d", "mean", {}),
]
