"""Which frames of a scene are rendered, and from which others.

`held-out` is the pipeline's own protocol: frames that were kept as views and are no key
frames are rendered, from the nearest useful ones of the frames that a method's recipe
names. The other protocols are those of published systems, by `view_splits`.
"""

import logging
from zlib import crc32

import numpy as np

from gnesf_core.config import SourceViewsConfig
from gnesf_core.data.store import USABLE, Frames
from gnesf_core.errors import BadInput
from gnesf_core.evaluation import view_splits
from gnesf_core.rendering.choice import frames_of_kind, nearest_useful
from gnesf_core.shapes import Float64, Int64
from gnesf_core.spread import spread

log = logging.getLogger(__name__)

HELD_OUT = "held-out"
HELD_OUT_WORDS = (
    "Frames kept as views that are no key frames, evenly spread; sources are the "
    "nearest useful ones, never the frame itself"
)


def words(protocol: str) -> str:
    """Say what a protocol renders, from what."""
    if protocol == HELD_OUT:
        return HELD_OUT_WORDS
    return view_splits.VIEW_PROTOCOLS[protocol].words


def targets(frames: Frames, protocol: str, most: int) -> list[int]:
    """Return the positions of the frames that are rendered; a scene may have none.

    A published protocol says itself how many.
    """
    if protocol != HELD_OUT:
        numbers = _numbers(frames)
        return _kept(frames, numbers[view_splits.targets(protocol, numbers)])
    held_out = np.flatnonzero(frames.is_view & ~frames.is_key)
    if len(held_out) == 0:
        log.warning(
            "%s: all views are key frames, and none is left to be rendered; a smaller "
            "`view_stride` in `frames` keeps more",
            frames.scene,
        )
    return held_out[spread(len(held_out), most)].tolist()


def fitting_frames(frames: Frames, kind: str, protocol: str) -> list[int]:
    """Return the frames that a method which is fitted to a scene learns from.

    They are of a kind, but a published protocol says itself which.
    """
    if protocol == HELD_OUT:
        return training_frames(frames, kind, protocol)
    numbers = _numbers(frames)
    judged = view_splits.targets(protocol, numbers)
    return _kept(frames, numbers[view_splits.fine_tuning(protocol, numbers, judged)])


def training_frames(frames: Frames, kind: str, protocol: str) -> list[int]:
    """Return the frames of a kind that training on many scenes may use of one.

    Views of scenes that were trained on are judged as well, and stay out.
    """
    if protocol == HELD_OUT:
        barred = frames.is_view & ~frames.is_key
    else:
        numbers = _numbers(frames)
        out = view_splits.barred_from_training(protocol, numbers)
        barred = np.isin(frames.index, numbers[out])
    return [int(own) for own in frames_of_kind(frames, kind) if not barred[own]]


def sources_of_frame(
    frames: Frames,
    target: int,
    protocol: str,
    sources: SourceViewsConfig,
    range_m: tuple[float, float],
) -> list[int]:
    """Return the positions of the frames that a target is rendered from."""
    if protocol != HELD_OUT:
        return _published_sources(frames, target, protocol, sources.views)
    candidates = candidates_of(frames, sources)
    candidates = candidates[candidates != target]
    return nearest_sources(frames, target, candidates, sources, range_m)


def sources_of_pose(
    frames: Frames,
    world_from_camera: Float64[np.ndarray, "4 4"],
    sources: SourceViewsConfig,
    range_m: tuple[float, float],
) -> list[int]:
    """Return what a camera that is no frame is rendered from."""
    offsets = frames.world_from_camera[:, :3, 3] - world_from_camera[:3, 3]
    nearest = int(np.linalg.norm(offsets, axis=1).argmin())
    candidates = candidates_of(frames, sources)
    return nearest_sources(frames, nearest, candidates, sources, range_m)


def candidates_of(
    frames: Frames, sources: SourceViewsConfig
) -> Int64[np.ndarray, " candidates"]:
    """Return the frames that a recipe lets be looked at."""
    return frames_of_kind(frames, sources.frames)


def nearest_sources(
    frames: Frames,
    target: int,
    candidates: Int64[np.ndarray, " candidates"],
    sources: SourceViewsConfig,
    range_m: tuple[float, float],
) -> list[int]:
    """Return the nearest useful candidates, at most so many as a recipe says."""
    if len(candidates) == 0:
        raise BadInput(
            frames.path,
            "frames",
            expected=f"source views (`frames: {sources.frames}`)",
            found="none beside what is rendered",
            remedy="choose other source frames in the recipe",
        )
    most, least = sources.views, sources.overlap
    return nearest_useful(frames, target, candidates, most, least, range_m[1])


def _published_sources(
    frames: Frames, target: int, protocol: str, count: int
) -> list[int]:
    numbers = _numbers(frames)
    poses = frames.raw_world_from_camera[numbers]
    place = int(np.searchsorted(numbers, frames.index[target]))
    judged = view_splits.targets(protocol, numbers)
    pool = view_splits.source_pool(protocol, numbers, place, judged)
    if len(pool) == 0:
        raise BadInput(
            frames.path,
            "frames",
            expected=f"source views by the protocol {protocol}",
            found=f"none for frame {frames.index[target]} of {len(numbers)}",
            remedy="choose another protocol in `novel_views`",
        )
    # The same draw whenever this frame of this scene is rendered.
    rng = np.random.default_rng((crc32(frames.scene.encode()), place))
    chosen = view_splits.choose_sources(protocol, poses, place, pool, count, rng)
    return _kept(frames, numbers[chosen])


def _numbers(frames: Frames) -> Int64[np.ndarray, " usable"]:
    """Return the numbers of all frames of the scan that have a pose."""
    return np.flatnonzero(frames.raw_status == USABLE)


def _kept(frames: Frames, numbers: Int64[np.ndarray, " n"]) -> list[int]:
    """Return the positions of raw frames among those that were kept."""
    positions = {int(number): place for place, number in enumerate(frames.index)}
    missing = [int(number) for number in numbers if int(number) not in positions]
    if missing:
        raise BadInput(
            frames.path,
            "frames",
            expected="all frames that the view protocol names",
            found=f"{len(missing)} were not kept, such as frame {missing[0]}",
            remedy="set `view_stride: 1` in `frames`, which keeps all",
        )
    return [positions[int(number)] for number in numbers]
