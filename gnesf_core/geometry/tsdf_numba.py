"""The fast twin of `tsdf.integrate` for CPUs.

The volume is cut into blocks that stay in cache while a batch of frames passes over
them. A pyramid of the smallest and largest depth under each tile of a depth map tells
what a frame does to a block as a whole: nothing, if it lies outside the frustum or
behind all surfaces; a one for every voxel, if it lies in free space in front of all of
them. Other blocks are split into parts, which are asked once more, and only the parts
that remain, a band around the surfaces, are computed voxel by voxel, in float32.

Both shortcuts are conservative: they decide only what every voxel would have decided.
Each block belongs to one thread, so results do not depend on the number of threads.
Threads are Python's, running compiled code that releases the interpreter lock: numba's
own do not survive a fork and abort the process when two callers meet.

Compiled functions are not annotated: numba infers their types from `_Views` and from
the arrays that `integrate` has checked.
"""
# ruff: noqa: ANN001, ANN202

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from gnesf_core.geometry import tsdf as truth
from gnesf_core.ops.compiled import compiled, inlined
from gnesf_core.ops.threads import thread_count
from gnesf_core.shapes import Float, Float32, Float64, Int64

_BLOCK = 8  # voxels along each side of a block
_PART = 4  # and of the parts that a block near a surface is split into
_PARTS = (_BLOCK // _PART) ** 3
# Frames that pass over a block at once: more save writes, fewer keep depth in cache.
_BATCH_FRAMES = 8
# The depth pyramid: pixels along a tile of the finest level, and the number of levels.
_TILE = 16
_TILE_LEVELS = 5
# A footprint is looked up on the finest level where it spans at most so many tiles.
_MOST_TILES = 4
# What a frame does to a cube of voxels.
_NOTHING, _ONES, _VARIES = 0, 1, 2
# Slack of the shortcuts: far above rounding, far below anything that matters.
_SLACK_M = 1e-4
_SLACK_PIXELS = 1e-2
_NEAR_M = 1e-3
_FAR = np.float32(1e30)
_ZERO, _ONE = np.float32(0), np.float32(1)
_OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "arcp"}}
_compiled, _inlined = compiled(**_OPTIONS), inlined(**_OPTIONS)


class _Views(NamedTuple):
    """A batch of frames as the compiled code sees them."""

    pixels: Float32[np.ndarray, " pixels"]  # depth in metres, frame after frame
    height: int
    width: int
    matrices: Float64[np.ndarray, "frames 3 4"]  # as `pixel_from_voxel`, from `centre`
    centre: Float64[np.ndarray, " 2"]  # principal point
    ranges: Int64[np.ndarray, "frames 2 3"]  # first and last+1 block in reach
    tiles: Int64[np.ndarray, "levels_and_end 3"]  # rows, columns, start of each level
    lows: Float32[np.ndarray, "frames tiles"]
    highs: Float32[np.ndarray, "frames tiles"]
    max_depth_m: np.float32
    truncation_m: np.float32


def integrate(
    volumes: Sequence[truth.TsdfVolume],
    depth_m: Float[np.ndarray, "frames h w"],
    intrinsics: Float[np.ndarray, "3 3"],
    world_from_camera: Float[np.ndarray, "frames 4 4"],
    max_depth_m: float,
    threads: int | None = None,
) -> None:
    """Add frames to every volume in place, as `tsdf.integrate` does to one."""
    frames, height, width = depth_m.shape
    assert world_from_camera.shape == (frames, 4, 4) and intrinsics.shape == (3, 3)
    # Pixel numbers are computed in float32, which counts to 2**24.
    assert 0 < height * width < 2**24
    for volume in volumes:
        for values in map(np.asarray, (volume.tsdf, volume.weight)):
            assert values.dtype == np.float32 and values.flags.c_contiguous
            assert values.shape == volume.grid.shape
    depth_m = np.ascontiguousarray(depth_m, np.float32)
    threads = threads or thread_count()
    tiles = _tile_layout(height, width)
    lows = np.empty((min(frames, _BATCH_FRAMES), tiles[-1, 2]), np.float32)
    highs = np.empty_like(lows)
    with ThreadPoolExecutor(threads) as pool:

        def spread(function: Callable, *arguments: object) -> None:
            jobs = [
                pool.submit(function, *arguments, i, threads) for i in range(threads)
            ]
            for job in jobs:
                job.result()

        for start in range(0, frames, _BATCH_FRAMES):
            batch = slice(start, start + _BATCH_FRAMES)
            depths, limit = depth_m[batch], np.float32(max_depth_m)
            spread(_fill_pyramids, depths, limit, tiles, lows, highs)
            for volume in volumes:
                matrices, ranges = _reach(
                    volume,
                    intrinsics,
                    world_from_camera[batch],
                    (width, height),
                    max_depth_m,
                )
                views = _Views(
                    depths.reshape(-1),
                    height,
                    width,
                    matrices,
                    intrinsics[:2, 2].astype(np.float64),
                    ranges,
                    tiles,
                    lows,
                    highs,
                    limit,
                    np.float32(volume.truncation_m),
                )
                both = map(np.asarray, (volume.tsdf, volume.weight))
                spread(_add_views, *both, views)


