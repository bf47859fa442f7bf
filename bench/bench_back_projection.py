"""Compare back-projection with the usual way of doing it in Torch.

    python -m bench.bench_back_projection [--side 96] [--views 9] [--channels 24]
        [--size 160x120] [--device cpu] [--threads 1 2] [--rounds 5] [--without-truth]
        [--sweep]

The points are a cube of 4 cm voxels with cameras walking through it, each of which sees
a part. "eager" is written the way NeuralRecon and its relatives are: all views are
sampled at all points by one `grid_sample`, which makes a tensor of views x channels x
points, and its mean and variance are taken by masked sums. "truth" is the readable
form, "ours" the fast twin for the device. Results are compared first. Every round
measures all of them, so that a busy machine is busy for each; a round's backward pass
follows its forward pass, with random gradients of mean and variance.

The floor is the time to copy as many bytes as the operation cannot avoid moving, at the
speed of a copy measured in the same run. `--sweep` measures how ours grows with the
views and the channels.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from gnesf_core.geometry.camera import invert_rigid, look_at
from gnesf_core.ops.back_projection import back_project, back_project_truth

VOXEL_M = 0.04
Program = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
Seconds = dict[str, list[tuple[float, float]]]  # forward, and with backward


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--views", type=int, default=9)
    parser.add_argument("--channels", type=int, default=24)
    parser.add_argument("--size", default="160x120")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without-truth", action="store_true")
    parser.add_argument("--sweep", action="store_true")
    arguments = parser.parse_args()
    assert find_spec("triton" if arguments.device == "cuda" else "numba")
    size = tuple(map(int, arguments.size.split("x")))
    device = torch.device(arguments.device)
    shape = (arguments.side, arguments.views, arguments.channels, size)
    inputs = film(*shape, device)
    programs: dict[str, Program] = {"eager": eager, "ours": back_project}
    if not arguments.without_truth:
        programs["truth"] = back_project_truth
    print(f"{arguments.side}^3 points, {arguments.views} views, maps {arguments.size}")
    check(inputs)
    for threads in arguments.threads if device.type == "cpu" else [1]:
        torch.set_num_threads(threads)
        print(f"-- {threads} thread(s)" if device.type == "cpu" else f"-- {device}")
        report(measure(programs, inputs, arguments.rounds), inputs)
        if arguments.sweep:
            sweep(*shape, device, arguments.rounds)


def film(
    side: int, views: int, channels: int, size: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return random maps, the voxels of a cube, and a walk of cameras through it."""
    width, height = size
    focal = 577.0 / 640 * width
    intrinsics = np.array(
        [[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]]
    )
    edge_m = side * VOXEL_M
    matrices = []
    for angle in 0.25 * np.arange(views):
        around = np.array([np.cos(angle), np.sin(angle), 0])
        eye = edge_m * (np.array([0.5, 0.5, 0.4]) + 0.23 * around)
        ahead = -np.array([np.cos(1.2 * angle), np.sin(1.2 * angle), 0.2])
        matrices.append(intrinsics @ invert_rigid(look_at(eye, eye + ahead))[:3])
    axis = VOXEL_M * torch.arange(side)
    points = torch.cartesian_prod(axis, axis, axis)
    features = torch.randn(
        views, channels, height, width, generator=torch.Generator().manual_seed(0)
    )
    pixel_from_point = torch.from_numpy(np.stack(matrices)).float()
    return features.to(device), points.to(device), pixel_from_point.to(device)


