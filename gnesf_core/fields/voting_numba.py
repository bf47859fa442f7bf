"""The fast twin of `sample_maps` and `PaperVote` together, for CPUs.

Pairs are taken in tiles of whole points that stay in cache: features are read, their
mean and variance taken, and layers computed on one tile after the other, so that no
array of pairs x features exists. For the gradient a tile is computed once more.

Nothing depends on the number of threads: what a tile is does not, gradients of weights
are added up tile by tile in their order, and those of a view's map by one thread, in
the order of the pairs.

Compiled functions are not annotated: numba infers their types from the arrays that
`paper_scores` has checked.
"""
# ruff: noqa: ANN001, ANN202

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from gnesf_core.fields.voting import PaperVote
from gnesf_core.nets.mnasnet import STRIDES
from gnesf_core.ops.compiled import compiled, inlined
from gnesf_core.ops.layers_numba import OPTIONS, add_product, through_elu, to_elu
from gnesf_core.ops.map_sampling_numba import corners
from gnesf_core.ops.threads import on_threads
from gnesf_core.rendering.sources import Pairs
from gnesf_core.shapes import Float32

_TILE = 256  # pairs, and those of the last point
_TILES = 8  # of a job
_JOBS = 8  # after which gradients are added up
_compiled, _inlined = compiled(**OPTIONS), inlined(**OPTIONS)


class _Weights(NamedTuple):
    """Weights of the layers, inputs x outputs, by what they are of."""

    first_own: np.ndarray
    first_shared: np.ndarray
    first_bias: np.ndarray
    second: np.ndarray
    second_bias: np.ndarray
    third_new: np.ndarray
    third_own: np.ndarray
    third_encoding: np.ndarray
    third_bias: np.ndarray
    heads: np.ndarray
    heads_bias: np.ndarray


class _Given(NamedTuple):
    """What has no gradient."""

    views: np.ndarray  # numba takes `.view` for something else
    point: np.ndarray
    uv: np.ndarray
    own: np.ndarray
    encoding: np.ndarray


class _Tile(NamedTuple):
    """Room for some pairs, and for their points; multiples of four rows are used."""

    features: np.ndarray
    new: np.ndarray  # of the first layer
    newer: np.ndarray  # of the second
    hidden: np.ndarray  # of the third
    own: np.ndarray
    scores: np.ndarray
    statistics: np.ndarray  # of points: mean and variance
    encoding: np.ndarray
    of_first: np.ndarray  # of points: their part of a layer's outputs
    of_third: np.ndarray
    start: np.ndarray  # of a point's pairs, in the tile


def paper_scores(
    vote: PaperVote,
    maps: Sequence[Float32[Tensor, "views _ _ _"]],
    pairs: Pairs,
    own: Float32[Tensor, "pairs e"],
    encoding: Float32[Tensor, "n m"],
    threads: int | None = None,
) -> tuple[Float32[Tensor, " pairs"], Float32[Tensor, " pairs"]]:
    """Return what `vote` makes of pairs that come point by point.

    `own` is what its third layer sees of pairs beside F'. Maps and weights have
    gradients; nothing else has.
    """
    view, point, uv, _ = pairs
    count = len(own)
    assert own.device.type == "cpu" and len(maps) == len(STRIDES)
    assert view.shape == point.shape == (count,) and uv.shape == (count, 2)
    assert all(0 < len(a) == len(maps[0]) and a.numel() for a in maps)
    if count:
        assert view.min() >= 0 and view.max() < len(maps[0])
        assert point[0] >= 0 and point[-1] < len(encoding)
        assert (point[1:] >= point[:-1]).all()
    floats = [a.detach().float().contiguous().numpy() for a in (uv, own, encoding)]
    given = _Given(view.contiguous().numpy(), point.contiguous().numpy(), *floats)
    weights = _weights(vote, sum(a.shape[1] for a in maps), own.shape[1])
    assert all(a.dtype == torch.float32 for a in (*maps, *weights))
    assert weights[7].shape == (encoding.shape[1], len(vote.third.bias))
    scores = _PaperScores.apply(given, threads, *maps, *weights)
    return scores[:, 0], scores[:, 1]


def _weights(vote: PaperVote, channels: int, own: int) -> list[Tensor]:
    """Return the weights in the order of `_Weights`."""
    first, third, new = vote.first.weight.T, vote.third.weight.T, len(vote.third.bias)
    assert len(first) == 3 * channels
    heads = torch.cat([vote.semantic.weight, vote.color.weight])
    return [
        *first.tensor_split([channels]), vote.first.bias,
        vote.second.weight.T, vote.second.bias,
        *third.tensor_split([new, new + own]), vote.third.bias,
        heads.T, torch.cat([vote.semantic.bias, vote.color.bias]),
    ]  # fmt: skip


