"""From the scores of scenes to the tables of geometries.

Everything is a mean over scenes, and beside each mean stands how many scenes entered
it: a geometry that finds no surface has F-score 0 there, and no distances.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from gnesf_core.evaluation import depth
from gnesf_core.evaluation.geometry import SHARES
from gnesf_core.evaluation.tables import (
    DEPTH_SCORES,
    WORST_SCENES,
    Block,
    depth_block,
    fixed,
    mean_of_known,
    percent,
    scored,
)

Scores = Mapping[str, Any]

_EXTENTS = ("trimmed", "whole")
_DISTANCES = ("accuracy_predicted_to_truth_m", "completeness_truth_to_predicted_m")
_COARSE_SHARES = tuple(f"coarse_{name}" for name in SHARES)
_SIGNED = ("mean_error_m", "sign_agreement", "coverage", "free_space_occupied")
_SIZES = ("vertices", "faces", "voxels_observed", "voxels_with_encoding",
          "volume_bytes")  # fmt: skip


def geometries_of(rows: Sequence[Scores]) -> list[str]:
    """Return the geometries that were scored, in the order of the config."""
    return list(dict.fromkeys(row["geometry"] for row in rows))


def per_geometry(rows: Sequence[Scores]) -> list[dict[str, Any]]:
    """Give each geometry one line of numbers."""
    lines = []
    for name in geometries_of(rows):
        own = [row for row in rows if row["geometry"] == name]
        line: dict[str, Any] = {"geometry": name, "scenes": len(own)}
        for extent in _EXTENTS:
            line |= _surface_means([row["surface"][extent] for row in own], extent)
        means = depth.mean_over_scenes([row["depth"] for row in own])
        line |= {f"depth_{score}": means[score] for score in DEPTH_SCORES}
        line["depth_scenes_scored"] = means["scenes"] - means["scenes_without_error"]
        signed = [row["signed_distance"] for row in own]
        for score in _SIGNED:
            line[f"signed_distance_{score}"] = _mean(signed, score)
        line["signed_distance_scenes_scored"] = _known(signed, "mean_error_m")
        line |= {size: sum(row[size] for row in own) / len(own) for size in _SIZES}
        lines.append(line)
    return lines


def _surface_means(surfaces: Sequence[Scores], extent: str) -> dict[str, Any]:
    scores = (*_DISTANCES, *SHARES, *_COARSE_SHARES)
    means: dict[str, Any] = {f"{extent}_{s}": _mean(surfaces, s) for s in scores}
    means[f"{extent}_scenes_scored"] = _known(surfaces, "f_score")
    means[f"{extent}_scenes_with_surface"] = _known(surfaces, _DISTANCES[0])
    return means


def _mean(rows: Sequence[Scores], name: str) -> float | None:
    return mean_of_known([row[name] for row in rows])


def _known(rows: Sequence[Scores], name: str) -> int:
    return sum(row[name] is not None for row in rows)


def per_scene(rows: Sequence[Scores]) -> list[dict[str, Any]]:
    """Give each scene of each geometry one line, worst first; unjudged ones last."""
    order = geometries_of(rows)
    lines = [_scene_line(row) for row in rows]
    return sorted(lines, key=lambda line: (order.index(line["geometry"]), _rank(line)))


def _scene_line(row: Scores) -> dict[str, Any]:
    line = {"geometry": row["geometry"], "scene": row["scene"]}
    for extent in _EXTENTS:
        for score in (*_DISTANCES, "f_score", "coarse_f_score"):
            line[f"{extent}_{score}"] = row["surface"][extent][score]
    line |= {f"depth_{score}": row["depth"][score] for score in DEPTH_SCORES}
    signed = row["signed_distance"]
    line |= {f"signed_distance_{score}": signed[score] for score in _SIGNED}
    return line | {size: row[size] for size in _SIZES}


def _rank(line: Mapping[str, Any]) -> tuple[bool, float]:
    score = line["trimmed_f_score"]
    return score is None, score or 0.0


def blocks(rows: Sequence[Scores]) -> list[Block]:
    """Return the tables of geometries, the one that a reader would quote first."""
    lines = per_geometry(rows)
    return [
        _surface_block(rows, lines),
        depth_block("geometry", lines),
        _signed_block(rows, lines),
        _size_block(lines),
        _scene_block(rows),
    ]


def _surface_block(rows: Sequence[Scores], lines: list[dict[str, Any]]) -> Block:
    protocol = rows[0]["surface"]["trimmed"]
    spacing = _cm(protocol["down_sample_m"])
    near, far = _cm(protocol["threshold_m"]), _cm(protocol["coarse_threshold_m"])
    shares = [
        (f"{prefix}{score}", f"{title}, {limit}")
        for prefix, limit in (("", near), ("coarse_", far))
        for score, title in zip(SHARES, ("precision", "recall", "F-score"), strict=True)
    ]
    return Block(
        f"Surface, within {near} and {far}",
        f"Protocol: both surfaces are covered with points at most {spacing} apart on "
        f"their triangles, then thinned to one per {spacing} voxel; nearest distances "
        "between them. Accuracy and precision: prediction to truth; completeness and "
        "recall: truth to prediction. Mean over scenes; shares count a scene without "
        "any surface as 0, distances leave it out. Trimmed leaves out of both surfaces "
        f"what lies more than {_cm(protocol['trim_tolerance_m'])} behind the depth "
        f"camera's depth, or further from it than {protocol['trim_depth_m']:g} m, in "
        "every kept frame, or where none has depth; whole leaves out nothing.",
        ["geometry", "extent", "scenes", *(title for _, title in shares),
         "with surface", "accuracy (m)", "completeness (m)"],
        [
            [line["geometry"], extent, scored(line, f"{extent}_scenes_scored")]
            + [fixed(line[f"{extent}_{score}"]) for score, _ in shares]
            + [scored(line, f"{extent}_scenes_with_surface")]
            + [fixed(line[f"{extent}_{score}"]) for score in _DISTANCES]
            for line in lines
            for extent in _EXTENTS
        ],
    )  # fmt: skip


def _signed_block(rows: Sequence[Scores], lines: list[dict[str, Any]]) -> Block:
    limits = sorted({row["signed_distance"]["compared_up_to_m"] for row in rows})
    clipped = " or ".join(map(_cm, limits))
    return Block(
        "Signed distances",
        "Protocol: at the finest voxels of the fused depth that two frames or more "
        "saw; distances are interpolated trilinearly and clipped to the smaller "
        f"truncation ({clipped}). Covered: voxels near the true surface where the "
        "prediction knows anything; error and agreement of sign are over those. "
        "Occupied: free space that the prediction says is behind a surface. Mean over "
        "scenes. A geometry that is the fused depth is compared with itself.",
        ["geometry", "scenes", "mean error (m)", "sign agrees, %", "covered, %",
         "free space occupied, %"],
        [
            [line["geometry"], scored(line, "signed_distance_scenes_scored"),
             fixed(line["signed_distance_mean_error_m"])]
            + [percent(line[f"signed_distance_{score}"]) for score in _SIGNED[1:]]
            for line in lines
        ],
    )  # fmt: skip


def _size_block(lines: list[dict[str, Any]]) -> Block:
    return Block(
        "Size",
        "Mean over all scenes. Encoded: voxels that carry features for the field.",
        ["geometry", "scenes", "vertices", "faces", "observed voxels",
         "encoded voxels", "MB per scene"],
        [
            [line["geometry"], line["scenes"]]
            + [f"{line[size]:.0f}" for size in _SIZES[:-1]]
            + [f"{line['volume_bytes'] / 1e6:.2f}"]
            for line in lines
        ],
    )  # fmt: skip


def _scene_block(rows: Sequence[Scores]) -> Block:
    lines = []
    for name in geometries_of(rows):
        lines += per_scene([row for row in rows if row["geometry"] == name])[
            :WORST_SCENES
        ]
    protocol = rows[0]["surface"]["trimmed"]
    near, far = _cm(protocol["threshold_m"]), _cm(protocol["coarse_threshold_m"])
    return Block(
        "Scenes, worst first",
        f"At most {WORST_SCENES} of each geometry, by the trimmed F-score.",
        ["geometry", "scene", f"F-score, {near}", f"F-score, {far}", "accuracy (m)",
         "completeness (m)", "depth abs rel", "signed distance error (m)"],
        [
            [line["geometry"], line["scene"]]
            + [fixed(line[f"trimmed_{score}"])
               for score in ("f_score", "coarse_f_score", *_DISTANCES)]
            + [fixed(line["depth_abs_rel"]),
               fixed(line["signed_distance_mean_error_m"])]
            for line in lines
        ],
    )  # fmt: skip


def _cm(length_m: float) -> str:
    return f"{100 * length_m:g} cm"
