"""The fast twin of `back_projection.back_project_truth` for GPUs.

A program takes a block of points and all channels through the views, with running
means and variances (Welford's) in registers: no array of views x points x channels
exists. Maps have their channels last, so that neighbouring lanes read neighbouring
numbers, and keep their type; everything is computed in float32. The backward pass
samples again, and adds to the gradient of the maps by atomic operations.

Products and sums are not fused into one operation except where it says so: positions
come out as in Torch, to the last bit, and no two passes can disagree about them.

Compiled functions are not annotated: what they take is not what they are called with.
"""
# ruff: noqa: ANN001, ANN202

import inspect
from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from gnesf_core.ops.back_projection import Projected, check, computing_type
from gnesf_core.shapes import Float, Int64

_BLOCK_ELEMENTS = 1024  # points x channels of a program: 8 for each of its threads


def _compiled(function: Callable) -> Callable:
    """Compile `function` for the GPU on its first call."""
    return triton.jit(inspect.unwrap(function))  # tests wrap functions to check types


def back_project(
    features: Float[Tensor, "views c h w"],
    points: Float[Tensor, "n 3"],
    pixel_from_point: Float[Tensor, "views 3 4"],
) -> Projected:
    """Return what `back_projection.back_project_truth` does, except for float64."""
    check(features, points, pixel_from_point)
    assert computing_type(features) == torch.float32
    return Projected(
        *_BackProjection.apply(
            features,
            points.detach().float().contiguous(),
            pixel_from_point.detach().float().contiguous(),
        )
    )


