"""Signed distances of a scene at any point, on whichever device.

Between voxels distances are interpolated. A point is known if all eight voxels around
it were observed: unobserved voxels hold no distance, and what would be made of them is
neither a wall nor a hole.
"""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from gnesf_core.data.store import DistanceGrid
from gnesf_core.shapes import Bool, Float, Float32, Float64, Int64

_CORNERS = tuple(itertools.product((0, 1), repeat=3))


class DistanceField(NamedTuple):
    """Truncated signed distances, ready to be asked."""

    tsdf: Float32[Tensor, "x y z"]  # in [-1, 1], positive in free space
    observed: Bool[Tensor, "x y z"]
    origin_world: Float64[Tensor, " 3"]  # centre of voxel (0, 0, 0)
    voxel_size_m: float
    truncation_m: float


def distance_field(surface: DistanceGrid) -> DistanceField:
    """Return a stored grid as a field, on the CPU."""
    return DistanceField(
        torch.from_numpy(surface.tsdf),
        torch.from_numpy(surface.weight > 0),
        torch.from_numpy(surface.origin_world),
        surface.voxel_size_m,
        surface.truncation_m,
    )


def voxel_coordinates(
    field: DistanceField, points_world: Float[Tensor, "*n 3"]
) -> Float[Tensor, "*n 3"]:
    """Return where points are on the grid, in voxels, in their own precision."""
    origin_world = field.origin_world.to(points_world)
    return (points_world - origin_world) / field.voxel_size_m


def sample_distance(
    field: DistanceField, points_world: Float[Tensor, "*n 3"]
) -> tuple[Float32[Tensor, "*n"], Bool[Tensor, "*n"]]:
    """Return the truncated distance at points, and where it is known; 1 elsewhere."""
    index = voxel_coordinates(field, points_world)
    first = index.floor()
    fraction = (index - first).float()
    tsdf = torch.zeros(index.shape[:-1], device=index.device)
    known = torch.ones_like(tsdf, dtype=torch.bool)
    shares = 1 - fraction, fraction
    corner = first.long()
    for a, b, c in _CORNERS:
        step = corner[..., 0] + a, corner[..., 1] + b, corner[..., 2] + c
        value, observed = _look_up(field, step)
        share = shares[a][..., 0] * shares[b][..., 1] * shares[c][..., 2]
        tsdf += share * value
        known &= observed
    return torch.where(known, tsdf, 1.0), known


def nearby_voxels(
    field: DistanceField, points_world: Float64[Tensor, "n 3"]
) -> tuple[Int64[Tensor, "n 8"], Float32[Tensor, "n 8"]]:
    """Return flat indices of the voxels around points, and trilinear weights.

    Voxels that are outside, or were not observed, have index 0 and weight 0.
    """
    index = voxel_coordinates(field, points_world)
    first = index.floor()
    steps = torch.tensor(_CORNERS, device=index.device)
    fraction = (index - first).float()[:, None]
    weights = torch.where(steps == 1, fraction, 1 - fraction).prod(-1)
    ijk = first.long()[:, None] + steps
    _, observed = _look_up(field, ijk.unbind(-1))
    x, y, z = field.tsdf.shape
    i, j, k = ijk.unbind(-1)
    flat = torch.where(observed, (i * y + j) * z + k, 0)
    return flat, weights * observed


def voxel_centres(
    field: DistanceField, flat: Int64[Tensor, " n"]
) -> Float64[Tensor, "n 3"]:
    """Return where voxels of flat indices are."""
    ijk = torch.stack(torch.unravel_index(flat, field.tsdf.shape), 1)
    return field.origin_world + field.voxel_size_m * ijk


def _look_up(
    field: DistanceField, ijk: tuple[Tensor, ...]
) -> tuple[Float32[Tensor, "*n"], Bool[Tensor, "*n"]]:
    """Return the distances of voxels, and which were observed: none outside.

    Bounds are numbers, not tensors: a GPU would be waited for.
    """
    nearest = [
        own.clamp(0, count - 1)
        for own, count in zip(ijk, field.tsdf.shape, strict=True)
    ]
    inside = torch.ones_like(ijk[0], dtype=torch.bool)
    for own, clamped in zip(ijk, nearest, strict=True):
        inside &= own == clamped
    i, j, k = nearest
    return field.tsdf[i, j, k], field.observed[i, j, k] & inside
