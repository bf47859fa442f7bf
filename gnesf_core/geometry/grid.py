"""Where voxels are."""

from dataclasses import dataclass

import numpy as np

from gnesf_core.shapes import AnyTensor, Bool, Float64


@dataclass(frozen=True)
class Grid:
    """A regular grid of voxels: `points_world = origin_world + voxel_size_m * ijk`."""

    origin_world: Float64[np.ndarray, " 3"]  # centre of voxel (0, 0, 0)
    voxel_size_m: float
    shape: tuple[int, int, int]


def corners_all(
    condition: Bool[np.ndarray, "x y z"] | Bool[AnyTensor, "x y z"],
) -> Bool[np.ndarray, "i j k"] | Bool[AnyTensor, "i j k"]:
    """Tell for which cells `condition` holds at all 8 voxels around them."""
    condition = condition[1:] & condition[:-1]
    condition = condition[:, 1:] & condition[:, :-1]
    return condition[:, :, 1:] & condition[:, :, :-1]
