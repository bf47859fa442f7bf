"""Which frames and scenes are judged, and what a method may have seen before.

Systems for semantic view synthesis each have their own rule. `-released` is what the
authors' code does, leaks included. `-clean` keeps its kind of views and of choice, but
no source lies within `CLEAN_GAP` frames of any target, what methods learn from a scene
stays as far away, and no scene that is judged was trained on.

The frames of a scene are all those with a pose, by their numbers in the capture, which
start at 0 and ascend; positions are places in that list. It must not have been thinned
out, which the rules do themselves.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from gnesf_core.geometry.camera import invert_rigid
from gnesf_core.shapes import Bool, Float64, Int64, Integer

CLEAN_GAP = 10  # frames on either side of a target that are no sources

Positions = Int64[np.ndarray, " _"]
FrameNumbers = Integer[np.ndarray, " frames"]

# How many times as many frames as are wanted are drawn from, and how often.
_POOL_FACTORS, _POOL_CHANCES = (1, 2, 3, 4, 5), (0.3, 0.25, 0.2, 0.2, 0.05)
_TINY = 1e-6  # keeps the direction of a camera in the origin finite


@dataclass(frozen=True)
class ViewProtocol:
    """How frames of a scene are divided. Slices are taken one after another."""

    words: str  # for a table's title
    targets: tuple[slice, ...]
    pool: tuple[slice, ...]
    fine_tuning: tuple[slice, ...]
    # What is near a target: camera centres, the world's origin as cameras see it, or
    # centres by their direction from that origin (drawn at random among the nearest).
    near_by: Literal["centre", "origin", "direction"]
    # Frames this close to any target are no sources and not fine-tuned on. 0: targets
    # alone; None: a target may serve the others, and be fine-tuned on.
    gap: int | None = None
    # Step and first of the numbers that count at all; frames without a pose count in.
    numbers: tuple[int, int] = (1, 0)
    as_text: bool = False  # frames in the order of their numbers' digits: 0, 1, 10, 2
    own_chance: float = 0.0  # that a target is one of its own sources


_EVERY_20TH = (slice(2, 700, 20), slice(10))
# Every 20th would leave no frame between two targets out of the gap.
_EVERY_70TH = (slice(2, 700, 70),)
_ALL: tuple[slice, ...] = ()
_CLEAN_WORDS = (
    f"{{}}, cleaned: at most 10 targets, every 70th frame from the 3rd; no source and "
    f"no frame for fine-tuning within {CLEAN_GAP} frames of any target"
)

_SRAY = ViewProtocol(
    words="Views as Semantic-Ray's code takes them: at most 10 targets, every 20th "
    "frame from the 3rd; sources: every 5th of the first 700 frames, 2 or more frames "
    "away, nearest camera centres; fine-tuning on all frames, targets among them",
    targets=_EVERY_20TH,
    pool=(slice(0, 700, 5),),
    fine_tuning=_ALL,
    near_by="centre",
)
_GSNERF = replace(
    _SRAY,
    words="Views as GSNeRF's code takes them: as Semantic-Ray's, but sources are near "
    "that see the world's origin at nearly the same place (the code takes poses for "
    "their inverses)",
    near_by="origin",
)
_GPNERF = ViewProtocol(
    words="Views as GP-NeRF's code takes them: at most 10 targets, every 20th frame "
    "from the 3rd, frames being ordered by their numbers' digits (ScanNet); sources: "
    "any other frame, drawn from the 1 to 5 times as many whose centres are nearest by "
    "direction from the world's origin; in 0.5 % the target itself; fine-tuning on "
    "every 3rd of the first 700 frames, some targets among them",
    targets=_EVERY_20TH,
    pool=_ALL,
    fine_tuning=(slice(0, 700, 3),),
    near_by="direction",
    as_text=True,
    own_chance=0.005,
)
_GPNERF_ROOMS = replace(
    _GPNERF,
    words="Views as GP-NeRF's code takes them of Replica: as of ScanNet, but frames "
    "are in order",
    as_text=False,
)
_GPNERF_INSTANCE = replace(
    _GPNERF_ROOMS,
    words="Views as GP-NeRF's code takes them for instances: every 20th frame from the "
    "601st; trained on every 2nd frame, all targets among them; sources as of Replica",
    targets=(slice(0, 900, 20), slice(30, None)),
    fine_tuning=(slice(0, 900, 2),),
)
_GNESF = ViewProtocol(
    words="Views as GNeSF's code takes them: of every 10th frame from the 6th, every "
    "20th is a target, the others are sources, nearest camera centres; methods that "
    "are fitted to a scene learn from the others too",
    targets=(slice(0, None, 20),),
    pool=_ALL,
    fine_tuning=_ALL,
    near_by="centre",
    gap=0,
    numbers=(10, 5),
)


def _clean(released: ViewProtocol, system: str, **changes: object) -> ViewProtocol:
    words = _CLEAN_WORDS.format(f"Views after {system}")
    rules = {"targets": _EVERY_70TH, "words": words} | changes
    return replace(released, gap=CLEAN_GAP, as_text=False, own_chance=0.0, **rules)


VIEW_PROTOCOLS = {
    "gnesf-released": _GNESF,
    "gnesf-clean": _clean(
        _GNESF,
        "GNeSF",
        targets=_GNESF.targets,
        words="Views after GNeSF, cleaned: of every 10th frame from the 6th, every "
        f"20th is a target; no source, and no frame that methods are fitted to, within "
        f"{CLEAN_GAP} frames of any target",
    ),
    "sray-released": _SRAY,
    "sray-clean": _clean(_SRAY, "Semantic-Ray"),
    "gsnerf-released": _GSNERF,
    "gsnerf-clean": _clean(_GSNERF, "GSNeRF", near_by="centre"),
    "gpnerf-released": _GPNERF,
    "gpnerf-replica-released": _GPNERF_ROOMS,
    "gpnerf-instance-released": _GPNERF_INSTANCE,
    "gpnerf-clean": _clean(_GPNERF, "GP-NeRF"),
}


def targets(protocol: str, frame_numbers: FrameNumbers) -> Positions:
    """Return the positions of the frames that are rendered and judged."""
    rules = VIEW_PROTOCOLS[protocol]
    return _taken(rules, rules.targets, frame_numbers)


def source_pool(
    protocol: str, frame_numbers: FrameNumbers, target: int, targets: Positions
) -> Positions:
    """Return the positions that may be sources of a target, never itself."""
    rules = VIEW_PROTOCOLS[protocol]
    pool = _taken(rules, rules.pool, frame_numbers)
    pool = pool[~_barred(rules, frame_numbers, targets)[pool]]
    return pool[pool != target]


def fine_tuning(
    protocol: str, frame_numbers: FrameNumbers, targets: Positions
) -> Positions:
    """Return the positions of the frames of a judged scene that may be trained on."""
    rules = VIEW_PROTOCOLS[protocol]
    chosen = _taken(rules, rules.fine_tuning, frame_numbers)
    return chosen[~_barred(rules, frame_numbers, targets)[chosen]]


def barred_from_training(
    protocol: str, frame_numbers: FrameNumbers
) -> Bool[np.ndarray, " frames"]:
    """Tell which frames of a training scene are not learned from.

    Views of training scenes are judged too. Only what a protocol bars from being a
    source is kept out: a released one may let targets be learned from.
    """
    rules = VIEW_PROTOCOLS[protocol]
    judged = _taken(rules, rules.targets, frame_numbers)
    return _barred(rules, frame_numbers, judged)


def choose_sources(
    protocol: str,
    poses: Float64[np.ndarray, "frames 4 4"],
    target: int,
    pool: Positions,
    count: int,
    rng: np.random.Generator,
) -> Positions:
    """Return at most `count` sources of a target; `poses` are `world_from_camera`.

    They are the nearest of the pool, nearest first, or drawn among the nearest, as the
    protocol says.
    """
    rules = VIEW_PROTOCOLS[protocol]
    order = pool[_distances(rules, poses, target)[pool].argsort(kind="stable")]
    if rules.near_by != "direction":
        return order[:count]
    near = order[: count * rng.choice(_POOL_FACTORS, p=_POOL_CHANCES)]
    chosen = rng.choice(near, min(count, len(near)), replace=False)
    if len(chosen) and rng.random() < rules.own_chance:
        chosen[rng.integers(len(chosen))] = target
    return chosen


def _taken(
    rules: ViewProtocol, slices: Sequence[slice], frame_numbers: FrameNumbers
) -> Positions:
    """Return the positions that slices leave of all frames, ascending."""
    if (np.diff(frame_numbers) <= 0).any():
        raise ValueError("frame numbers: expected ascending ones")
    step, first = rules.numbers
    positions = np.flatnonzero(frame_numbers % step == first)
    if rules.as_text:
        positions = positions[frame_numbers[positions].astype(str).argsort()]
    for part in slices:
        positions = positions[part]
    return np.sort(positions)


def _barred(
    rules: ViewProtocol, frame_numbers: FrameNumbers, targets: Positions
) -> Bool[np.ndarray, " frames"]:
    """Tell which frames are too close to a target."""
    if rules.gap is None:
        return np.zeros(len(frame_numbers), bool)
    apart = np.abs(frame_numbers[:, None] - frame_numbers[targets])
    return (apart <= rules.gap).any(1)


def _distances(
    rules: ViewProtocol, poses: Float64[np.ndarray, "frames 4 4"], target: int
) -> Float64[np.ndarray, " frames"]:
    places = poses[:, :3, 3]
    if rules.near_by == "origin":
        places = invert_rigid(poses)[:, :3, 3]
    if rules.near_by != "direction":
        return np.linalg.norm(places - places[target], axis=1)
    directions = places / (np.linalg.norm(places, axis=1, keepdims=True) + _TINY)
    return np.arccos((directions @ directions[target]).clip(-1, 1))


class FrameLeaks(NamedTuple):
    """What a protocol lets a method see of the views that it is judged by."""

    targets: int
    fine_tuned: int  # targets that are fine-tuned on
    as_sources: int  # targets that are sources of others
    closest: int | None  # frames from a target to its closest source, at the least


def frame_leaks(protocol: str, frame_numbers: FrameNumbers) -> FrameLeaks:
    """Count the leaks of a protocol among the frames of one scene."""
    judged = targets(protocol, frame_numbers)
    seen: set[int] = set()
    apart = []
    for target in judged:
        pool = source_pool(protocol, frame_numbers, int(target), judged)
        seen.update(np.intersect1d(pool, judged).tolist())
        apart += np.abs(frame_numbers[pool] - frame_numbers[target]).tolist()
    tuned = np.intersect1d(fine_tuning(protocol, frame_numbers, judged), judged)
    return FrameLeaks(len(judged), len(tuned), len(seen), min(apart, default=None))


class SceneLists(NamedTuple):
    """The scenes that a method is trained on, chosen by, and judged by."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]


