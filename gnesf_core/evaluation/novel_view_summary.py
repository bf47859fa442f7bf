"""From the scores of rendered views to the tables of fields.

Scores are pooled as `pooling` says; beside them stands how much was rendered at all,
and how close its colours are. Every table names what was rendered, from what.
"""

from collections.abc import Sequence
from typing import Any

from gnesf_core.evaluation import pooling
from gnesf_core.evaluation.pooling import Scores
from gnesf_core.evaluation.tables import Block, mean_of_known, percent

_SOURCES = {"keys": "key frames", "views": "views", "kept": "all kept frames"}
_OF_FRAMES = ("rays", "rays_rendered", "psnr_db")


def per_field(rows: Sequence[Scores]) -> list[dict[str, Any]]:
    """Give each field one line of numbers: scores by pooling, colours, protocol."""
    lines = []
    for field in pooling.names_of(rows, "field"):
        own = pooling.rows_of(rows, "field", field)
        line = {"field": field} | pooling.pooled(own)
        rendered, rays = (sum(row[n] for row in own) for n in ("rays_rendered", "rays"))
        line["rendered"] = pooling.share(rendered, rays)
        images = [frame for row in own for frame in row["frames"]]
        line["per_image_psnr_db"] = mean_of_known(
            [frame["psnr_db"] for frame in images]
        )
        lines.append(line | _protocol(own))
    return lines


def _protocol(rows: Sequence[Scores]) -> dict[str, Any]:
    """Return what the scenes of a field say of how they were rendered."""
    protocols = [row["protocol"] for row in rows]
    return {
        name: " / ".join(sorted({str(protocol[name]) for protocol in protocols}))
        for name in protocols[0]
    }


def per_class(rows: Sequence[Scores]) -> list[dict[str, Any]]:
    """Give each class of each field one line: integers, and their ratio."""
    return pooling.per_class(rows, "field")


def per_frame(rows: Sequence[Scores]) -> list[dict[str, Any]]:
    """Give each image of each field one line, worst first; those without truth last."""
    return pooling.per_frame(rows, "field", _OF_FRAMES)


def blocks(rows: Sequence[Scores], split: str) -> list[Block]:
    """Return the tables of fields, the one that a reader would quote first."""
    lines = per_field(rows)
    about = _about(rows, split)
    return [
        _scores_block(lines, about),
        _protocol_block(lines, about),
        pooling.class_block(rows, "field", about),
        pooling.scene_block(rows, "field", about),
    ]


def _about(rows: Sequence[Scores], split: str) -> str:
    """Say what all tables are about; where fields differ, name all there is."""
    said = _protocol(rows)
    sources = _SOURCES.get(said["source_frames"], said["source_frames"])
    return (
        f"Protocol: novel views of the scenes of the {split} split. Of each scene at "
        f"most {said['frames_per_scene']} held-out frames (kept as views, no key "
        "frames), evenly spread, are rendered from signed distances "
        f"({said['geometry']}) and source views: {sources}, at most "
        f"{said['source_views']}, never the frame itself. "
    )


def _scores_block(lines: list[dict[str, Any]], about: str) -> Block:
    return Block(
        "Scores of novel views in 2D",
        f"{about}Rendered probabilities are interpolated bilinearly to the size of the "
        "labels, then the most probable class is taken; pixels without a true class "
        "are skipped, a pixel without a rendered class (void) is wrong. "
        f"{pooling.EXPLAINED} Rendered: share of all rays that hit a surface which "
        "some source view sees; the others are void. All these in percent. PSNR (dB): "
        "colours of the rendered pixels alone, against the picture at the rendered "
        "size; mean over images.",
        [*pooling.score_columns("field"), "rendered", "PSNR"],
        [
            [*pooling.score_cells("field", line), percent(line["rendered"]),
             _decibels(line["per_image_psnr_db"])]
            for line in lines
        ],
    )  # fmt: skip


def _decibels(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _protocol_block(lines: list[dict[str, Any]], about: str) -> Block:
    return Block(
        "What was rendered",
        f"{about}Images without truth have no labelled pixel, and no score.",
        ["field", "geometry", "source views", "at most", "held-out frames per scene",
         "rendered size", "images", "without truth"],
        [
            [line["field"], line["geometry"], line["source_frames"],
             line["source_views"], line["frames_per_scene"], line["size"],
             line["images"], line["images_without_truth"]]
            for line in lines
        ],
    )  # fmt: skip
