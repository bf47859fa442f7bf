"""Number types of products and of sums of products."""

import torch
from torch import Tensor

from gnesf_core.shapes import Float


def computed_type(
    features: Float[Tensor, "n cin"], weight: Float[Tensor, "k cin cout"]
) -> tuple[Float[Tensor, "n cin"], Float[Tensor, "k cin cout"]]:
    """Return both in the type that autocast wants here, or as they are."""
    device = features.device.type
    if not torch.is_autocast_enabled(device) or features.dtype == torch.float64:
        return features, weight
    dtype = torch.get_autocast_dtype(device)
    return features.to(dtype), weight.to(dtype)


def sum_type(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which numbers of this type are summed."""
    return torch.promote_types(dtype, torch.float32)


def product(
    left: Float[Tensor, "a b"], right: Float[Tensor, "b c"], out: Float[Tensor, "a c"]
) -> None:
    """Write a matrix product."""
    if out.dtype == left.dtype:
        torch.mm(left, right, out=out)
    else:
        out.copy_(left @ right)


def add_product(
    total: Float[Tensor, "a c"], left: Float[Tensor, "a b"], right: Float[Tensor, "b c"]
) -> None:
    """Add a matrix product."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
