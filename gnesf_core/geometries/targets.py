"""What geometry is learned from: fused depth, looked up at the points of a fragment.

Fused depth lies on the grid of its scan. Training turns and moves the world, so boxes
of that grid are cut out, and sampled wherever the network's own voxels happen to be.
"""

import itertools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gnesf_core.data.store import Targets
from gnesf_core.geometry import camera
from gnesf_core.shapes import Bool, Float, Float32, Float64, Int64, UInt8

_CORNERS = tuple(itertools.product((0, 1), repeat=3))


class TargetBox(NamedTuple):
    """A part of one level of a scene's fused depth, and where a point is in it."""

    tsdf: Float32[Tensor, "x y z"]  # in [-1, 1], of the level's truncation
    weight: UInt8[Tensor, "x y z"]  # frames that observed the voxel; 255 = or more
    index_from_world: Float64[Tensor, "4 4"]


def read_box(
    targets: Targets,
    level: int,
    lower_world: Float64[np.ndarray, " 3"],
    upper_world: Float64[np.ndarray, " 3"],
    world_from_scan: Float64[np.ndarray, "4 4"],
) -> TargetBox:
    """Read what surrounds a box of a world into which the scan was moved."""
    bounds = zip(lower_world, upper_world, strict=True)
    corners_world = np.array(list(itertools.product(*bounds)))
    scan_from_world = camera.invert_rigid(world_from_scan)
    corners_scan = camera.transform(scan_from_world, corners_world)
    grid = targets.box(level, corners_scan.min(0), corners_scan.max(0))
    index_from_scan = np.diag([*[1 / grid.voxel_size_m] * 3, 1.0])
    index_from_scan[:3, 3] = -grid.origin_world / grid.voxel_size_m
    return TargetBox(
        torch.from_numpy(grid.tsdf),
        torch.from_numpy(np.minimum(grid.weight, 255).astype(np.uint8)),
        torch.from_numpy(index_from_scan @ scan_from_world),
    )


def sample_box(
    box: TargetBox, points_world: Float[Tensor, "n 3"], min_weight: int
) -> tuple[Float32[Tensor, " n"], Bool[Tensor, " n"]]:
    """Return the distances at points, over the truncation, and where they are known.

    They are interpolated between the eight voxels around a point, or the nearest
    voxel's where one of the eight was never observed: it holds no distance. A point is
    known if its nearest voxel was observed `min_weight` times; elsewhere it gets 1.
    """
    if not box.weight.numel():
        tsdf = points_world.new_ones(len(points_world), dtype=torch.float32)
        return tsdf, torch.zeros_like(tsdf, dtype=torch.bool)
    index = camera.transform(box.index_from_world, points_world)
    own_tsdf, own_weight = _look_up(box, (index + 0.5).floor().long())
    first = index.floor()
    steps = torch.tensor(_CORNERS, device=index.device)
    tsdf, weight = _look_up(box, first.long()[:, None] + steps)
    fraction = (index - first).float()[:, None]
    shares = torch.where(steps == 1, fraction, 1 - fraction).prod(-1)
    blend = (tsdf * shares).sum(-1)
    tsdf = torch.where((weight > 0).all(-1), blend, own_tsdf)
    known = own_weight >= max(min_weight, 1)
    return torch.where(known, tsdf, 1.0), known


def _look_up(
    box: TargetBox, ijk: Int64[Tensor, "*n 3"]
) -> tuple[Float32[Tensor, "*n"], UInt8[Tensor, "*n"]]:
    """Return distances and weights of voxels; weight 0 outside of the box."""
    limit = torch.tensor(box.weight.shape, device=ijk.device) - 1
    nearest = ijk.minimum(limit).clamp(min=0)
    i, j, k = nearest.unbind(-1)
    inside = (ijk == nearest).all(-1)
    return box.tsdf[i, j, k], box.weight[i, j, k] * inside


def seen_by_views(
    points_world: Float[Tensor, "n 3"],
    depth_m: Float32[Tensor, "views h w"],
    depth_from_world: Float64[Tensor, "views 3 4"],
    truncation_m: float,
) -> Bool[Tensor, " n"]:
    """Tell which points a view has before, or hardly behind, the depth it measured."""
    height, width = depth_m.shape[1:]
    matrices = depth_from_world.to(points_world.dtype)
    seen = torch.zeros(len(points_world), dtype=torch.bool, device=points_world.device)
    for image, matrix in zip(depth_m, matrices, strict=True):
        uz, vz, z = (points_world @ matrix[:, :3].T + matrix[:, 3]).unbind(-1)
        divisor = torch.where(z > 0, z, 1.0)
        uv = torch.stack([uz / divisor, vz / divisor], -1)
        inside = (z > 0) & camera.in_image(uv, width, height)
        u, v = torch.where(inside[:, None], uv + 0.5, 0.0).long().unbind(-1)
        measured = image[v, u]
        seen |= inside & (measured > 0) & (z <= measured + truncation_m)
    return seen
