"""Scenes from the worst to the best, each with its scores and its picture."""

from collections.abc import Mapping, Sequence
from typing import Any

from gnesf_core.evaluation.summary import fields_of
from gnesf_core.evaluation.tables import Block, fixed, percent

Scores = Mapping[str, Any]


def worst_first(rows: Sequence[Scores], field: str) -> list[str]:
    """Return the scenes by what a field scores in them; of equals, by name."""
    own = {row["scene"]: _miou(row) for row in rows if row["field"] == field}
    return sorted(own, key=lambda scene: (own[scene], scene))


def worst_class(row: Scores) -> tuple[str, float] | None:
    """Return the class of a scene's truth with the least IoU, of equals the largest."""
    classes = [entry for entry in row["semantics"]["classes"] if entry["truth"]]
    if not classes:
        return None
    worst = min(classes, key=lambda entry: (entry["iou"], -entry["truth"]))
    return worst["name"], worst["iou"]


def blocks(
    rows: Sequence[Scores],
    field: str,
    plain: Sequence[str],
    jpegs: Mapping[str, bytes],
) -> list[Block]:
    """Return a table of all scenes, and one for each that has a picture.

    Args:
        rows: Scores of every scene by every field.
        field: Whose scores order the scenes.
        plain: Fields that show what the prior alone gives.
        jpegs: Pictures of scenes, by their names.
    """
    ranked = worst_first(rows, field)
    fields = [field, *(name for name in fields_of(rows) if name != field)]
    of = {(row["scene"], row["field"]): row for row in rows}
    found = [_overview(ranked, fields, of, plain, len(jpegs))]
    for place, scene in enumerate(ranked, 1):
        if scene in jpegs:
            own = [of[scene, name] for name in fields]
            title = f"{place} of {len(ranked)}: {scene}"
            found.append(_scene_block(title, own, jpegs[scene]))
    return found


def _overview(
    ranked: Sequence[str],
    fields: Sequence[str],
    of: Mapping[tuple[str, str], Scores],
    plain: Sequence[str],
    pictured: int,
) -> Block:
    field = fields[0]
    alone = f"What the prior alone gives: {', '.join(plain)}. " if plain else ""
    return Block(
        "All scenes",
        f"mIoU of each scene by itself, by ScanNet's rule, in percent; the worst of "
        f"{field} first. {alone}Worst class: of those that the scene's truth has, the "
        f"one with the least IoU by {field}, of equals the largest. "
        f"{pictured} of {len(ranked)} scenes are pictured below, evenly spread over "
        "the split; report: scenes in the configuration says how many.",
        ["scene", *fields, "worst class", "its IoU"],
        [
            [scene]
            + [percent(of[scene, name]["semantics"]["miou"]) for name in fields]
            + _named(worst_class(of[scene, field]))
            for scene in ranked
        ],
    )


def _scene_block(title: str, rows: Sequence[Scores], jpeg: bytes) -> Block:
    return Block(
        title,
        "",
        ["field", "mIoU", "accuracy", "F-score, trimmed", "worst class", "its IoU"],
        [
            [
                row["field"],
                percent(row["semantics"]["miou"]),
                percent(row["semantics"]["overall_accuracy"]),
                fixed(row["geometry"]["trimmed"]["f_score"]),
                *_named(worst_class(row)),
            ]
            for row in rows
        ],
        jpeg,
    )


def _named(worst: tuple[str, float] | None) -> list[str]:
    return ["-", "-"] if worst is None else [worst[0], percent(worst[1])]


def _miou(row: Scores) -> float:
    return row["semantics"]["miou"] or 0.0
