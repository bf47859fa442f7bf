"""Bilinear samples of maps of several views, compiled.

Compiled functions are not annotated: numba infers their types from the arrays that
their callers have checked.
"""
# ruff: noqa: ANN001, ANN201, ANN202

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gnesf_core.ops.compiled import compiled, inlined
from gnesf_core.ops.threads import on_threads
from gnesf_core.shapes import Float, Float32, Int64, Shaped

_OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
_compiled, _inlined = compiled(**_OPTIONS), inlined(**_OPTIONS)
_LANE = 4096  # pairs


class Corners(NamedTuple):
    """The four pixels around a place on a map: rows of a table, and their weights."""

    a: np.uint64  # upper left
    b: np.uint64  # upper right
    c: np.uint64  # lower left
    d: np.uint64  # lower right
    of_a: np.float32
    of_b: np.float32
    of_c: np.float32
    of_d: np.float32


@_inlined
def corners(u, v, view, height, width):
    """Return the pixels around a place on a view's map.

    What is beyond the edge is taken to be at it, and what is no number at 0: no pixel
    is outside the map. Unsigned numbers spare the question whether an index counts
    from the end.
    """
    zero, one = np.float32(0), np.float32(1)
    u, v = (u if u > zero else zero), (v if v > zero else zero)
    last_u, last_v = np.float32(width - 1), np.float32(height - 1)
    u, v = (u if u < last_u else last_u), (v if v < last_v else last_v)
    left, upper = np.floor(u), np.floor(v)
    across, down = u - left, v - upper
    # On the last column and row there is nothing to the right, nor below.
    right = np.uint64(1) if across > zero else np.uint64(0)
    below = np.uint64(width) if down > zero else np.uint64(0)
    row = np.uint64(view) * np.uint64(height) + np.uint64(upper)
    first = row * np.uint64(width) + np.uint64(left)
    return Corners(
        first, first + right, first + below, first + below + right,
        (one - down) * (one - across), (one - down) * across,
        down * (one - across), down * across,
    )  # fmt: skip


def sample(
    maps: Shaped[Tensor, "views c h w"],
    view: Int64[Tensor, " pairs"],
    uv: Float[Tensor, "pairs 2"],
) -> Float32[Tensor, "pairs c"]:
    """Interpolate each view's map at its pairs, `uv` being pixels of the map.

    Maps hold numbers of any kind, best with channels side by side in memory. There is
    no gradient.
    """
    rows = maps.detach().permute(0, 2, 3, 1).contiguous()
    assert view.shape == uv.shape[:1] and (view >= 0).all() and (view < len(maps)).all()
    result = torch.empty(len(view), maps.shape[1])
    places = uv.detach().float().contiguous()
    arrays = [a.numpy() for a in (rows, view.contiguous(), places, result)]
    jobs = -(-len(view) // _LANE)
    on_threads(lambda job: _sample(*arrays, job * _LANE, _LANE), jobs)
    return result


@_compiled
def _sample(maps, view, uv, result, start, size):
    """Write the samples of some pairs."""
    _, height, width, channels = maps.shape
    flat = maps.reshape(-1)
    step = np.uint64(channels)
    for n in range(start, min(start + size, len(view))):
        at = corners(uv[n, 0], uv[n, 1], view[n], height, width)
        a, b, c, d = at.a * step, at.b * step, at.c * step, at.d * step
        for k in range(step):
            upper = at.of_a * flat[a + k] + at.of_b * flat[b + k]
            result[n, k] = upper + (at.of_c * flat[c + k] + at.of_d * flat[d + k])
