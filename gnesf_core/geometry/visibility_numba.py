"""The twin of `visibility_torch` for CPUs.

The way from a camera to a point is walked cell by cell. In most cells all distances
have one sign or none. In the others it is the ends and extrema of a cubic polynomial
that count, as there.

What matters next is either a + or a -, depending on what was met before. For both,
every cell knows how far the nearest cell is that may have it, so the walk leaps over
cells that cannot change anything. Cells that a way only touches do not count.

Threads are Python's, running compiled code that releases the interpreter lock. Every
way belongs to one thread, so answers do not depend on their number.

Compiled functions are not annotated: numba infers their types from `Cells` and from
the arrays that `occluded` has checked.
"""
# ruff: noqa: ANN001, ANN202

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gnesf_core.geometry.distance_field import DistanceField, voxel_coordinates
from gnesf_core.geometry.grid import corners_all
from gnesf_core.geometry.visibility import NO_SIGN
from gnesf_core.ops.compiled import compiled, inlined
from gnesf_core.ops.threads import on_threads
from gnesf_core.shapes import Bool, Float32, Float64, UInt8

_FARTHEST = np.uint8(200)  # cells, one more than a walk leaps over at most
_TILE = 1024  # ways that a thread takes at a time
_STILL = 1e-12  # ways that go less far along an axis, in voxels, do not move along it
# What was met on the way so far.
_NOTHING, _OUTSIDE, _INSIDE, _OUTSIDE_AGAIN = 0, 1, 2, 3
_OPTIONS = {"nogil": True, "error_model": "numpy"}
_compiled, _inlined = compiled(**_OPTIONS), inlined(**_OPTIONS)


class Cells(NamedTuple):
    """A field as the compiled code sees it; cells are named by their first voxel.

    A cell that is 0 cells from + and some from - is + everywhere, and the other way
    round. One that is 0 cells from both may be either, and one that is far from both
    has no sign.
    """

    tsdf: Float32[np.ndarray, "x y z"]
    to_plus: UInt8[np.ndarray, "i j k"]  # largest difference of indices, capped
    to_minus: UInt8[np.ndarray, "i j k"]
    no_sign: float
    is_free: bool  # what is not observed, outside the grid too


def classify(field: DistanceField, unobserved: str) -> Cells:
    """Return the cells of a field: once for many ways."""
    tsdf = np.ascontiguousarray(field.tsdf.numpy())
    known = corners_all(field.observed.numpy())
    plus, minus = corners_all(tsdf > NO_SIGN), corners_all(tsdf < -NO_SIGN)
    blank = corners_all(abs(tsdf) <= NO_SIGN)
    mixed = known & ~(plus | minus | blank)
    is_free = unobserved == "free"
    plus = (plus & known) | mixed | (~known & is_free)
    minus = (minus & known) | mixed
    return Cells(tsdf, _cells_to(plus), _cells_to(minus), NO_SIGN, is_free)


def occluded(
    field: DistanceField,
    cells: Cells,
    origins_world: Float64[Tensor, "n 3"],
    points_world: Float64[Tensor, "n 3"],
    threads: int | None = None,
) -> Bool[Tensor, " n"]:
    """Return what `visibility_torch.occluded` does."""
    ends = [
        voxel_coordinates(field, where).contiguous().numpy()
        for where in (origins_world, points_world)
    ]
    found = np.empty(len(points_world), np.bool_)
    threads = threads or torch.get_num_threads()
    given = cells, *ends, found
    on_threads(lambda lane: _walk_all(*given, lane, threads), threads, threads)
    return torch.from_numpy(found)


def _cells_to(marked: Bool[np.ndarray, "i j k"]) -> UInt8[np.ndarray, "i j k"]:
    """Return how many cells away the nearest marked one is, diagonals counting as 1."""
    cells = np.where(marked, np.uint8(0), _FARTHEST)
    cells = np.pad(cells, 1, constant_values=_FARTHEST)
    for _ in range(2):  # there and back
        _sweep(cells)
        cells = np.ascontiguousarray(cells[::-1, ::-1, ::-1])
    return np.ascontiguousarray(cells[1:-1, 1:-1, 1:-1])


