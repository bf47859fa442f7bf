"""Where rays through signed distances are sampled, and what each sample counts.

Distances that are saturated are as good as infinite, and unknown ones are NaN: neither
counts.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from gnesf_core.fields.error_bound import search
from gnesf_core.geometry.distance_field import DistanceField, sample_distance
from gnesf_core.rendering.compositing import nearness, sdf_weights
from gnesf_core.rendering.rays import Rays
from gnesf_core.rendering.samplers import by_weight, in_intervals, offsets
from gnesf_core.shapes import Bool, Float, Float64, Int64

_SATURATED = 0.999
_SEARCHED = 4  # places that a search begins with, for each coarse sample


class Sampling(NamedTuple):
    """How rays are sampled, and which samples count."""

    near_m: float  # along the ray, from here
    far_m: float  # to here
    coarse: int
    fine: int
    truncation_m: float  # tr of Eq. 8
    reach_m: float  # that samples count behind the first surface
    sampler: str = "by-weight"  # or error-bound


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
    field: DistanceField, rays: Rays, sampling: Sampling, jittered: bool
) -> RaySamples:
    """Sample coarsely first, then more where that is needed.

    With `jittered`, samples lie anywhere in their intervals rather than amid them.
    """
    sample = {"by-weight": _by_weight, "error-bound": _by_error_bound}[sampling.sampler]
    distance_m, sdf_m = sample(field, rays, sampling, jittered)
    truncation_m, reach_m = sampling.truncation_m, sampling.reach_m
    weights, hit = sdf_weights(sdf_m, distance_m, truncation_m, reach_m)
    return RaySamples(distance_m, weights, hit)


Places = tuple[Float64[Tensor, "rays samples"], Float[Tensor, "rays samples"]]


def _by_weight(
    field: DistanceField, rays: Rays, sampling: Sampling, jittered: bool
) -> Places:
    """Sample evenly first, then more where the first samples count.

    Nothing here waits for a GPU.
    """
    near_m, far_m, coarse, fine, truncation_m, *_ = sampling
    size = len(rays.origins_world), coarse
    device = rays.origins_world.device
    ends_m = near_m, far_m
    edges_m = torch.linspace(*ends_m, coarse + 1, dtype=torch.float64, device=device)
    distance_m = in_intervals(edges_m, offsets(size, jittered, device))
    sdf_m = sdf_along(field, rays, distance_m)
    weights, hit = sdf_weights(sdf_m, distance_m, truncation_m, sampling.reach_m)
    # A surface may hide between two samples: whatever is near one is looked at again.
    near = nearness(sdf_m, truncation_m)
    weights = torch.where(hit[:, None], weights, near)
    added_m = by_weight(
        _with_neighbours(weights.double()),
        edges_m.expand(size[0], -1),
        offsets((size[0], fine), jittered, device),
    )
    return _together(field, rays, distance_m, sdf_m, added_m)


def _by_error_bound(
    field: DistanceField, rays: Rays, sampling: Sampling, jittered: bool
) -> Places:
    """Sample evenly, and where four times as many and VolSDF's search found a surface.

    As in the released code the search has distances in truncations, which saturate and
    are 1 where nothing is known, and draws by the weights of Eq. 8-9.
    """
    near_m, far_m, coarse, fine, truncation_m, reach_m, _ = sampling
    count, device = len(rays.origins_world), rays.origins_world.device

    def evenly(samples: int) -> Float64[Tensor, "rays samples"]:
        ends_m = near_m, far_m
        places = torch.linspace(*ends_m, samples, dtype=torch.float64, device=device)
        return places.expand(count, -1)

    def tsdf_at(
        rows: Int64[Tensor, " some"], distance_m: Float64[Tensor, "some samples"]
    ) -> Float[Tensor, "some samples"]:
        some = Rays(*(values[rows] for values in rays))
        return sample_distance(field, some.at(distance_m))[0]

    def draw(
        distance_m: Float64[Tensor, "some samples"], tsdf: Float[Tensor, "some samples"]
    ) -> Float64[Tensor, "some fine"]:
        sdf_m = tsdf * field.truncation_m
        weights, _ = sdf_weights(sdf_m, distance_m, truncation_m, reach_m)
        within = offsets((len(distance_m), fine), jittered, device)
        return by_weight(weights[:, :-1].double() + 1e-5, distance_m, within)

    added_m = search(tsdf_at, evenly(_SEARCHED * coarse), draw)
    distance_m = evenly(coarse)
    return _together(
        field, rays, distance_m, sdf_along(field, rays, distance_m), added_m
    )


def _together(
    field: DistanceField,
    rays: Rays,
    distance_m: Float64[Tensor, "rays coarse"],
    sdf_m: Float[Tensor, "rays coarse"],
    added_m: Float64[Tensor, "rays fine"],
) -> Places:
    """Return first and added samples from near to far, and the distances there."""
    distance_m, order = torch.cat([distance_m, added_m], 1).sort(1)
    added = sdf_along(field, rays, added_m)
    return distance_m, torch.cat([sdf_m, added], 1).gather(1, order)


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
