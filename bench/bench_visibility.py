"""Compare ways to tell what a camera sees, by the signs of the distances between.

    python -m bench.bench_visibility --frames FILE --volume FILE [--most-m 4]
        [--lift-m 0] [--rounds 3] [--truth-pairs 2000]

`--frames` and `--volume` are results of the pipeline for one scene. The points are the
vertices of its surface, moved `--lift-m` towards free space, and the pairs are those
with each key frame's camera that has the point in its image and within `--most-m`.

march        equal steps of at most so many voxels, until the way comes out
ten from 1 m ten samples from 1 m off the camera to the point, as the released code has
ten          ten samples from the camera to the point
z-buffer     per view and pixel of 160x120 where the pixel's ray comes out, by a march
             in half voxels; a point is asked the four pixels around it, and where they
             are not agreed by half a voxel it is walked to like ours
in Torch     ours where there is no numba, or on a GPU: exact, all cells of ways
ours         exact, cell by cell

All others are compiled; all run on one thread, and what was not observed has no sign.
The time of ours includes what is built once per scene. A round measures all in turn.
"wrong" is the share of pairs that are told otherwise than by a march in eighths of a
voxel. It misses what is thinner: "wrong, fine" is against steps of 1/128 where any two
of all these differ, and of 1/4096 and 1/65536 where those still differ from ours.
Before, the march is held to the readable truth in Torch on some of the pairs.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np
import torch

from gnesf_core.data.store import Frames, VolumeFile
from gnesf_core.geometry import visibility_torch
from gnesf_core.geometry.camera import (
    in_image,
    invert_rigid,
    pixel_rays,
    project,
    scale_intrinsics,
    transform,
)
from gnesf_core.geometry.distance_field import (
    DistanceField,
    distance_field,
    voxel_coordinates,
)
from gnesf_core.geometry.grid import Grid
from gnesf_core.geometry.mesh import extract_surface
from gnesf_core.geometry.visibility import NO_SIGN, Occluders, occluded_truth

BUFFER_SIZE = 160, 120
SLACK_VOXELS = 0.5
RULE = "skip"


class Pairs(NamedTuple):
    """Cameras and the points in their images, one pair a row."""

    origins: np.ndarray
    points: np.ndarray
    view: np.ndarray
    uv: np.ndarray  # in pixels of the z-buffer


class Scene(NamedTuple):
    """A field, as it is and as the marches see it, and the cameras in it."""

    field: DistanceField
    tsdf: np.ndarray
    known: np.ndarray  # cells of which all voxels were observed
    poses: np.ndarray
    intrinsics: np.ndarray  # of the z-buffer


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--frames", type=Path, required=True)
    parser.add_argument("--volume", type=Path, required=True)
    parser.add_argument("--most-m", type=float, default=4.0)
    parser.add_argument("--lift-m", type=float, default=0.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--truth-pairs", type=int, default=2000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    scene, pairs = load(options.frames, options.volume, options.most_m, options.lift_m)
    count = len(pairs.points)
    length = np.linalg.norm(pairs.points - pairs.origins, axis=1)
    print(
        f"{count:,} pairs of {len(scene.poses)} views, {length.mean():.2f} m apart on "
        f"average; {scene.tsdf.shape} voxels of {scene.field.voxel_size_m} m"
    )
    programs = contestants(scene, pairs)
    reference = march(scene, pairs, 1 / 8).hidden
    check(scene, pairs, reference, options.truth_pairs)
    seconds, found = measure(programs, options.rounds)
    report(scene, pairs, reference, seconds, found)


def load(
    frames_path: Path, volume_path: Path, most_m: float, lift_m: float
) -> tuple[Scene, Pairs]:
    """Return a scene and all pairs to be told."""
    with Frames(frames_path) as frames, VolumeFile(volume_path, frames) as volume:
        surface = volume.volume().surface
        poses = frames.world_from_camera[frames.is_key]
        intrinsics = scale_intrinsics(
            frames.color_intrinsics, frames.color_size, BUFFER_SIZE
        )
    field = distance_field(surface)
    observed, tsdf = field.observed.numpy(), field.tsdf.numpy()
    sides = itertools.product((slice(None, -1), slice(1, None)), repeat=3)
    known = np.logical_and.reduce([observed[side] for side in sides])
    scene = Scene(field, tsdf, known, poses, intrinsics)
    grid = Grid(surface.origin_world, surface.voxel_size_m, tsdf.shape)
    vertices, faces = extract_surface(tsdf, surface.weight, grid)
    points = vertices.astype(np.float64)
    points += lift_m * normals(points, faces)
    return scene, visible_frusta(scene, points, most_m)


def normals(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return unit normals of vertices, towards free space."""
    a, b, c = (points[faces[:, n]] for n in range(3))
    across = np.cross(b - a, c - a)
    total = np.zeros_like(points)
    for n in range(3):
        np.add.at(total, faces[:, n], across)
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)


