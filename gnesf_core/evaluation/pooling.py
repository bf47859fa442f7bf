"""2D scores of images, pooled over images, scenes and data sets.

One score has three readings, which differ by what is averaged. They are never mixed:

per_image   each image's mean over the classes in its truth; then the mean over a
            scene's images that have any truth, and the mean over scenes
per_scene   confusion summed over a scene's images, mean over the classes in its truth;
            then the mean over scenes
data_set    confusion summed over everything, mean over the classes that ScanNet's rule
            scores: those in truth or prediction

Rows are the scores of scenes. A row's `kind`, such as "prior" or "field", is the key
of the name of what was scored; names keep the order in which they come.
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
EXPLAINED = (
    "Per image: each image's mean over the classes in its truth, then the mean over "
    "each scene's images, then over scenes. Per scene: confusion added over a scene's "
    "images, mean over the classes in its truth, then the mean over scenes. Data set: "
    "confusion added over "
    "everything, mean over the classes scored by ScanNet's rule (in truth or "
    "prediction), so that one that was only imagined counts 0. mAcc: of each class, "
    "the share of its pixels that is right; Acc: of all pixels."
)
_COUNTS = ("images", "scenes", "classes_scored")


def names_of(rows: Sequence[Scores], kind: str) -> list[str]:
    """Return the names of what was scored."""
    return list(dict.fromkeys(row[kind] for row in rows))


def rows_of(rows: Sequence[Scores], kind: str, name: str) -> list[Scores]:
    """Return the scenes of one of them."""
    return [row for row in rows if row[kind] == name]


def total(rows: Sequence[Scores]) -> Int64[np.ndarray, "21 21"]:
    """Add the confusions of scenes."""
    return np.sum([row["confusion"] for row in rows], axis=0, dtype=np.int64)


def pooled(rows: Sequence[Scores]) -> dict[str, Any]:
    """Return what all scenes of one prior or field have in common: every pooling."""
    images = [frame for row in rows for frame in _with_truth(row)]
    scenes = [row for row in rows if row["semantics"]["points"]]
    scores = semantics.scannet_scores(total(rows))
    line = {"images": len(images), "scenes": len(scenes)}
    line["images_without_truth"] = sum(row["frames_without_truth"] for row in rows)
    line["classes_scored"] = scores["classes_scored"]
    by_pooling = {
        "per_image": _mean_over([_mean_over(_with_truth(row)) for row in rows]),
        "per_scene": _mean_over([_named(row["semantics"]) for row in scenes]),
        "data_set": _named(scores) | {"miou": scores["miou"]},
    }
    for pooling, values in by_pooling.items():
        line |= {f"{pooling}_{name}": values[name] for name in MEASURES}
    line["void_prediction"] = share(scores["points_void_prediction"], scores["points"])
    return line


def share(part: int, whole: int) -> float | None:
    """Return a ratio of counts; `None` of nothing."""
    return part / whole if whole else None


def _named(scores: Scores) -> dict[str, float | None]:
    """Return a confusion's measures, over the classes in its truth."""
    return {
        "miou": scores["miou_in_truth"],
        "mean_accuracy": scores["mean_accuracy"],
        "accuracy": scores["overall_accuracy"],
    }


def _with_truth(row: Scores) -> list[Scores]:
    """Return the images of a scene that can be scored."""
    return [frame for frame in row["frames"] if frame["pixels"]]


def _mean_over(scores: Sequence[Scores]) -> dict[str, float | None]:
    return {name: mean_of_known([s[name] for s in scores]) for name in MEASURES}


def per_class(rows: Sequence[Scores], kind: str) -> list[dict[str, Any]]:
    """Give each class of each name one line: integers, and their ratio."""
    lines = []
    for name in names_of(rows, kind):
        scores = semantics.scannet_scores(total(rows_of(rows, kind, name)))
        lines.extend({kind: name} | entry for entry in scores["classes"])
    return lines


def per_frame(
    rows: Sequence[Scores], kind: str, further: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Give each image of each name one line, worst first; those without truth last."""
    lines = [
        {kind: row[kind], "scene": row["scene"]}
        | {name: frame[name] for name in ("index", *MEASURES, "pixels", *further)}
        for row in rows
        for frame in row["frames"]
    ]
    return sorted(lines, key=lambda line: (line[kind], _rank(line["miou"])))


def _rank(score: float | None) -> tuple[bool, float]:
    return score is None, score or 0.0


def score_columns(kind: str) -> list[str]:
    """Return the titles of `score_cells`."""
    titles = [
        f"{title}, {where}"
        for title in MEASURES.values()
        for where in POOLINGS.values()
    ]
    return [kind, "images", "scenes", "classes scored", *titles, "void"]


def score_cells(kind: str, line: Mapping[str, Any]) -> list[Any]:
    """Return the cells of one line of `pooled` scores with its name, in percent."""
    names = [f"{pooling}_{measure}" for measure in MEASURES for pooling in POOLINGS]
    cells = [line[kind], *(line[name] for name in _COUNTS)]
    return cells + [percent(line[name]) for name in (*names, "void_prediction")]


def class_block(rows: Sequence[Scores], kind: str, about: str = "") -> Block:
    """Tabulate the IoU of classes, a column for each name."""
    names = names_of(rows, kind)
    by_name = {
        name: semantics.scannet_scores(total(rows_of(rows, kind, name)))["classes"]
        for name in names
    }
    return Block(
        "IoU per class",
        f"{about}Data set: confusion added over everything, by ScanNet's rule, in "
        "percent.",
        ["class", *names, "true pixels"],
        [
            [title]
            + [percent(by_name[name][index]["iou"]) for name in names]
            + [by_name[names[0]][index]["truth"]]
            for index, title in enumerate(CLASS_NAMES)
        ],
    )


def scene_block(rows: Sequence[Scores], kind: str, about: str = "") -> Block:
    """Tabulate the worst scenes of each name, with their worst images."""
    lines = []
    for name in names_of(rows, kind):
        own = rows_of(rows, kind, name)
        own.sort(key=lambda row: _rank(row["semantics"]["miou_in_truth"]))
        lines += own[:WORST_SCENES]
    return Block(
        "Scenes, worst first",
        f"{about}At most {WORST_SCENES} of each {kind}. mIoU and accuracy of the "
        "scene's added confusion, mean over the classes in its truth; and the raw "
        "number of the scene's worst image with its own mIoU. In percent.",
        [kind, "scene", "mIoU", "accuracy", "worst image", "its mIoU"],
        [
            [row[kind], row["scene"], percent(row["semantics"]["miou_in_truth"]),
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
