"""All scores of one scene, as plain values ready for JSON."""

from collections.abc import Iterator

import numpy as np

from gnesf_core.config import EvaluationConfig
from gnesf_core.data.meshes import LabelledMesh
from gnesf_core.data.store import Frames
from gnesf_core.evaluation import depth, geometry, semantics
from gnesf_core.geometry.raycast import make_caster
from gnesf_core.shapes import Float, Int, UInt8


def score_scene(
    predicted: LabelledMesh,
    truth_vertices: Float[np.ndarray, "n 3"],
    truth_labels: UInt8[np.ndarray, " n"],
    frames: Frames,
    config: EvaluationConfig,
) -> dict[str, object]:
    """Compare a labelled mesh with the true vertices and with the sensor's depth."""
    labels = semantics.transfer_labels(
        truth_vertices, predicted.vertices_world, predicted.label
    )
    counts = semantics.confusion(truth_labels, labels)
    return {
        "vertices_truth": len(truth_vertices),
        "vertices_predicted": len(predicted.vertices_world),
        "confusion": counts.tolist(),
        "semantics": semantics.scannet_scores(counts),
        "geometry": _geometry(predicted, truth_vertices, frames, config),
        "depth": rendered_depth_scores(
            predicted.vertices_world, predicted.faces, frames, config
        ),
    }


def _geometry(
    predicted: LabelledMesh,
    truth_vertices: Float[np.ndarray, "n 3"],
    frames: Frames,
    config: EvaluationConfig,
) -> dict[str, object]:
    """Score the surface whole, and trimmed to what the depth camera saw."""
    vertices = predicted.vertices_world.astype(np.float64)
    return {
        "whole": geometry.surface_scores(vertices, truth_vertices, config),
        "trimmed": geometry.trimmed_surface_scores(
            vertices, truth_vertices, depth_views(frames), config
        ),
    }


def rendered_depth_scores(
    vertices_world: Float[np.ndarray, "n 3"],
    faces: Int[np.ndarray, "m 3"],
    frames: Frames,
    config: EvaluationConfig,
) -> dict[str, float | int | None]:
    """Compare depth cast off a mesh with the sensor's, over all kept frames."""
    caster = make_caster(vertices_world, faces)
    scores = []
    for measured, intrinsics, world_from_camera in depth_views(frames):
        height, width = measured.shape
        rendered = depth.render_depth(
            caster, intrinsics, world_from_camera, width, height
        )
        scores.append(depth.depth_scores(rendered, measured, config))
    return depth.mean_over_frames(scores)


def depth_views(frames: Frames) -> Iterator[geometry.View]:
    """Read the kept frames' depth with its cameras, one after the other."""
    for position in range(len(frames)):
        yield (
            frames.depth_m(position),
            frames.depth_intrinsics,
            frames.world_from_camera[position],
        )
