"""Compare TSDF fusion with whole-volume NumPy fusion of the same frames.

    python -m bench.bench_tsdf [--frames N] [--rounds N] [--size 640x480]
                               [--max-depth M] [--truth-frames N]

The scene is an analytic room of 8x8x3 m with spheres, filmed from a path through it,
and fused into a pyramid of 4, 8 and 16 cm voxels. "numpy" is written the way the widely
used NumPy scripts are: voxel coordinates once (not timed), then for each frame the
whole volume is projected, masked and updated by vectorised operations. "torch" is the
readable truth. Every round measures all of them, so that a busy machine is busy for
each; numpy and torch get fewer frames of the same path, a frame costs them far more.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from gnesf_core.config import TargetsConfig
from gnesf_core.geometry import tsdf, tsdf_numba
from gnesf_core.geometry.camera import look_at, pixel_rays
from gnesf_core.geometry.grid import Grid

LOW, HIGH = np.zeros(3), np.array([8.0, 8.0, 3.0])
SPHERES = (
    ((2.0, 2.0, 0.6), 0.6),
    ((5.5, 3.0, 0.9), 0.5),
    ((4.0, 6.0, 0.5), 0.5),
    ((6.5, 6.5, 0.4), 0.4),
    ((3.0, 4.0, 1.2), 0.3),
)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--max-depth", type=float, default=3.0)
    parser.add_argument("--truth-frames", type=int, default=2)
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    config = TargetsConfig(0.04, 3, 3.0, arguments.max_depth)
    frames = film(arguments.frames, width, height)
    some = (
        frames[0][: arguments.truth_frames],
        frames[1],
        frames[2][: arguments.truth_frames],
    )
    grids = tsdf.pyramid_grids(LOW, HIGH, config)
    limit = config.max_depth_m
    centres = [voxel_centres(grid) for grid in grids]
    programs: dict[str, tuple[Callable, int]] = {
        "numpy": (lambda v: fuse_with_numpy(v, centres, *some, limit), len(some[0])),
        "torch": (lambda v: fuse_with_torch(v, *some, limit), len(some[0])),
    }
    for threads in (1, 2):
        programs[f"numba, {threads} thr."] = (
            lambda v, t=threads: tsdf_numba.integrate(v, *frames, limit, t),
            len(frames[0]),
        )
    started = time.perf_counter()
    tsdf_numba.integrate(volumes(grids, config), *some, limit)
    print(f"first call of numba {time.perf_counter() - started:.1f} s (0 once cached)")
    print(f"levels {[grid.shape for grid in grids]}, {width}x{height} pixels")
    check(grids, config, some, limit)
    report(measure(programs, grids, config, arguments.rounds))


def film(
    count: int, width: int, height: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return depth in metres, intrinsics and poses of a walk through the room."""
    focal = 577.0 / 640 * width
    intrinsics = np.array(
        [[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]]
    )
    poses = []
    for angle in np.linspace(0, 6 * np.pi, count, endpoint=False):
        eye = np.array([4 + 1.6 * np.cos(angle), 4 + 1.6 * np.sin(angle), 1.5])
        heading = angle + 1 + 0.5 * np.sin(3 * angle)
        down = -0.35 + 0.2 * np.sin(5 * angle)
        ahead = np.array([np.cos(heading), np.sin(heading), down])
        poses.append(look_at(eye, eye + ahead))
    rays = pixel_rays(intrinsics, width, height).astype(np.float32)
    depth = np.stack([render(rays, pose) for pose in poses])
    return depth, intrinsics, np.stack(poses)