@_compiled
def _sweep(cells):
    """Bring each cell within 1 of those of its neighbours that come before it."""
    rows, columns, size = cells.shape
    for i in range(1, rows - 1):
        for j in range(1, columns - 1):
            here = cells[i, j]
            for near in (cells[i - 1, j - 1], cells[i - 1, j], cells[i - 1, j + 1],
                         cells[i, j - 1]):  # fmt: skip
                for k in range(1, size - 1):
                    nearest = min(near[k - 1], near[k], near[k + 1])
                    here[k] = min(here[k], nearest + 1)
            for k in range(1, size - 1):
                here[k] = min(here[k], here[k - 1] + 1)


@_compiled
def _walk_all(cells, starts, ends, occluded, lane, lanes):
    """Write the answers of every `lanes`-th tile of ways."""
    for first in range(lane * _TILE, len(starts), lanes * _TILE):
        for n in range(first, min(first + _TILE, len(starts))):
            occluded[n] = _walk(cells, starts, ends, n)


@_compiled
def _walk(cells, starts, ends, n):
    """Tell whether one way comes out again of what it goes into.

    Axes along which the way leads down are turned round, so that it leads up.
    """
    to_plus, to_minus = cells.to_plus, cells.to_minus
    size_x, size_y, size_z = to_plus.shape
    x, dx, turns_x = _turn(starts[n, 0], ends[n, 0], size_x)
    y, dy, turns_y = _turn(starts[n, 1], ends[n, 1], size_y)
    z, dz, turns_z = _turn(starts[n, 2], ends[n, 2], size_z)
    per_x, per_y, per_z = _inverse(dx), _inverse(dy), _inverse(dz)
    first, last = _clip(x, per_x, size_x, 0.0, 1.0)
    first, last = _clip(y, per_y, size_y, first, last)
    first, last = _clip(z, per_z, size_z, first, last)
    if first >= last:
        return False
    met = _OUTSIDE if cells.is_free and first > 0 else _NOTHING
    i = _cell(x + first * dx, 0, size_x)
    j = _cell(y + first * dy, 0, size_y)
    k = _cell(z + first * dz, 0, size_z)
    now = first
    while True:
        ijk = (
            size_x - 1 - i if turns_x else i,
            size_y - 1 - j if turns_y else j,
            size_z - 1 - k if turns_z else k,
        )
        # All cells less than `leap` away are without what matters next.
        leap = np.int64(to_minus[ijk] if met == _OUTSIDE else to_plus[ijk])
        reach = max(leap, 1)
        at_x = (i + reach - x) * per_x
        at_y = (j + reach - y) * per_y
        at_z = (k + reach - z) * per_z
        then = min(at_x, at_y, at_z, last)
        if leap == 0 and then > now:
            part = then - now
            in_x = _turn_back(x + now * dx - i, part * dx, turns_x)
            in_y = _turn_back(y + now * dy - j, part * dy, turns_y)
            in_z = _turn_back(z + now * dz - k, part * dz, turns_z)
            met = _pass(cells, ijk, in_x, in_y, in_z, met)
            if met == _OUTSIDE_AGAIN:
                return True
        i = i + reach if at_x <= then else _cell(x + then * dx, i, reach)
        j = j + reach if at_y <= then else _cell(y + then * dy, j, reach)
        k = k + reach if at_z <= then else _cell(z + then * dz, k, reach)
        if then >= last or i >= size_x or j >= size_y or k >= size_z:
            return cells.is_free and last < 1 and met == _INSIDE
        now = max(now, then)


@_inlined
def _turn(start, end, size):
    """Return where a way starts and how far it leads along an axis, turned to lead up.

    The last is whether the axis was turned round.
    """
    way = end - start
    if abs(way) < _STILL:
        return start, 0.0, False
    return (size - start, -way, True) if way < 0 else (start, way, False)


@_inlined
def _turn_back(at, way, was_turned):
    """Return where a way in a cell starts and leads, as voxels are stored."""
    return (1 - at, -way) if was_turned else (at, way)


