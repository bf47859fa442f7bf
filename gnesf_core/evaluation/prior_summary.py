"""From the 2D scores of scenes to the tables of priors.

Scores are pooled as `pooling` says; beside them stand calibration and cost.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gnesf_core.evaluation import pooling
from gnesf_core.evaluation.pooling import Scores
from gnesf_core.evaluation.tables import Block, percent


def per_prior(rows: Sequence[Scores], costs: Sequence[Scores]) -> list[dict[str, Any]]:
    """Give each prior one line of numbers: scores by pooling, calibration, cost."""
    lines = []
    for prior in pooling.names_of(rows, "prior"):
        own = pooling.rows_of(rows, "prior", prior)
        line = {"prior": prior} | pooling.pooled(own)
        line["calibration_error"] = calibration_error(own)
        line |= _map_size(own)
        lines.append(line | cost_of(pooling.rows_of(costs, "prior", prior)))
    return lines


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
    return pooling.per_class(rows, "prior")


def per_frame(rows: Sequence[Scores]) -> list[dict[str, Any]]:
    """Give each image of each prior one line, worst first; those without truth last."""
    return pooling.per_frame(rows, "prior")


def blocks(rows: Sequence[Scores], costs: Sequence[Scores]) -> list[Block]:
    """Return the tables of priors, the one that a reader would quote first."""
    lines = per_prior(rows, costs)
    return [
        _scores_block(lines),
        _cost_block(lines),
        pooling.class_block(rows, "prior"),
        pooling.scene_block(rows, "prior"),
    ]


def _scores_block(lines: list[dict[str, Any]]) -> Block:
    return Block(
        "Scores in 2D",
        "Protocol: maps are interpolated bilinearly to the size of the labels, then "
        "the most probable class is taken; all kept frames; pixels without a true "
        "class are skipped, a pixel predicted as nothing (void) is wrong. "
        f"{pooling.EXPLAINED} ECE: expected calibration error, the gap between "
        "confidence and accuracy over ten bins; 0 = right as often as it claims. All "
        "in percent.",
        [*pooling.score_columns("prior"), "ECE"],
        [
            [*pooling.score_cells("prior", line), percent(line["calibration_error"])]
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
