"""Where a hand-held camera goes: laps through the free floor, looking across the room.

The path is a smooth curve of a parameter that is independent of the number of frames,
so that more frames sample the same walk more finely.
"""

import heapq

import numpy as np

from gnesf_core.geometry.camera import look_at, pixel_rays
from gnesf_core.geometry.raycast import Caster
from gnesf_core.shapes import Bool, Float64, Int64
from gnesf_core.synthrooms.plan import Plan
from gnesf_core.synthrooms.render import Camera
from gnesf_core.synthrooms.rooms import WALK_STEP_M, walkable

WAYPOINTS = 7
LAPS = 1.25
NEAREST_M = 0.3  # nothing is closer than this in front of the camera
TYPICAL_M = 1.0  # half of what is seen should be farther than this
TURNS_DEG = (0, 12, -12, 25, -25, 40, -40, 60, -60, 85, -85, 115, -115, 150, -150, 180)


def camera_path(
    plan: Plan,
    caster: Caster,
    camera: Camera,
    frames: int,
    rng: np.random.Generator,
) -> Float64[np.ndarray, "frames 4 4"]:
    """Return room_from_camera for every frame."""
    loop = _loop(plan, rng)
    s = _progress(frames, rng)
    eye = np.empty((frames, 3))
    eye[:, :2] = _along(loop, s * LAPS)
    phases = rng.uniform(0, 2 * np.pi, (8, 3))
    eye[:, :2] += 0.03 * np.stack([_wave(s, 9, phases[0]), _wave(s, 9, phases[1])], 1)
    eye[:, 2] = rng.uniform(1.38, 1.55) + 0.13 * _wave(s, 3, phases[2])
    eye += rng.normal(0, 0.003, eye.shape)
    target = _targets(plan, loop, s, phases)
    yaw = np.unwrap(np.arctan2(*(target - eye[:, :2]).T[::-1]))
    yaw += np.radians(38) * _wave(s, 5, phases[3]) + rng.normal(0, 0.006, frames)
    distance = np.linalg.norm(target - eye[:, :2], axis=1)
    pitch = np.arctan2(eye[:, 2] - 0.5, np.maximum(distance, 1.0))
    pitch += np.radians(12) * _wave(s, 7, phases[4]) + rng.normal(0, 0.005, frames)
    pitch = np.clip(pitch, np.radians(5), np.radians(35))
    roll = np.radians(3.5) * _wave(s, 6, phases[5]) + rng.normal(0, 0.006, frames)
    return _kept_clear(eye, yaw, pitch, roll, caster, camera)


def _progress(frames: int, rng: np.random.Generator) -> Float64[np.ndarray, " frames"]:
    """Return the share of the walk done at each frame, with pauses."""
    time = np.linspace(0, 1, frames)
    fine = np.linspace(0, 1, 2000)
    speed = 1 + 0.45 * _wave(fine, 8, rng.uniform(0, 2 * np.pi, 3))
    for middle in rng.uniform(0.08, 0.92, 3):
        width = rng.uniform(0.02, 0.04)
        speed *= 1 - 0.985 * (np.abs(fine - middle) < width)
    done = np.concatenate([[0.0], np.cumsum(speed)])[:-1]
    return np.interp(time, fine, done / done[-1])


def _wave(
    s: Float64[np.ndarray, " n"], cycles: int, phases: Float64[np.ndarray, " 3"]
) -> Float64[np.ndarray, " n"]:
    """Return a smooth, never repeating signal of about unit size."""
    angle = 2 * np.pi * s * cycles
    return (
        np.sin(0.37 * angle + phases[0])
        + 0.7 * np.sin(0.73 * angle + phases[1])
        + 0.4 * np.sin(1.31 * angle + phases[2])
    ) / 1.4


def _targets(
    plan: Plan,
    loop: Float64[np.ndarray, "n 2"],
    s: Float64[np.ndarray, " frames"],
    phases: Float64[np.ndarray, "8 3"],
) -> Float64[np.ndarray, "frames 2"]:
    """Return where each frame looks: across the room, at what stands there."""
    centre = (plan.corners.min(0) + plan.corners.max(0)) / 2
    size = (plan.corners.max(0) - plan.corners.min(0)) / 2
    start = loop[0] - centre
    turns = 2 * np.pi * LAPS * s
    angle = np.arctan2(start[1], start[0]) + turns + np.pi
    angle += np.radians(55) * _wave(s, 3, phases[6])
    reach = 0.8 + 0.15 * _wave(s, 4, phases[7])
    return centre + reach[:, None] * size * np.stack([np.cos(angle), np.sin(angle)], 1)


def _kept_clear(
    eye: np.ndarray,
    yaw: np.ndarray,
    pitch: np.ndarray,
    roll: np.ndarray,
    caster: Caster,
    camera: Camera,
) -> Float64[np.ndarray, "frames 4 4"]:
    """Return poses, turned aside as little as it takes to see past what is near."""
    coarse = Camera(9, 7, camera.intrinsics.copy())
    coarse.intrinsics[0] *= 9 / camera.width
    coarse.intrinsics[1] *= 7 / camera.height
    rays = pixel_rays(coarse.intrinsics, 9, 7)
    lengths = np.linalg.norm(rays, axis=-1)
    poses = np.empty((len(eye), 4, 4))
    turned = 0.0
    for i in range(len(eye)):
        best = -np.inf
        turned *= 0.8
        for turn in TURNS_DEG:
            pose = _pose(eye[i], yaw[i] + turned + np.radians(turn), pitch[i], roll[i])
            _, t = caster.cast(eye[i], rays @ pose[:3, :3].T)
            distance = t * lengths
            near, typical = distance.min(), np.median(distance)
            score = min(near / (1.15 * NEAREST_M), 1) + min(typical / TYPICAL_M, 1)
            if score > best + 1e-9:
                best, poses[i], chosen = score, pose, turn
            if score >= 2:
                break
        turned += np.radians(chosen)
    return poses


