"""The encoding volume M of a scene, interpolated at any point."""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from gnesf_core.data.store import SceneVolume
from gnesf_core.shapes import Float32, Float64, Int32

_CORNERS = tuple(itertools.product((0, 1), repeat=3))


class Encoding(NamedTuple):
    """Features of the voxels near surfaces; others have none."""

    rows: Int32[Tensor, "x y z"]  # of `features`; -1 = none
    features: Float32[Tensor, "m channels"]
    origin_world: Float64[Tensor, " 3"]  # centre of voxel (0, 0, 0)
    voxel_size_m: float


def encoding_of(volume: SceneVolume) -> Encoding:
    """Return a stored encoding, on the CPU."""
    surface = volume.surface
    rows = torch.full(surface.tsdf.shape, -1, dtype=torch.int32)
    ijk = torch.from_numpy(volume.encoding_ijk)
    rows[tuple(ijk.T)] = torch.arange(len(ijk), dtype=torch.int32)
    return Encoding(
        rows,
        torch.from_numpy(volume.encoding),
        torch.from_numpy(surface.origin_world),
        surface.voxel_size_m,
    )


def no_encoding() -> Encoding:
    """Return an encoding that no voxel has, of no channels."""
    rows = torch.full((1, 1, 1), -1, dtype=torch.int32)
    return Encoding(rows, torch.zeros(0, 0), torch.zeros(3, dtype=torch.float64), 1.0)


def sample_encoding(
    encoding: Encoding, points_world: Float64[Tensor, "n 3"]
) -> Float32[Tensor, "n channels"]:
    """Interpolate between the voxels that have an encoding; zeros where none has."""
    blank = encoding.features.new_zeros(1, encoding.features.shape[1])
    features = torch.cat([blank, encoding.features])
    index = (points_world - encoding.origin_world) / encoding.voxel_size_m
    first = index.floor()
    fraction = (index - first).float()
    limit = torch.tensor(encoding.rows.shape, device=index.device) - 1
    total = features.new_zeros(len(index), features.shape[1])
    weight = features.new_zeros(len(index), 1)
    for corner in _CORNERS:
        step = torch.tensor(corner, device=index.device)
        ijk = first.long() + step
        nearest = ijk.minimum(limit).clamp(min=0)
        row = encoding.rows[tuple(nearest.T)].long()
        known = (row >= 0) & (ijk == nearest).all(1)
        share = torch.where(step == 1, fraction, 1 - fraction).prod(1) * known
        total += share[:, None] * features[torch.where(known, row + 1, 0)]
        weight += share[:, None]
    return total / torch.where(weight > 0, weight, 1.0)
