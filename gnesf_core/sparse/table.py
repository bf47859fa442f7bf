"""Convolution of all 27 neighbours side by side: one wide matrix product.

Zeros stand for neighbours that are absent, so work is proportional to the sites. Some
sites are handled at once; nothing is added to memory.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from gnesf_core.shapes import Float, Int32
from gnesf_core.sparse.precision import add_product, sum_type

# Gathered numbers at once: they should stay in the cache of a CPU, and fill a GPU.
_CPU_NUMBERS, _GPU_NUMBERS = 2**18, 2**28


class Convolution(Function):
    """Product of the concatenated neighbours of each site with the stacked weights."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        features: Float[Tensor, "n cin"],
        weight: Float[Tensor, "27 cin cout"],
        neighbours: Int32[Tensor, "n 27"],
    ) -> Float[Tensor, "n cout"]:
        """Multiply blocks of sites."""
        ctx.save_for_backward(features, weight, neighbours)
        out = features.new_empty(len(features), weight.shape[2])
        stacked = weight.flatten(0, 1)
        for wide, result in _gathered(features, neighbours, out):
            torch.mm(wide, stacked, out=result)
        return out

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, grad: Float[Tensor, "n cout"]
    ) -> tuple[Tensor | None, ...]:
        """The neighbour at offset 26 - k sees this site at its offset k."""
        features, weight, neighbours = ctx.saved_tensors
        grad_features = torch.empty_like(features)
        flipped = weight.flip(0).transpose(1, 2).flatten(0, 1)
        sums = features.new_zeros(
            features.shape[1], 27 * grad.shape[1], dtype=sum_type(features.dtype)
        )
        first = 0
        for wide, result in _gathered(grad, neighbours, grad_features):
            if ctx.needs_input_grad[0]:
                torch.mm(wide, flipped, out=result)
            if ctx.needs_input_grad[1]:
                add_product(sums, features[first : first + len(wide)].T, wide)
            first += len(wide)
        by_offset = sums.unflatten(1, (27, -1)).transpose(0, 1)
        return grad_features, by_offset.flip(0).to(weight.dtype), None


def _gathered(
    features: Float[Tensor, "n c"],
    neighbours: Int32[Tensor, "n 27"],
    out: Float[Tensor, "n cout"],
) -> Iterator[tuple[Float[Tensor, "some c27"], Float[Tensor, "some cout"]]]:
    """Yield neighbours of some sites, side by side, and the rows of `out` of the sites.

    The first is overwritten by the next.
    """
    width = features.shape[1]
    padded = torch.cat([features.new_zeros(1, width), features])
    numbers = _GPU_NUMBERS if features.is_cuda else _CPU_NUMBERS
    chunk = min(max(numbers // (27 * width), 1), len(features))
    buffer = features.new_empty(chunk * 27, width)
    for rows, result in zip(neighbours.split(chunk), out.split(chunk), strict=True):
        wide = buffer[: rows.numel()]
        torch.index_select(padded, 0, rows.flatten() + 1, out=wide)
        yield wide.view(len(rows), 27 * width), result
