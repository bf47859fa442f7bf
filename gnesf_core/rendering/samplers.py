"""Where along rays samples lie: evenly, by weight, or around what is known."""

import torch
from torch import Tensor

from gnesf_core.rendering.rays import Rays
from gnesf_core.shapes import Float, Float64


def spaced(
    range_m: tuple[float, float], count: int, spacing: str, device: torch.device
) -> Float64[Tensor, " count"]:
    """Return places from one end of a range to the other, both among them.

    They are evenly spaced in `depth` or in `inverse-depth`.
    """
    near, far = range_m
    if spacing == "depth":
        return torch.linspace(near, far, count, dtype=torch.float64, device=device)
    assert spacing == "inverse-depth"
    ends = 1 / near, 1 / far
    return 1 / torch.linspace(*ends, count, dtype=torch.float64, device=device)


def first_places(
    rays: Rays,
    range_m: tuple[float, float],
    count: int,
    spacing: str,
    by_chance: bool,
) -> Float64[Tensor, "rays samples"]:
    """Return NeRF's first set of places: spaced, and moved by chance if asked."""
    places = spaced(range_m, count, spacing, rays.origins_world.device)
    places = places.expand(len(rays.origins_world), -1)
    return jittered(places) if by_chance else places


def jittered(places: Float64[Tensor, "rays samples"]) -> Float64[Tensor, "rays s"]:
    """Move each place by chance, no further than half-way to its neighbours."""
    edges = edges_between(places)
    return in_intervals(edges, torch.rand_like(places))


def edges_between(
    places: Float64[Tensor, "rays samples"],
) -> Float64[Tensor, "rays edges"]:
    """Return what divides places: the outermost of them, and the middles between."""
    middles = (places[:, 1:] + places[:, :-1]) / 2
    return torch.cat([places[:, :1], middles, places[:, -1:]], 1)


def offsets(
    size: tuple[int, int], by_chance: bool, device: torch.device
) -> Float64[Tensor, "rays samples"]:
    """Return where in its interval each sample lies, 0..1: amid it, or anywhere."""
    if by_chance:
        return torch.rand(size, dtype=torch.float64, device=device)
    return torch.full(size, 0.5, dtype=torch.float64, device=device)


def in_intervals(
    edges: Float64[Tensor, "*rays edges"], within: Float64[Tensor, "rays intervals"]
) -> Float64[Tensor, "rays intervals"]:
    """Return one place in each interval."""
    return edges[..., :-1] + within * edges.diff(dim=-1)


def by_weight(
    weights: Float64[Tensor, "rays intervals"],
    edges: Float64[Tensor, "rays edges"],
    within: Float64[Tensor, "rays samples"],
) -> Float64[Tensor, "rays samples"]:
    """Spread samples over intervals by their weights, one in each equal share.

    `within` says where in its share. Weights that are all 0 count alike.
    """
    total = weights.sum(1, keepdim=True)
    even = 1 / weights.shape[1]
    shares = torch.where(total > 0, weights / total.clamp(min=1e-30), even)
    climbing = torch.cat([torch.zeros_like(total), shares.cumsum(1)], 1)
    climbing = climbing / climbing[:, -1:]
    steps = torch.arange(within.shape[1], device=within.device)
    wanted = ((steps + within) / within.shape[1]).clamp(max=1 - 1e-12)
    after = torch.searchsorted(climbing, wanted, right=True)
    after = after.clamp(1, climbing.shape[1] - 1)
    below, above = climbing.gather(1, after - 1), climbing.gather(1, after)
    part = ((wanted - below) / (above - below).clamp(min=1e-30)).clamp(0, 1)
    start, end = edges.gather(1, after - 1), edges.gather(1, after)
    return start + part * (end - start)


def around(
    depth_m: Float64[Tensor, " rays"], spread_m: float, count: int
) -> Float64[Tensor, "rays count"]:
    """Draw places from a normal distribution around each ray's known depth."""
    drawn = torch.randn(len(depth_m), count, dtype=torch.float64, device=depth_m.device)
    return depth_m[:, None] + spread_m * drawn


def importance(
    places: Float64[Tensor, "rays samples"],
    weights: Float[Tensor, "rays samples"],
    count: int,
    spacing: str,
    by_chance: bool,
) -> Float64[Tensor, "rays all"]:
    """Return NeRF's second set of places: more where the first ones have weight.

    They are sorted and hold the first ones too. The outermost samples' weights do not
    count: the intervals that are drawn from end amid the first and the last two.
    """
    scale = places if spacing == "depth" else 1 / places
    middles = (scale[:, 1:] + scale[:, :-1]) / 2
    within = offsets((len(places), count), by_chance, places.device)
    inner = weights[:, 1:-1].detach().double() + 1e-5  # nowhere is never looked at
    added = by_weight(inner, middles, within)
    added = added if spacing == "depth" else 1 / added
    return torch.cat([places, added], 1).sort(1).values
