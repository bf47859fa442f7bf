"""Which way is up in a world that somebody's cameras were placed in, and its floor.

People hold cameras level: the horizontal axes of their pictures lie in the horizontal
plane, whichever way they look. Floors and tables, where measured, say it more exactly.
"""

from typing import NamedTuple

import numpy as np

from gnesf_core.shapes import Bool, Float64

_SEED = 0
_TRIALS = 2000  # planes through three points
_MOST_TILT = np.cos(np.deg2rad(15))  # of a floor against what the cameras say
_THICK_M = 0.03  # points of a plane lie this close to it
_THIN_M = 0.05  # one point counts per cube of this size: near surfaces have the most
_MOST_POINTS = 20_000
_LEAST_POINTS = 50  # of a plane that is believed
_LEAST_SHARE = 0.1  # of the low points
_BELOW_CAMERAS_M = 0.4  # floors and tables are lower than cameras by more than this
_FLOOR_SHARE = 0.25  # of the largest plane's points, that the lowest plane must have
_FLAT = 0.1  # spread of the axes below which all cameras look along one line
_SIDEWAYS = 2.0  # how much clearer the evidence for pictures on their side must be


class Up(NamedTuple):
    """A direction, and how it was found."""

    direction: Float64[np.ndarray, " 3"]
    how: str
    lie_sideways: bool = False  # the pictures' long sides stand upright in the world


class Floor(NamedTuple):
    """The floor's plane: points p with p @ up == height."""

    up: Float64[np.ndarray, " 3"]
    height: float
    points: int  # that lie on it


def up_of_cameras(world_from_camera: Float64[np.ndarray, "n 4 4"]) -> Up:
    """Return the direction that is square to the level axes of all cameras.

    Telephones held upright take pictures that lie on their side: then it is the other
    axis that is level. Such cameras do not tell which side is up, so they are taken to
    look rather down than up.
    """
    right, down, forward = (world_from_camera[:, :3, axis] for axis in range(3))
    normal, clear = _square_to(right)
    other_normal, other_clear = _square_to(down)
    mean_up = -down.mean(0)
    if other_clear > max(_SIDEWAYS * clear, _FLAT):
        looks_up = forward.mean(0) @ other_normal > 0
        how = "cameras held on their side, looking down on average"
        return Up(-other_normal if looks_up else other_normal, how, True)
    if clear < _FLAT:
        # Not the mean, which is nothing where they look either way along the line.
        axis = np.linalg.svd(right, full_matrices=False)[2][0]
        up = mean_up - (mean_up @ axis) * axis
        return Up(up / np.linalg.norm(up), "cameras that all look along one line")
    return Up(normal if normal @ mean_up > 0 else -normal, "level cameras")


def _square_to(axes: Float64[np.ndarray, "n 3"]) -> tuple[np.ndarray, float]:
    """Return the normal of the plane that directions lie in, and how clearly they do.

    Clear means that they spread within the plane more than out of it.
    """
    _, sizes, rows = np.linalg.svd(axes, full_matrices=False)
    if len(sizes) < 3:
        return np.cross(rows[0], rows[1]), 0.0
    return rows[2], float((sizes[1] - sizes[2]) / sizes[0])


def floor_of_points(
    points_m: Float64[np.ndarray, "n 3"],
    centres_m: Float64[np.ndarray, "cameras 3"],
    up: Float64[np.ndarray, " 3"],
    *,
    turn: bool = True,
) -> Floor | None:
    """Find the floor below the cameras, or None where nothing horizontal is.

    The dominant plane among low points says what is horizontal, floor or table; the
    floor is the lowest plane that is not much smaller. Unless told not to `turn`, up
    becomes its normal.
    """
    points = _thinned(points_m)
    low = points[points @ up < np.median(centres_m @ up) - _BELOW_CAMERAS_M]
    if len(low) < _LEAST_POINTS:
        return None
    if turn:
        plane = _dominant_plane(low, up)
        if plane is None:
            return None
        up = _normal(low[plane], up)
    height = _lowest_level(low @ up)
    if height is None:
        return None
    on_floor = np.abs(low @ up - height) < _THICK_M
    if turn:
        up = _normal(low[on_floor], up)
        height = float(np.median(low[on_floor] @ up))
        on_floor = np.abs(low @ up - height) < _THICK_M
    return Floor(up, float(np.median(low[on_floor] @ up)), int(on_floor.sum()))


def _thinned(points: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "m 3"]:
    """Keep one point per small cube, and not too many of them."""
    points = points[np.isfinite(points).all(1) & (np.abs(points) < 1e4).all(1)]
    cubes = np.floor(points / _THIN_M).astype(np.int64)
    _, first = np.unique(cubes, axis=0, return_index=True)
    if len(first) > _MOST_POINTS:
        rng = np.random.default_rng(_SEED)
        first = rng.choice(first, _MOST_POINTS, replace=False)
    return points[np.sort(first)]


def _dominant_plane(
    points: Float64[np.ndarray, "n 3"], up: Float64[np.ndarray, " 3"]
) -> Bool[np.ndarray, " n"] | None:
    """Return which points lie on the nearly horizontal plane that has most of them."""
    rng = np.random.default_rng(_SEED)
    a, b, c = points[rng.integers(0, len(points), (3, _TRIALS))]
    normals = np.cross(b - a, c - a)
    lengths = np.linalg.norm(normals, axis=1)
    sharp = lengths > 1e-9
    normals = normals[sharp] / lengths[sharp, None]
    level = np.abs(normals @ up) > _MOST_TILT
    best, most = None, max(_LEAST_POINTS, _LEAST_SHARE * len(points)) - 1
    for normal, point in zip(normals[level], a[sharp][level], strict=True):
        near = np.abs((points - point) @ normal) < _THICK_M
        if near.sum() > most:
            best, most = near, int(near.sum())
    if best is None:
        return None
    return best if _normal(points[best], up) @ up > _MOST_TILT else None


def _normal(
    points: Float64[np.ndarray, "n 3"], up: Float64[np.ndarray, " 3"]
) -> Float64[np.ndarray, " 3"]:
    """Return the upward normal of the plane that fits points best."""
    _, _, rows = np.linalg.svd(points - points.mean(0), full_matrices=False)
    return rows[2] if rows[2] @ up > 0 else -rows[2]


def _lowest_level(heights: Float64[np.ndarray, " n"]) -> float | None:
    """Return the height of the lowest plane among the large ones."""
    bin_m = _THICK_M / 2
    start = heights.min() - 2 * bin_m
    counts = np.bincount(((heights - start) / bin_m).astype(np.int64))
    window = np.convolve(counts, np.ones(4), "same")
    large = window >= max(_LEAST_POINTS / 2, _FLOOR_SHARE * window.max())
    if not large.any():
        return None
    first = int(large.argmax())
    peak = first + int(window[first : first + 6].argmax())
    near = np.abs(heights - (start + peak * bin_m)) < 2 * _THICK_M
    return float(np.median(heights[near])) if near.any() else None


def turn_upright(up: Float64[np.ndarray, " 3"]) -> Float64[np.ndarray, "3 3"]:
    """Return the smallest rotation that takes `up` to z."""
    axis = np.cross(up, [0, 0, 1.0])
    sine, cosine = np.linalg.norm(axis), up[2]
    if sine < 1e-12:
        return np.eye(3) if cosine > 0 else np.diag([1.0, -1, -1])
    x, y, z = axis / sine
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + sine * skew + (1 - cosine) * skew @ skew
