"""What geometries that no network made have in common."""

import numpy as np

from gnesf_core.data.store import DistanceGrid, SceneVolume


def without_encoding(surface: DistanceGrid) -> SceneVolume:
    """Return the volume of fused depth: surfaces are near where depth was seen."""
    near = (surface.weight > 0) & (np.abs(surface.tsdf) < 1)
    return SceneVolume(
        surface,
        near.astype(np.float32),
        np.zeros((0, 3), np.int64),
        np.zeros((0, 0), np.float32),
    )
