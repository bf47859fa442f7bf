"""From the 2D scores of scenes to the tables of priors.

One score has three readings, which differ by what is averaged. They are never mixed:

per_image   each image's mean over the classes in its truth; then the mean over all
            images of all scenes that have any truth
per_scene   confusion summed over a scene's images, mean over the classes in its truth;
            then the mean over scenes
data_set    confusion summed over everything, mean over the classes that ScanNet's rule
            scores: those in truth or prediction
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gnesf_core.evaluation import semantics
from gnesf_core.evaluation.tables import (
    WORST_SCENES,
    Block,
    mean_of_known,
    percent,
)
from gnesf_core.labels import CLASS_NAMES
from gnesf_core.shapes import Int64

Scores = Mapping[str, Any]

# Poolings and measures, as they are named in the tables of numbers and on pages.
POOLINGS = {"per_image": "per image", "per_scene": "per scene", "data_set": "data set"}
MEASURES = {"miou": "mIoU", "mean_accuracy": "mAcc", "accuracy": "Acc"}


def priors_of(rows: Sequence[Scores]) -> list[str]:
    """Return the priors that were scored, in the order of the config."""
    return list(dict.fromkeys(row["prior"] for row in rows))


def total(rows: Sequence[Scores], prior: str) -> Int64[np.ndarray, "21 21"]:
    """Add the confusions of all scenes of one prior."""
    counts = [row["confusion"] for row in rows if row["prior"] == prior]
    return np.sum(counts, axis=0, dtype=np.int64)


def per_prior(rows: Sequence[Scores], costs: Sequence[Scores]) -> list[dict[str, Any]]:
    """Give each prior one line of numbers: scores by pooling, calibration, cost."""
    lines = []
    for prior in priors_of(rows):
        own = [row for row in rows if row["prior"] == prior]
        images = [frame for row in own for frame in row["frames"] if frame["pixels"]]
        scenes = [row for row in own if row["semantics"]["points"]]
        scores = semantics.scannet_scores(total(rows, prior))
        line = {"prior": prior, "images": len(images), "scenes": len(scenes)}
        line["images_without_truth"] = sum(row["frames_without_truth"] for row in own)
        line["classes_scored"] = scores["classes_scored"]
        pooled = {
            "per_image": _mean_over(images),
            "per_scene": _mean_over([_named(row["semantics"]) for row in scenes]),
            "data_set": _named(scores) | {"miou": scores["miou"]},
        }
        for pooling, values in pooled.items():
            line |= {f"{pooling}_{name}": values[name] for name in MEASURES}
        void, pixels = scores["points_void_prediction"], scores["points"]
        line["void_prediction"] = void / pixels if pixels else None
        line["calibration_error"] = calibration_error(own)
        line |= _map_size(own)
        lines.append(line | cost_of([row for row in costs if row["prior"] == prior]))
    return lines


def _named(scores: Scores) -> dict[str, float | None]:
    """Return a confusion's measures, over the classes in its truth."""
    return {
        "miou": scores["miou_in_truth"],
        "mean_accuracy": scores["mean_accuracy"],
        "accuracy": scores["overall_accuracy"],
    }


def _mean_over(scores: Sequence[Scores]) -> dict[str, float | None]:
    return {name: mean_of_known([s[name] for s in scores]) for name in MEASURES}


def calibration_error(rows: Sequence[Scores]) -> float | None:
    """Return the expected calibration error of all pixels with a truth and a class.

    Ten bins of equal width over the winner's share of the probability; the gap between
    mean confidence and accuracy of each bin, weighted by its pixels.
    """
    parts = [row["calibration"] for row in rows]
    pixels, confidence, correct = (
        np.sum([part[name] for part in parts], axis=0)
        for name in ("pixels", "confidence", "correct")
    )
    if pixels.sum() == 0:
        return None
    return float(np.abs(confidence - correct).sum() / pixels.sum())


def cost_of(costs: Sequence[Scores]) -> dict[str, Any]:
    """Sum what caching one prior's scenes took; nothing is known without `costs`."""
    frames = sum(cost["frames"] for cost in costs)
    seconds = sum(cost["seconds"] for cost in costs)
    timed = sum(cost["frames_timed"] for cost in costs)
    stored = sum(cost["stored_bytes"] for cost in costs)
    places = {f"{cost['device']}, {cost['threads']} threads" for cost in costs}
    return {
        "cached_scenes": len(costs),
        "cached_frames": frames,
        "frames_per_second": timed / seconds if seconds else None,
        "bytes_per_frame": stored / frames if frames else None,
        "megabytes_per_scene": stored / len(costs) / 1e6 if costs else None,
        "cached_on": " / ".join(sorted(places)),
    }


def _map_size(rows: Sequence[Scores]) -> dict[str, str]:
    sizes = {
        f"{row['storage']['map_width']}x{row['storage']['map_height']}" for row in rows
    }
    return {"map_size": " / ".join(sorted(sizes))}


