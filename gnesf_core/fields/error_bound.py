"""VolSDF's search for where rays need samples, as the released code runs it.

Signed distances d make a density, sigma = Psi(-d) / beta with Psi the distribution
function of Laplace's law of width beta. Its opacity along a ray, taken from finitely
many places, is wrong by no more than a bound that distances at these places alone
determine. Wherever the bound is too high for the beta that is meant, places are added
in proportion to it; it is held against a beta that is wide enough for it to be small.

The released code has its distances in truncations and its places in metres, where
distances are no longer true ones and the bound is a rule of thumb. In place of VolSDF's
d*, the distance that is left within an interval, it has what one gets without a square
root; of true distances that is never more.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gnesf_core.rendering.samplers import by_weight, offsets
from gnesf_core.shapes import Float, Float64

# Of the released configuration.
BETA, EPSILON = 0.1, 0.1
_ROUNDS, _BISECTIONS = 6, 10
_MOST_BOUND = 1e5  # beyond, bounds count alike

Distances = Callable[[Tensor, Tensor], Tensor]  # of places along rays, by their rows
Draw = Callable[[Tensor, Tensor], Tensor]  # final places, from places and distances


def opacity_error_bounds(
    places: Float64[Tensor, "rays samples"],
    distances: Float[Tensor, "rays samples"],
    beta: float | Float64[Tensor, "rays 1"],
) -> Float64[Tensor, "rays intervals"]:
    """Return how wrong the opacity may be at the end of each interval at most."""
    distances = distances.double()
    width = places.diff(dim=1)
    apart = distances.abs()
    left = 0.5 * (apart[:, :-1] + apart[:, 1:] - width)
    tail = 0.5 * (-apart / beta).exp()
    density = torch.where(distances >= 0, tail, 1 - tail) / beta
    passed = (density[:, :-1] * width).cumsum(1)
    # Up to where the interval begins: what comes before it is all that hides it.
    before = torch.cat([torch.zeros_like(passed[:, :1]), passed[:, :-1]], 1)
    error = width.square() * (-left.clamp(min=0) / beta).exp() / (4 * beta**2)
    bounds = (-before).exp() * torch.expm1(error.cumsum(1))
    return bounds.nan_to_num(nan=torch.inf, posinf=torch.inf)  # 0 * inf says nothing


def search(
    distances_at: Distances,
    first: Float64[Tensor, "rays samples"],
    draw: Draw,
    beta: float = BETA,
) -> Float64[Tensor, "rays drawn"]:
    """Return the places that `draw` draws once it knows enough of each ray.

    A ray is known well enough when its bound is at most EPSILON, or after six rounds,
    each of which adds as many places as there were at `first`. How many rays go on is
    looked at in each round, for which a GPU is waited for.
    """
    device, count = first.device, first.shape[1]
    rows = torch.arange(len(first), device=device)
    places, distances = first, distances_at(rows, first)
    drawn = draw(places, distances).clone()
    length = (first[:, -1:] - first[:, :1]).square()
    # For so wide a beta the bound holds to begin with, whatever is met (VolSDF).
    wide = (length / (4 * (count - 1) * math.log1p(EPSILON))).sqrt()
    unknown = opacity_error_bounds(places, distances, beta).amax(1) > EPSILON
    for _ in range(_ROUNDS):
        still = unknown.nonzero()[:, 0]
        if not len(still):
            break
        rows, wide = rows[still], wide[still]
        places, distances = places[still], distances[still]
        bounds = opacity_error_bounds(places, distances, wide).clamp(max=_MOST_BOUND)
        within = offsets((len(rows), count), False, device)
        added = by_weight(bounds + 1e-5, places, within)
        places, order = torch.cat([places, added], 1).sort(1)
        distances = torch.cat([distances, distances_at(rows, added)], 1)
        distances = distances.gather(1, order)
        drawn[rows] = draw(places, distances)
        unknown = opacity_error_bounds(places, distances, beta).amax(1) > EPSILON
        wide = _narrowed(places, distances, beta, wide)
    return drawn


def _narrowed(
    places: Float64[Tensor, "rays samples"],
    distances: Float[Tensor, "rays samples"],
    beta: float,
    wide: Float64[Tensor, "rays 1"],
) -> Float64[Tensor, "rays 1"]:
    """Return about the least beta, no less than `beta`, for which the bound holds."""
    low = torch.full_like(wide, beta)
    for _ in range(_BISECTIONS):
        middle = (low + wide) / 2
        worst = opacity_error_bounds(places, distances, middle).amax(1, keepdim=True)
        holds = worst <= EPSILON
        wide, low = torch.where(holds, middle, wide), torch.where(holds, low, middle)
    return wide