@_inlined
def _inverse(way):
    """Return the share of the way that one voxel takes: infinite if it is still."""
    return np.inf if way == 0 else 1 / way


@_inlined
def _clip(at, per_voxel, size, first, last):
    """Return the part of a way that is within the grid along one axis, too."""
    if per_voxel == np.inf:
        return (first, last) if 0 <= at < size else (1.0, 0.0)
    return max(first, -at * per_voxel), min(last, (size - at) * per_voxel)


@_inlined
def _cell(position, first, count):
    """Return the cell of a position, of so many from the first, rounding or not."""
    return min(max(np.int64(position), first), first + count - 1)


@_inlined
def _pass(cells, cell, in_x, in_y, in_z, met):
    """Return what was met after a part of the way within one cell."""
    if cells.to_minus[cell] > 0:
        return _meet(1.0, 0.0, met)
    if cells.to_plus[cell] > 0:
        return _meet(-1.0, 0.0, met)
    a, b, c, d = _cubic(cells.tsdf, cell, in_x, in_y, in_z)
    # Extrema are where 3 d s^2 + 2 c s + b = 0; a division by 0 gives none from 0 to 1.
    early, late = 0.0, 0.0
    square = c * c - 3 * b * d
    if square > 0:
        q = -(c + math.copysign(math.sqrt(square), c))
        one, other = q / (3 * d), b / q
        early, late = min(one, other), max(one, other)
    met = _meet(a, cells.no_sign, met)
    if 0 < early < 1:
        met = _meet(a + early * (b + early * (c + early * d)), cells.no_sign, met)
    if 0 < late < 1:
        met = _meet(a + late * (b + late * (c + late * d)), cells.no_sign, met)
    return _meet(a + b + c + d, cells.no_sign, met)


@_inlined
def _meet(value, no_sign, met):
    """Return what was met once a value is: + from the start and from -, - from +."""
    if met == _OUTSIDE:
        return _INSIDE if value < -no_sign else met
    if value > no_sign and met != _OUTSIDE_AGAIN:
        return met + 1
    return met


@_inlined
def _cubic(tsdf, cell, in_x, in_y, in_z):
    """Return the coefficients of a + b s + c s^2 + d s^3, the value at a share s."""
    i, j, k = cell
    (x, dx), (y, dy), (z, dz) = in_x, in_y, in_z
    v000, v001 = np.float64(tsdf[i, j, k]), np.float64(tsdf[i, j, k + 1])
    v010, v011 = np.float64(tsdf[i, j + 1, k]), np.float64(tsdf[i, j + 1, k + 1])
    i += 1
    v100, v101 = np.float64(tsdf[i, j, k]), np.float64(tsdf[i, j, k + 1])
    v110, v111 = np.float64(tsdf[i, j + 1, k]), np.float64(tsdf[i, j + 1, k + 1])
    # On each of the four edges along z the value is p + q s.
    p00, q00 = v000 + z * (v001 - v000), dz * (v001 - v000)
    p01, q01 = v010 + z * (v011 - v010), dz * (v011 - v010)
    p10, q10 = v100 + z * (v101 - v100), dz * (v101 - v100)
    p11, q11 = v110 + z * (v111 - v110), dz * (v111 - v110)
    # On both faces across x it is p + q s + r s^2.
    p0, q0, r0 = _between(p00, q00, 0.0, p01, q01, 0.0, y, dy)[:3]
    p1, q1, r1 = _between(p10, q10, 0.0, p11, q11, 0.0, y, dy)[:3]
    return _between(p0, q0, r0, p1, q1, r1, x, dx)


@_inlined
def _between(p0, q0, r0, p1, q1, r1, at, way):
    """Return p0 + q0 s + r0 s^2 + (at + way s) (p1 - p0 + (q1 - q0) s + ...)."""
    p, q, r = p1 - p0, q1 - q0, r1 - r0
    return p0 + at * p, q0 + at * q + way * p, r0 + at * r + way * q, way * r
