"""Which frames of a capture become key frames, and which key frames form fragments.

A key frame is a usable frame whose camera has turned or moved enough since the last key
frame. A fragment is a window of consecutive key frames that the geometry network sees
at once.
"""

from dataclasses import dataclass

import numpy as np

from gnesf_core.config import FramesConfig
from gnesf_core.data.store import Frames
from gnesf_core.errors import BadInput
from gnesf_core.shapes import Bool, Float, Int64


@dataclass(frozen=True)
class KeyFrames:
    """The key frames of one capture and their grouping."""

    indices: Int64[np.ndarray, " keys"]  # raw frame numbers, ascending
    fragments: Int64[np.ndarray, "fragments views"]  # into `indices`, padded with -1


def select_key_frames(
    world_from_camera: Float[np.ndarray, "frames 4 4"],
    usable: Bool[np.ndarray, " frames"],
    config: FramesConfig,
) -> KeyFrames:
    """Choose key frames among the usable ones and group them into fragments.

    By default the key frames do not depend on the fragments: every key frame belongs to
    at least one, and the last fragment overlaps its predecessor where the number of key
    frames is no multiple of `fragment_views`. Fewer key frames than `fragment_views`
    make one padded fragment.

    With `released_fragments` the frames are those of NeuralRecon's released code: the
    frame after a full window starts the next one wherever its camera is, and an
    incomplete last window is dropped together with its frames.
    """
    candidates = np.flatnonzero(usable)
    axes = world_from_camera[candidates, :3, 2].astype(np.float64)
    centres = world_from_camera[candidates, :3, 3].astype(np.float64)
    # Of each `window` taken frames the first is taken wherever its camera is.
    window = config.fragment_views if config.released_fragments else len(candidates)
    taken: list[int] = []
    for candidate in range(len(candidates)):
        if len(taken) % max(window, 1) == 0:
            taken.append(candidate)
            continue
        last = taken[-1]
        angle = _angle(axes[last], axes[candidate])
        distance = np.linalg.norm(centres[candidate] - centres[last])
        if angle > np.deg2rad(config.key_angle_deg) or distance > config.key_distance_m:
            taken.append(candidate)
    if config.released_fragments:
        taken = taken[: len(taken) - len(taken) % window]
    indices = candidates[np.array(taken, np.int64)].astype(np.int64)
    return KeyFrames(indices, _fragments(len(taken), config.fragment_views))


def _angle(
    axis: Float[np.ndarray, " 3"], other: Float[np.ndarray, " 3"]
) -> float | np.floating:
    """Return the angle in radians between two unit vectors.

    Clipping makes the angle of equal axes 0, where rounding could push their product
    beyond 1. Without it the released code gets not-a-number, which no threshold
    exceeds either, so both policies can share it.
    """
    return np.arccos(np.clip(axis @ other, -1.0, 1.0))


def _fragments(keys: int, views: int) -> Int64[np.ndarray, "fragments views"]:
    """Return consecutive windows of positions that leave no key frame out."""
    if keys < views:
        positions = np.arange(views, dtype=np.int64)
        return np.where(positions < keys, positions, -1)[None][: min(keys, 1)]
    starts = np.arange(0, keys - views + 1, views, dtype=np.int64)
    if keys % views:
        starts = np.append(starts, keys - views)
    return starts[:, None] + np.arange(views, dtype=np.int64)


def fragments_of(frames: Frames) -> list[list[int]]:
    """Return the positions of each fragment's key frames, without padding."""
    rows = frames.fragments
    if rows.size and rows.max() >= len(frames):
        raise BadInput(
            frames.path,
            "fragments",
            expected=f"positions below {len(frames)}, the number of kept frames",
            found=rows.max(),
            remedy="delete the file and run snakemake again",
        )
    return [row[row >= 0].tolist() for row in rows if (row >= 0).any()]