class _PaperScores(torch.autograd.Function):
    """Scores of all pairs, with gradients of maps and weights."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, given: _Given, threads: int | None, *tensors: Tensor
    ) -> Float32[Tensor, "pairs 2"]:
        levels = len(STRIDES)
        maps = [a.permute(0, 2, 3, 1).contiguous() for a in tensors[:levels]]
        weights = [a.contiguous() for a in tensors[levels:]]
        scores = torch.empty(len(given.point), 2)
        jobs = _jobs(given.point)
        arrays = given, _arrays(maps), _Weights(*_arrays(weights)), scores.numpy()
        on_threads(lambda job: _forward(*arrays, jobs[job]), len(jobs), threads)
        ctx.save_for_backward(*maps, *weights)
        ctx.given, ctx.jobs, ctx.threads = given, jobs, threads
        return scores

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, gradient: Float32[Tensor, "pairs 2"]
    ) -> tuple[Tensor | None, ...]:
        levels, jobs = len(STRIDES), ctx.jobs
        tensors = [a.detach() for a in ctx.saved_tensors]
        maps, weights = _arrays(tensors[:levels]), _Weights(*_arrays(tensors[levels:]))
        turned = _Weights(*(np.ascontiguousarray(a.T) for a in weights))
        common = ctx.given, maps, weights, turned, gradient.contiguous().numpy()
        of_maps = tuple(np.zeros_like(a) for a in maps)
        sums = np.zeros(sum(a.size for a in weights))
        for first in range(0, len(jobs), _JOBS):
            some = jobs[first : first + _JOBS]
            of_weights, of_pairs = _some_back(common, some, ctx.threads)
            sums += of_weights.sum(0, dtype=np.float64)
            _maps_back(of_maps, of_pairs, ctx.given, int(some[0][0]), ctx.threads)
        back = [torch.from_numpy(a).permute(0, 3, 1, 2) for a in of_maps]
        parts = _split(sums.astype(np.float32), weights)
        return None, None, *back, *map(torch.from_numpy, parts)


def _some_back(
    common: tuple, jobs: list[np.ndarray], threads: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the gradients of weights by each job, and of the features of all pairs."""
    weights, low = common[2], int(jobs[0][0])
    of_weights = np.zeros((len(jobs), sum(a.size for a in weights)), np.float32)
    parts = [_split(row, weights) for row in of_weights]
    of_pairs = np.empty((int(jobs[-1][-1]) - low, len(weights.first_own)), np.float32)

    def back(job: int) -> None:
        _backward(*common, of_pairs, low, jobs[job], parts[job])

    on_threads(back, len(jobs), threads)
    return of_weights, of_pairs


def _maps_back(
    of_maps: tuple[np.ndarray, ...],
    of_pairs: np.ndarray,
    given: _Given,
    low: int,
    threads: int | None,
) -> None:
    """Add the gradients of some pairs' features to those of the maps."""

    def scatter(view: int) -> None:
        _scatter(of_maps, of_pairs, given.views, given.uv, low, view)

    on_threads(scatter, len(of_maps[0]), threads)


def _jobs(point: np.ndarray) -> list[np.ndarray]:
    """Return where tiles begin and end, for each job."""
    some = np.searchsorted(point, point[_TILE::_TILE])
    bounds = np.unique(np.concatenate([[0], some, [len(point)]]))
    starts = range(0, len(bounds) - 1, _TILES)
    return [bounds[start : start + _TILES + 1] for start in starts]


def _arrays(tensors: Sequence[Tensor]) -> tuple[np.ndarray, ...]:
    return tuple(tensor.numpy() for tensor in tensors)


def _split(flat: np.ndarray, like: _Weights) -> _Weights:
    """Return views of parts of a row of numbers that have the shapes of others."""
    ends = np.cumsum([a.size for a in like])[:-1]
    parts = zip(np.split(flat, ends), like, strict=True)
    return _Weights(*(part.reshape(a.shape) for part, a in parts))


@_compiled
def _forward(given, maps, weights, scores, bounds):
    """Write the scores of some tiles."""
    tile = _new_tile(weights, bounds)
    for n in range(len(bounds) - 1):
        start, end = bounds[n], bounds[n + 1]
        _compute(tile, given, maps, weights, start, end)
        _copy_rows(scores, start, tile.scores, 0, end - start)


@_compiled
def _backward(given, maps, weights, turned, of_scores, of_pairs, low, bounds, total):
    """Add gradients of some tiles to those of weights, and write those of features."""
    tile, gradient = _new_tile(weights, bounds), _new_tile(weights, bounds)
    for n in range(len(bounds) - 1):
        start, end = bounds[n], bounds[n + 1]
        points = _compute(tile, given, maps, weights, start, end)
        size = end - start
        rows = _fours(size)
        _copy_rows(gradient.scores, 0, of_scores, start, size)
        gradient.scores[size:rows] = 0
        _layers_back(tile, gradient, weights, turned, total, size, points)
        _features_back(tile, gradient, turned, size, points)
        _copy_rows(of_pairs, start - low, gradient.features, 0, size)


