"""Measure what it costs to load a training fragment, by part.

    python -m bench.bench_fragments [--scenes N] [--rounds N] [--jpeg-quality Q]

The scenes are made up, at ScanNet's sizes: nine 1296x968 JPEGs and 640x480 depth maps
per fragment, a room of 8x8x3 m in 4 cm voxels, volumes of 96^3 turned by any angle.
Pictures are noise with the spectrum of photographs; their depth and targets are noisy
planes, so that their streams are about as long as real ones. One process, one thread,
files in the page cache.

decode        colour, reduced as far as the network's 640x480 allow
decode whole  the same at full size
resize        to 640x480, after either
jitter        brightness, contrast and saturation
depth         every fourth pixel of the depth maps
targets       what surrounds the volume, of three levels
opening       a scene's two files
sample        all of it, from files that are open

Rounds take all parts in turn; medians of processor time, which other work on the
machine disturbs less than a clock. `sample` per second and core, times the number of
loading processes, is what a GPU can be fed.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from gnesf_core.config import (
    FragmentDataConfig,
    NeuconConfig,
    TargetsConfig,
    TrainingConfig,
)
from gnesf_core.data import images, store
from gnesf_core.data.provenance import provenance
from gnesf_core.data.scan import ScanInfo
from gnesf_core.geometries import fragments
from gnesf_core.geometries.fragments import FragmentSamples
from gnesf_core.geometries.targets import read_box
from gnesf_core.geometry import tsdf
from gnesf_core.geometry.camera import look_at
from gnesf_core.nets.pictures import jitter, resize_picture

COLOR, DEPTH, NETWORK = (1296, 968), (640, 480), (640, 480)
VIEWS = 9
FRAGMENTS = 3  # per scene
VOXEL_M, TRUNCATION_M = 0.04, 0.12
VARIED = FragmentDataConfig(
    scenes=0, held_out_scenes=0,
    rotation_deg=180.0, shift_m=1.0, color_jitter=0.2, min_weight=1,
    max_voxels=65536, sequence_from_step=10**9, sequence_fragments=1,
)  # fmt: skip


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scenes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--jpeg-quality", type=int, default=80)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        pictures = [photograph(rng) for _ in range(VIEWS)]
        coded = [images.encode_jpeg(p, options.jpeg_quality) for p in pictures]
        size_kb = sum(map(len, coded)) / len(coded) / 1e3
        print(f"JPEGs of {size_kb:.0f} kB, torch {torch.__version__}, 1 thread")
        paths = [
            write_scene(Path(folder), f"scene{n:04}_00", coded, rng)
            for n in range(options.scenes)
        ]
        samples = FragmentSamples(*zip(*paths, strict=True), network(), VARIED, steps())
        report(measure(programs(samples, paths, coded), options.rounds), samples[0])


def network() -> NeuconConfig:
    """Return the sizes of the published network."""
    return NeuconConfig(
        image_width=NETWORK[0], image_height=NETWORK[1], encoder_width=1.0,
        encoder_weights="", channels=24, voxel_size_m=VOXEL_M,
        truncation_m=TRUNCATION_M, volume_x=96, volume_y=96, volume_z=96,
        volume_bottom_m=-0.5, view_range_m=3.0, statistics="mean-variance",
        fusion="none", occupancy_threshold=0.5, positive_weight=1.5,
        coarser_weight=0.8, sparse_engine="auto",
    )  # fmt: skip


def steps() -> TrainingConfig:
    """Return a training, of which only seed and batch matter here."""
    return TrainingConfig(
        seed=0, steps=1, batch=1, learning_rate=1e-3, backbone_rate=1.0,
        weight_decay=0.0, schedule="constant", warmup_steps=0, clip_norm=1.0,
        precision="float32", workers=0, report_steps=1, state_steps=1,
        validate_steps=0,
    )  # fmt: skip


def photograph(rng: np.random.Generator) -> np.ndarray:
    """Return noise whose amplitudes fall with the frequency, as in photographs."""
    width, height = COLOR
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = 1
    channels = []
    for _ in range(3):
        waves = rng.normal(size=(*frequency.shape, 2)) @ [1, 1j]
        plane = np.fft.irfft2(waves / frequency**1.2, (height, width))
        channels.append(plane / plane.std())
    grey, red, blue = channels
    rgb = 120 + 40 * np.stack([grey + 0.3 * red, grey, grey + 0.3 * blue], -1)
    return rgb.clip(0, 255).astype(np.uint8)


def write_scene(
    folder: Path, scene: str, coded: list[bytes], rng: np.random.Generator
) -> tuple[Path, Path]:
    """Write the frames and the targets of a room that is filmed all around."""
    frames, targets = folder / f"{scene}.frames.h5", folder / f"{scene}.targets.h5"
    count = VIEWS * FRAGMENTS
    info = ScanInfo(
        folder / scene, count, *COLOR, *DEPTH, pinhole(COLOR), pinhole(DEPTH),
        1000.0, "jpeg", "zlib",
    )  # fmt: skip
    poses = [
        look_at((4, 4, 1.5), (4 + np.cos(angle), 4 + np.sin(angle), 1.2))
        for angle in np.linspace(0, 4, count)
    ]
    index = np.arange(count)
    every = np.ones(count, bool)
    selection = store.Selection(index, every, ~every, index.reshape(-1, VIEWS))
    made_by = provenance("bench", {}, {})
    with store.write_frames(
        frames, scene, info, np.stack(poses), np.zeros(count, np.uint8), selection,
        False, made_by,
    ) as writer:  # fmt: skip
        for number in range(count):
            ramp = np.linspace(1000, 3500, DEPTH[0]) + rng.normal(0, 3, DEPTH[::-1])
            writer.add(coded[number % VIEWS], ramp.astype(np.uint16), None)
    with store.Frames(frames) as file:
        made_by = provenance("bench", {}, {"frames": file.fingerprint})
    store.write_targets(targets, scene, pyramid(rng), made_by)
    return frames, targets


def pinhole(size: tuple[int, int]) -> np.ndarray:
    """Return the intrinsics of ScanNet's field of view."""
    focal = 0.9 * size[0]
    return np.array(
        [[focal, 0, (size[0] - 1) / 2], [0, focal, (size[1] - 1) / 2], [0, 0, 1.0]]
    )


