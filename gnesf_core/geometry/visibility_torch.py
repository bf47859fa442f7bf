"""Visibility in plain Torch, exact, on any device: ways are cut at the faces of cells.

Within a cell the distance along a way is a cubic polynomial: between its ends and its
extrema it is monotone, so their signs are all there are. Cells that a way only touches
do not count. `visibility_numba` does the same, and leaps over what cannot matter.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gnesf_core.geometry.distance_field import DistanceField, voxel_coordinates
from gnesf_core.geometry.grid import corners_all
from gnesf_core.shapes import Bool, Float64, Int8, Int64

_MOST_PARTS = {"cpu": 1 << 18, "cuda": 1 << 23}  # at once
_STILL = 1e-12  # ways that go less far along an axis, in voxels, do not move along it
_TOUCH = 1e-12  # shares of a way that are shorter only touch a cell
_MIXED = 2  # a cell that has not one sign


class Cells(NamedTuple):
    """A field's cells, named by their first voxel, and what signs they have."""

    field: DistanceField
    sign: Int8[Tensor, "i j k"]  # 1, -1, 0 for none, or `_MIXED`
    beyond: int  # of space outside the grid
    no_sign: float  # distances up to this have none


def classify(field: DistanceField, unobserved: str, no_sign: float) -> Cells:
    """Return the cells of a field: once for many ways."""
    beyond = 1 if unobserved == "free" else 0
    known = corners_all(field.observed)
    plus = corners_all(field.tsdf > no_sign)
    minus = corners_all(field.tsdf < -no_sign)
    blank = corners_all(field.tsdf.abs() <= no_sign)
    sign = torch.full(known.shape, _MIXED, dtype=torch.int8, device=known.device)
    for which, value in ((plus, 1), (minus, -1), (blank, 0), (~known, beyond)):
        sign = sign.masked_fill(which, value)
    return Cells(field, sign, beyond, no_sign)


def occluded(
    cells: Cells,
    origins_world: Float64[Tensor, "n 3"],
    points_world: Float64[Tensor, "n 3"],
) -> Bool[Tensor, " n"]:
    """Tell which ways come out again of what they go into.

    What each pair is told does not depend on the others.
    """
    starts = voxel_coordinates(cells.field, origins_world)
    ways = voxel_coordinates(cells.field, points_world) - starts
    crossed = ways.abs().ceil().sum(1).long() + 6  # faces, at most
    order = crossed.argsort(descending=True)  # ways of about one length go together
    found = torch.zeros_like(crossed, dtype=torch.bool)
    first = 0
    while first < len(order):
        most = int(crossed[order[first]])
        count = math.ceil(_MOST_PARTS[ways.device.type] / most)
        some = order[first : first + count]
        found[some] = comes_out(_signs(cells, starts[some], ways[some]))
        first += count
    return found


def comes_out(sign: Int8[Tensor, "ways samples"]) -> Bool[Tensor, " ways"]:
    """Tell in which rows there is a 1, later a -1, and later a 1 again."""
    count = sign.shape[1]
    place = torch.arange(count, device=sign.device)
    is_plus = sign == 1
    outside = torch.where(is_plus, place, count).amin(1, keepdim=True)
    is_inside = (sign == -1) & (place > outside)
    inside = torch.where(is_inside, place, count).amin(1)
    return torch.where(is_plus, place, -1).amax(1) > inside


def _signs(
    cells: Cells, starts: Float64[Tensor, "ways 3"], ways: Float64[Tensor, "ways 3"]
) -> Int8[Tensor, "ways samples"]:
    """Return the signs at the ends and extrema of every part of ways."""
    cuts = _cuts(starts, ways)
    begin, end = cuts[:, :-1, None], cuts[:, 1:, None]
    cell = (starts[:, None] + (begin + end) / 2 * ways[:, None]).floor().long()
    size = torch.tensor(cells.sign.shape, device=cell.device)
    inside = ((cell >= 0) & (cell < size)).all(-1)
    cell = torch.where(inside[..., None], cell, 0)
    sign = torch.full_like(inside, cells.beyond, dtype=torch.int8)
    if cells.sign.numel() > 0:
        sign = torch.where(inside, cells.sign[cell.unbind(-1)], sign)
    sign = torch.where((end - begin)[..., 0] > _TOUCH, sign, 0)
    sign = sign[..., None].repeat(1, 1, 4)
    n, part = (sign[..., 0] == _MIXED).nonzero(as_tuple=True)
    cell, begin, end = cell[n, part], begin[n, part], end[n, part]
    at, way = starts[n] + begin * ways[n] - cell, (end - begin) * ways[n]
    values = _ends_and_extrema(*_cubic(_corners(cells.field, cell), at, way))
    own = (values > cells.no_sign).char() - (values < -cells.no_sign).char()
    sign[n, part] = own
    return sign.flatten(1)