def _pose(eye: np.ndarray, yaw: float, pitch: float, roll: float) -> np.ndarray:
    forward = np.array(
        [np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), -np.sin(pitch)]
    )
    return look_at(eye, eye + forward, roll=roll)


def _loop(plan: Plan, rng: np.random.Generator) -> Float64[np.ndarray, "n 2"]:
    """Return a closed walk around the room over free floor, one point a step."""
    low = plan.corners.min(0)
    cells = np.floor((walkable(plan) - low) / WALK_STEP_M).astype(int)
    free = np.zeros(cells.max(0) + 3, bool)
    free[cells[:, 0] + 1, cells[:, 1] + 1] = True
    free = _largest_region(free)
    places = np.argwhere(free)
    chosen = [places[rng.integers(len(places))]]
    for _ in range(WAYPOINTS - 1):
        gaps = np.min([np.abs(places - c).sum(1) for c in chosen], axis=0)
        chosen.append(places[gaps.argmax()])
    offsets = np.array(chosen) - places.mean(0)
    order = np.argsort(np.arctan2(offsets[:, 1], offsets[:, 0]))
    stops = [tuple(chosen[i].tolist()) for i in order]
    steps: list[tuple[int, int]] = []
    for start, end in zip(stops, [*stops[1:], stops[0]], strict=True):
        steps += _shortest(free, start, end)[:-1]
    points = np.array(steps if len(steps) > 2 else stops[:1] * 3, float)
    points = _relaxed(points, free)
    return low + (points - 1 + 0.5) * WALK_STEP_M


def _relaxed(
    points: Float64[np.ndarray, "n 2"], free: Bool[np.ndarray, "x y"]
) -> Float64[np.ndarray, "n 2"]:
    """Return the closed walk with its corners rounded, but never off the free floor."""
    for _ in range(80):
        middle = (np.roll(points, 1, 0) + 2 * points + np.roll(points, -1, 0)) / 4
        cell = np.rint(middle).astype(int)
        allowed = free[cell[:, 0], cell[:, 1]]
        points = np.where(allowed[:, None], middle, points)
    return points


def _along(
    loop: Float64[np.ndarray, "n 2"], laps: Float64[np.ndarray, " frames"]
) -> Float64[np.ndarray, "frames 2"]:
    closed = np.concatenate([loop, loop[:1]])
    steps = np.linalg.norm(np.diff(closed, axis=0), axis=1)
    length = np.concatenate([[0.0], np.cumsum(steps)])
    at = (laps % 1.0) * length[-1]
    return np.stack([np.interp(at, length, closed[:, axis]) for axis in range(2)], 1)


def _neighbours(cell: tuple[int, int]) -> list[tuple[int, int]]:
    i, j = cell
    return [(i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)]


def _largest_region(free: Bool[np.ndarray, "x y"]) -> Bool[np.ndarray, "x y"]:
    """Return the largest connected part of a grid."""
    left = {tuple(cell) for cell in np.argwhere(free).tolist()}
    largest: set[tuple[int, int]] = set()
    while left:
        region, fringe = set(), [min(left)]
        while fringe:
            cell = fringe.pop()
            if cell in left:
                left.remove(cell)
                region.add(cell)
                fringe += _neighbours(cell)
        largest = max(largest, region, key=len)
    kept = np.zeros_like(free)
    kept[tuple(np.array(sorted(largest)).T)] = True
    return kept


def _shortest(
    free: Bool[np.ndarray, "x y"], start: tuple[int, int], end: tuple[int, int]
) -> list[tuple[int, int]]:
    """Return the shortest walk between two cells of one region, by A*."""
    came: dict[tuple[int, int], tuple[int, int] | None] = {}
    queue = [(0, 0, start, None)]
    while queue:
        _, cost, cell, before = heapq.heappop(queue)
        if cell in came:
            continue
        came[cell] = before
        if cell == end:
            break
        for near in _neighbours(cell):
            if free[near] and near not in came:
                guess = abs(near[0] - end[0]) + abs(near[1] - end[1])
                heapq.heappush(queue, (cost + 1 + guess, cost + 1, near, cell))
    walk = [end]
    while (before := came[walk[-1]]) is not None:
        walk.append(before)
    return walk[::-1]


def lose_tracking(frames: int, rng: np.random.Generator) -> Int64[np.ndarray, " lost"]:
    """Return frames whose pose is unknown: short gaps, never the first frame."""
    if frames < 8:
        return np.zeros(0, np.int64)
    lost: set[int] = set()
    for _ in range(max(1, round(frames / 40))):
        start = int(rng.integers(2, frames - 3))
        lost |= set(range(start, start + int(rng.integers(1, 3))))
    return np.array(sorted(lost))
