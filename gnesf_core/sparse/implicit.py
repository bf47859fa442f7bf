"""Sparse 3D convolution by an implicit matrix product in Triton, for GPUs.

A program makes a block of outputs: for each offset it reads the rows of the neighbours
where they are and adds their product with the offset's matrix to sums in registers. No
array of sites x offsets x channels exists. The gradient of the features is the same
product with flipped weights. The gradient of the weights is summed over blocks of
sites, in a fixed number of parts that are added up afterwards: without atomic
operations all results are the same bits in every run.

Compiled functions are not annotated: what they take is not what they are called with.
"""
# ruff: noqa: ANN001, ANN202

import inspect
import os
from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from gnesf_core.shapes import Float, Int32
from gnesf_core.sparse.dense import down, up
from gnesf_core.sparse.precision import computed_type
from gnesf_core.sparse.sites import Sites

__all__ = ["INTERPRETED", "down", "submanifold", "up"]

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # on a CPU, slowly, for tests
_ROWS = 64  # sites of a program
_MOST_CHANNELS = 64  # of a program, going in and going out
_PART_ROWS = 4096  # sites over which a program sums the gradient of weights


def submanifold(
    features: Float[Tensor, "n cin"], weight: Float[Tensor, "27 cin cout"], sites: Sites
) -> Float[Tensor, "n cout"]:
    """Compute `gather.submanifold_truth`, in float32 or less."""
    features, weight = computed_type(features, weight)
    dtype = features.dtype
    assert dtype == weight.dtype != torch.float64
    if INTERPRETED:  # which computes bfloat16 wrongly
        features, weight = features.float(), weight.float()
    out = _Submanifold.apply(features.contiguous(), weight, sites.neighbours)
    return out.to(dtype)