def _cuts(
    starts: Float64[Tensor, "ways 3"], ways: Float64[Tensor, "ways 3"]
) -> Float64[Tensor, "ways cuts"]:
    """Return the shares of ways where they begin, cross faces, and end, ascending."""
    cuts = [torch.zeros_like(ways[:, :1]), torch.ones_like(ways[:, :1])]
    for start, way in zip(starts.unbind(1), ways.unbind(1), strict=True):
        count = int(way.abs().max().ceil()) + 1
        steps = torch.arange(1, count + 1, device=way.device)
        up = start.floor()[:, None] + steps
        down = start.ceil()[:, None] - steps
        face = torch.where(way[:, None] > 0, up, down)
        still = way.abs()[:, None] < _STILL
        share = (face - start[:, None]) / torch.where(still, torch.inf, way[:, None])
        cuts.append(torch.where(still, 1.0, share.clamp(0, 1)))
    return torch.cat(cuts, 1).sort(1).values


def _corners(
    field: DistanceField, cell: Int64[Tensor, "parts 3"]
) -> Float64[Tensor, "parts 2 2 2"]:
    """Return the distances at the corners of cells."""
    both = cell[..., None] + torch.arange(2, device=cell.device)
    i, j, k = both.unbind(1)
    corner = i[:, :, None, None], j[:, None, :, None], k[:, None, None, :]
    return field.tsdf[corner].double()


def _cubic(
    corners: Float64[Tensor, "parts 2 2 2"],
    at: Float64[Tensor, "parts 3"],
    way: Float64[Tensor, "parts 3"],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return a, b, c, d: at a share s of a part it is a + b s + c s^2 + d s^3 far.

    Axis by axis, the last first, two polynomials become the one between them.
    """
    polynomial = [corners]
    for axis in (2, 1, 0):
        where, along = (own[:, axis].reshape(-1, *(1,) * axis) for own in (at, way))
        low = [own[..., 0] for own in polynomial]
        apart = [own[..., 1] - own[..., 0] for own in polynomial]
        polynomial = [
            (low[n] + where * apart[n] if n < len(low) else 0)
            + (along * apart[n - 1] if n > 0 else 0)
            for n in range(len(low) + 1)
        ]
    a, b, c, d = polynomial
    return a, b, c, d


def _ends_and_extrema(
    a: Float64[Tensor, " parts"],
    b: Float64[Tensor, " parts"],
    c: Float64[Tensor, " parts"],
    d: Float64[Tensor, " parts"],
) -> Float64[Tensor, "parts 4"]:
    """Return values at the beginning, at the extrema in between, and at the end.

    An end takes the place of an extremum that is none, or not in between.
    """
    # Where 3 d s^2 + 2 c s + b = 0; a division by 0 gives none from 0 to 1.
    square = c * c - 3 * b * d
    q = -(c + torch.copysign(square.clamp(min=0).sqrt(), c))
    one, other = q / (3 * d), b / q
    extrema = torch.stack([torch.minimum(one, other), torch.maximum(one, other)], -1)
    between = (square > 0)[..., None] & (extrema > 0) & (extrema < 1)
    ends = torch.stack([torch.zeros_like(a), torch.ones_like(a)], -1)
    early, late = torch.where(between, extrema, ends).unbind(-1)
    shares = torch.stack([ends[..., 0], early, late, ends[..., 1]], -1)
    a, b, c, d = (own[..., None] for own in (a, b, c, d))
    return a + shares * (b + shares * (c + shares * d))
