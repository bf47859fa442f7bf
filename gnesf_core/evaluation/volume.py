"""All scores of one scene's geometry, as plain values ready for JSON.

Vertices of a coarse mesh are too sparse to be compared with each other: both surfaces
are covered with points first, thinned, and then compared as published protocols do.
Signed distances are compared at the voxels of the fused depth, without any mesh.
"""

from functools import partial
from pathlib import Path

import numpy as np

from gnesf_core.config import EvaluationConfig
from gnesf_core.data.ply import read_ply
from gnesf_core.data.store import DistanceGrid, Frames, SceneVolume
from gnesf_core.errors import BadInput
from gnesf_core.evaluation import geometry
from gnesf_core.evaluation.scene import depth_views, rendered_depth_scores
from gnesf_core.geometry.grid import Grid
from gnesf_core.geometry.mesh import dense_points, extract_surface
from gnesf_core.shapes import Bool, Float, Float32, Float64, Int32

# Vertices in world metres and triangles; without any a surface is its vertices.
Surface = tuple[Float[np.ndarray, "_ 3"], Int32[np.ndarray, "_ 3"]]

MIN_WEIGHT = 2  # frames that must have seen a voxel of the fused depth
_MOST_EXTENT_M = 200.0
FREE_TSDF = 0.999  # from here on a voxel is free space: float16 and means are not exact


def read_truth(path: Path) -> Surface:
    """Read the true surface of a scene, a mesh or a cloud of points."""
    mesh = read_ply(path)
    if len(mesh.vertices) == 0:
        raise BadInput(
            path,
            "element vertex",
            expected="a true surface",
            found="no vertices",
            remedy="fetch the scene's mesh again",
        )
    extent_m = np.ptp(mesh.vertices, axis=0).max()
    if not extent_m < _MOST_EXTENT_M:
        raise BadInput(
            path,
            "element vertex",
            expected=f"a scene of at most {_MOST_EXTENT_M} m",
            found=f"{extent_m} m",
            remedy="remove stray points, or fetch the scene's mesh again",
        )
    return mesh.vertices, mesh.faces


def score_volume(
    volume: SceneVolume,
    fused: DistanceGrid,
    truth: Surface,
    frames: Frames,
    config: EvaluationConfig,
) -> dict[str, object]:
    """Compare a volume with the true surface, the fused and the sensor's depth."""
    surface = surface_of(volume.surface)
    return {
        "vertices": len(surface[0]),
        "faces": len(surface[1]),
        "voxel_size_m": volume.surface.voxel_size_m,
        "truncation_m": volume.surface.truncation_m,
        "voxels_observed": int(np.count_nonzero(volume.surface.weight)),
        "voxels_with_encoding": len(volume.encoding_ijk),
        "encoding_channels": volume.encoding.shape[1],
        "surface": surface_scores(surface, truth, frames, config),
        "depth": rendered_depth_scores(*surface, frames, config),
        "signed_distance": distance_scores(volume.surface, fused),
    }


def surface_of(
    distances: DistanceGrid,
) -> tuple[Float32[np.ndarray, "vertices 3"], Int32[np.ndarray, "faces 3"]]:
    """Return the mesh of the zero level, in world metres."""
    shape = distances.tsdf.shape
    grid = Grid(distances.origin_world, distances.voxel_size_m, shape)
    return extract_surface(distances.tsdf, distances.weight, grid)


def surface_scores(
    predicted: Surface, truth: Surface, frames: Frames, config: EvaluationConfig
) -> dict[str, dict[str, object]]:
    """Score a surface whole, and trimmed to what the depth camera saw.

    Points are thinned once, before they are trimmed: a second grid of voxels would
    merge neighbours of the first.
    """
    points, true_points = (
        geometry.voxel_down_sample(
            dense_points(*surface, config.down_sample_m), config.down_sample_m
        )
        for surface in (predicted, truth)
    )
    score = partial(geometry.point_scores, coarse=True)
    return {
        "whole": score(points, true_points, config),
        "trimmed": geometry.trimmed_surface_scores(
            points, true_points, depth_views(frames), config, score
        ),
    }


def distance_scores(
    predicted: DistanceGrid, fused: DistanceGrid
) -> dict[str, float | int | None]:
    """Compare signed distances where the depth camera measured some.

    Near a surface: their mean difference in metres, with both clipped to the smaller
    truncation, the share of voxels where the prediction knows anything, and of those
    the share where it is on the same side of the surface. In free space: the share of
    voxels that the prediction says are behind a surface. `None`: there are no voxels.
    """
    distance_m = _sample(predicted, fused)
    truth_m = fused.tsdf * np.float32(fused.truncation_m)
    limit_m = min(predicted.truncation_m, fused.truncation_m)
    seen = fused.weight >= MIN_WEIGHT
    near = seen & (np.abs(fused.tsdf) < FREE_TSDF)
    free = seen & (fused.tsdf >= FREE_TSDF)
    covered = near & np.isfinite(distance_m)
    ours, theirs = (
        values[covered].clip(-limit_m, limit_m) for values in (distance_m, truth_m)
    )
    return {
        "voxels_near_surface": int(near.sum()),
        "coverage": _share(covered, near),
        "mean_error_m": _mean(np.abs(ours - theirs)),
        "sign_agreement": _mean((ours < 0) == (theirs < 0)),
        "compared_up_to_m": limit_m,
        "voxels_free": int(free.sum()),
        "free_space_occupied": _share(free & (distance_m < 0), free),
    }


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean(dtype=np.float64)) if len(values) else None


def _share(
    chosen: Bool[np.ndarray, "x y z"], among: Bool[np.ndarray, "x y z"]
) -> float | None:
    return float(chosen.sum() / among.sum()) if among.any() else None


def _sample(predicted: DistanceGrid, at: DistanceGrid) -> Float32[np.ndarray, "x y z"]:
    """Return distances in metres at the voxels of another grid, or not a number.

    Grids are parallel, so trilinear interpolation is linear along one axis at a time. A
    distance is known if every voxel was observed that it is interpolated from.
    """
    values = predicted.tsdf * np.float32(predicted.truncation_m)
    values = np.where(predicted.weight > 0, values, np.float32(np.nan))
    for axis, count in enumerate(at.tsdf.shape):
        start_m = at.origin_world[axis] - predicted.origin_world[axis]
        place_m = start_m + at.voxel_size_m * np.arange(count)
        # Rounded, so that a voxel on a voxel does not ask the next one.
        place = np.round(place_m / predicted.voxel_size_m, 6)
        values = _interpolate(values, place, axis)
    return values


def _interpolate(
    values: Float32[np.ndarray, "_ _ _"], place: Float64[np.ndarray, " n"], axis: int
) -> Float32[np.ndarray, "_ _ _"]:
    """Interpolate along one axis, where places count voxels; outside is unknown."""
    unknown = [(int(other == axis),) * 2 for other in range(3)]
    values = np.pad(values, unknown, constant_values=np.nan)
    below = np.floor(place)
    last = values.shape[axis] - 1
    low, high = (
        values.take((below + step).clip(0, last).astype(np.int64), axis)
        for step in (1, 2)
    )
    shape = [-1 if other == axis else 1 for other in range(3)]
    share = (place - below).astype(np.float32).reshape(shape)
    # Nothing times "not a number" is not nothing.
    return np.where(share == 0, low, (1 - share) * low + share * high)