@_inlined
def _fours(count):
    return (count + 3) // 4 * 4


@_compiled
def _new_tile(weights, bounds):
    """Return room for the largest tile."""
    rows = _fours(np.max(bounds[1:] - bounds[:-1]))
    kind = np.float32
    channels, first = weights.first_own.shape
    second = weights.second.shape[1]
    return _Tile(
        np.empty((rows, channels), kind),
        np.empty((rows, first), kind),
        np.empty((rows, second), kind),
        np.empty((rows, second), kind),
        np.empty((rows, weights.third_own.shape[0]), kind),
        np.empty((rows, 2), kind),
        np.empty((rows, 2 * channels), kind),
        np.empty((rows, weights.third_encoding.shape[0]), kind),
        np.empty((rows, first), kind),
        np.empty((rows, second), kind),
        np.empty(rows + 1, np.int64),
    )


@_compiled
def _compute(tile, given, maps, weights, start, end):
    """Compute all that a tile has; return how many points it has.

    Rows up to a multiple of four are zeros where they are inputs.
    """
    size = end - start
    rows = _fours(size)
    points = _read_points(tile, given, start, end)
    lines = _fours(points)
    _read_features(tile, given, maps, start, end)
    _copy_rows(tile.own, 0, given.own, start, size)
    tile.own[size:rows] = 0
    _take_statistics(tile, points)
    _fill(tile.of_first[:lines], weights.first_bias)
    add_product(tile.of_first[:lines], tile.statistics[:lines], weights.first_shared)
    _fill(tile.of_third[:lines], weights.third_bias)
    add_product(tile.of_third[:lines], tile.encoding[:lines], weights.third_encoding)
    new, newer, hidden = tile.new[:rows], tile.newer[:rows], tile.hidden[:rows]
    _to_pairs(new, tile.of_first, tile.start, points)
    add_product(new, tile.features[:rows], weights.first_own)
    to_elu(new)
    _fill(newer, weights.second_bias)
    add_product(newer, new, weights.second)
    to_elu(newer)
    _to_pairs(hidden, tile.of_third, tile.start, points)
    add_product(hidden, newer, weights.third_new)
    add_product(hidden, tile.own[:rows], weights.third_own)
    to_elu(hidden)
    _fill(tile.scores[:rows], weights.heads_bias)
    add_product(tile.scores[:rows], hidden, weights.heads)
    return points


@_compiled
def _layers_back(tile, gradient, weights, turned, total, size, points):
    """Go from scores back to the first layer; add gradients of weights."""
    rows, lines = _fours(size), _fours(points)
    of_scores, hidden = gradient.scores[:rows], gradient.hidden[:rows]
    _add_rows(total.heads_bias, of_scores)
    add_product(total.heads, tile.hidden[:rows].T, of_scores)
    hidden[:] = 0
    add_product(hidden, of_scores, turned.heads)
    through_elu(hidden, tile.hidden[:rows])
    of_third = gradient.of_third[:lines]
    _to_points(of_third, hidden, tile.start, points)
    _add_rows(total.third_bias, of_third)
    add_product(total.third_encoding, tile.encoding[:lines].T, of_third)
    add_product(total.third_own, tile.own[:rows].T, hidden)
    add_product(total.third_new, tile.newer[:rows].T, hidden)
    newer = gradient.newer[:rows]
    newer[:] = 0
    add_product(newer, hidden, turned.third_new)
    through_elu(newer, tile.newer[:rows])
    _add_rows(total.second_bias, newer)
    add_product(total.second, tile.new[:rows].T, newer)
    new = gradient.new[:rows]
    new[:] = 0
    add_product(new, newer, turned.second)
    through_elu(new, tile.new[:rows])
    of_first = gradient.of_first[:lines]
    _to_points(of_first, new, tile.start, points)
    _add_rows(total.first_bias, of_first)
    add_product(total.first_shared, tile.statistics[:lines].T, of_first)
    add_product(total.first_own, tile.features[:rows].T, new)


@_compiled
def _features_back(tile, gradient, turned, size, points):
    """Go from the first layer back to features.

    The variance depends on a feature through the mean as well, but these parts cancel:
    with N views, d variance / d feature = 2 / N * (feature - mean).
    """
    rows, lines = _fours(size), _fours(points)
    features, statistics = gradient.features[:rows], gradient.statistics[:lines]
    features[:] = 0
    add_product(features, gradient.new[:rows], turned.first_own)
    statistics[:] = 0
    add_product(statistics, gradient.of_first[:lines], turned.first_shared)
    channels = features.shape[1]
    for n in range(points):
        first, last = tile.start[n], tile.start[n + 1]
        share = np.float32(1) / np.float32(last - first)
        for row in range(first, last):
            for k in range(np.uint64(channels)):
                difference = tile.features[row, k] - tile.statistics[n, k]
                twice = np.float32(2) * statistics[n, k + np.uint64(channels)]
                features[row, k] += share * (statistics[n, k] + twice * difference)


