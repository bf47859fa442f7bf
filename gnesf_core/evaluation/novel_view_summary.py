"""From the scores of rendered views to the tables of fields and methods.

Scores are pooled as `pooling` says; beside them stands how much was rendered at all,
and how close its colours are. Every table names what was rendered, from what, and by
which protocol pictures are compared. A method of view synthesis stands where a field
does: "field" is the name of whatever rendered.
"""

from collections.abc import Sequence
from typing import Any

from gnesf_core.evaluation import pooling
from gnesf_core.evaluation.pooling import Scores
from gnesf_core.evaluation.tables import Block, fixed, mean_of_known, percent

_SOURCES = {"keys": "key frames", "views": "views", "kept": "all kept frames"}
_COLORS = ("psnr_db", "full_psnr_db", "ssim", "lpips")  # of the seen pixels; of all
_OF_FRAMES = ("rays", "rays_rendered", *_COLORS)


def per_field(rows: Sequence[Scores]) -> list[dict[str, Any]]:
    """Give each field one line of numbers: scores by pooling, colours, protocol."""
    lines = []
    for field in pooling.names_of(rows, "field"):
        own = pooling.rows_of(rows, "field", field)
        line = {"field": field} | pooling.pooled(own)
        rendered, rays = (sum(row[n] for row in own) for n in ("rays_rendered", "rays"))
        line["rendered"] = pooling.share(rendered, rays)
        line |= {f"per_image_{name}": mean_over_images(own, name) for name in _COLORS}
        said = protocol_of(own).items()
        lines.append(line | {n: s for n, s in said if not n.endswith("_words")})
    return lines


def mean_over_images(rows: Sequence[Scores], name: str) -> float | None:
    """Return the mean over scenes of the mean over their images."""
    return mean_of_known(
        [mean_of_known([frame[name] for frame in row["frames"]]) for row in rows]
    )


def protocol_of(rows: Sequence[Scores]) -> dict[str, str]:
    """Return what scenes say of how they were rendered, each thing once."""
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


def headline_block(rows: Sequence[Scores], split: str) -> Block:
    """Return the numbers that one would quote, in few enough columns for a phone."""
    lines, said = per_field(rows), protocol_of(rows)
    return Block(
        f"Novel views in 2D, {split} split (views: {said['views']}; colours: "
        f"{said['image_quality']})",
        f"{lines[0]['images']} frames of {lines[0]['scenes']} scenes. "
        f"{said['views_words']}. mIoU three times: mean over each scene's images, then "
        "over scenes; of each scene's added confusion; of all. mAcc of all. A pixel "
        "without a rendered class is wrong. In percent; PSNR in dB.",
        ["renderer", "mIoU per image", "per scene", "data set", "mAcc", "PSNR", "SSIM"],
        [
            [line["field"]]
            + [percent(line[f"{pooled_by}_miou"]) for pooled_by in pooling.POOLINGS]
            + [percent(line["data_set_mean_accuracy"])]
            + _color_cells(line)[1:3]
            for line in lines
        ],
    )


def blocks(rows: Sequence[Scores], split: str) -> list[Block]:
    """Return the tables of fields, the one that a reader would quote first."""
    lines = per_field(rows)
    about = _about(rows, split)
    said = protocol_of(rows)
    by = f"views: {said['views']}; colours: {said['image_quality']}"
    return [
        _scores_block(lines, about, by),
        _protocol_block(lines, about),
        pooling.class_block(rows, "field", about),
        pooling.scene_block(rows, "field", about),
    ]


def _about(rows: Sequence[Scores], split: str) -> str:
    """Say what all tables are about; where fields differ, name all there is."""
    said = protocol_of(rows)
    sources = _SOURCES.get(said["source_frames"], said["source_frames"])
    return (
        f"Protocol: novel views of the scenes of the {split} split ({said['views']}). "
        f"{said['views_words']}. At most {said['source_views']} source views; where "
        f"the protocol leaves it open: of each scene at most "
        f"{said['frames_per_scene']} frames, from {sources}. Fields are rendered from "
        f"signed distances (geometry: {said['geometry']}), methods of view synthesis "
        "need none; those that are fitted to a scene have learned from other frames of "
        f"it. Colours ({said['image_quality']}): {said['image_words']} "
    )


def _scores_block(lines: list[dict[str, Any]], about: str, by: str) -> Block:
    return Block(
        f"Scores of novel views in 2D ({by})",
        f"{about}Rendered probabilities are interpolated bilinearly to the size of the "
        "labels, then the most probable class is taken; pixels without a true class "
        "are skipped, a pixel without a rendered class (void) is wrong. "
        f"{pooling.EXPLAINED} Rendered: share of all rays that hit a surface which "
        "some source view sees; the others are void. All these in percent. Colours: "
        "against the picture at the rendered size, mean over each scene's images, then "
        "over scenes. PSNR in dB, of "
        "the rendered pixels alone and by the protocol above; SSIM; LPIPS, the lower "
        "the better.",
        [*pooling.score_columns("field"), "rendered", "PSNR, rendered pixels", "PSNR",
         "SSIM", "LPIPS"],
        [
            [*pooling.score_cells("field", line), percent(line["rendered"]),
             *_color_cells(line)]
            for line in lines
        ],
    )  # fmt: skip


def _color_cells(line: dict[str, Any]) -> list[str]:
    values = [line[f"per_image_{name}"] for name in _COLORS]
    decibels = ["-" if value is None else f"{value:.2f}" for value in values[:2]]
    return decibels + [fixed(value) for value in values[2:]]


def _protocol_block(lines: list[dict[str, Any]], about: str) -> Block:
    return Block(
        "What was rendered",
        f"{about}Images without truth have no labelled pixel, and no score.",
        ["field", "geometry", "views", "source views", "at most", "frames per scene",
         "rendered size", "images", "without truth"],
        [
            [line["field"], line["geometry"], line["views"], line["source_frames"],
             line["source_views"], line["frames_per_scene"], line["size"],
             line["images"], line["images_without_truth"]]
            for line in lines
        ],
    )  # fmt: skip
