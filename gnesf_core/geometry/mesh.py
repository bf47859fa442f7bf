"""Surfaces of truncated signed distances."""

import numpy as np

from gnesf_core.geometry.grid import Grid, corners_all
from gnesf_core.shapes import Bool, Float, Float32, Float64, Int32, Integer, Shaped

# A mean this close to 1 comes from free space alone.
_SATURATED = 0.99
_ALMOST_ZERO = 1e-4  # of a truncation: a hundredth of a millimetre at 12 cm
_MOST_POINTS = 2**27  # on one surface; 3 GiB, 10,000 square metres at 2 cm


def extract_surface(
    tsdf: Float32[np.ndarray, "x y z"],
    weight: Shaped[np.ndarray, "x y z"],
    grid: Grid,
) -> tuple[Float32[np.ndarray, "vertices 3"], Int32[np.ndarray, "faces 3"]]:
    """Return vertices in world metres and triangles of the zero level of `tsdf`.

    Only cells are used whose 8 corners have weight and which no jump of depth crosses,
    so that the surface is a single layer without a shell behind it. Triangles are
    counterclockwise seen from free space. Without a surface both arrays are empty.
    """
    from skimage.measure import marching_cubes

    # A value of exactly 0 is outside for us and inside for the library; depth in whole
    # millimetres and level cameras make such values common.
    tsdf = np.where(tsdf == 0, np.float32(_ALMOST_ZERO), tsdf)
    cells = _surface_cells(tsdf, weight)
    if not cells.any():
        return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32)
    box = _bounding_box(cells)
    voxels = tuple(slice(side.start, side.stop + 1) for side in box)
    # The library asks the mask at a cell's last corner.
    mask = np.pad(cells[box], ((1, 0), (1, 0), (1, 0)))
    ijk, faces, _, _ = marching_cubes(
        tsdf[voxels], 0.0, mask=mask, allow_degenerate=False
    )
    ijk, faces = _without_orphans(ijk, faces)
    ijk += np.array([side.start for side in box], np.float32)
    vertices = grid.origin_world + grid.voxel_size_m * ijk.astype(np.float64)
    return vertices.astype(np.float32), faces


def _surface_cells(
    tsdf: Float32[np.ndarray, "x y z"], weight: Shaped[np.ndarray, "x y z"]
) -> Bool[np.ndarray, "i j k"]:
    """Tell which cells, named by their first corner, hold a piece of surface.

    Distances climb from 0 to 1 over the truncation. An edge of one voxel from behind a
    surface to saturated free space is a jump of depth, the side of a shadow: with a
    truncation of 3 voxels, no surface seen at less than about 70 degrees climbs so
    fast; with one of 1.5 voxels, none at less than about 48. (At 1 voxel every surface
    would: settings ask for more.)
    """
    observed = corners_all(weight > 0)
    positive = tsdf >= 0
    crossed = ~corners_all(positive) & ~corners_all(~positive)
    return observed & crossed & ~_has_jump(tsdf)


def _has_jump(tsdf: Float32[np.ndarray, "x y z"]) -> Bool[np.ndarray, "i j k"]:
    """Tell for which cells an edge leads from a negative value to a saturated one."""
    negative, saturated = tsdf < 0, tsdf >= _SATURATED
    jumps = np.zeros([max(side - 1, 0) for side in tsdf.shape], bool)
    for axis in range(3):
        near = [_shorten(values, axis, 0) for values in (negative, saturated)]
        far = [_shorten(values, axis, 1) for values in (negative, saturated)]
        edge = (near[0] & far[1]) | (near[1] & far[0])
        for other in {0, 1, 2} - {axis}:
            edge = _shorten(edge, other, 0) | _shorten(edge, other, 1)
        jumps |= edge
    return jumps


def _shorten(
    values: Bool[np.ndarray, "x y z"], axis: int, start: int
) -> Bool[np.ndarray, "_ _ _"]:
    """Drop the last layer along an axis, or with `start` 1 the first."""
    return values.take(range(start, values.shape[axis] - 1 + start), axis)


def _bounding_box(cells: Bool[np.ndarray, "i j k"]) -> tuple[slice, slice, slice]:
    """Return the smallest box of cells that holds all that are true."""
    sides = []
    for others in ((1, 2), (0, 2), (0, 1)):
        used = np.flatnonzero(cells.any(others))
        sides.append(slice(int(used[0]), int(used[-1]) + 1))
    return sides[0], sides[1], sides[2]


def _without_orphans(
    vertices: Float32[np.ndarray, "vertices 3"], faces: Integer[np.ndarray, "faces 3"]
) -> tuple[Float32[np.ndarray, "used 3"], Int32[np.ndarray, "faces 3"]]:
    """Drop vertices that no face uses."""
    used = np.zeros(len(vertices), bool)
    used[faces] = True
    return vertices[used], (np.cumsum(used) - 1)[faces].astype(np.int32)


def dense_points(
    vertices: Float[np.ndarray, "vertices 3"],
    faces: Integer[np.ndarray, "faces 3"],
    spacing_m: float,
) -> Float64[np.ndarray, "points 3"]:
    """Return points all over a surface, nowhere more than `spacing_m` apart.

    Each triangle is cut along a barycentric lattice into n x n equal ones with edges of
    at most `spacing_m`. Their centres are the points, which weights a triangle's parts
    alike and its edges not twice. Without faces the vertices are all there is.
    """
    vertices = np.asarray(vertices, np.float64)
    if len(faces) == 0:
        return vertices
    corners = vertices[faces]
    edges = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2)
    cuts = np.maximum(np.ceil(edges.max(axis=1) / spacing_m), 1)
    if not (cuts**2).sum() <= _MOST_POINTS:
        raise ValueError(
            f"a surface of {len(faces)} triangles, the longest edge {edges.max()} m, "
            f"has more than {_MOST_POINTS} points {spacing_m} m apart; remedy: remove "
            "stray points"
        )
    # One matrix product for all triangles that are cut alike.
    parts = [
        (_lattice_centres(int(n)) @ corners[cuts == n]).reshape(-1, 3)
        for n in np.unique(cuts)
    ]
    return np.concatenate(parts)


def _lattice_centres(n: int) -> Float64[np.ndarray, "points 3"]:
    """Return the barycentric centres of the n x n equal parts of a triangle."""
    i, j = np.divmod(np.arange(n * n), n)
    upright = i + j < n
    # The other half of the square of indices is the triangles that stand on their tip.
    i, j = np.where(upright, i, n - 1 - i), np.where(upright, j, n - 1 - j)
    third = np.where(upright, 1, 2) / 3
    first, second = (i + third) / n, (j + third) / n
    return np.stack([first, second, 1 - first - second], axis=1)
