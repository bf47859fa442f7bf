"""Score a prior's class maps against the 2D labels of the frames, pixel by pixel.

A map is brought to the size of the labels before anything is decided, as a segmenter's
users do. Pixels without a true class are skipped; a pixel of which the prior says
nothing counts against its true class.

Here are the numbers of one scene: of every frame by itself, and of the scene's summed
confusion. `prior_summary` pools them over scenes.
"""

import math

import numpy as np

from gnesf_core.data.store import Frames, PriorMaps
from gnesf_core.errors import BadInput
from gnesf_core.evaluation import semantics
from gnesf_core.labels import IGNORE
from gnesf_core.shapes import Bool, Float32, Integer, UInt8

CONFIDENCE_BINS = 10


def score_prior(maps: PriorMaps, frames: Frames) -> dict[str, object]:
    """Score all kept frames of a labelled scene, as plain values ready for JSON."""
    if not frames.has_labels:
        raise BadInput(
            frames.path,
            "labels",
            expected="2D labels to score a prior against",
            found="none",
            remedy="score priors on scenes that come with labels",
        )
    counts = np.zeros((semantics.CLASSES + 1,) * 2, np.int64)
    calibration, lines = Calibration(), []
    for position in range(len(frames)):
        truth = frames.labels(position)
        size = frames.color_size
        predicted, confidence = decide(maps.probabilities(position), size)
        own = semantics.confusion(truth, predicted)
        counts += own
        lines.append({"index": int(frames.index[position])} | image_scores(own))
        claims = (truth != IGNORE) & (predicted != IGNORE)
        calibration.add(confidence[claims], (predicted == truth)[claims])
    width, height = maps.map_size
    return {
        "frames": lines,
        "frames_without_truth": sum(line["pixels"] == 0 for line in lines),
        "confusion": counts.tolist(),
        "semantics": semantics.scannet_scores(counts),
        "calibration": calibration.sums(),
        "storage": {
            "frames": len(maps),
            "stored_bytes": int(maps.stored_bytes),
            "map_width": int(width),
            "map_height": int(height),
        },
    }


def image_scores(counts: semantics.Confusion) -> dict[str, object]:
    """Score one image: means over the classes that its truth has, or `None`."""
    scores = semantics.scannet_scores(counts)
    return {
        "miou": scores["miou_in_truth"],
        "mean_accuracy": scores["mean_accuracy"],
        "accuracy": scores["overall_accuracy"],
        "pixels": scores["points"],
    }


def decide(
    probabilities: UInt8[np.ndarray, "classes h w"], size: tuple[int, int]
) -> tuple[UInt8[np.ndarray, "height width"], Float32[np.ndarray, "height width"]]:
    """Return each pixel's class at another size, and its share of the probability.

    Ties go to the lowest class. A pixel without any probability gets `IGNORE` and 0.
    """
    # A class that a map lacks cannot win, and most rooms have few of the 20.
    present = np.flatnonzero(probabilities.any(axis=(1, 2))).astype(np.uint8)
    if len(present) == 0:
        nothing = np.zeros(size[::-1], np.float32)
        return np.full(nothing.shape, IGNORE, np.uint8), nothing
    resized = resize(probabilities[present], size)
    highest, labels = resized[0].copy(), np.full(size[::-1], present[0])
    for class_id, share in zip(present[1:], resized[1:], strict=True):
        labels[share > highest] = class_id
        np.maximum(highest, share, out=highest)
    total = resized.sum(axis=0)
    known = total > 0
    labels[~known] = IGNORE
    return labels, np.divide(highest, total, out=np.zeros_like(total), where=known)


def entropy(
    resized: Float32[np.ndarray, "classes h w"],
) -> Float32[np.ndarray, "h w"]:
    """Return how undecided each pixel is: 0 = one class, 1 = all alike, nan = void."""
    total = resized.sum(axis=0)
    shares = np.full_like(resized, np.nan)
    np.divide(resized, total, out=shares, where=total > 0)
    logarithms = np.log(np.where(shares > 0, shares, 1))
    # abs: the sum is never negative, but 0 would come out as -0.
    return np.abs((shares * logarithms).sum(axis=0) / math.log(len(resized)))


def resize(
    maps: UInt8[np.ndarray, "channels h w"], size: tuple[int, int]
) -> Float32[np.ndarray, "channels height width"]:
    """Interpolate maps bilinearly to (width, height) by the half-pixel rule."""
    left, right, of_left, of_right = _neighbours(maps.shape[2], size[0])
    upper, lower, of_upper, of_lower = _neighbours(maps.shape[1], size[1])
    resized = np.empty((len(maps), *size[::-1]), np.float32)
    for channel, out in zip(maps.astype(np.float32), resized, strict=True):
        wide = _blend(channel[:, left], of_left, channel[:, right], of_right)
        out[:] = _blend(wide[upper], of_upper[:, None], wide[lower], of_lower[:, None])
    return resized


def _neighbours(
    length: int, resized: int
) -> tuple[
    Integer[np.ndarray, " resized"],
    Integer[np.ndarray, " resized"],
    Float32[np.ndarray, " resized"],
    Float32[np.ndarray, " resized"],
]:
    """Return each new pixel's neighbours on an axis, and their weights."""
    scale = float(np.float32(length) / np.float32(resized))
    centres = (np.arange(resized) + 0.5) * scale - 0.5
    centres = centres.clip(0, length - 1).astype(np.float32)
    first = centres.astype(np.intp)
    of_second = centres - first.astype(np.float32)
    return first, np.minimum(first + 1, length - 1), 1 - of_second, of_second


def _blend(
    one: Float32[np.ndarray, "h w"],
    of_one: Float32[np.ndarray, "..."],
    other: Float32[np.ndarray, "h w"],
    of_other: Float32[np.ndarray, "..."],
) -> Float32[np.ndarray, "h w"]:
    """Add two products, rounded as by most of torch's kernels: the first is not."""
    return (of_one.astype(np.float64) * one + of_other * other).astype(np.float32)


class Calibration:
    """Whether a prior is right as often as its confidence says."""

    def __init__(self) -> None:
        self._sums = np.zeros((3, CONFIDENCE_BINS))

    def add(
        self, confidence: Float32[np.ndarray, " n"], correct: Bool[np.ndarray, " n"]
    ) -> None:
        """Count pixels into bins of equal width by their confidence."""
        bins = (confidence * CONFIDENCE_BINS).astype(np.int64)
        bins = np.minimum(bins, CONFIDENCE_BINS - 1)  # a confidence of 1
        for number, weights in enumerate((None, confidence, correct)):
            self._sums[number] += np.bincount(bins, weights, CONFIDENCE_BINS)

    def sums(self) -> dict[str, list[int] | list[float]]:
        """Return what each bin holds; sums of scenes add up."""
        pixels, confidence, correct = self._sums
        return {
            "pixels": pixels.astype(int).tolist(),
            "confidence": confidence.tolist(),
            "correct": correct.astype(int).tolist(),
        }