def _scans(*names: str) -> tuple[str, ...]:
    return tuple(f"scene{name}" for name in names)


def _first_scans(*rooms: int) -> tuple[str, ...]:
    return tuple(f"scene{room:04d}_00" for room in rooms)


def _sequences(*rooms: str) -> tuple[str, ...]:
    return tuple(f"{room}/Sequence_{number}" for room in rooms for number in (1, 2))


# GP-NeRF has the same lists, but its instructions give the test scenes to choose by.
# Semantic-Ray's paper speaks of 60 scenes to train on, which it does not name.
_SRAY_SCANNET = SceneLists(
    train=_first_scans(0, *range(2, 160), *range(161, 200)),
    val=_first_scans(200, 226, 211),
    test=_scans("0160_00", "0204_00", "0211_00", "0217_00", "0218_00", "0225_00",
                "0227_00", "0340_01", "0376_02", "0643_00"),
)  # fmt: skip
_GSNERF_SCANNET = _scans("0063_00", "0067_00", "0071_00", "0074_00", "0079_00",
                         "0086_00", "0200_00", "0211_00", "0226_00",
                         "0376_02")  # fmt: skip
_GSNERF_REPLICA = _sequences("office_4", "room_2")
_GPNERF_REPLICA = ("office_0", "room_0")
_REPLICA = tuple(f"office_{n}" for n in range(5)) + ("room_0", "room_1", "room_2")

