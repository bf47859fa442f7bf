"""Where rays through signed distances are sampled, and what each sample counts.

Distances that are saturated are as good as infinite, and unknown ones are NaN: neither
counts.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from gnesf_core.geometry.distance_field import DistanceField, sample_distance
from gnesf_core.rendering.compositing import nearness, sdf_weights
from gnesf_core.rendering.rays import Rays
from gnesf_core.rendering.samplers import by_weight, in_intervals, offsets
from gnesf_core.shapes import Bool, Float, Float64

_SATURATED = 0.999


class RaySamples(NamedTuple):
    """Samples along rays, from near to far."""

    distance_m: Float64[Tensor, "rays samples"]  # from the ray's origin
    weights: Float[Tensor, "rays samples"]  # sum to 1 along a ray, or to 0
    hit: Bool[Tensor, " rays"]  # rays that meet a surface, and have weights


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
    ends_m = near_m, far_m
    edges_m = torch.linspace(*ends_m, coarse + 1, dtype=torch.float64, device=device)
    distance_m = in_intervals(edges_m, offsets(size, jittered, device))
    sdf_m = sdf_along(field, rays, distance_m)
    weights, hit = sdf_weights(sdf_m, distance_m, truncation_m)
    # A surface may hide between two samples: whatever is near one is looked at again.
    near = nearness(sdf_m, truncation_m)
    weights = torch.where(hit[:, None], weights, near)
    added_m = by_weight(
        _with_neighbours(weights.double()),
        edges_m.expand(size[0], -1),
        offsets((size[0], fine), jittered, device),
    )
    distance_m, order = torch.cat([distance_m, added_m], 1).sort(1)
    added = sdf_along(field, rays, added_m)
    sdf_m = torch.cat([sdf_m, added], 1).gather(1, order)
    weights, hit = sdf_weights(sdf_m, distance_m, truncation_m)
    return RaySamples(distance_m, weights, hit)


def _with_neighbours(
    weights: Float64[Tensor, "rays intervals"],
) -> Float64[Tensor, "rays intervals"]:
    """Let half the weight of an interval be its neighbours' as well.

    A surface may lie beside the sample that found it.
    """
    beside = torch.zeros_like(weights)
    beside[:, 1:] += weights[:, :-1]
    beside[:, :-1] += weights[:, 1:]
    return weights + 0.5 * beside