class _Submanifold(Function):
    """A product whose factors are gathered by the kernels."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        features: Float[Tensor, "n cin"],
        weight: Float[Tensor, "27 cin cout"],
        neighbours: Int32[Tensor, "n 27"],
    ) -> Float[Tensor, "n cout"]:
        ctx.save_for_backward(features, weight, neighbours)
        return _product(features, weight.contiguous(), neighbours)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, grad: Float[Tensor, "n cout"]
    ) -> tuple[Tensor | None, ...]:
        """The neighbour at offset 26 - k sees this site at its offset k."""
        features, weight, neighbours = ctx.saved_tensors
        grad, grad_features, grad_weight = grad.contiguous(), None, None
        if ctx.needs_input_grad[0]:
            flipped = weight.flip(0).transpose(1, 2).contiguous()
            grad_features = _product(grad, flipped, neighbours)
        if ctx.needs_input_grad[1]:
            grad_weight = _weight_gradient(features, grad, neighbours)
        return grad_features, grad_weight, None


def _product(
    features: Float[Tensor, "n cin"],
    weight: Float[Tensor, "27 cin cout"],
    neighbours: Int32[Tensor, "n 27"],
) -> Float[Tensor, "n cout"]:
    cin, cout = weight.shape[1:]
    out = features.new_empty(len(features), cout)
    if out.numel() > 0:  # a grid cannot be empty
        block_out = _channels(cout)
        grid = (triton.cdiv(len(features), _ROWS), triton.cdiv(cout, block_out))
        with torch.cuda.device_of(features):
            _product_kernel[grid](
                features, weight, neighbours, out, len(features),
                CIN=cin, COUT=cout, ROWS=_ROWS,
                BLOCK_IN=_channels(cin), BLOCK_OUT=block_out, PRECISION=_precision(),
            )  # fmt: skip
    return out


def _weight_gradient(
    features: Float[Tensor, "n cin"],
    grad: Float[Tensor, "n cout"],
    neighbours: Int32[Tensor, "n 27"],
) -> Float[Tensor, "27 cin cout"]:
    cin, cout = features.shape[1], grad.shape[1]
    block_in, block_out = _channels(cin), _channels(cout)
    parts = triton.cdiv(len(features), _PART_ROWS)
    sums = features.new_empty(parts, 27, cin, cout, dtype=torch.float32)
    if sums.numel() > 0:
        grid = (27 * parts, triton.cdiv(cin, block_in), triton.cdiv(cout, block_out))
        with torch.cuda.device_of(features):
            _weight_kernel[grid](
                features, grad, neighbours, sums, len(features),
                CIN=cin, COUT=cout, ROWS=_ROWS, PART_ROWS=_PART_ROWS,
                BLOCK_IN=block_in, BLOCK_OUT=block_out, PRECISION=_precision(),
            )  # fmt: skip
    return sums.sum(0).to(features.dtype)


def _channels(count: int) -> int:
    """Return how many channels a program handles: tensor cores want 16 or more."""
    return min(max(triton.next_power_of_2(count), 16), _MOST_CHANNELS)


def _precision() -> str:
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"


def _compiled(function: Callable) -> Callable:
    """Compile `function` for the GPU on its first call."""
    return triton.jit(inspect.unwrap(function))  # tests wrap functions to check types


@_compiled
def _product_kernel(
    features, weight, neighbours, out, size,
    CIN: tl.constexpr, COUT: tl.constexpr, ROWS: tl.constexpr,
    BLOCK_IN: tl.constexpr, BLOCK_OUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write the sums over 27 neighbours of a block of sites."""
    site = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    c_out = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    sums = tl.zeros([ROWS, BLOCK_OUT], tl.float32)
    # One loop without branches, so that loads run ahead of products.
    chunks: tl.constexpr = (CIN + BLOCK_IN - 1) // BLOCK_IN
    for step in range(27 * chunks):
        offset = step // chunks
        row = tl.load(neighbours + site * 27 + offset, mask=site < size, other=-1)
        c_in = step % chunks * BLOCK_IN + tl.arange(0, BLOCK_IN)
        left = tl.load(
            features + row.to(tl.int64)[:, None] * CIN + c_in[None, :],
            mask=(row >= 0)[:, None] & (c_in < CIN)[None, :],
            other=0.0,
        )
        right = tl.load(
            weight + (offset * CIN + c_in)[:, None] * COUT + c_out[None, :],
            mask=(c_in < CIN)[:, None] & (c_out < COUT)[None, :],
            other=0.0,
        )
        sums = tl.dot(left, right, sums, input_precision=PRECISION)
    tl.store(
        out + site[:, None] * COUT + c_out[None, :],
        sums.to(out.dtype.element_ty),
        mask=(site < size)[:, None] & (c_out < COUT)[None, :],
    )


@_compiled
def _weight_kernel(
    features, grad, neighbours, sums, size,
    CIN: tl.constexpr, COUT: tl.constexpr, ROWS: tl.constexpr, PART_ROWS: tl.constexpr,
    BLOCK_IN: tl.constexpr, BLOCK_OUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write the gradient of an offset's matrix, summed over a part of the sites."""
    part = tl.program_id(0) // 27
    offset = tl.program_id(0) % 27
    c_in = tl.program_id(1) * BLOCK_IN + tl.arange(0, BLOCK_IN)
    c_out = tl.program_id(2) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    total = tl.zeros([BLOCK_IN, BLOCK_OUT], tl.float32)
    start = part.to(tl.int64) * PART_ROWS
    for first in range(0, tl.minimum(PART_ROWS, size - start), ROWS):
        site = start + first + tl.arange(0, ROWS)
        row = tl.load(neighbours + site * 27 + offset, mask=site < size, other=-1)
        left = tl.load(
            features + row.to(tl.int64)[None, :] * CIN + c_in[:, None],
            mask=(row >= 0)[None, :] & (c_in < CIN)[:, None],
            other=0.0,
        )
        right = tl.load(
            grad + site[:, None] * COUT + c_out[None, :],
            mask=(row >= 0)[:, None] & (c_out < COUT)[None, :],
            other=0.0,
        )
        total = tl.dot(left, right, total, input_precision=PRECISION)
    matrix = sums + (part.to(tl.int64) * 27 + offset) * (CIN * COUT)
    tl.store(
        matrix + c_in[:, None] * COUT + c_out[None, :],
        total,
        mask=(c_in < CIN)[:, None] & (c_out < COUT)[None, :],
    )
