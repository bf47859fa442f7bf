"""The encoding volume M of a scene, interpolated at any point."""

import itertools
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from gnesf_core.data.store import SceneVolume
from gnesf_core.errors import BadInput
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


def check_channels(encoding: Encoding, channels: int, where: Path | str) -> None:
    """Refuse an encoding that a field's network was not made for."""
    if encoding.features.shape[1] != channels:
        raise BadInput(
            where,
            "features: encoding",
            expected=f"the {channels} channels of the geometry that `features` names",
            found=encoding.features.shape[1],
            remedy="let fuse_features make the volume by that geometry",
        )


def no_encoding() -> Encoding:
    """Return an encoding that no voxel has, of no channels."""
    rows = torch.full((1, 1, 1), -1, dtype=torch.int32)
    return Encoding(rows, torch.zeros(0, 0), torch.zeros(3, dtype=torch.float64), 1.0)


def sample_encoding(
    encoding: Encoding, points_world: Float64[Tensor, "n 3"]
) -> Float32[Tensor, "n channels"]:
    """Interpolate between the voxels that have an encoding; zeros where none has."""
    index = (points_world - encoding.origin_world) / encoding.voxel_size_m
    first = index.floor()
    steps = torch.tensor(_CORNERS, device=index.device)
    fraction = (index - first).float()[:, None]
    shares = torch.where(steps == 1, fraction, 1 - fraction).prod(-1)
    ijk = first.long()[:, None] + steps
    limit = torch.tensor(encoding.rows.shape, device=index.device) - 1
    nearest = ijk.minimum(limit).clamp(min=0)
    row = encoding.rows[tuple(nearest.unbind(-1))].long()
    shares = shares * ((row >= 0) & (ijk == nearest).all(-1))
    total = shares.sum(1, keepdim=True)
    shares = shares / torch.where(total > 0, total, 1.0)
    if not len(encoding.features):
        return encoding.features.new_zeros(len(index), encoding.features.shape[1])
    return embedding_bag(
        row.clamp(min=0), encoding.features, per_sample_weights=shares, mode="sum"
    )