def per_class(rows: Sequence[Scores]) -> list[dict[str, Any]]:
    """Give each class of each prior one line: integers, and their ratio."""
    lines = []
    for prior in priors_of(rows):
        scores = semantics.scannet_scores(total(rows, prior))
        lines.extend({"prior": prior} | entry for entry in scores["classes"])
    return lines


def per_frame(rows: Sequence[Scores]) -> list[dict[str, Any]]:
    """Give each image of each prior one line, worst first; those without truth last."""
    lines = [
        {"prior": row["prior"], "scene": row["scene"]}
        | {name: frame[name] for name in ("index", *MEASURES, "pixels")}
        for row in rows
        for frame in row["frames"]
    ]
    return sorted(lines, key=lambda line: (line["prior"], _rank(line["miou"])))


def _rank(score: float | None) -> tuple[bool, float]:
    return score is None, score or 0.0


def blocks(rows: Sequence[Scores], costs: Sequence[Scores]) -> list[Block]:
    """Return the tables of priors, the one that a reader would quote first."""
    lines = per_prior(rows, costs)
    return [
        _scores_block(lines),
        _cost_block(lines),
        _class_block(rows),
        _scene_block(rows),
    ]


def _scores_block(lines: list[dict[str, Any]]) -> Block:
    columns = [
        (f"{pooling}_{measure}", f"{title}, {where}")
        for measure, title in MEASURES.items()
        for pooling, where in POOLINGS.items()
    ]
    columns += [("void_prediction", "void"), ("calibration_error", "ECE")]
    counts = ("images", "scenes", "classes_scored")
    return Block(
        "Scores in 2D",
        "Protocol: maps are interpolated bilinearly to the size of the labels, then "
        "the most probable class is taken; all kept frames; pixels without a true "
        "class are skipped, a pixel predicted as nothing (void) is wrong. "
        "Per image: each image's mean over the classes in its truth, then the mean "
        "over images. Per scene: confusion added over a scene's images, mean over the "
        "classes in its truth, then the mean over scenes. Data set: confusion added "
        "over everything, mean over the classes scored by ScanNet's rule (in truth or "
        "prediction), so that one that was only imagined counts 0. ECE: expected "
        "calibration error, the gap between confidence and accuracy over ten bins; "
        "0 = right as often as it claims. mAcc: of each class, the share of its pixels "
        "that is right; Acc: of all pixels. All in percent.",
        ["prior", "images", "scenes", "classes scored"]
        + [title for _, title in columns],
        [
            [line["prior"], *(line[name] for name in counts)]
            + [percent(line[name]) for name, _ in columns]
            for line in lines
        ],
    )


def _cost_block(lines: list[dict[str, Any]]) -> Block:
    return Block(
        "Cost of caching",
        "All kept frames of the scenes that were cached. Time: decoding pictures, "
        "network, and writing, without start-up. Size: of the compressed maps.",
        ["prior", "scenes", "frames", "map", "frames per second", "on",
         "kB per frame", "MB per scene"],
        [
            [line["prior"], line["cached_scenes"], line["cached_frames"],
             line["map_size"], _plain(line["frames_per_second"], 1),
             line["cached_on"] or "-", _plain(line["bytes_per_frame"], 1, 1e3),
             _plain(line["megabytes_per_scene"], 2)]
            for line in lines
        ],
    )  # fmt: skip


def _plain(value: float | None, digits: int, unit: float = 1.0) -> str:
    return "-" if value is None else f"{value / unit:.{digits}f}"


def _class_block(rows: Sequence[Scores]) -> Block:
    priors = priors_of(rows)
    by_prior = {
        prior: semantics.scannet_scores(total(rows, prior))["classes"]
        for prior in priors
    }
    return Block(
        "IoU per class",
        "Data set: confusion added over everything, by ScanNet's rule, in percent.",
        ["class", *priors, "true pixels"],
        [
            [name]
            + [percent(by_prior[prior][index]["iou"]) for prior in priors]
            + [by_prior[priors[0]][index]["truth"]]
            for index, name in enumerate(CLASS_NAMES)
        ],
    )


def _scene_block(rows: Sequence[Scores]) -> Block:
    lines = []
    for prior in priors_of(rows):
        own = [row for row in rows if row["prior"] == prior]
        own.sort(key=lambda row: _rank(row["semantics"]["miou_in_truth"]))
        lines += own[:WORST_SCENES]
    return Block(
        "Scenes, worst first",
        f"At most {WORST_SCENES} of each prior. mIoU and accuracy of the scene's added "
        "confusion, mean over the classes in its truth; and the raw number of the "
        "scene's worst image with its own mIoU. In percent.",
        ["prior", "scene", "mIoU", "accuracy", "worst image", "its mIoU"],
        [
            [row["prior"], row["scene"], percent(row["semantics"]["miou_in_truth"]),
             percent(row["semantics"]["overall_accuracy"]), *_worst_image(row)]
            for row in lines
        ],
    )  # fmt: skip


def _worst_image(row: Scores) -> tuple[int | str, str]:
    scored = [frame for frame in row["frames"] if frame["miou"] is not None]
    if not scored:
        return "-", "-"
    worst = min(scored, key=lambda frame: frame["miou"])
    return worst["index"], percent(worst["miou"])
