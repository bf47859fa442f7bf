"""How well the cameras of a capture agree about what they see, under any convention.

Whoever writes poses chooses whether matrices lead to the world or from it, and whether
cameras look along z (OpenCV) or against it (OpenGL). Only the right choice lets cameras
that see the same things see them at the same places.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gnesf_core.geometry import camera
from gnesf_core.shapes import Float32, Float64, Int64

# Conventions of a 4x4 matrix in a file, by the names that errors give them.
WORLD_OPENCV = "world_from_camera, x right, y down, z forward (OpenCV)"
WORLD_OPENGL = "world_from_camera, x right, y up, z back (OpenGL)"
CAMERA_OPENCV = "camera_from_world, x right, y down, z forward (OpenCV)"
CAMERA_OPENGL = "camera_from_world, x right, y up, z back (OpenGL)"

_FLIP = np.diag([1.0, -1, -1, 1])
_TURN_DEG = 5.0, 40.0  # pairs of cameras that turn by less say nothing, by more too
_PAIRS = 40
_TOLERANCE = 0.05  # share of a depth, by which two measurements may differ


class Agreement(NamedTuple):
    """Which share of the comparisons agrees, and how many there were."""

    share: float
    compared: int


def readings(
    matrices: Float64[np.ndarray, "n 4 4"],
) -> dict[str, Float64[np.ndarray, "n 4 4"]]:
    """Return the poses that matrices of a file are under each convention."""
    inverse = camera.invert_rigid(matrices)
    return {
        WORLD_OPENCV: matrices,
        WORLD_OPENGL: matrices @ _FLIP,
        CAMERA_OPENCV: inverse,
        CAMERA_OPENGL: inverse @ _FLIP,
    }


def pairs_of(
    world_from_camera: Float64[np.ndarray, "n 4 4"],
) -> Int64[np.ndarray, "m 2"]:
    """Return pairs of cameras that turn a little between each other.

    How much two cameras turn is the same under all conventions, so all are compared by
    the same pairs: those of the smallest turns, evenly over the capture.
    """
    rotation = world_from_camera[:, :3, :3]
    trace = np.einsum("aij,bij->ab", rotation, rotation)
    degrees = np.rad2deg(np.arccos(((trace - 1) / 2).clip(-1, 1)))
    low, high = _TURN_DEG
    degrees[(degrees < low) | (degrees > high)] = np.inf
    partner = degrees.argmin(1)
    has_one = np.isfinite(degrees.min(1))
    pairs = np.stack([np.arange(len(partner)), partner], 1)[has_one]
    step = max(1, -(-len(pairs) // _PAIRS))
    return pairs[::step].astype(np.int64)


def depth_agreement(
    points_camera: Sequence[Float64[np.ndarray, "_ 3"]],
    depth_m: Sequence[Float32[np.ndarray, "h w"]],
    intrinsics: Float64[np.ndarray, "3 3"],
    world_from_camera: Float64[np.ndarray, "n 4 4"],
    pairs: Int64[np.ndarray, "m 2"],
) -> Agreement:
    """Compare points that one camera measured with the depth that another has there.

    Points behind what the other sees may well be hidden: they count as neither.
    """
    agree = contradict = 0
    for one, other in pairs.tolist():
        height, width = depth_m[other].shape
        poses = world_from_camera
        motion = camera.invert_rigid(poses[other]) @ poses[one]
        uv, z = camera.project(camera.transform(motion, points_camera[one]), intrinsics)
        inside = camera.in_image(uv, width, height)
        u, v = np.floor(uv[inside] + 0.5).astype(np.int64).T
        measured, z = depth_m[other][v, u], z[inside]
        known = measured > 0
        off = (z - measured)[known] / measured[known]
        agree += int((np.abs(off) <= _TOLERANCE).sum())
        contradict += int((off < -_TOLERANCE).sum())
    compared = agree + contradict
    return Agreement(agree / max(compared, 1), compared)


def best_of(found: Mapping[str, Agreement], least_compared: int) -> str:
    """Return the convention that agrees most, among those that could be compared."""
    able = {name: a.share for name, a in found.items() if a.compared >= least_compared}
    return max(able, key=able.__getitem__) if able else ""
