"""Rays through signed distances: where to sample them, and what each sample counts.

Samples are weighted by Eq. 8 and 9: most at a surface, less in front of and behind it,
nothing beyond the first truncation region. Distances that are saturated, or unknown,
are as good as infinite: there Eq. 8 says 0. A ray hits a surface where known distances
first go from positive to negative from one sample to the next.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gnesf_core.geometry.distance_field import DistanceField, sample_distance
from gnesf_core.shapes import Bool, Float, Float64, Shaped

_SATURATED = 0.999


class RaySamples(NamedTuple):
    """Samples along rays, from near to far."""

    distance_m: Float64[Tensor, "rays samples"]  # from the ray's origin
    weights: Float[Tensor, "rays samples"]  # sum to 1 along a ray, or to 0
    hit: Bool[Tensor, " rays"]  # rays that meet a surface, and have weights


class Rays(NamedTuple):
    """Where rays start, and the unit vectors that they go along."""

    origins_world: Float64[Tensor, "rays 3"]
    directions_world: Float64[Tensor, "rays 3"]

    def at(
        self, distance_m: Float64[Tensor, "rays samples"]
    ) -> Float64[Tensor, "rays samples 3"]:
        """Return points of the rays."""
        along = distance_m[..., None] * self.directions_world[:, None]
        return self.origins_world[:, None] + along


def rays_through(
    intrinsics: Float64[np.ndarray, "3 3"],
    world_from_camera: Float64[np.ndarray, "4 4"],
    uv: Shaped[np.ndarray, "n 2"],
) -> Rays:
    """Return the rays of a camera through places on its image, in pixels."""
    pixels = np.concatenate([uv, np.ones((len(uv), 1))], 1)
    directions = pixels @ np.linalg.inv(intrinsics).T
    directions_world = directions @ world_from_camera[:3, :3].T
    directions_world /= np.linalg.norm(directions_world, axis=1, keepdims=True)
    origins_world = np.broadcast_to(world_from_camera[:3, 3], directions_world.shape)
    return Rays(torch.tensor(origins_world), torch.from_numpy(directions_world))


def sdf_weights(
    sdf_m: Float[Tensor, "rays samples"],
    distance_m: Float[Tensor, "rays samples"],
    truncation_m: float,
) -> tuple[Float[Tensor, "rays samples"], Bool[Tensor, " rays"]]:
    """Return the weights of samples, Eq. 8 and 9, and which rays hit a surface.

    Infinite distances are far from any surface, and NaN is unknown: neither counts.
    """
    weights = _nearness(sdf_m, truncation_m)
    crossing = (sdf_m[:, :-1] > 0) & (sdf_m[:, 1:] <= 0)
    hit = crossing.any(1)
    # The first of equals: argmax of whole numbers says so, of booleans it need not.
    first = crossing.int().argmax(1, keepdim=True)
    surface_m = distance_m.gather(1, first)
    counted = (distance_m < surface_m + truncation_m) & hit[:, None]
    weights = torch.where(counted, weights, 0.0)
    total = weights.sum(1, keepdim=True)
    return weights / torch.where(total > 0, total, 1.0), hit & (total[:, 0] > 0)


def _nearness(
    sdf_m: Float[Tensor, "rays samples"], truncation_m: float
) -> Float[Tensor, "rays samples"]:
    """Return Eq. 8; 0 where nothing is known."""
    near = torch.sigmoid(sdf_m / truncation_m) * torch.sigmoid(-sdf_m / truncation_m)
    return near.nan_to_num()


def sdf_along(
    field: DistanceField, rays: Rays, distance_m: Float64[Tensor, "rays samples"]
) -> Float[Tensor, "rays samples"]:
    """Return signed distances in metres; infinite if saturated, NaN if unknown."""
    tsdf, known = sample_distance(field, rays.at(distance_m))
    far = torch.where(tsdf.abs() < _SATURATED, 1.0, torch.inf)
    sdf_m = tsdf * far * field.truncation_m
    return torch.where(known, sdf_m, torch.nan)


def sample_rays(
    field: DistanceField,
    rays: Rays,
    range_m: tuple[float, float],
    counts: tuple[int, int],
    truncation_m: float,
    jittered: bool,
) -> RaySamples:
    """Sample evenly first, then more where the first samples count.

    `counts` are the numbers of the coarse and of the fine samples. With `jittered`,
    samples lie anywhere in their intervals rather than amid them. Nothing here waits
    for a GPU.
    """
    near_m, far_m = range_m
    coarse, fine = counts
    size = len(rays.origins_world), coarse
    device = rays.origins_world.device
    within = _offsets(size, jittered, device)
    steps = torch.arange(coarse, device=device, dtype=torch.float64)
    width_m = (far_m - near_m) / coarse
    distance_m = near_m + (steps + within) * width_m
    sdf_m = sdf_along(field, rays, distance_m)
    weights, hit = sdf_weights(sdf_m, distance_m, truncation_m)
    # A surface may hide between two samples: whatever is near one is looked at again.
    near = _nearness(sdf_m, truncation_m)
    weights = torch.where(hit[:, None], weights, near)
    edges_m = near_m + width_m * torch.arange(coarse + 1, device=device).double()
    offsets = _offsets((size[0], fine), jittered, device)
    added_m = _where_weighty(weights.double(), edges_m, offsets)
    distance_m, order = torch.cat([distance_m, added_m], 1).sort(1)
    added = sdf_along(field, rays, added_m)
    sdf_m = torch.cat([sdf_m, added], 1).gather(1, order)
    weights, hit = sdf_weights(sdf_m, distance_m, truncation_m)
    return RaySamples(distance_m, weights, hit)


def _offsets(
    size: tuple[int, int], jittered: bool, device: torch.device
) -> Float64[Tensor, "rays samples"]:
    if jittered:
        return torch.rand(size, dtype=torch.float64, device=device)
    return torch.full(size, 0.5, dtype=torch.float64, device=device)


def _where_weighty(
    weights: Float64[Tensor, "rays intervals"],
    edges_m: Float64[Tensor, " edges"],
    offsets: Float64[Tensor, "rays fine"],
) -> Float64[Tensor, "rays fine"]:
    """Spread samples over intervals by their weights, one in each equal share.

    Half the weight of an interval is its neighbours' as well: a surface may lie beside
    the sample that found it. Where no sample counts, they are spread evenly.
    """
    beside = torch.zeros_like(weights)
    beside[:, 1:] += weights[:, :-1]
    beside[:, :-1] += weights[:, 1:]
    shares = weights + 0.5 * beside
    total = shares.sum(1, keepdim=True)
    shares = torch.where(
        total > 0, shares / total.clamp(min=1e-30), 1 / shares.shape[1]
    )
    climbing = torch.cat([torch.zeros_like(total), shares.cumsum(1)], 1)
    climbing = climbing / climbing[:, -1:]
    fine = offsets.shape[1]
    steps = torch.arange(fine, device=offsets.device)
    wanted = ((steps + offsets) / fine).clamp(max=1 - 1e-12)
    after = torch.searchsorted(climbing, wanted, right=True)
    after = after.clamp(1, climbing.shape[1] - 1)
    below, above = climbing.gather(1, after - 1), climbing.gather(1, after)
    part = (wanted - below) / (above - below).clamp(min=1e-30)
    return edges_m[after - 1] + part.clamp(0, 1) * (edges_m[after] - edges_m[after - 1])


def composite(
    weights: Float[Tensor, "rays samples"], values: Float[Tensor, "rays samples k"]
) -> Float[Tensor, "rays k"]:
    """Add up what samples say along each ray, Eq. 5."""
    return (weights[..., None].to(values) * values).sum(1)