def _tile_layout(height: int, width: int) -> Int64[np.ndarray, "levels_and_end 3"]:
    """Return rows, columns and start of each level; the last start is the end."""
    layout = np.zeros((_TILE_LEVELS + 1, 3), np.int64)
    for level in range(_TILE_LEVELS):
        tile = _TILE << level
        rows, columns = math.ceil(height / tile), math.ceil(width / tile)
        layout[level, :2] = rows, columns
        layout[level + 1, 2] = layout[level, 2] + rows * columns
    return layout


def _reach(
    volume: truth.TsdfVolume,
    intrinsics: Float[np.ndarray, "3 3"],
    world_from_camera: Float[np.ndarray, "frames 4 4"],
    size: tuple[int, int],
    max_depth_m: float,
) -> tuple[Float64[np.ndarray, "frames 3 4"], Int64[np.ndarray, "frames 2 3"]]:
    """Return each frame's projection, and the box of blocks around its frustum.

    Projections have u and v relative to the principal point: float32 is more exact
    about smaller numbers.
    """
    centred = np.array(intrinsics, np.float64)
    centred[:2, 2] = 0.0
    matrices = truth.pixel_from_voxel(volume.grid, centred, world_from_camera)
    reach = max_depth_m + volume.truncation_m
    edges = [
        (-0.5 - intrinsics[i, 2], size[i] - 0.5 - intrinsics[i, 2]) for i in (0, 1)
    ]
    corners = [
        (u * z, v * z, z) for u in edges[0] for v in edges[1] for z in (0, reach)
    ]
    shifted = np.array(corners).T - matrices[:, :, 3:]
    voxels = np.linalg.solve(matrices[:, :, :3], shifted)
    counts = np.ceil(np.array(volume.grid.shape) / _BLOCK)
    first = np.floor((voxels.min(2) - 0.01) / _BLOCK).clip(0, counts)
    last = (np.floor((voxels.max(2) + 0.01) / _BLOCK) + 1).clip(0, counts)
    return np.ascontiguousarray(matrices), np.stack([first, last], 1).astype(np.int64)


@_compiled
def _fill_pyramids(depths, max_depth_m, tiles, lows, highs, lane, lanes):
    """Write the least and the largest depth of all tiles of every `lanes`-th frame.

    A pixel without depth, or with too much, counts as a surface far behind the camera:
    it keeps its tile from being free space, and hides nothing that is not hidden.
    """
    height, width = depths.shape[1:]
    row_low = np.empty(width, np.float32)
    row_high = np.empty(width, np.float32)
    for frame in range(lane, depths.shape[0], lanes):
        depth, low, high = depths[frame], lows[frame], highs[frame]
        columns = tiles[0, 1]
        for row in range(tiles[0, 0]):
            row_low[:] = _FAR
            row_high[:] = -_FAR
            for y in range(row * _TILE, min((row + 1) * _TILE, height)):
                for x in range(width):
                    d = depth[y, x]
                    d = d if (d > _ZERO) & (d <= max_depth_m) else -_FAR
                    row_low[x] = d if d < row_low[x] else row_low[x]
                    row_high[x] = d if d > row_high[x] else row_high[x]
            for column in range(columns):
                least, most = _FAR, -_FAR
                for x in range(column * _TILE, min((column + 1) * _TILE, width)):
                    least = min(least, row_low[x])
                    most = max(most, row_high[x])
                low[row * columns + column] = least
                high[row * columns + column] = most
        for level in range(1, _TILE_LEVELS):
            _coarsen(low, high, tiles, level)


@_inlined
def _coarsen(low, high, tiles, level):
    """Write one level of a pyramid from the level below."""
    fine_rows, fine_columns, fine_start = tiles[level - 1]
    rows, columns, start = tiles[level]
    for row in range(rows):
        for column in range(columns):
            least, most = _FAR, -_FAR
            for y in range(2 * row, min(2 * row + 2, fine_rows)):
                for x in range(2 * column, min(2 * column + 2, fine_columns)):
                    at = fine_start + y * fine_columns + x
                    least = min(least, low[at])
                    most = max(most, high[at])
            low[start + row * columns + column] = least
            high[start + row * columns + column] = most