class _BackProjection(torch.autograd.Function):
    """Back-projection with a gradient that samples again what forward sampled."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        features: Float[Tensor, "views c h w"],
        points: Float[Tensor, "n 3"],
        matrices: Float[Tensor, "views 3 4"],
    ) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n c"], Int64[Tensor, " n"]]:
        images = features.permute(0, 2, 3, 1).contiguous()
        mean = images.new_empty(len(points), features.shape[1])
        variance, count = torch.empty_like(mean), mean.new_empty(len(mean), dtype=int)
        # What the gradient needs is not rounded to 16 bits.
        exact_mean = mean
        if ctx.needs_input_grad[0] and mean.dtype != torch.float32:
            exact_mean = torch.empty_like(mean, dtype=torch.float32)
        _launch(_forward, images, points, matrices, mean, variance, count, exact_mean)
        ctx.save_for_backward(images, points, matrices, count, exact_mean)
        ctx.mark_non_differentiable(count)
        return mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx,
        mean_gradient: Float[Tensor, "n c"],
        variance_gradient: Float[Tensor, "n c"],
        _: Tensor,
    ) -> tuple[Float[Tensor, "views c h w"], None, None]:
        images, points, matrices, count, mean = ctx.saved_tensors
        gradient = torch.zeros_like(images, dtype=torch.float32)
        _launch(
            _backward,
            images,
            points,
            matrices,
            mean_gradient.contiguous(),
            variance_gradient.contiguous(),
            count,
            mean,
            gradient,
        )
        return gradient.permute(0, 3, 1, 2).to(images.dtype), None, None


def _launch(
    kernel: Callable,
    images: Float[Tensor, "views h w c"],
    points: Float[Tensor, "n 3"],
    *others: Tensor,
) -> None:
    """Run a kernel with a program for each block of points."""
    views, height, width, channels = images.shape
    lanes = triton.next_power_of_2(channels)
    block = max(1, _BLOCK_ELEMENTS // lanes)
    if len(points) == 0:
        return  # a grid cannot be empty
    with torch.cuda.device_of(points):
        kernel[triton.cdiv(len(points), block),](
            images,
            points,
            *others,
            len(points),
            views,
            height,
            width,
            CHANNELS=channels,
            LANES=lanes,
            BLOCK=block,
            enable_fp_fusion=False,
        )


@_compiled
def _forward(
    images, points, matrices, mean, variance, count, exact_mean,
    size, views, height, width,
    CHANNELS: tl.constexpr, LANES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the statistics at a block of points."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_point = row < size
    x, y, z = _point(points, row, is_point)
    number = tl.zeros([BLOCK], tl.float32)
    average = tl.zeros([BLOCK, LANES], tl.float32)
    squares = tl.zeros([BLOCK, LANES], tl.float32)
    for _ in range(views):
        pixel, across, down, seen = _look(matrices, x, y, z, height, width)
        seen = seen & is_point
        if tl.max(seen.to(tl.int32), 0) > 0:
            a, b, c, d = _corners(
                pixel, across, down, width, CHANNELS=CHANNELS, LANES=LANES
            )
            of_a, of_b, of_c, of_d = _weights(across, down)
            mask = _mask(seen, CHANNELS=CHANNELS, LANES=LANES)
            sample = _load(images + a, mask) * of_a
            sample = tl.fma(_load(images + b, mask), of_b, sample)
            sample = tl.fma(_load(images + c, mask), of_c, sample)
            sample = tl.fma(_load(images + d, mask), of_d, sample)
            number += seen.to(tl.float32)
            share = tl.div_rn(1.0, tl.maximum(number, 1.0))[:, None]
            difference = tl.where(mask, sample - average, 0.0)
            average = tl.fma(difference, share, average)
            squares = tl.fma(difference, sample - average, squares)
        images += height * width * CHANNELS
        matrices += 12
    at = row[:, None] * CHANNELS + tl.arange(0, LANES)[None, :]
    mask = _mask(is_point, CHANNELS=CHANNELS, LANES=LANES)
    share = tl.div_rn(1.0, tl.maximum(number, 1.0))[:, None]
    tl.store(variance + at, squares * share, mask=mask)
    tl.store(mean + at, average, mask=mask)
    tl.store(exact_mean + at, average, mask=mask)
    tl.store(count + row, number.to(tl.int64), mask=is_point)


@_compiled
def _backward(
    images, points, matrices, mean_gradient, variance_gradient, count, mean, gradient,
    size, views, height, width,
    CHANNELS: tl.constexpr, LANES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add up the gradients of the maps from a block of points.

    The variance depends on a sample through the mean as well, but these parts cancel:
    with N views, d variance / d sample = 2 / N * (sample - mean).
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_point = row < size
    x, y, z = _point(points, row, is_point)
    at = row[:, None] * CHANNELS + tl.arange(0, LANES)[None, :]
    mask = _mask(is_point, CHANNELS=CHANNELS, LANES=LANES)
    number = tl.load(count + row, mask=is_point, other=1).to(tl.float32)
    share = tl.div_rn(1.0, tl.maximum(number, 1.0))[:, None]
    average = _load(mean + at, mask)
    of_mean = _load(mean_gradient + at, mask) * share
    of_variance = _load(variance_gradient + at, mask) * (2.0 * share)
    for _ in range(views):
        pixel, across, down, seen = _look(matrices, x, y, z, height, width)
        seen = seen & is_point
        if tl.max(seen.to(tl.int32), 0) > 0:
            a, b, c, d = _corners(
                pixel, across, down, width, CHANNELS=CHANNELS, LANES=LANES
            )
            of_a, of_b, of_c, of_d = _weights(across, down)
            mask = _mask(seen, CHANNELS=CHANNELS, LANES=LANES)
            sample = _load(images + a, mask) * of_a
            sample = tl.fma(_load(images + b, mask), of_b, sample)
            sample = tl.fma(_load(images + c, mask), of_c, sample)
            sample = tl.fma(_load(images + d, mask), of_d, sample)
            of_sample = tl.fma(of_variance, sample - average, of_mean)
            tl.atomic_add(gradient + a, of_sample * of_a, mask=mask, sem="relaxed")
            tl.atomic_add(gradient + b, of_sample * of_b, mask=mask, sem="relaxed")
            tl.atomic_add(gradient + c, of_sample * of_c, mask=mask, sem="relaxed")
            tl.atomic_add(gradient + d, of_sample * of_d, mask=mask, sem="relaxed")
        images += height * width * CHANNELS
        gradient += height * width * CHANNELS
        matrices += 12


@_compiled
def _point(points, row, is_point):
    """Return the coordinates of points."""
    x = tl.load(points + 3 * row, mask=is_point, other=0.0)
    y = tl.load(points + 3 * row + 1, mask=is_point, other=0.0)
    z = tl.load(points + 3 * row + 2, mask=is_point, other=0.0)
    return x, y, z


@_compiled
def _look(matrix, x, y, z, height, width):
    """Return the pixel up and to the left of points, the way from there, and if seen.

    Unseen points are said to lie on pixel 0.
    """
    uz = _transformed(matrix, x, y, z)
    vz = _transformed(matrix + 4, x, y, z)
    depth = _transformed(matrix + 8, x, y, z)
    # `/` may be off by more than rounding: a point on the edge is to be inside.
    u, v = tl.div_rn(uz, depth), tl.div_rn(vz, depth)
    seen = (depth > 0) & (u >= 0) & (u <= width - 1) & (v >= 0) & (v <= height - 1)
    u, v = tl.where(seen, u, 0.0), tl.where(seen, v, 0.0)
    left, upper = tl.floor(u), tl.floor(v)
    pixel = upper.to(tl.int32) * width + left.to(tl.int32)
    return pixel, u - left, v - upper, seen


@_compiled
def _transformed(row, x, y, z):
    """Return the product of a row of a matrix with (x, y, z, 1)."""
    return (
        tl.load(row) * x
        + tl.load(row + 1) * y
        + tl.load(row + 2) * z
        + tl.load(row + 3)
    )


@_compiled
def _corners(
    pixel, across, down, width, CHANNELS: tl.constexpr, LANES: tl.constexpr
):  # fmt: skip
    """Return where the numbers of the four pixels around points are.

    A point on a column of pixel centres needs no other column: the last has none to
    its right.
    """
    first = (pixel * CHANNELS)[:, None] + tl.arange(0, LANES)[None, :]
    right = tl.where(across > 0, CHANNELS, 0)[:, None]
    below = tl.where(down > 0, width * CHANNELS, 0)[:, None]
    return first, first + right, first + below, first + below + right


@_compiled
def _weights(across, down):
    """Return the weights of the four pixels around points."""
    left, upper = 1.0 - across, 1.0 - down
    return (
        (upper * left)[:, None],
        (upper * across)[:, None],
        (down * left)[:, None],
        (down * across)[:, None],
    )


@_compiled
def _mask(rows, CHANNELS: tl.constexpr, LANES: tl.constexpr):
    """Return which numbers of these rows exist."""
    return rows[:, None] & (tl.arange(0, LANES) < CHANNELS)[None, :]


@_compiled
def _load(numbers, mask):
    """Return numbers as float32, and zeros where there are none."""
    return tl.load(numbers, mask=mask, other=0.0).to(tl.float32)
