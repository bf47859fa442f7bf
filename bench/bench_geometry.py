"""Time the geometry network: a fragment, a training step, a long scene.

    python -m bench.bench_geometry [--size demo|paper] [--device cpu|cuda]
                                   [--rounds N] [--fragments N] [--engines NAME ...]

Weights are random, so what is near a surface is not left to the network: a corridor of
3 x 2.6 m, along which a camera walks, says it. Then the work is that of a trained
network. "per fragment" is the forward pass in inference and a whole step of training,
losses left out, for each engine of sparse convolution in turn. "along a scene" follows
fragments that move on by 0.4 m: time of each and the bytes that outlive it, beside a
memory that is kept as the released code keeps it, as one list of all voxels that every
fragment copies.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from gnesf_core.config import NeuconConfig
from gnesf_core.geometries.coarse_to_fine import LevelResult, Neucon
from gnesf_core.geometries.fragments import FragmentInputs
from gnesf_core.geometries.neucon import SceneFusion
from gnesf_core.geometry.camera import invert_rigid, look_at
from gnesf_core.sparse.engine import engine

VIEWS = 9
HALF_WIDTH_M, HEIGHT_M = 1.5, 2.6
STEP_M = 0.4  # between fragments
RUN_M = 0.12  # between the views of a fragment


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=["demo", "paper"], default="demo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fragments", type=int, default=60)
    parser.add_argument("--engines", nargs="+", default=["gather", "dense"])
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    settings = recipe(arguments.size)
    print(f"{arguments.size}, {device}, {torch.get_num_threads()} threads")
    one_fragment(settings, device, arguments.engines, arguments.rounds)
    along_a_scene(settings, device, arguments.fragments)


def recipe(size: str) -> NeuconConfig:
    """Read the recipe of the demo, or ScanNet's."""
    settings = {}
    for name in ("config", "scannet") if size == "paper" else ("config",):
        config = yaml.safe_load(Path(f"config/{name}.yaml").read_text())
        settings |= config["geometries"]["neucon"]["settings"]
    return NeuconConfig(**(settings | {"encoder_weights": ""}))


class Knowing(Neucon):
    """The network, but it knows where the corridor's surfaces are."""

    fragments: Sequence[FragmentInputs] = ()

    def above_threshold(self, result: LevelResult) -> torch.Tensor:
        """Choose the voxels within the truncation of a surface."""
        _, y, z = result.points_world(self.fragments, self.settings.voxel_size_m).T
        reach_m = self.settings.truncation_m * 2**result.level
        walls, floor = (y.abs() - HALF_WIDTH_M).abs(), z.abs()
        nearest = torch.minimum(torch.minimum(walls, floor), (z - HEIGHT_M).abs())
        inside = (y.abs() < HALF_WIDTH_M + reach_m) & (z < HEIGHT_M + reach_m)
        return (nearest < reach_m) & inside & (z > -reach_m)

    def forward(self, fragments: Sequence[FragmentInputs], *others: Any) -> list:
        """Remember whose voxels they are."""
        self.fragments = fragments
        return super().forward(fragments, *others)


def make(settings: NeuconConfig, name: str, device: torch.device) -> Knowing:
    """Return an untrained network with an engine of sparse convolution."""
    torch.manual_seed(0)
    return Knowing(settings, engine(name, device)).to(device)


def fragment(
    settings: NeuconConfig, number: int, device: torch.device
) -> FragmentInputs:
    """Look along the corridor from `number` steps down it."""
    generator = torch.Generator().manual_seed(number)
    size = (VIEWS, 3, settings.image_height, settings.image_width)
    pictures = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    focal = 0.9 * settings.image_width
    centre = (settings.image_width - 1) / 2, (settings.image_height - 1) / 2
    intrinsics = np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]])
    start = STEP_M * number
    poses = [
        look_at((start + RUN_M * n, 0.1 * (n % 2), 1.4), (start + 3, 0.4 * (n % 3), 1))
        for n in range(VIEWS)
    ]
    matrices = intrinsics @ invert_rigid(np.stack(poses))[:, :3]
    voxel_m = settings.voxel_size_m
    origin = [
        4 * round(start / voxel_m / 4),
        -4 * round(settings.volume_y / 8),
        4 * round(settings.volume_bottom_m / voxel_m / 4),
    ]
    made = (pictures, torch.from_numpy(matrices), torch.tensor(origin))
    return FragmentInputs(*(part.to(device) for part in made))


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Time one call, whatever it left running included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def one_fragment(
    settings: NeuconConfig, device: torch.device, engines: Sequence[str], rounds: int
) -> None:
    """Print the time of a forward pass and of a training step, engine by engine."""
    pair = [fragment(settings, 0, device), fragment(settings, 9, device)]
    programs: dict[str, Callable[[], Any]] = {}
    for name in engines:
        network = make(settings, name, device)
        programs[f"{name}, forward"] = lambda n=network: forward(n, pair[:1])
        optimizer = torch.optim.AdamW(network.parameters())
        programs[f"{name}, training, per fragment of 2"] = (
            lambda n=network, o=optimizer: step(n, o, pair)
        )
    encoder = make(settings, engines[0], device).encoder
    programs["2D encoder alone, forward"] = lambda: without_gradient(
        encoder, pair[0].pictures
    )
    times: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(rounds + 1):
        for name, program in programs.items():
            elapsed = seconds(program, device)
            if number:  # the first round warms up
                times[name].append(elapsed / (2 if "of 2" in name else 1))
    results = forward(make(settings, engines[0], device), pair[:1])
    print("voxels by level:", [len(result.sites) for result in results])
    for name, values in times.items():
        print(f"{name:40s} {1e3 * statistics.median(values):9.1f} ms")


