"""Where voxels are."""

from dataclasses import dataclass

import numpy as np

from gnesf_core.shapes import Float64


@dataclass(frozen=True)
class Grid:
    """A regular grid of voxels: `points_world = origin_world + voxel_size_m * ijk`."""

    origin_world: Float64[np.ndarray, " 3"]  # centre of voxel (0, 0, 0)
    voxel_size_m: float
    shape: tuple[int, int, int]
