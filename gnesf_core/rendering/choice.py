"""Which frames of a scene vote, and for whom."""

from collections.abc import Sequence

import numpy as np

from gnesf_core.data.keyframes import fragments_of
from gnesf_core.data.store import Frames
from gnesf_core.geometry import camera
from gnesf_core.shapes import Bool, Float64, Int64

_DEPTHS = (0.2, 0.4, 0.7)  # of the range, where a frustum is looked at
_ROWS, _COLUMNS = 6, 8


def frames_of_kind(frames: Frames, kind: str) -> Int64[np.ndarray, " chosen"]:
    """Return the positions of key frames, of views, or of all kept frames."""
    everything = np.ones(len(frames), bool)
    chosen = {"keys": frames.is_key, "views": frames.is_view, "kept": everything}
    return np.flatnonzero(chosen[kind])


def voting_groups(frames: Frames) -> list[list[int]]:
    """Return each fragment's key frames without those of earlier fragments.

    The last fragment may overlap the one before it, but nobody votes twice.
    """
    groups: list[list[int]] = []
    for fragment in fragments_of(frames):
        before = {view for group in groups for view in group}
        groups.append([view for view in fragment if view not in before])
    return [group for group in groups if group]


def nearest_useful(
    frames: Frames,
    target: int,
    candidates: Sequence[int] | Int64[np.ndarray, " n"],
    count: int,
    least_overlap: float,
    range_m: float,
) -> list[int]:
    """Return the candidates nearest to a target frame that look at the same places.

    A candidate is useful if it has `least_overlap` of the target's frustum in sight, up
    to `range_m`. If none is, the nearest stands for all.
    """
    candidates = np.asarray(candidates)
    poses = frames.world_from_camera
    offsets = poses[candidates, :3, 3] - poses[target, :3, 3]
    order = np.linalg.norm(offsets, axis=1).argsort(kind="stable")
    useful = overlap(frames, target, candidates, range_m) >= least_overlap
    if not useful.any():
        return candidates[order[:1]].tolist()
    return candidates[order[useful[order]][:count]].tolist()


def overlap(
    frames: Frames,
    target: int,
    others: Sequence[int] | Int64[np.ndarray, " n"],
    range_m: float,
) -> Float64[np.ndarray, " n"]:
    """Return which share of a target's frustum other frames have in sight."""
    width, height = frames.color_size
    u = np.linspace(0, width - 1, _COLUMNS)
    v = np.linspace(0, height - 1, _ROWS)
    pixels = np.stack([*np.meshgrid(u, v), np.ones((_ROWS, _COLUMNS))], -1)
    rays = pixels.reshape(-1, 3) @ np.linalg.inv(frames.color_intrinsics).T
    points = np.concatenate([share * range_m * rays for share in _DEPTHS])
    points_world = camera.transform(frames.world_from_camera[target], points)
    camera_from_world = camera.invert_rigid(frames.world_from_camera[list(others)])
    shape = len(camera_from_world), *points_world.shape
    own = camera.transform(camera_from_world, np.broadcast_to(points_world, shape))
    uv, depth_m = camera.project(own, frames.color_intrinsics)
    inside: Bool[np.ndarray, "n points"] = camera.in_image(uv, width, height)
    return (inside & (depth_m <= range_m)).mean(1)
