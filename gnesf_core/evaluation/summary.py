"""From the scores of scenes to the tables of a split.

Semantic scores come from the sum of all confusions: sums before ratios, never a mean
of means. Geometry and depth are averaged over scenes, as the papers do.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gnesf_core.evaluation import depth, semantics
from gnesf_core.evaluation.tables import (
    DEPTH_SCORES,
    Block,
    depth_block,
    fixed,
    mean_of_known,
    percent,
    scored,
)
from gnesf_core.labels import CLASS_NAMES
from gnesf_core.shapes import Int64

Scores = Mapping[str, Any]

_GEOMETRY = (
    ("accuracy_predicted_to_truth_m", "accuracy, prediction to truth (m)"),
    ("completeness_truth_to_predicted_m", "completeness, truth to prediction (m)"),
    ("precision_predicted_to_truth", "precision, prediction to truth"),
    ("recall_truth_to_predicted", "recall, truth to prediction"),
    ("f_score", "F-score"),
)
_PROTOCOL = (
    "Protocol: each true vertex takes the class of its nearest predicted vertex, "
    "however far (Atlas); IoU by the rule of ScanNet's 3D label benchmark "
    "(vertices without a true class skipped, a void prediction is wrong); "
    "confusions added over scenes. mIoU is the mean over the classes that are "
    "scored"
)


def fields_of(rows: Sequence[Scores]) -> list[str]:
    """Return the fields that were scored, in the order of the config."""
    return list(dict.fromkeys(row["field"] for row in rows))


def total(rows: Sequence[Scores], field: str) -> Int64[np.ndarray, "21 21"]:
    """Add the confusions of all scenes of one field."""
    counts = [row["confusion"] for row in rows if row["field"] == field]
    return np.sum(counts, axis=0, dtype=np.int64)


def per_field(rows: Sequence[Scores]) -> list[dict[str, Any]]:
    """Give each field one line of numbers."""
    lines = []
    for field in fields_of(rows):
        own = [row for row in rows if row["field"] == field]
        counts = total(rows, field)
        scores = semantics.scannet_scores(counts)
        released = semantics.released_gnesf_scores(counts)
        line: dict[str, Any] = {"field": field, "scenes": len(own)}
        for name in ("miou", "miou_of_20", "mean_accuracy", "overall_accuracy"):
            line[f"scannet_{name}"] = scores[name]
        line["classes_scored"] = scores["classes_scored"]
        line["released_gnesf_miou"] = released["miou"]
        line["released_gnesf_mean_accuracy"] = released["mean_accuracy"]
        for extent in ("trimmed", "whole"):
            for name, _ in _GEOMETRY:
                values = [row["geometry"][extent][name] for row in own]
                line[f"{extent}_{name}"] = mean_of_known(values)
            surface = [row["geometry"][extent] for row in own]
            line[f"{extent}_scenes_scored"] = sum(
                not scores["empty_prediction"] for scores in surface
            )
        means = depth.mean_over_scenes([row["depth"] for row in own])
        line |= {f"depth_{name}": means[name] for name in DEPTH_SCORES}
        line["depth_scenes_scored"] = means["scenes"] - means["scenes_without_error"]
        lines.append(line)
    return lines


def per_class(rows: Sequence[Scores]) -> list[dict[str, Any]]:
    """Give each class of each field one line: integers, and their ratio."""
    lines = []
    for field in fields_of(rows):
        scores = semantics.scannet_scores(total(rows, field))
        lines.extend({"field": field} | entry for entry in scores["classes"])
    return lines


def per_scene(rows: Sequence[Scores]) -> list[dict[str, Any]]:
    """Give each scene of each field one line, worst first."""
    lines = [
        {
            "field": row["field"],
            "scene": row["scene"],
            "miou": row["semantics"]["miou"],
            "overall_accuracy": row["semantics"]["overall_accuracy"],
            "f_score_trimmed": row["geometry"]["trimmed"]["f_score"],
            "vertices_truth": row["vertices_truth"],
            "vertices_predicted": row["vertices_predicted"],
        }
        for row in rows
    ]
    return sorted(lines, key=lambda line: (line["field"], line["miou"] or 0.0))


def blocks(rows: Sequence[Scores]) -> list[Block]:
    """Return the tables of a split, the one that a reader would quote first."""
    lines = per_field(rows)
    return [
        _semantics_block(rows, lines),
        _geometry_block(rows, lines),
        depth_block("field", lines),
        _class_block(rows),
        _scene_block(rows),
    ]


def headline_block(rows: Sequence[Scores], split: str) -> Block:
    """Return the numbers that one would quote, in few enough columns for a phone."""
    lines, geometry = per_field(rows), rows[0]["geometry"]["trimmed"]
    counts = sorted({line["classes_scored"] for line in lines})
    return Block(
        f"Scores in 3D, {split} split",
        f"{_PROTOCOL}: {' or '.join(map(str, counts))} of 20. mAcc is the "
        "mean recall of those in the truth, accuracy the share of right vertices; in "
        "percent. F-score: "
        f"vertices of both meshes, thinned to {geometry['down_sample_m']} m, within "
        f"{geometry['threshold_m']} m, without what no depth camera saw; mean over "
        f"{lines[0]['scenes']} scenes.",
        ["field", "mIoU", "mAcc", "accuracy", "F-score"],
        [
            [line["field"]]
            + [percent(line[f"scannet_{name}"])
               for name in ("miou", "mean_accuracy", "overall_accuracy")]
            + [fixed(line["trimmed_f_score"])]
            for line in lines
        ],
    )  # fmt: skip


def _semantics_block(rows: Sequence[Scores], lines: list[dict[str, Any]]) -> Block:
    truth = total(rows, lines[0]["field"])[: len(CLASS_NAMES)].sum(axis=1)
    absent = [name for name, count in zip(CLASS_NAMES, truth, strict=True) if not count]
    shares = (
        "scannet_miou", "scannet_miou_of_20", "scannet_mean_accuracy",
        "scannet_overall_accuracy", "released_gnesf_miou",
        "released_gnesf_mean_accuracy",
    )  # fmt: skip
    return Block(
        "Semantics",
        f'{_PROTOCOL}; "of 20" counts absent ones as 0. '
        f'Absent in the truth: {", ".join(absent) or "none"}. "Released GNeSF" is what '
        "its released evaluation would print: void becomes wall, means always divided "
        "by 20. All in percent.",
        ["field", "scenes", "classes scored", "mIoU", "mIoU of 20", "mAcc",
         "accuracy", "released GNeSF mIoU", "released GNeSF mAcc"],
        [
            [line["field"], line["scenes"], line["classes_scored"]]
            + [percent(line[name]) for name in shares]
            for line in lines
        ],
    )  # fmt: skip


def _geometry_block(rows: Sequence[Scores], lines: list[dict[str, Any]]) -> Block:
    first = rows[0]["geometry"]["whole"]
    return Block(
        "Geometry",
        f"Protocol: vertices of both meshes, thinned to {first['down_sample_m']} m; "
        f"threshold {first['threshold_m']} m; mean over scenes (distances: over those "
        "with a prediction; scores: an empty one counts 0). Trimmed leaves out "
        "what no depth camera saw, in both meshes; whole leaves out nothing.",
        ["field", "extent", "scenes"] + [title for _, title in _GEOMETRY],
        [
            [line["field"], extent, scored(line, f"{extent}_scenes_scored")]
            + [fixed(line[f"{extent}_{name}"]) for name, _ in _GEOMETRY]
            for line in lines
            for extent in ("trimmed", "whole")
        ],
    )


def _class_block(rows: Sequence[Scores]) -> Block:
    fields = fields_of(rows)
    by_field = {
        field: semantics.scannet_scores(total(rows, field))["classes"]
        for field in fields
    }
    return Block(
        "IoU per class",
        "By ScanNet's rule, in percent.",
        ["class", *fields, "true vertices"],
        [
            [name]
            + [percent(by_field[field][index]["iou"]) for field in fields]
            + [by_field[fields[0]][index]["truth"]]
            for index, name in enumerate(CLASS_NAMES)
        ],
    )


def _scene_block(rows: Sequence[Scores]) -> Block:
    return Block(
        "Scenes, worst first",
        "",
        ["field", "scene", "mIoU", "accuracy", "F-score, trimmed"],
        [
            [line["field"], line["scene"], percent(line["miou"]),
             percent(line["overall_accuracy"]), fixed(line["f_score_trimmed"])]
            for line in per_scene(rows)
        ],
    )  # fmt: skip
