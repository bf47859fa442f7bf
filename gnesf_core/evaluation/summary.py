"""From the scores of scenes to the tables of a split.

Semantic scores come from the sum of all confusions: sums before ratios, never a mean
of means. Geometry and depth are averaged over scenes, as the papers do.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gnesf_core.evaluation import semantics
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
_DEPTH = ("abs_rel", "abs_diff_m", "sq_rel_m", "rmse_m", "log_rmse", "r1", "r2", "r3",
          "completeness")  # fmt: skip


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
                line[f"{extent}_{name}"] = _mean(values)
        for name in _DEPTH:
            line[f"depth_{name}"] = _mean([row["depth"][name] for row in own])
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


def page(rows: Sequence[Scores], title: str) -> str:
    """Write all tables as one Markdown page that states its protocols."""
    lines = per_field(rows)
    blocks = [f"# {title}", _semantics_block(rows, lines), _geometry_block(rows, lines)]
    blocks += [_depth_block(lines), _class_block(rows), _scene_block(rows)]
    return "\n\n".join(blocks) + "\n"


def _semantics_block(rows: Sequence[Scores], lines: list[dict[str, Any]]) -> str:
    absent = semantics.scannet_scores(total(rows, lines[0]["field"]))["classes_absent"]
    table = _table(
        ["field", "scenes", "mIoU", "classes", "mIoU of 20", "mAcc", "accuracy",
         "released GNeSF mIoU", "released GNeSF mAcc"],
        [
            [
                line["field"], line["scenes"], _percent(line["scannet_miou"]),
                line["classes_scored"], _percent(line["scannet_miou_of_20"]),
                _percent(line["scannet_mean_accuracy"]),
                _percent(line["scannet_overall_accuracy"]),
                _percent(line["released_gnesf_miou"]),
                _percent(line["released_gnesf_mean_accuracy"]),
            ]
            for line in lines
        ],
    )  # fmt: skip
    return f"""## Semantics

Protocol: each true vertex takes the class of its nearest predicted vertex, however far
(Atlas); IoU by the rule of ScanNet's 3D label benchmark (vertices without a true class
skipped, a void prediction is wrong); confusions added over scenes. mIoU is the mean
over the classes that are scored; "of 20" counts absent ones as 0. Absent:
{", ".join(absent) or "none"}. "Released GNeSF" is what its released evaluation
would print: void becomes wall, means always divided by 20. All in percent.

{table}"""


def _geometry_block(rows: Sequence[Scores], lines: list[dict[str, Any]]) -> str:
    first = rows[0]["geometry"]["whole"]
    headings = ["field", "extent"] + [title for _, title in _GEOMETRY]
    table = _table(
        headings,
        [
            [line["field"], extent]
            + [_fixed(line[f"{extent}_{name}"]) for name, _ in _GEOMETRY]
            for line in lines
            for extent in ("trimmed", "whole")
        ],
    )
    return f"""## Geometry

Protocol: vertices of both meshes, thinned to {first["down_sample_m"]} m; threshold
{first["threshold_m"]} m; mean over scenes. "Trimmed" leaves out what no depth camera
saw, in both meshes; "whole" leaves out nothing.

{table}"""


def _depth_block(lines: list[dict[str, Any]]) -> str:
    table = _table(
        ["field", *(name.replace("_", " ") for name in _DEPTH)],
        [
            [line["field"], *(_fixed(line[f"depth_{name}"]) for name in _DEPTH)]
            for line in lines
        ],
    )
    return f"""## Depth

Protocol: depth cast off the predicted mesh against the sensor's, over all kept frames;
mean over frames, then scenes. Completeness: share of measured pixels with a prediction.

{table}"""


def _class_block(rows: Sequence[Scores]) -> str:
    fields = fields_of(rows)
    by_field = {
        field: semantics.scannet_scores(total(rows, field))["classes"]
        for field in fields
    }
    table = _table(
        ["class", *fields, "true vertices"],
        [
            [name]
            + [_percent(by_field[field][index]["iou"]) for field in fields]
            + [by_field[fields[0]][index]["truth"]]
            for index, name in enumerate(CLASS_NAMES)
        ],
    )
    return f"## IoU per class, percent\n\n{table}"


def _scene_block(rows: Sequence[Scores]) -> str:
    table = _table(
        ["field", "scene", "mIoU", "accuracy", "F-score, trimmed"],
        [
            [
                line["field"], line["scene"], _percent(line["miou"]),
                _percent(line["overall_accuracy"]), _fixed(line["f_score_trimmed"]),
            ]
            for line in per_scene(rows)
        ],
    )  # fmt: skip
    return f"## Scenes, worst first\n\n{table}"


def _table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _fixed(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
