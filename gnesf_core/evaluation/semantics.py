"""Score predicted classes against true ones, per vertex or per pixel.

Everything is a ratio of integers taken from one confusion matrix: rows are the truth,
columns the prediction, classes 0..19, index 20 is void (`IGNORE` in label arrays).
Confusions of scenes add up; ratios are formed once, after the sum.

Two protocols share the matrix and never share a name:

* ScanNet's benchmark script: vertices without a true class are skipped, a void
  prediction counts against its true class (false negative), and a class is absent, not
  zero, where neither truth nor prediction has it.
* the released GNeSF code, which counts a void prediction as wall and divides by 20
  whether or not a class occurs.
"""

from typing import NamedTuple

import numpy as np

from gnesf_core.evaluation.geometry import nearest_points
from gnesf_core.labels import CLASS_NAMES, IGNORE
from gnesf_core.shapes import Float, Float64, Int64, UInt8

CLASSES = len(CLASS_NAMES)
VOID = CLASSES  # row and column of the confusion that collect IGNORE
WALL = CLASS_NAMES.index("wall")

Confusion = Int64[np.ndarray, "21 21"]


class ClassIou(NamedTuple):
    """Intersection over union of each class, with the integers it was made of."""

    iou: Float64[np.ndarray, " 20"]  # nan where the denominator is 0
    true_positives: Int64[np.ndarray, " 20"]
    denominators: Int64[np.ndarray, " 20"]


def transfer_labels(
    target_vertices: Float[np.ndarray, "targets 3"],
    predicted_vertices: Float[np.ndarray, "predicted 3"],
    predicted_labels: UInt8[np.ndarray, " predicted"],
) -> UInt8[np.ndarray, " targets"]:
    """Give every target vertex the label of the nearest predicted vertex.

    However far that is: the protocol of Atlas has no distance limit, so a region that
    was never reconstructed still gets labels, and the score says little about
    completeness. With no predicted vertex at all, every target is `IGNORE`.
    """
    if len(predicted_vertices) == 0:
        return np.full(len(target_vertices), IGNORE, dtype=np.uint8)
    nearest, _ = nearest_points(predicted_vertices, target_vertices)
    return predicted_labels[nearest]


def confusion(
    truth: UInt8[np.ndarray, "*points"], prediction: UInt8[np.ndarray, "*points"]
) -> Confusion:
    """Count how often each true class (row) was predicted as each class (column)."""
    cells = _matrix_index(truth) * (CLASSES + 1) + _matrix_index(prediction)
    counts = np.bincount(cells.ravel(), minlength=(CLASSES + 1) ** 2)
    return counts.reshape(CLASSES + 1, CLASSES + 1).astype(np.int64, copy=False)


def _matrix_index(
    labels: UInt8[np.ndarray, "*points"],
) -> Int64[np.ndarray, "*points"]:
    unknown = (labels >= CLASSES) & (labels != IGNORE)
    if unknown.any():
        found = np.unique(labels[unknown]).tolist()
        raise ValueError(
            f"labels: expected classes 0..{CLASSES - 1} or {IGNORE} (none), found "
            f"{found}; remedy: map ids with labels.train_ids_from_nyu40 first"
        )
    return np.where(labels == IGNORE, VOID, labels).astype(np.int64)


def scannet_iou(counts: Confusion) -> ClassIou:
    """Return IoU per class exactly as ScanNet's 3D label benchmark defines it.

    The denominator of class c is everything whose truth is c, void predictions
    included, plus what was predicted as c where the truth is another valid class.
    """
    truth_valid = counts[:CLASSES]
    true_positives = np.diagonal(truth_valid).copy()
    predicted_as = truth_valid[:, :CLASSES].sum(axis=0)
    denominators = truth_valid.sum(axis=1) + predicted_as - true_positives
    return ClassIou(_ratio(true_positives, denominators), true_positives, denominators)


def scannet_scores(counts: Confusion) -> dict[str, object]:
    """Summarise a confusion by the rules of the ScanNet benchmark, ready for JSON.

    `miou` is the mean over the classes that are scored, which are those that truth
    *or* prediction has where the truth is valid (the script's own rule: a class that
    was only hallucinated scores 0 and counts). `miou_in_truth` leaves those out;
    `miou_of_20` lets absent classes count 0. Accuracy is recall per class, and exists
    only for classes in the truth. A mean over no class at all is `None`.
    """
    iou, true_positives, denominators = scannet_iou(counts)
    truth = counts[:CLASSES].sum(axis=1)
    accuracy = _ratio(true_positives, truth)
    in_truth, scored = truth > 0, denominators > 0
    vertices = int(truth.sum())
    return {
        "protocol": "scannet: no true class = skipped, void prediction = wrong",
        "miou": _mean(iou[scored]),
        "miou_in_truth": _mean(iou[in_truth]),
        "miou_of_20": float(iou[scored].sum() / CLASSES),
        "mean_accuracy": _mean(accuracy[in_truth]),
        "mean_accuracy_of_20": float(accuracy[in_truth].sum() / CLASSES),
        "overall_accuracy": _quotient(int(true_positives.sum()), vertices),
        "classes_scored": int(scored.sum()),
        "classes_in_truth": int(in_truth.sum()),
        "classes_absent": _names(~scored),
        "classes_only_predicted": _names(scored & ~in_truth),
        "points": vertices,
        "points_without_truth": int(counts[VOID].sum()),
        "points_void_prediction": int(counts[:CLASSES, VOID].sum()),
        "classes": [
            {
                "name": name,
                "iou": _number(iou[index]),
                "accuracy": _number(accuracy[index]),
                "true_positives": int(true_positives[index]),
                "denominator": int(denominators[index]),
                "truth": int(truth[index]),
            }
            for index, name in enumerate(CLASS_NAMES)
        ],
    }


def released_gnesf_scores(counts: Confusion) -> dict[str, object]:
    """Return the numbers that the released GNeSF evaluation would print.

    A void prediction becomes wall; points without a true class are dropped; means are
    sums divided by 20 even where classes are absent. Not comparable with ScanNet's
    numbers unless all 20 classes occur and nothing was predicted void.
    """
    kept = counts[:CLASSES, :CLASSES].copy()
    kept[:, WALL] += counts[:CLASSES, VOID]
    true_positives, truth = np.diagonal(kept), kept.sum(axis=1)
    iou = _ratio(true_positives, truth + kept.sum(axis=0) - true_positives)
    return {
        "protocol": "released GNeSF: void prediction = wall, means divided by 20",
        "miou": float(np.nansum(iou) / CLASSES),
        "mean_accuracy": float(np.nansum(_ratio(true_positives, truth)) / CLASSES),
        "classes": [
            {"name": name, "iou": _number(value)}
            for name, value in zip(CLASS_NAMES, iou, strict=True)
        ],
    }


def _ratio(
    numerators: Int64[np.ndarray, " classes"],
    denominators: Int64[np.ndarray, " classes"],
) -> Float64[np.ndarray, " classes"]:
    out = np.full(len(numerators), np.nan)
    return np.divide(numerators, denominators, out=out, where=denominators > 0)


def _mean(values: Float64[np.ndarray, " classes"]) -> float | None:
    return float(values.mean()) if len(values) else None


def _quotient(numerator: int, denominator: int) -> float | None:
    return numerator / denominator if denominator else None


def _number(value: np.floating) -> float | None:
    return None if np.isnan(value) else float(value)


def _names(chosen: np.ndarray) -> list[str]:
    return [CLASS_NAMES[index] for index in np.flatnonzero(chosen)]