@_inlined
def _row(views, frame, row, corner):
    """Return a row of the projection at `corner`, and its steps along i, j and k."""
    i = views.matrices[frame, row, 0]
    j = views.matrices[frame, row, 1]
    k = views.matrices[frame, row, 2]
    offset = views.matrices[frame, row, 3]
    return i * corner[0] + j * corner[1] + k * corner[2] + offset, i, j, k


@_inlined
def _single(row):
    """Return a row in single precision."""
    return (
        np.float32(row[0]),
        np.float32(row[1]),
        np.float32(row[2]),
        np.float32(row[3]),
    )


@_inlined
def _interval(views, frame, row, corner, side):
    """Return the least and largest value of a row in the cube of `side` voxels."""
    value, i, j, k = _row(views, frame, row, corner)
    half = 0.5 * (side - 1)
    middle, spread = value + half * (i + j + k), half * (abs(i) + abs(j) + abs(k))
    return middle - spread, middle + spread


@_inlined
def _pixels(least, most, near, far, centre):
    """Return bounds of `a / z + centre + 0.5`, whose floor is the nearest pixel."""
    first = least / (near if least < 0 else far) + centre + (0.5 - _SLACK_PIXELS)
    last = most / (far if most < 0 else near) + centre + (0.5 + _SLACK_PIXELS)
    return first, last


@_inlined
def _effect(views, frame, corner, side):
    """Return what a frame does to the cube of `side` voxels from `corner` on."""
    near, far = _interval(views, frame, 2, corner, side)
    if far <= 0 or near > views.max_depth_m + views.truncation_m + _SLACK_M:
        return _NOTHING
    if near < _NEAR_M:
        return _VARIES
    least, most = _interval(views, frame, 0, corner, side)
    left, right = _pixels(least, most, near, far, views.centre[0])
    least, most = _interval(views, frame, 1, corner, side)
    top, bottom = _pixels(least, most, near, far, views.centre[1])
    if right < 0 or left >= views.width or bottom < 0 or top >= views.height:
        return _NOTHING
    is_inside = left >= 0 and right < views.width and top >= 0 and bottom < views.height
    least, most = _depth_extremes(views, frame, left, right, top, bottom)
    if most + views.truncation_m + _SLACK_M < near:
        return _NOTHING
    if is_inside and least - far > views.truncation_m + _SLACK_M:
        return _ONES
    return _VARIES


@_inlined
def _depth_extremes(views, frame, left, right, top, bottom):
    """Return bounds of the depth in a rectangle of pixels, clipped to the image."""
    first_x = int(max(left, 0.0)) // _TILE
    last_x = int(min(right, views.width - 1.0)) // _TILE
    first_y = int(max(top, 0.0)) // _TILE
    last_y = int(min(bottom, views.height - 1.0)) // _TILE
    level = 0
    while (
        max(last_x - first_x, last_y - first_y) >= _MOST_TILES
        and level < _TILE_LEVELS - 1
    ):
        level += 1
        first_x, last_x = first_x >> 1, last_x >> 1
        first_y, last_y = first_y >> 1, last_y >> 1
    columns, start = views.tiles[level, 1], views.tiles[level, 2]
    least, most = _FAR, -_FAR
    for y in range(first_y, last_y + 1):
        for at in range(
            start + y * columns + first_x, start + y * columns + last_x + 1
        ):
            least = min(least, views.lows[frame, at])
            most = max(most, views.highs[frame, at])
    return least, most


@_inlined
def _add_block(views, frame, block, sums, counts, index, z, surface):
    """Add one frame to a block part by part."""
    for part in range(_PARTS):
        corner = _part_corner(block, part)
        effect = _effect(views, frame, corner, _PART)
        if effect == _ONES:
            sums[part] += _ONE
            counts[part] += _ONE
        elif effect == _VARIES:
            _add_part(views, frame, corner, sums[part], counts[part], index, z, surface)


@_inlined
def _add_part(views, frame, corner, sums, counts, index, z, surface):
    """Add one frame to a part voxel by voxel.

    Projecting, looking up and adding are separate loops because compilers turn the
    first and the last into vector instructions, but not one loop that does all three.
    """
    _project_part(views, frame, corner, index, z)
    pixels, start = views.pixels, frame * views.height * views.width
    for n in range(_PART**3):
        surface[n] = pixels[np.uint32(start + index[n])]
    max_depth_m, truncation_m = views.max_depth_m, views.truncation_m
    scale = _ONE / truncation_m
    for n in range(_PART**3):
        depth = surface[n]
        sdf = depth - z[n]
        seen = (depth > _ZERO) & (depth <= max_depth_m) & (sdf >= -truncation_m)
        value = sdf * scale
        value = value if value < _ONE else _ONE
        sums[n] += value if seen else _ZERO
        counts[n] += _ONE if seen else _ZERO