def visible_frusta(scene: Scene, points: np.ndarray, most_m: float) -> Pairs:
    """Pair each view with the points in its image and near enough."""
    parts = []
    for view, pose in enumerate(scene.poses):
        camera = transform(invert_rigid(pose), points)
        uv, _ = project(camera, scene.intrinsics)
        kept = in_image(uv, *BUFFER_SIZE) & (np.linalg.norm(camera, axis=1) < most_m)
        count = int(kept.sum())
        origins = np.tile(pose[:3, 3], (count, 1))
        parts.append((origins, points[kept], np.full(count, view), uv[kept]))
    return Pairs(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


class Answer(NamedTuple):
    """What one way to tell has found."""

    hidden: np.ndarray
    samples: float  # of the distance, per pair
    walked: float = 0.0  # share of the pairs that were walked to cell by cell


def contestants(scene: Scene, pairs: Pairs) -> dict[str, Callable[[], Answer]]:
    """Return all ways to tell, by name."""
    return {
        "march 2": lambda: march(scene, pairs, 2),
        "march 1": lambda: march(scene, pairs, 1),
        "march 1/2": lambda: march(scene, pairs, 0.5),
        "ten from 1 m": lambda: ten(scene, pairs, 1.0),
        "ten": lambda: ten(scene, pairs, 0.0),
        "z-buffer": lambda: by_buffer(scene, pairs),
        "in Torch": lambda: in_torch(scene, pairs),
        "ours": lambda: ours(scene, pairs),
    }


def ours(scene: Scene, pairs: Pairs) -> Answer:
    """Build, and ask once for all."""
    occluders = Occluders(scene.field, RULE)
    found = occluders.occluded(
        torch.from_numpy(pairs.origins), torch.from_numpy(pairs.points)
    )
    return Answer(found.numpy(), 0.0, 1.0)


def in_torch(scene: Scene, pairs: Pairs) -> Answer:
    """Ask the twin for other devices."""
    cells = visibility_torch.classify(scene.field, RULE, NO_SIGN)
    ends = torch.from_numpy(pairs.origins), torch.from_numpy(pairs.points)
    found = visibility_torch.occluded(cells, *ends)
    return Answer(found.numpy(), 0.0, 1.0)


def march(scene: Scene, pairs: Pairs, step_voxels: float) -> Answer:
    """Sample in equal steps from the camera."""
    starts, ends = in_voxels(scene, pairs.origins), in_voxels(scene, pairs.points)
    comes_out, samples = exits(scene, starts, ends, step_voxels)
    return Answer(comes_out <= 1, samples.sum() / max(len(samples), 1))


def ten(scene: Scene, pairs: Pairs, from_m: float) -> Answer:
    """Sample at ten places, from some metres off the camera."""
    way = pairs.points - pairs.origins
    length = np.linalg.norm(way, axis=1, keepdims=True)
    starts = pairs.origins + way * np.minimum(from_m / length, 1)
    ends = in_voxels(scene, pairs.points)
    comes_out, _ = exits(scene, in_voxels(scene, starts), ends, 0.0)
    return Answer(comes_out <= 1, 10.0)


def by_buffer(scene: Scene, pairs: Pairs) -> Answer:
    """Ask the four pixels around a point, and walk where they do not agree."""
    width, height = BUFFER_SIZE
    size_m = scene.field.voxel_size_m
    longest = np.linalg.norm(pairs.points - pairs.origins, axis=1).max() + size_m
    rays = pixel_rays(scene.intrinsics, width, height).reshape(-1, 3)
    rays *= longest / np.linalg.norm(rays, axis=1, keepdims=True)
    buffers, samples = np.empty((len(scene.poses), height, width)), 0.0
    for buffer, pose in zip(buffers, scene.poses, strict=True):
        ends = in_voxels(scene, transform(pose, rays))
        starts = np.broadcast_to(in_voxels(scene, pose[None, :3, 3]), ends.shape)
        comes_out, taken = exits(scene, np.ascontiguousarray(starts), ends, 0.5)
        buffer[:] = (comes_out * longest).reshape(height, width)
        samples += taken.sum()
    first, last = four_pixels(buffers, pairs.view, pairs.uv)
    away = np.linalg.norm(pairs.points - pairs.origins, axis=1)
    hidden = away > last + SLACK_VOXELS * size_m
    unclear = np.flatnonzero(~hidden & (away > first - SLACK_VOXELS * size_m))
    occluders = Occluders(scene.field, RULE)
    found = occluders.occluded(
        torch.from_numpy(pairs.origins[unclear]),
        torch.from_numpy(pairs.points[unclear]),
    )
    hidden[unclear] = found.numpy()
    return Answer(hidden, samples / len(away), len(unclear) / len(away))


@numba.njit(nogil=True, cache=True)
def four_pixels(
    buffers: np.ndarray, view: np.ndarray, uv: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the greatest of the four pixels around each point."""
    height, width = buffers.shape[1:]
    least, most = np.empty(len(uv)), np.empty(len(uv))
    for n in range(len(uv)):
        u = min(max(int(np.floor(uv[n, 0])), 0), width - 2)
        v = min(max(int(np.floor(uv[n, 1])), 0), height - 2)
        a, b = buffers[view[n], v, u], buffers[view[n], v, u + 1]
        c, d = buffers[view[n], v + 1, u], buffers[view[n], v + 1, u + 1]
        least[n], most[n] = min(a, b, c, d), max(a, b, c, d)
    return least, most


def in_voxels(scene: Scene, points: np.ndarray) -> np.ndarray:
    """Return where points are on the grid."""
    return voxel_coordinates(scene.field, torch.from_numpy(points)).numpy()


def exits(
    scene: Scene, starts: np.ndarray, ends: np.ndarray, step: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the shares of the ways where they come out, and samples taken."""
    comes_out, samples = np.empty(len(ends)), np.empty(len(ends), np.int64)
    _march(scene.tsdf, scene.known, starts, ends, step, NO_SIGN, comes_out, samples)
    return comes_out, samples


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _march(
    tsdf: np.ndarray,
    known: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    step: float,
    no_sign: float,
    comes_out: np.ndarray,
    samples: np.ndarray,
) -> None:
    """Sample along ways in equal steps, or at ten places if the step is 0."""
    for n in range(len(ends)):
        way = ends[n] - starts[n]
        steps = 9
        if step > 0:
            steps = max(int(np.ceil(np.sqrt((way**2).sum()) / step)), 1)
        comes_out[n], samples[n], met = np.inf, steps + 1, 0
        for number in range(steps + 1):
            share = number / steps
            x = starts[n, 0] + share * way[0]
            y = starts[n, 1] + share * way[1]
            z = starts[n, 2] + share * way[2]
            i, j, k = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
            if i < 0 or j < 0 or k < 0:
                continue
            if i >= known.shape[0] or j >= known.shape[1] or k >= known.shape[2]:
                continue
            if not known[i, j, k]:
                continue
            value = _interpolate(tsdf, i, j, k, x - i, y - j, z - k)
            if met == 1:
                met = 2 if value < -no_sign else 1
            elif value > no_sign:
                met += 1
                if met == 3:
                    comes_out[n], samples[n] = share, number + 1
                    break


@numba.njit(nogil=True, cache=True)
def _interpolate(
    tsdf: np.ndarray, i: int, j: int, k: int, x: float, y: float, z: float
) -> float:
    """Return the distance in a cell."""
    p00 = tsdf[i, j, k] + z * (tsdf[i, j, k + 1] - tsdf[i, j, k])
    p01 = tsdf[i, j + 1, k] + z * (tsdf[i, j + 1, k + 1] - tsdf[i, j + 1, k])
    p10 = tsdf[i + 1, j, k] + z * (tsdf[i + 1, j, k + 1] - tsdf[i + 1, j, k])
    p11 = tsdf[i + 1, j + 1, k] + z * (
        tsdf[i + 1, j + 1, k + 1] - tsdf[i + 1, j + 1, k]
    )
    p0, p1 = p00 + y * (p01 - p00), p10 + y * (p11 - p10)
    return p0 + x * (p1 - p0)


def check(scene: Scene, pairs: Pairs, reference: np.ndarray, count: int) -> None:
    """Print how far the compiled march is from the truth in Torch, on some pairs."""
    some = np.random.default_rng(0).choice(len(reference), min(count, len(reference)))
    ends = (torch.from_numpy(of[some]) for of in (pairs.origins, pairs.points))
    truth = occluded_truth(scene.field, *ends, 8, RULE).numpy()
    differ = (truth != reference[some]).mean()
    print(f"march in eighths: {differ:.3%} of {len(some)} pairs not as in Torch")


def measure(
    programs: dict[str, Callable[[], Answer]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, Answer]]:
    """Return seconds of each round, taken in turns, and what was found."""
    found = {name: program() for name, program in programs.items()}  # compiles
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            started = time.perf_counter()
            program()
            seconds[name].append(time.perf_counter() - started)
    return seconds, found


def report(
    scene: Scene,
    pairs: Pairs,
    reference: np.ndarray,
    seconds: dict[str, list[float]],
    found: dict[str, Answer],
) -> None:
    """Print a table."""
    answers = [reference, *(answer.hidden for answer in found.values())]
    fine = reference.copy()
    mine = [found["ours"].hidden]
    for step, others in ((1 / 128, answers), (1 / 4096, mine), (1 / 65536, mine)):
        differ = np.any([other != fine for other in others], axis=0)
        some = Pairs(*(column[differ] for column in pairs))
        fine[differ] = march(scene, some, step).hidden
    print(
        f"{fine.mean():.2%} hidden; march in eighths wrong for "
        f"{(fine != reference).mean():.4%} of pairs"
    )
    print(
        f"{'':13} {'wrong':>9} {'wrong, fine':>12} {'samples':>8} {'walked':>7} "
        f"{'ns/pair':>8}"
    )
    base = np.array(seconds["ours"])
    for name, (hidden, samples, walked) in found.items():
        ratio = statistics.median(np.array(seconds[name]) / base)
        each = statistics.median(seconds[name]) / len(hidden) * 1e9
        print(
            f"{name:13} {(hidden != reference).mean():9.4%} "
            f"{(hidden != fine).mean():12.4%} {samples:8.1f} {walked:7.1%} "
            f"{each:8.0f}  x{ratio:.2f}"
        )


if __name__ == "__main__":
    main()