def render(rays_camera: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Return the depth of the room and its spheres along each ray."""
    rays = rays_camera @ pose[:3, :3].T.astype(np.float32)
    eye = pose[:3, 3]
    with np.errstate(divide="ignore"):
        depth = np.where(rays > 0, (HIGH - eye) / rays, (LOW - eye) / rays).min(-1)
    for centre, radius in SPHERES:
        to_centre = eye - centre
        a, b = (rays**2).sum(-1), rays @ to_centre
        root = b**2 - a * (to_centre @ to_centre - radius**2)
        near = (-b - np.sqrt(np.maximum(root, 0))) / a
        depth = np.where((root > 0) & (near > 0) & (near < depth), near, depth)
    return depth.astype(np.float32)


def volumes(grids: list[Grid], config: TargetsConfig) -> list[tsdf.TsdfVolume]:
    """Return empty volumes."""
    return [
        tsdf.TsdfVolume.empty(grid, config.truncation_voxels * grid.voxel_size_m)
        for grid in grids
    ]


def fuse_with_torch(
    pyramid: list[tsdf.TsdfVolume],
    depth_m: np.ndarray,
    intrinsics: np.ndarray,
    poses: np.ndarray,
    max_depth_m: float,
) -> None:
    """Fuse by the readable truth."""
    for volume in pyramid:
        tsdf.integrate(volume, depth_m, intrinsics, poses, max_depth_m)


def voxel_centres(grid: Grid) -> np.ndarray:
    """Return the world coordinates of all voxels in float32."""
    axes = np.meshgrid(*map(np.arange, grid.shape), indexing="ij")
    ijk = np.stack([axis.ravel() for axis in axes], 1)
    return (grid.origin_world + grid.voxel_size_m * ijk).astype(np.float32)


def fuse_with_numpy(
    pyramid: list[tsdf.TsdfVolume],
    centres: list[np.ndarray],
    depth_m: np.ndarray,
    intrinsics: np.ndarray,
    poses: np.ndarray,
    max_depth_m: float,
) -> None:
    """Fuse the whole volume frame by frame, in float32."""
    height, width = depth_m.shape[1:]
    focal, centre = intrinsics[[0, 1], [0, 1]], intrinsics[:2, 2]
    for volume, points in zip(pyramid, centres, strict=True):
        tsdf_flat = volume.arrays()[0].reshape(-1)
        weight_flat = volume.arrays()[1].reshape(-1)
        for depth, pose in zip(depth_m, poses, strict=True):
            inverse = np.linalg.inv(pose).astype(np.float32)
            camera = points @ inverse[:3, :3].T + inverse[:3, 3]
            z = camera[:, 2]
            with np.errstate(divide="ignore", invalid="ignore"):
                u = np.floor(camera[:, 0] / z * focal[0] + centre[0] + 0.5)
                v = np.floor(camera[:, 1] / z * focal[1] + centre[1] + 0.5)
            inside = (z > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
            surface = np.zeros(len(points), np.float32)
            surface[inside] = depth[v[inside].astype(int), u[inside].astype(int)]
            sdf = surface - z
            usable = (surface > 0) & (surface <= max_depth_m)
            seen = usable & (sdf >= -volume.truncation_m)
            value = np.minimum(1, sdf[seen] / volume.truncation_m)
            old = weight_flat[seen]
            tsdf_flat[seen] = (tsdf_flat[seen] * old + value) / (old + 1)
            weight_flat[seen] = old + 1


def check(
    grids: list[Grid],
    config: TargetsConfig,
    frames: tuple[np.ndarray, np.ndarray, np.ndarray],
    limit: float,
) -> None:
    """Print how far apart the results of the three programs are."""
    truth, ours, theirs = (volumes(grids, config) for _ in range(3))
    fuse_with_torch(truth, *frames, limit)
    tsdf_numba.integrate(ours, *frames, limit)
    fuse_with_numpy(theirs, [voxel_centres(g) for g in grids], *frames, limit)
    for name, pyramid in (("numba", ours), ("numpy", theirs)):
        shares = []
        for volume, expected in zip(pyramid, truth, strict=True):
            distant = (volume.tsdf - expected.tsdf).abs() > 1e-4
            observed = expected.weight > 0
            shares.append(f"{distant[observed].double().mean():.1e}")
        print(f"{name}: off by > 1e-4 on {', '.join(shares)} of the observed voxels")


def measure(
    programs: dict[str, tuple[Callable, int]],
    grids: list[Grid],
    config: TargetsConfig,
    rounds: int,
) -> dict[str, list[float]]:
    """Return seconds per frame of each program in each round, taken in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, (program, count) in programs.items():
            pyramid = volumes(grids, config)
            started = time.perf_counter()
            program(pyramid)
            seconds[name].append((time.perf_counter() - started) / count)
    return seconds


def report(seconds: dict[str, list[float]]) -> None:
    """Print medians, and ratios to numpy of the same round."""
    print(f"torch uses {torch.get_num_threads()} threads")
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(seconds["numpy"], times, strict=True)]
        print(
            f"{name:16s} {1 / statistics.median(times):8.1f} frames/s "
            f"({1e3 * statistics.median(times):.2f} ms), numpy x "
            f"{statistics.median(ratios):.1f} (range {min(ratios):.1f} to "
            f"{max(ratios):.1f})"
        )


if __name__ == "__main__":
    main()