def pyramid(rng: np.random.Generator) -> list[store.DistanceGrid]:
    """Return noisy distances from the walls of a room, and how often they were seen."""
    config = TargetsConfig(VOXEL_M, 3, TRUNCATION_M / VOXEL_M, 3.0)
    low, high = np.zeros(3), np.array([8.0, 8.0, 3.0])
    levels = []
    for level, grid in enumerate(tsdf.pyramid_grids(low, high, config)):
        axes = [
            origin + grid.voxel_size_m * np.arange(n)
            for origin, n in zip(grid.origin_world, grid.shape, strict=True)
        ]
        x, y, z = np.meshgrid(*axes, indexing="ij")
        inside = np.minimum.reduce([x, high[0] - x, y, high[1] - y, z, high[2] - z])
        truncation_m = TRUNCATION_M * 2**level
        values = inside / truncation_m + rng.normal(0, 0.02, inside.shape)
        weight = rng.poisson(50 + 20 * np.sin(x) * np.sin(y)) * (values > -1)
        levels.append(
            store.DistanceGrid(
                grid.origin_world,
                grid.voxel_size_m,
                truncation_m,
                values.clip(-1, 1).astype(np.float32),
                weight.astype(np.uint16),
            )
        )
    return levels


def programs(
    samples: FragmentSamples, paths: list[tuple[Path, Path]], coded: list[bytes]
) -> dict[str, Callable[[], object]]:
    """Return what is measured, each for the views of one fragment."""
    where = ("a picture", "its bytes")
    whole = [images.decode_color(data, "jpeg", *COLOR, where) for data in coded]
    reduced = [
        images.decode_color_reduced(data, "jpeg", *COLOR, NETWORK, where)
        for data in coded
    ]
    resized = [resize_picture(picture, *NETWORK) for picture in reduced]
    factors = np.array([1.1, 0.9, 1.2])
    frames, targets = store.Frames(paths[0][0]), store.Targets(paths[0][1])
    angle = np.deg2rad(30)
    turned = np.eye(4)
    turned[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    views = fragments.fragments_of(frames)[0]
    first = fragments.volume_origin(frames, views, network(), turned).numpy()
    bounds_m = first * VOXEL_M, (first + 95) * VOXEL_M
    numbers = iter(range(10**9))

    def opening() -> None:
        for kind, path in zip((store.Frames, store.Targets), paths[-1], strict=True):
            kind(path).close()

    return {
        "decode": lambda: [
            images.decode_color_reduced(data, "jpeg", *COLOR, NETWORK, where)
            for data in coded
        ],
        "decode whole": lambda: [
            images.decode_color(data, "jpeg", *COLOR, where) for data in coded
        ],
        "resize": lambda: [resize_picture(picture, *NETWORK) for picture in reduced],
        "resize whole": lambda: [resize_picture(p, *NETWORK) for p in whole],
        "jitter": lambda: [jitter(picture, factors) for picture in resized],
        "depth": lambda: fragments.measured_depth(frames, views, turned),
        "targets": lambda: [
            read_box(targets, level, *bounds_m, turned) for level in range(3)
        ],
        "opening": opening,
        "sample": lambda: samples[next(numbers)],
    }


def measure(
    parts: dict[str, Callable[[], object]], rounds: int
) -> dict[str, list[float]]:
    """Return the processor seconds of each part in each round but the first."""
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for number in range(rounds + 1):
        for name, program in parts.items():
            started = time.process_time()
            program()
            if number:
                seconds[name].append(time.process_time() - started)
    return seconds


def report(seconds: dict[str, list[float]], sample: dict) -> None:
    """Print medians, and how much a sample weighs."""
    for name, times in seconds.items():
        low, middle, high = min(times), statistics.median(times), max(times)
        print(
            f"{name:14s} {1e3 * middle:7.1f} ms ({1e3 * low:.1f} to {1e3 * high:.1f})"
        )
    print(f"{1 / statistics.median(seconds['sample']):.2f} samples/s and core")
    fragment = sample["fragments"][0]
    tensors = [*fragment["inputs"], fragment["depth_m"]]
    tensors += [tensor for box in fragment["targets"] for tensor in box]
    print(f"{sum(tensor.nbytes for tensor in tensors) / 1e6:.1f} MB per sample")


if __name__ == "__main__":
    main()