@_inlined
def _project_part(views, frame, corner, index, z):
    """Write the pixel and the depth of each voxel; outside the image, a depth far off.

    The first voxel's position is float64; steps within the part are float32.
    """
    width, height = np.float32(views.width), np.float32(views.height)
    u_shift = np.float32(views.centre[0] + 0.5)
    v_shift = np.float32(views.centre[1] + 0.5)
    u_0, u_i, u_j, u_k = _single(_row(views, frame, 0, corner))
    v_0, v_i, v_j, v_k = _single(_row(views, frame, 1, corner))
    z_0, z_i, z_j, z_k = _single(_row(views, frame, 2, corner))
    for n in range(_PART**3):
        i = np.float32(n // _PART**2)
        j = np.float32(n // _PART % _PART)
        k = np.float32(n % _PART)
        depth = z_0 + i * z_i + j * z_j + k * z_k
        inverse = _ONE / depth
        u = np.floor((u_0 + i * u_i + j * u_j + k * u_k) * inverse + u_shift)
        v = np.floor((v_0 + i * v_i + j * v_j + k * v_k) * inverse + v_shift)
        seen = (u >= _ZERO) & (u < width) & (v >= _ZERO) & (v < height)
        seen = seen & (depth > _ZERO)
        index[n] = np.int32(v * width + u if seen else _ZERO)
        z[n] = depth if seen else _FAR


@_inlined
def _part_corner(block, part):
    """Return the first voxel of a part of the block that starts at `block`."""
    side = _BLOCK // _PART
    i, j, k = part // side**2, part // side % side, part % side
    return block[0] + i * _PART, block[1] + j * _PART, block[2] + k * _PART


@_inlined
def _blend(tsdf, weight, block, sums, counts):
    """Blend the sums of a batch of frames over a block into the running mean."""
    for part in range(_PARTS):
        corner = _part_corner(block, part)
        for i in range(min(_PART, tsdf.shape[0] - corner[0])):
            for j in range(min(_PART, tsdf.shape[1] - corner[1])):
                x, y = corner[0] + i, corner[1] + j
                for k in range(min(_PART, tsdf.shape[2] - corner[2])):
                    n = (i * _PART + j) * _PART + k
                    added = counts[part, n]
                    if added > _ZERO:
                        z = corner[2] + k
                        old = weight[x, y, z]
                        total = tsdf[x, y, z] * old + sums[part, n]
                        tsdf[x, y, z] = total / (old + added)
                        weight[x, y, z] = old + added


@_compiled
def _add_views(tsdf, weight, views, lane, lanes):
    """Add a batch of frames to every `lanes`-th column of blocks."""
    sums = np.empty((_PARTS, _PART**3), np.float32)
    counts = np.empty((_PARTS, _PART**3), np.float32)
    index = np.empty(_PART**3, np.int32)
    z = np.empty(_PART**3, np.float32)
    surface = np.empty(_PART**3, np.float32)
    active = np.empty(views.matrices.shape[0], np.int64)
    across = (tsdf.shape[1] + _BLOCK - 1) // _BLOCK
    columns = (tsdf.shape[0] + _BLOCK - 1) // _BLOCK * across
    for column in range(lane, columns, lanes):
        bi, bj = column // across, column % across
        count, first, last = _frames_in_reach(views, bi, bj, active)
        for bk in range(first, last):
            block = bi * _BLOCK, bj * _BLOCK, bk * _BLOCK
            touched = False
            for frame in active[:count]:
                effect = _effect(views, frame, block, _BLOCK)
                if effect == _NOTHING:
                    continue
                if not touched:
                    sums[:] = _ZERO
                    counts[:] = _ZERO
                    touched = True
                if effect == _ONES:
                    sums[:] += _ONE
                    counts[:] += _ONE
                else:
                    _add_block(views, frame, block, sums, counts, index, z, surface)
            if touched:
                _blend(tsdf, weight, block, sums, counts)


@_inlined
def _frames_in_reach(views, bi, bj, active):
    """List the frames that reach a column; return their number and the blocks."""
    count, first, last = 0, 1 << 30, 0
    for frame in range(views.ranges.shape[0]):
        low, high = views.ranges[frame, 0], views.ranges[frame, 1]
        if low[0] <= bi < high[0] and low[1] <= bj < high[1]:
            active[count] = frame
            count += 1
            first, last = min(first, low[2]), max(last, high[2])
    return count, first, last
