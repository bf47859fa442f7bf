"""The fast twin of `back_projection.back_project_truth` for CPUs.

Points are taken in tiles that stay in cache. Each view projects a whole tile by vector
instructions, passes over it if it sees nothing of it, and adds the samples at the
points it sees to running means and variances (Welford's): no array of views x points x
channels exists. Maps have their channels last, so that a sample is four short rows.

Nothing depends on the number of threads: a point belongs to one thread, and so does
the gradient of a view, which is summed in the order of the points. Threads are
Python's, running compiled code that releases the interpreter lock: numba's own do not
survive a fork and abort the process when two callers meet.

Compiled functions are not annotated: numba infers their types from the arrays that
`back_project` has checked.
"""
# ruff: noqa: ANN001, ANN202

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from gnesf_core.ops.back_projection import Projected, check, computing_type
from gnesf_core.ops.compiled import compiled, inlined
from gnesf_core.ops.threads import on_threads
from gnesf_core.shapes import Float, Int64

_TILE = 64  # points
# No fast mathematics: positions come out as in Torch, to the last bit.
_OPTIONS = {"nogil": True, "error_model": "numpy"}
_compiled, _inlined = compiled(**_OPTIONS), inlined(**_OPTIONS)


class _Tile(NamedTuple):
    """Some points, and where one view sees them."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    pixel: np.ndarray  # flat index of the pixel up and to the left; -1 = not seen
    across: np.ndarray  # way from there to the next pixel, 0 .. 1
    down: np.ndarray


def back_project(
    features: Float[Tensor, "views c h w"],
    points: Float[Tensor, "n 3"],
    pixel_from_point: Float[Tensor, "views 3 4"],
    threads: int | None = None,
) -> Projected:
    """Return what `back_projection.back_project_truth` does."""
    check(features, points, pixel_from_point)
    assert features.device.type == "cpu"
    kind = computing_type(features)
    return Projected(
        *_BackProjection.apply(
            features,
            points.detach().to(kind).contiguous(),
            pixel_from_point.detach().to(kind).contiguous(),
            threads or torch.get_num_threads(),
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
        threads: int,
    ) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n c"], Int64[Tensor, " n"]]:
        images = features.permute(0, 2, 3, 1).to(points.dtype).contiguous()
        mean = points.new_empty(len(points), features.shape[1])
        variance, count = torch.empty_like(mean), mean.new_empty(len(mean), dtype=int)
        arrays = [a.numpy() for a in (images, points, matrices, mean, variance, count)]
        on_threads(lambda lane: _forward(*arrays, lane, threads), threads, threads)
        ctx.save_for_backward(images, points, matrices, mean, count)
        ctx.mark_non_differentiable(count)
        ctx.threads = threads
        return mean.to(features.dtype), variance.to(features.dtype), count

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx,
        mean_gradient: Float[Tensor, "n c"],
        variance_gradient: Float[Tensor, "n c"],
        _: Tensor,
    ) -> tuple[Float[Tensor, "views c h w"], None, None, None]:
        images, *others = ctx.saved_tensors
        given = (mean_gradient, variance_gradient)
        others += [gradient.to(images.dtype).contiguous() for gradient in given]
        gradient = torch.zeros_like(images)
        arrays = [a.numpy() for a in (gradient, images, *others)]
        on_threads(lambda view: _backward(*arrays, view), len(images), ctx.threads)
        return gradient.permute(0, 3, 1, 2).to(mean_gradient.dtype), None, None, None


@_compiled
def _forward(images, points, matrices, mean, variance, count, lane, lanes):
    """Write the statistics at every `lanes`-th tile of points."""
    views, height, width, channels = images.shape
    number = images.dtype.type
    tile = _new_tile(number)
    for start in range(lane * _TILE, len(points), lanes * _TILE):
        size = _fill(tile, points, start)
        mean[start : start + size] = number(0)
        variance[start : start + size] = number(0)
        count[start : start + size] = 0
        for view in range(views):
            if not _look(tile, matrices[view], height, width):
                continue
            image = images[view].reshape(-1)
            for n in range(size):
                if tile.pixel[n] < 0:
                    continue
                at = start + n
                a, b, c, d = _corners(tile, n, width, channels)
                of_a, of_b, of_c, of_d = _weights(tile, n, number)
                count[at] += 1
                share = number(1) / number(count[at])
                for k in range(np.uint64(channels)):
                    upper = of_a * image[a + k] + of_b * image[b + k]
                    sample = upper + (of_c * image[c + k] + of_d * image[d + k])
                    difference = sample - mean[at, k]
                    moved = mean[at, k] + difference * share
                    mean[at, k] = moved
                    variance[at, k] += difference * (sample - moved)
        for at in range(start, start + size):
            if count[at] > 1:
                share = number(1) / number(count[at])
                for k in range(channels):
                    variance[at, k] *= share


@_compiled
def _backward(
    gradient,
    images,
    points,
    matrices,
    mean,
    count,
    mean_gradient,
    variance_gradient,
    view,
):
    """Add up the gradient of one view.

    The variance depends on a sample through the mean as well, but these parts cancel:
    with N views, d variance / d sample = 2 / N * (sample - mean).
    """
    height, width, channels = images.shape[1:]
    number = images.dtype.type
    tile = _new_tile(number)
    total, image = gradient[view].reshape(-1), images[view].reshape(-1)
    of_sample = np.empty(channels, images.dtype)
    for start in range(0, len(points), _TILE):
        size = _fill(tile, points, start)
        if not _look(tile, matrices[view], height, width):
            continue
        for n in range(size):
            if tile.pixel[n] < 0:
                continue
            at = start + n
            a, b, c, d = _corners(tile, n, width, channels)
            of_a, of_b, of_c, of_d = _weights(tile, n, number)
            share = number(1) / number(count[at])
            for k in range(np.uint64(channels)):
                upper = of_a * image[a + k] + of_b * image[b + k]
                sample = upper + (of_c * image[c + k] + of_d * image[d + k])
                slope = number(2) * variance_gradient[at, k]
                through_variance = slope * (sample - mean[at, k])
                of_sample[k] = share * (mean_gradient[at, k] + through_variance)
            _add(total, a, of_a, of_sample)
            _add(total, b, of_b, of_sample)
            _add(total, c, of_c, of_sample)
            _add(total, d, of_d, of_sample)


@_inlined
def _add(total, start, weight, values):
    """Add weighted values to a row of `total`."""
    for k in range(np.uint64(len(values))):
        total[start + k] += weight * values[k]


@_inlined
def _new_tile(number):
    """Return room for a tile."""
    return _Tile(
        np.empty(_TILE, number),
        np.empty(_TILE, number),
        np.empty(_TILE, number),
        np.empty(_TILE, np.int32),
        np.empty(_TILE, number),
        np.empty(_TILE, number),
    )


@_inlined
def _fill(tile, points, start):
    """Copy points into a tile, and then such as nobody sees; return how many are real.

    A fixed number of points is what compilers turn into vector instructions.
    """
    size = min(_TILE, len(points) - start)
    for n in range(size):
        tile.x[n] = points[start + n, 0]
        tile.y[n] = points[start + n, 1]
        tile.z[n] = points[start + n, 2]
    tile.x[size:] = np.nan
    return size


@_inlined
def _look(tile, matrix, height, width):
    """Write where a view sees the points of a tile; return how many it sees."""
    u_x, u_y, u_z, u_1 = matrix[0, 0], matrix[0, 1], matrix[0, 2], matrix[0, 3]
    v_x, v_y, v_z, v_1 = matrix[1, 0], matrix[1, 1], matrix[1, 2], matrix[1, 3]
    z_x, z_y, z_z, z_1 = matrix[2, 0], matrix[2, 1], matrix[2, 2], matrix[2, 3]
    zero = matrix.dtype.type(0)
    last_u, last_v = matrix.dtype.type(width - 1), matrix.dtype.type(height - 1)
    seen = 0
    for n in range(_TILE):
        x, y, z = tile.x[n], tile.y[n], tile.z[n]
        depth = z_x * x + z_y * y + z_z * z + z_1
        u = (u_x * x + u_y * y + u_z * z + u_1) / depth
        v = (v_x * x + v_y * y + v_z * z + v_1) / depth
        sees = (depth > zero) & (u >= zero) & (u <= last_u) & (v >= zero)
        sees = sees & (v <= last_v)
        u = u if sees else zero
        v = v if sees else zero
        left, upper = np.floor(u), np.floor(v)
        tile.across[n] = u - left
        tile.down[n] = v - upper
        pixel = np.int32(upper) * np.int32(width) + np.int32(left)
        tile.pixel[n] = pixel if sees else np.int32(-1)
        seen += sees
    return seen


@_inlined
def _corners(tile, n, width, channels):
    """Return where the rows of the four pixels around a point start.

    A point on a column of pixel centres needs no other column: the last has none to
    its right. Unsigned numbers spare the question whether an index counts from the end.
    """
    zero, row = np.uint64(0), np.uint64(channels)
    right = row if tile.across[n] > 0 else zero
    below = row * np.uint64(width) if tile.down[n] > 0 else zero
    first = np.uint64(tile.pixel[n]) * row
    return first, first + right, first + below, first + below + right


@_inlined
def _weights(tile, n, number):
    """Return the weights of the four pixels around a point."""
    across, down = tile.across[n], tile.down[n]
    left, upper = number(1) - across, number(1) - down
    return upper * left, upper * across, down * left, down * across