# As the authors' code lists them, by system and data set. GSNeRF and GP-NeRF choose
# checkpoints by their test scenes. GNeSF takes ScanNet's official splits, which come
# with that data set. Semantic-Ray's code has no list of Replica's scenes.
RELEASED_SCENES = {
    ("sray", "scannet"): _SRAY_SCANNET,
    ("gpnerf", "scannet"): _SRAY_SCANNET._replace(val=_SRAY_SCANNET.test),
    ("gsnerf", "scannet"): SceneLists(
        _first_scans(*range(61)), _GSNERF_SCANNET, _GSNERF_SCANNET
    ),
    ("gsnerf", "replica"): SceneLists(
        _sequences("office_0", "office_1", "office_2", "office_3", "room_0", "room_1"),
        _GSNERF_REPLICA,
        _GSNERF_REPLICA,
    ),
    ("gpnerf", "replica"): SceneLists(_REPLICA, _GPNERF_REPLICA, _GPNERF_REPLICA),
}


def leaked_scenes(lists: SceneLists) -> SceneLists:
    """Return the scenes to train on or to choose by whose rooms are judged.

    Scans of one room (`scene0340_00`, `scene0340_01`) count as the same.
    """
    rooms = {_room(scene) for scene in lists.test}
    train, val = (
        tuple(scene for scene in scenes if _room(scene) in rooms)
        for scenes in (lists.train, lists.val)
    )
    return SceneLists(train, val, ())


def without_leaks(lists: SceneLists) -> SceneLists:
    """Return the clean form of lists: the scenes that are judged stay as they are."""
    leaked = leaked_scenes(lists)
    train, val = (
        tuple(scene for scene in scenes if scene not in out)
        for scenes, out in ((lists.train, leaked.train), (lists.val, leaked.val))
    )
    return SceneLists(train, val, lists.test)


def _room(scene: str) -> str:
    """Return what two scans or sequences of one room have in common."""
    scan = re.fullmatch(r"(scene[0-9]{4})_[0-9]{2}", scene)
    return scan[1] if scan else scene.split("/")[0]