@_compiled
def _scatter(of_maps, of_pairs, views, uv, low, view):
    """Add gradients of the pairs from `low` on to those of one view's maps."""
    first = np.uint64(0)
    for level in range(len(STRIDES)):
        _, height, width, channels = of_maps[level].shape
        flat, step = of_maps[level].reshape(-1), np.uint64(channels)
        scale = np.float32(1 / STRIDES[level])
        for n in range(len(of_pairs)):
            if views[low + n] != view:
                continue
            u, v = uv[low + n, 0] * scale, uv[low + n, 1] * scale
            at = corners(u, v, view, height, width)
            values = of_pairs[n]
            _add_part(flat, at.a * step, at.of_a, values, first, step)
            _add_part(flat, at.b * step, at.of_b, values, first, step)
            _add_part(flat, at.c * step, at.of_c, values, first, step)
            _add_part(flat, at.d * step, at.of_d, values, first, step)
        first += step


@_inlined
def _add_part(total, start, weight, values, first, count):
    for k in range(count):
        total[start + k] += weight * values[first + k]


@_compiled
def _read_points(tile, given, start, end):
    """Note where points' pairs start, and copy their encoding; return their number."""
    points = 0
    for n in range(start, end):
        if n == start or given.point[n] != given.point[n - 1]:
            tile.start[points] = n - start
            _copy_rows(tile.encoding, points, given.encoding, given.point[n], 1)
            points += 1
    tile.start[points] = end - start
    tile.encoding[points : _fours(points)] = 0
    return points


@_compiled
def _read_features(tile, given, maps, start, end):
    """Interpolate the maps of all levels; pixel (u, v) is at (u, v) / stride."""
    first = np.uint64(0)
    for level in range(len(STRIDES)):
        _, height, width, channels = maps[level].shape
        flat, step = maps[level].reshape(-1), np.uint64(channels)
        scale = np.float32(1 / STRIDES[level])
        for n in range(start, end):
            u, v = given.uv[n, 0] * scale, given.uv[n, 1] * scale
            at = corners(u, v, given.views[n], height, width)
            a, b, c, d = at.a * step, at.b * step, at.c * step, at.d * step
            row = tile.features[n - start]
            for k in range(step):
                upper = at.of_a * flat[a + k] + at.of_b * flat[b + k]
                lower = at.of_c * flat[c + k] + at.of_d * flat[d + k]
                row[first + k] = upper + lower
        first += step
    tile.features[end - start : _fours(end - start)] = 0


@_compiled
def _take_statistics(tile, points):
    """Write mean and variance over the views of each point."""
    channels = np.uint64(tile.features.shape[1])
    for n in range(points):
        first, last = tile.start[n], tile.start[n + 1]
        share = np.float32(1) / np.float32(last - first)
        both = tile.statistics[n]
        both[:] = 0
        for row in range(first, last):
            for k in range(channels):
                both[k] += tile.features[row, k]
        for k in range(channels):
            both[k] *= share
        for row in range(first, last):
            for k in range(channels):
                difference = tile.features[row, k] - both[k]
                both[channels + k] += share * difference * difference
    tile.statistics[points : _fours(points)] = 0


@_compiled
def _copy_rows(to, at, rows, start, count):
    """Copy rows; assignments of slices do the same and take long to compile."""
    for n in range(count):
        for k in range(np.uint64(to.shape[1])):
            to[at + n, k] = rows[start + n, k]


@_compiled
def _fill(rows, values):
    """Write the same values to all rows."""
    for row in range(len(rows)):
        for k in range(np.uint64(len(values))):
            rows[row, k] = values[k]


@_compiled
def _add_rows(total, rows):
    """Add up rows."""
    for row in range(len(rows)):
        for k in range(np.uint64(len(total))):
            total[k] += rows[row, k]


@_compiled
def _to_pairs(pairs, points, start, count):
    """Copy rows of points to their pairs; zeros to what is left."""
    for n in range(count):
        for row in range(start[n], start[n + 1]):
            for k in range(np.uint64(pairs.shape[1])):
                pairs[row, k] = points[n, k]
    pairs[start[count] :] = 0


@_compiled
def _to_points(points, pairs, start, count):
    """Add up rows of pairs by point; zeros for what is left."""
    points[:] = 0
    for n in range(count):
        for row in range(start[n], start[n + 1]):
            for k in range(np.uint64(points.shape[1])):
                points[n, k] += pairs[row, k]
