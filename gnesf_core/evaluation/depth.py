"""Score rendered depth maps against measured ones.

Scores of a frame are means over its valid pixels: those with a predicted depth, and a
true depth that is positive and below a limit. Frames of a scene are averaged with equal
weight, and then scenes, as Atlas and NeuralRecon do. `None` stands for "nothing to
average" and never enters a mean.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from gnesf_core.config import EvaluationConfig
from gnesf_core.geometry.camera import pixel_rays
from gnesf_core.geometry.raycast import Caster
from gnesf_core.shapes import Float, Float32

ERRORS = ("abs_rel", "abs_diff_m", "sq_rel_m", "rmse_m", "log_rmse", "r1", "r2", "r3")
COVERAGES = ("completeness", "completeness_all_pixels")


def render_depth(
    caster: Caster,
    intrinsics: Float[np.ndarray, "3 3"],
    world_from_camera: Float[np.ndarray, "4 4"],
    width: int,
    height: int,
) -> Float32[np.ndarray, "h w"]:
    """Return the z-depth in metres at every pixel centre, 0 where nothing is hit."""
    rays = pixel_rays(intrinsics, width, height) @ world_from_camera[:3, :3].T
    _, depth_m = caster.cast(world_from_camera[:3, 3], rays)
    return np.where(np.isfinite(depth_m), depth_m, 0.0).astype(np.float32)


def depth_scores(
    predicted_depth_m: Float[np.ndarray, "h w"],
    truth_depth_m: Float[np.ndarray, "h w"],
    config: EvaluationConfig,
) -> dict[str, float | None]:
    """Score one frame; errors are `None` where no pixel has both depths.

    `completeness` is the share of pixels with a true depth that have a predicted one.
    `completeness_all_pixels` divides by the whole image instead, as NeuralRecon prints
    it: it also counts depth predicted where there is no truth.
    """
    has_truth = (truth_depth_m > 0) & (truth_depth_m < config.depth_max_m)
    has_prediction = predicted_depth_m > 0
    both = has_truth & has_prediction
    scores: dict[str, float | None] = dict.fromkeys(ERRORS + COVERAGES)
    if has_truth.any():
        scores["completeness"] = float(has_prediction[has_truth].mean())
    scores["completeness_all_pixels"] = float(has_prediction.mean())
    if both.any():
        predicted = predicted_depth_m[both].astype(np.float64)
        scores |= _errors(predicted, truth_depth_m[both].astype(np.float64))
    return scores


def _errors(
    predicted: Float[np.ndarray, " pixels"], truth: Float[np.ndarray, " pixels"]
) -> dict[str, float]:
    difference = np.abs(predicted - truth)
    ratio = np.maximum(predicted / truth, truth / predicted)
    squared_log = np.square(np.log(predicted) - np.log(truth))
    return {
        "abs_rel": float((difference / truth).mean()),
        "abs_diff_m": float(difference.mean()),
        "sq_rel_m": float((np.square(difference) / truth).mean()),
        "rmse_m": float(np.sqrt(np.square(difference).mean())),
        "log_rmse": float(np.sqrt(squared_log.mean())),
        "r1": float((ratio < 1.25).mean()),
        "r2": float((ratio < 1.25**2).mean()),
        "r3": float((ratio < 1.25**3).mean()),
    }


def mean_over_frames(
    frames: Iterable[Mapping[str, float | None]],
) -> dict[str, float | int | None]:
    """Average the scores of a scene's frames, each frame with equal weight.

    A frame in which no pixel has both depths counts in `frames_without_error` and
    enters only the means that it defines.
    """
    rows = list(frames)
    means: dict[str, float | int | None] = dict(_means(rows))
    means["frames"] = len(rows)
    means["frames_without_error"] = sum(row["abs_rel"] is None for row in rows)
    return means


def mean_over_scenes(
    scenes: Iterable[Mapping[str, float | int | None]],
) -> dict[str, float | int | None]:
    """Average the means of scenes, each scene with equal weight."""
    rows = list(scenes)
    means: dict[str, float | int | None] = dict(_means(rows))
    means["scenes"] = len(rows)
    means["scenes_without_error"] = sum(row["abs_rel"] is None for row in rows)
    return means


def _means(
    rows: list[Mapping[str, float | int | None]],
) -> dict[str, float | None]:
    means = {}
    for name in ERRORS + COVERAGES:
        values = [row[name] for row in rows if row[name] is not None]
        means[name] = float(np.mean(values)) if values else None
    return means