def without_gradient(function: Callable, *arguments: Any) -> Any:
    """Call without recording anything for a gradient."""
    with torch.inference_mode():
        return function(*arguments)


def forward(network: Knowing, fragments: list[FragmentInputs]) -> list[LevelResult]:
    """Run the network as `fuse_features` does."""
    return without_gradient(network.eval(), fragments)


def step(
    network: Knowing, optimizer: torch.optim.Optimizer, fragments: list[FragmentInputs]
) -> None:
    """Make a training step towards nothing in particular."""
    optimizer.zero_grad()
    results = network.train()(fragments)
    loss = sum(r.tsdf.abs().mean() + r.occupancy.abs().mean() for r in results)
    loss.backward()
    optimizer.step()


class CopiedList:
    """A memory as one list of voxels, cut up and glued together each time."""

    def __init__(self, channels: int) -> None:
        self.xyz = torch.zeros(0, 3, dtype=torch.int64)
        self.features = torch.zeros(0, channels)

    def replace(
        self, lower: torch.Tensor, shape: tuple, xyz: Any, features: Any
    ) -> None:
        """Drop the voxels of a box from the list, append new ones."""
        upper = lower + torch.tensor(shape)
        outside = ((self.xyz < lower) | (self.xyz >= upper)).any(1)
        self.xyz = torch.cat([self.xyz[outside], xyz + lower])
        self.features = torch.cat([self.features[outside], features])


def along_a_scene(settings: NeuconConfig, device: torch.device, count: int) -> None:
    """Print what fragments cost early and late in a scene, and what memory grows to."""
    network = make(settings, "auto", device).eval()
    fragments = [fragment(settings, number, device) for number in range(count)]
    scene = SceneFusion(network, torch.stack([f.origin_voxel for f in fragments]))
    copied = [CopiedList(channels) for channels in network.channels]
    times, copying, sizes = [], [], []
    for one in fragments:
        times.append(seconds(lambda one=one: scene.add(one), device))
        memories = scene._memories
        boxes = [
            (one.origin_voxel.cpu() // 2**level, network.shape(level))
            for level in range(len(memories))
        ]
        now = [m.read(*box) for m, box in zip(memories, boxes, strict=True)]
        pairs = list(zip(copied, boxes, now, strict=True))
        copying.append(
            seconds(
                lambda pairs=pairs: [
                    listed.replace(*box, xyz.cpu(), features.cpu())
                    for listed, box, (xyz, features) in pairs
                ],
                device,
            )
        )
        sizes.append((sum(map(len, memories)), scene.nbytes))
    quarter = max(1, count // 4)
    rows = (("fragment", times), ("copied list alone", copying))
    print("along a scene   first quarter   last quarter (ms, medians)")
    for name, values in rows:
        early, late = (
            1e3 * statistics.median(part)
            for part in (values[1 : quarter + 1], values[-quarter:])
        )
        print(f"{name:18s} {early:9.1f} {late:14.1f}   ratio {late / early:.2f}")
    voxels = np.array([n for n, _ in sizes], float)
    per_voxel = np.polyfit(voxels, [size for _, size in sizes], 1)[0]
    for number in (0, count // 2, count - 1):
        n, size = sizes[number]
        print(f"after {number + 1:3d}: {n:8d} voxels remembered, {size / 1e6:.1f} MB")
    print(f"{per_voxel:.0f} bytes per remembered voxel, over a fixed grid of rows")


if __name__ == "__main__":
    main()
