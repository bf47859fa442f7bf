"""The fast twin of `tsdf.integrate` for CPUs.

The volume is cut into blocks small enough to stay in cache while a batch of frames
passes over them. A block is skipped where a frame cannot see it: outside the frustum or
beyond what the depth under its footprint allows, as told by a pyramid of the smallest
and largest depth. A block that lies in free space in front of all depth under its
footprint gets its ones without looking at a pixel. Only what is left, a band around the
surfaces, is computed voxel by voxel, in float32.

Both shortcuts are conservative: they decide only what every single voxel of the block
would have decided. Each block belongs to one thread, so that results do not depend on
the number of threads. Threads are Python's, with compiled code that releases the
interpreter lock: numba's own do not survive a fork and abort when two callers meet.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import torch

from gnesf_core.geometry import tsdf as truth
from gnesf_core.shapes import Float, Float32, Float64, Int64

BLOCK = 8  # voxels along each side of a block
PART = 4  # and of the parts that a block near a surface is split into
# Frames that pass over a block in one go: their depth should fit the second-level cache.
_BATCH_FRAMES = 8
# Tiles of the finest level of the depth pyramid, in pixels, and how many levels it has.
_TILE = 16
_TILE_LEVELS = 5
# A footprint is looked up on the first level where it spans at most so many tiles.
_MOST_TILES = 4
_SKIP, _FREE, _MIXED = 0, 1, 2
# Slack of the shortcuts, far above the rounding of float32 and far below a voxel.
_SLACK_M = 1e-4
_SLACK_PIXELS = 1e-2
_NEAR_M = 1e-3
_NO_DEPTH = np.float32(-1e30)


def _compiled(function: Callable) -> Callable:
    """Compile `function` on its first call, from the cache where one is writable."""
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "arcp"}}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba found no place to cache in
        return numba.njit(**options)(function)


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
    # Pixel indices are computed in float32.
    assert 0 < height * width < 2**24
    depth_m = np.ascontiguousarray(depth_m, np.float32)
    threads = threads or torch.get_num_threads()
    tiles = _tile_layout(height, width)
    lows = np.empty((min(frames, _BATCH_FRAMES), tiles[-1, 2]), np.float32)
    highs = np.empty_like(lows)
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, frames, _BATCH_FRAMES):
            batch = slice(start, start + _BATCH_FRAMES)
            depths, poses = depth_m[batch], world_from_camera[batch]
            limit = np.float32(max_depth_m)
            _run(
                pool,
                threads,
                lambda lane, d=depths: _depth_pyramids(
                    d, limit, tiles, lows, highs, lane, threads
                ),
            )
            for volume in volumes:
                matrices = _centred(volume.grid, intrinsics, poses)
                centre = intrinsics[:2, 2].astype(np.float64)
                reach = max_depth_m + volume.truncation_m
                ranges = _block_ranges(matrices, centre, volume.grid, (width, height), reach)
                arrays = volume.tsdf.numpy(), volume.weight.numpy()
                assert all(a.flags.c_contiguous and a.dtype == np.float32 for a in arrays)
                _run(
                    pool,
                    threads,
                    lambda lane, a=arrays, d=depths, m=matrices, r=ranges, c=centre, v=volume: (
                        _integrate_lane(
                            *a, d, limit, np.float32(v.truncation_m), m, c, r,
                            tiles, lows, highs, lane, threads,
                        )
                    ),
                )


def _run(pool, threads, job):
    if threads == 1:
        job(0)
        return
    list(pool.map(job, range(threads)))


def _centred(grid, intrinsics, poses):
    """Return pixel_from_voxel with u and v relative to the principal point.

    Small numbers lose less in float32.
    """
    centred = np.array(intrinsics, np.float64)
    centred[:2, 2] = 0.0
    return np.ascontiguousarray(truth.pixel_from_voxel(grid, centred, poses))


def _block_ranges(matrices, centre, grid, size, reach):
    """Return first and last+1 block along each axis that each frame can reach."""
    width, height = size
    corners = np.array(
        [(u * z, v * z, z)
         for u in (-0.5 - centre[0], width - 0.5 - centre[0])
         for v in (-0.5 - centre[1], height - 0.5 - centre[1])
         for z in (0.0, reach)]
    ).T
    voxels = np.linalg.solve(matrices[:, :, :3], corners - matrices[:, :, 3:])
    counts = np.ceil(np.array(grid.shape) / BLOCK)
    first = np.floor((voxels.min(2) - 0.01) / BLOCK).clip(0, counts)
    last = (np.floor((voxels.max(2) + 0.01) / BLOCK) + 1).clip(0, counts)
    return np.stack([first, last], 1).astype(np.int64)


def _tile_layout(height, width):
    """Return rows, columns and start of each pyramid level; the last row has the end."""
    layout = np.zeros((_TILE_LEVELS + 1, 3), np.int64)
    for level in range(_TILE_LEVELS):
        tile = _TILE << level
        rows, columns = math.ceil(height / tile), math.ceil(width / tile)
        layout[level, :2] = rows, columns
        layout[level + 1, 2] = layout[level, 2] + rows * columns
    return layout


@_compiled
def _depth_pyramids(depths, max_depth_m, tiles, lows, highs, lane, lanes):
    """Fill the pyramids of smallest and largest depth; no depth counts as far behind."""
    height, width = depths.shape[1:]
    low_row = np.empty(width, np.float32)
    high_row = np.empty(width, np.float32)
    for frame in range(lane, depths.shape[0], lanes):
        depth, low, high = depths[frame], lows[frame], highs[frame]
        rows, columns = tiles[0, 0], tiles[0, 1]
        for row in range(rows):
            low_row[:] = np.float32(1e30)
            high_row[:] = _NO_DEPTH
            for y in range(row * _TILE, min((row + 1) * _TILE, height)):
                for x in range(width):
                    d = depth[y, x]
                    d = d if (d > np.float32(0)) & (d <= max_depth_m) else _NO_DEPTH
                    low_row[x] = d if d < low_row[x] else low_row[x]
                    high_row[x] = d if d > high_row[x] else high_row[x]
            for column in range(columns):
                least, most = np.float32(1e30), _NO_DEPTH
                for x in range(column * _TILE, min((column + 1) * _TILE, width)):
                    least = min(least, low_row[x])
                    most = max(most, high_row[x])
                low[row * columns + column] = least
                high[row * columns + column] = most
        for level in range(1, tiles.shape[0] - 1):
            _coarsen(low, high, tiles, level)


@_compiled
def _coarsen(low, high, tiles, level):
    fine_rows, fine_columns, fine_start = tiles[level - 1]
    rows, columns, start = tiles[level]
    for row in range(rows):
        for column in range(columns):
            least, most = np.float32(1e30), _NO_DEPTH
            for y in range(2 * row, min(2 * row + 2, fine_rows)):
                for x in range(2 * column, min(2 * column + 2, fine_columns)):
                    at = fine_start + y * fine_columns + x
                    least = min(least, low[at])
                    most = max(most, high[at])
            low[start + row * columns + column] = least
            high[start + row * columns + column] = most


@_compiled
def _classify(
    matrix, centre, corner, side, height, width, reach, truncation_m, tiles, low, high
):
    """Say what a frame does to the cube of `side` voxels from `corner` on."""
    half = 0.5 * (side - 1)
    i, j, k = corner[0] + half, corner[1] + half, corner[2] + half
    z = matrix[2, 0] * i + matrix[2, 1] * j + matrix[2, 2] * k + matrix[2, 3]
    spread = half * (abs(matrix[2, 0]) + abs(matrix[2, 1]) + abs(matrix[2, 2]))
    near, far = z - spread, z + spread
    if far <= 0 or near > reach + _SLACK_M:
        return _SKIP
    if near < _NEAR_M:
        return _MIXED
    inside = True
    first0 = first1 = last0 = last1 = 0
    for axis in range(2):
        a = matrix[axis, 0] * i + matrix[axis, 1] * j + matrix[axis, 2] * k + matrix[axis, 3]
        spread = half * (abs(matrix[axis, 0]) + abs(matrix[axis, 1]) + abs(matrix[axis, 2]))
        least, most = a - spread, a + spread
        least = least / (near if least < 0 else far) + centre[axis] - _SLACK_PIXELS + 0.5
        most = most / (far if most < 0 else near) + centre[axis] + _SLACK_PIXELS + 0.5
        size = width if axis == 0 else height
        if most < 0 or least >= size:
            return _SKIP
        if least < 0:
            least = 0.0
            inside = False
        if most >= size:
            most = size - 1.0
            inside = False
        if axis == 0:
            first0, last0 = int(least), int(most)
        else:
            first1, last1 = int(least), int(most)
    first0, last0, first1, last1 = first0 // _TILE, last0 // _TILE, first1 // _TILE, last1 // _TILE
    level = 0
    while (
        max(last0 - first0, last1 - first1) >= _MOST_TILES and level < tiles.shape[0] - 2
    ):
        level += 1
        first0, last0, first1, last1 = first0 >> 1, last0 >> 1, first1 >> 1, last1 >> 1
    columns, start = tiles[level, 1], tiles[level, 2]
    least, most = np.float32(1e30), _NO_DEPTH
    for row in range(first1, last1 + 1):
        for column in range(first0, last0 + 1):
            at = start + row * columns + column
            least = min(least, low[at])
            most = max(most, high[at])
    if most + truncation_m + _SLACK_M < near:
        return _SKIP
    if inside and least - far > truncation_m + _SLACK_M:
        return _FREE
    return _MIXED


@_compiled
def _add_part(
    sums, counts, index, z, surface, depth, max_depth_m, truncation_m, matrix, centre,
    corner,
):
    """Add one frame to a part voxel by voxel.

    Projecting, looking up and averaging are separate loops because compilers turn the
    first and the last into vector instructions, but not a loop that does all three.
    """
    _project_part(index, z, depth.shape, matrix, centre, corner)
    pixels = depth.reshape(-1)
    for n in range(PART**3):
        surface[n] = pixels[np.uint32(index[n])]
    zero, one = np.float32(0), np.float32(1)
    scale = one / truncation_m
    for n in range(PART**3):
        s = surface[n]
        sdf = s - z[n]
        seen = (s > zero) & (s <= max_depth_m) & (sdf >= -truncation_m)
        value = sdf * scale
        value = value if value < one else one
        sums[n] += value if seen else zero
        counts[n] += one if seen else zero


@_compiled
def _project_part(index, z, size, matrix, centre, corner):
    """Write the pixel and the depth of each voxel; outside the image, a depth far off.

    The first voxel's position is float64; steps within the part are float32.
    """
    width, height = np.float32(size[1]), np.float32(size[0])
    u_shift, v_shift = np.float32(centre[0] + 0.5), np.float32(centre[1] + 0.5)
    u_first, v_first, z_first = _apply(matrix, corner)
    u_0, v_0, z_0 = np.float32(u_first), np.float32(v_first), np.float32(z_first)
    u_i, v_i, z_i = np.float32(matrix[0, 0]), np.float32(matrix[1, 0]), np.float32(matrix[2, 0])
    u_j, v_j, z_j = np.float32(matrix[0, 1]), np.float32(matrix[1, 1]), np.float32(matrix[2, 1])
    u_k, v_k, z_k = np.float32(matrix[0, 2]), np.float32(matrix[1, 2]), np.float32(matrix[2, 2])
    zero, one, far = np.float32(0), np.float32(1), np.float32(1e30)
    for n in range(PART**3):
        i, j, k = np.float32(n // PART**2), np.float32(n // PART % PART), np.float32(n % PART)
        depth = z_0 + i * z_i + j * z_j + k * z_k
        inverse = one / depth
        u = np.floor((u_0 + i * u_i + j * u_j + k * u_k) * inverse + u_shift)
        v = np.floor((v_0 + i * v_i + j * v_j + k * v_k) * inverse + v_shift)
        seen = (depth > zero) & (u >= zero) & (u < width) & (v >= zero) & (v < height)
        index[n] = np.int32(v * width + u if seen else zero)
        z[n] = depth if seen else far


@_compiled
def _apply(matrix, ijk):
    """Return u * z, v * z and z of a voxel, u and v from the principal point."""
    i, j, k = ijk
    u = matrix[0, 0] * i + matrix[0, 1] * j + matrix[0, 2] * k + matrix[0, 3]
    v = matrix[1, 0] * i + matrix[1, 1] * j + matrix[1, 2] * k + matrix[1, 3]
    z = matrix[2, 0] * i + matrix[2, 1] * j + matrix[2, 2] * k + matrix[2, 3]
    return u, v, z


@_compiled
def _blend(tsdf, weight, sums, counts, free, bi, bj, bk):
    """Blend the sums of a batch into the running mean."""
    one = np.float32(1)
    for i in range(min(BLOCK, tsdf.shape[0] - bi)):
        for j in range(min(BLOCK, tsdf.shape[1] - bj)):
            for k in range(min(BLOCK, tsdf.shape[2] - bk)):
                part = ((i // PART) * 2 + j // PART) * 2 + k // PART
                n = ((i % PART) * PART + j % PART) * PART + k % PART
                count = free + counts[part, n]
                total = free + sums[part, n]
                ijk = bi + i, bj + j, bk + k
                old, seen = tsdf[ijk], weight[ijk]
                mean = (old * seen + total) / max(seen + count, one)
                tsdf[ijk] = mean if count > 0 else old
                weight[ijk] = seen + count


@_compiled
def _integrate_lane(
    tsdf, weight, depths, max_depth_m, truncation_m, matrices, centre, ranges,
    tiles, lows, highs, lane, lanes,
):
    """Add a batch of frames to every `lanes`-th column of blocks."""
    frames, height, width = depths.shape
    reach = max_depth_m + truncation_m
    parts = (BLOCK // PART) ** 3
    sums = np.empty((parts, PART**3), np.float32)
    counts = np.empty((parts, PART**3), np.float32)
    index = np.empty(PART**3, np.int32)
    z = np.empty(PART**3, np.float32)
    surface = np.empty(PART**3, np.float32)
    active = np.empty(frames, np.int64)
    across = (tsdf.shape[1] + BLOCK - 1) // BLOCK
    columns = (tsdf.shape[0] + BLOCK - 1) // BLOCK * across
    for column in range(lane, columns, lanes):
        bi, bj = column // across, column % across
        count, first, last = 0, 1 << 30, 0
        for frame in range(frames):
            r = ranges[frame]
            if (r[0, 0] <= bi < r[1, 0]) and (r[0, 1] <= bj < r[1, 1]):
                active[count] = frame
                count += 1
                first, last = min(first, r[0, 2]), max(last, r[1, 2])
        for bk in range(first, last):
            block = float(bi * BLOCK), float(bj * BLOCK), float(bk * BLOCK)
            free, mixed = np.float32(0), False
            for at in range(count):
                frame = active[at]
                kind = _classify(
                    matrices[frame], centre, block, BLOCK, height, width, reach, truncation_m,
                    tiles, lows[frame], highs[frame],
                )
                if kind == _FREE:
                    free += np.float32(1)
                elif kind == _MIXED:
                    if not mixed:
                        sums[:] = 0
                        counts[:] = 0
                        mixed = True
                    for part in range(parts):
                        corner = (block[0] + part // 4 * PART, block[1] + part // 2 % 2 * PART, block[2] + part % 2 * PART)
                        kind = _classify(
                            matrices[frame], centre, corner, PART, height, width, reach, truncation_m,
                            tiles, lows[frame], highs[frame],
                        )
                        if kind == _FREE:
                            sums[part] += np.float32(1)
                            counts[part] += np.float32(1)
                        elif kind == _MIXED:
                            _add_part(
                                sums[part], counts[part], index, z, surface, depths[frame], max_depth_m, truncation_m,
                                matrices[frame], centre, corner,
                            )
            if mixed or free > 0:
                if not mixed:
                    sums[:] = 0
                    counts[:] = 0
                _blend(tsdf, weight, sums, counts, free, bi * BLOCK, bj * BLOCK, bk * BLOCK)
