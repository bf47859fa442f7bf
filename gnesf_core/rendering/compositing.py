"""What each sample of a ray counts, and what that adds up to."""

import torch
from torch import Tensor

from gnesf_core.shapes import Bool, Float


def density_weights(
    density: Float[Tensor, "rays samples"],
    depth_m: Float[Tensor, "rays samples"] | None = None,
) -> Float[Tensor, "rays samples"]:
    """Return the share of light that comes from each sample, Eq. 7.

    Densities are those of whole intervals, as in the paper and in IBRNet; with depths
    they are per metre, and samples fill the space up to the next one, the last one all
    that is behind it. Negative densities are none.
    """
    thickness = density.clamp(min=0)
    if depth_m is not None:
        thickness = thickness * _intervals(depth_m)
    reached = torch.cat(
        [torch.zeros_like(thickness[:, :1]), thickness.cumsum(1)[:, :-1]], 1
    )
    return (-reached).exp() * -torch.expm1(-thickness)


def _intervals(depth_m: Float[Tensor, "rays samples"]) -> Float[Tensor, "rays s"]:
    endless = torch.full_like(depth_m[:, :1], 1e10)
    return torch.cat([depth_m.diff(dim=1), endless], 1)


def sdf_weights(
    sdf_m: Float[Tensor, "rays samples"],
    distance_m: Float[Tensor, "rays samples"],
    truncation_m: float,
    reach_m: float,
) -> tuple[Float[Tensor, "rays samples"], Bool[Tensor, " rays"]]:
    """Return the weights of samples, Eq. 8 and 9, and which rays hit a surface.

    Most counts what is at a surface, less what is in front of and behind it, nothing
    what is `reach_m` or more behind the first surface (a truncation, in the paper).
    Infinite distances are far from any surface, and NaN is unknown: neither counts. A
    ray hits a surface where distances first go from positive to negative from one
    sample to the next.
    """
    weights = nearness(sdf_m, truncation_m)
    crossing = (sdf_m[:, :-1] > 0) & (sdf_m[:, 1:] <= 0)
    hit = crossing.any(1)
    # The first of equals: argmax of whole numbers says so, of booleans it need not.
    first = crossing.int().argmax(1, keepdim=True)
    surface_m = distance_m.gather(1, first)
    counted = (distance_m < surface_m + reach_m) & hit[:, None]
    weights = torch.where(counted, weights, 0.0)
    total = weights.sum(1, keepdim=True)
    return weights / torch.where(total > 0, total, 1.0), hit & (total[:, 0] > 0)


def nearness(
    sdf_m: Float[Tensor, "rays samples"], truncation_m: float
) -> Float[Tensor, "rays samples"]:
    """Return Eq. 8; 0 where nothing is known."""
    near = torch.sigmoid(sdf_m / truncation_m) * torch.sigmoid(-sdf_m / truncation_m)
    return near.nan_to_num()


def attention_weights(
    attention: Float[Tensor, "rays heads samples samples"],
) -> Float[Tensor, "rays samples"]:
    """Return how a ray transformer's heads attend to samples, from the first of them.

    Where attention takes the place of volume rendering, this is what depth is made of.
    """
    return attention[:, :, 0].mean(1)


def composite(
    weights: Float[Tensor, "rays samples"], values: Float[Tensor, "rays samples k"]
) -> Float[Tensor, "rays k"]:
    """Add up what samples say along each ray, Eq. 5."""
    return (weights[..., None].to(values) * values).sum(1)