def eager(
    features: Tensor, points: Tensor, matrices: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Sample all views at all points, then take masked means."""
    views, channels, height, width = features.shape
    projected = matrices[:, :, :3] @ points.T + matrices[:, :, 3:]
    uv = projected[:, :2] / projected[:, 2:]
    last = uv.new_tensor([width - 1, height - 1])[:, None]
    grid = (2 * uv / last - 1).permute(0, 2, 1)
    seen = (grid.abs() <= 1).all(2) & (projected[:, 2] > 0)
    samples = grid_sample(
        features, grid[:, None], padding_mode="zeros", align_corners=True
    ).view(views, channels, -1)
    samples = samples.masked_fill(~seen[:, None], 0)
    count = seen.sum(0)
    divisor = count.clamp(min=1)
    mean = samples.sum(0) / divisor
    differences = (samples - mean).masked_fill(~seen[:, None], 0)
    variance = differences.square().sum(0) / divisor
    return mean.T, variance.T, count


def check(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    """Print how far ours and eager are from each other, and from the truth in part."""
    ours, theirs = back_project(*inputs), eager(*inputs)
    same = ours[2] == theirs[2]
    seen = ours[2].sum().item() / (len(same) * len(inputs[0]))
    print(
        f"{seen:.1%} of points x views seen; eager counts {same.float().mean():.4%} so"
    )
    for name, one, two in zip(("mean", "variance"), ours, theirs, strict=False):
        # Rounding moves eager's samples by more where a point is close to the camera.
        errors = (one - two).abs()[same]
        print(f"  {name}: eager off by {errors.mean():.1e} on average")
    some = (inputs[0], inputs[1][::97].contiguous(), inputs[2])
    for name, one, two in zip(
        ("mean", "variance", "count"),
        back_project(*some),
        back_project_truth(*some),
        strict=True,
    ):
        print(f"  {name}: truth off by {(one - two).abs().max():.1e} at most")


def measure(
    programs: dict[str, Program], inputs: tuple[Tensor, Tensor, Tensor], rounds: int
) -> Seconds:
    """Return seconds per call of each program in each round, taken in turns."""
    features, points, matrices = inputs
    device = features.device
    shape = len(points), features.shape[1]
    gradients = [torch.randn(shape, device=device) for _ in range(2)]
    repeats = 10 if device.type == "cuda" else 1
    seconds: Seconds = {name: [] for name in programs}
    for number in range(rounds + 1):  # the first compiles, and does not count
        for name, program in programs.items():
            forward, backward = 0.0, 0.0
            for _ in range(repeats):
                maps = features.detach().requires_grad_()
                started = now(device)
                result = program(maps, points, matrices)
                sampled = now(device)
                torch.autograd.backward(result[:2], gradients)
                forward += (sampled - started) / repeats
                backward += (now(device) - sampled) / repeats
                del result, maps
            if number > 0:
                seconds[name].append((forward, forward + backward))
    return seconds


def now(device: torch.device) -> float:
    """Return the time when all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def report(seconds: Seconds, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    """Print medians, quartiles, the distance from the floor and eager's multiples."""
    speed = copy_speed(inputs[0].device)
    print(f"a copy moves {speed / 1e9:.1f} GB/s, reading and writing")
    for part, title in enumerate(("forward", "forward + backward")):
        floor = sum(unavoidable_bytes(inputs)[: part + 1]) / speed
        print(f"{title}: floor {1e3 * floor:.2f} ms")
        for name, rounds in seconds.items():
            times = [times[part] for times in rounds]
            ratios = [
                theirs[part] / own
                for theirs, own in zip(seconds["eager"], times, strict=True)
            ]
            low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
            print(
                f"  {name:6s} {1e3 * middle:9.2f} ms ({1e3 * low:.2f} to "
                f"{1e3 * high:.2f}), {middle / floor:7.1f} x floor, eager x "
                f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to "
                f"{max(ratios):.1f})"
            )


def copy_speed(device: torch.device) -> float:
    """Return bytes read and written per second by a copy much larger than caches."""
    source = torch.ones(2**26 if device.type == "cpu" else 2**29, device=device)
    target = source.clone()
    times = []
    for _ in range(5):
        started = now(device)
        target.copy_(source)
        times.append(now(device) - started)
    return 2 * source.numel() * source.element_size() / min(times)


def unavoidable_bytes(inputs: tuple[Tensor, Tensor, Tensor]) -> tuple[int, int]:
    """Return what forward and backward must read and write at least once."""
    features, points, _ = inputs
    statistics_bytes = 2 * len(points) * features.shape[1] * features.element_size()
    read = features.nbytes + points.nbytes
    count = 8 * len(points)
    forward = read + statistics_bytes + count
    # Two gradients and the mean are read, and the gradient of the maps is written.
    return forward, read + statistics_bytes * 3 // 2 + count + features.nbytes


def sweep(
    side: int,
    views: int,
    channels: int,
    size: tuple[int, int],
    device: torch.device,
    rounds: int,
) -> None:
    """Print how the time of ours grows with the views and with the channels."""
    cases = {f"{n} views": (n, channels) for n in (1, 3, 5, 9, 16)}
    cases |= {f"{c} channels": (views, c) for c in (8, 24, 40, 80)}
    for name, (some_views, some_channels) in cases.items():
        inputs = film(side, some_views, some_channels, size, device)
        (times,) = measure({"ours": back_project}, inputs, rounds).values()
        forward, both = (
            statistics.median(column) for column in zip(*times, strict=True)
        )
        print(
            f"  {name:12s} {1e3 * forward:9.2f} ms, with backward {1e3 * both:.2f} ms"
        )


if __name__ == "__main__":
    main()
