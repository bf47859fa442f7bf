"""Compare our `.sens` reader with the official Python reader on one core.

    python -m bench.bench_sens [--official DIR] [--frames N] [--rounds N]

DIR holds the reader's `SensorData.py` from a ScanNet checkout (`SensReader/python`),
made to run on Python 3 by its user; it needs imageio, cv2 and png.

Two comparisons. "Extraction" is the whole job, each in its own way: ours is the stage
`extract_frames`, which hashes the scan, checks every frame (all depth inflated), and
writes key frames and every tenth frame to one file; the peer loads the scan and exports
depth, colour and poses of all frames as image and text files, which is the only way in
which it hands out frames. "Loading" is the part with one result: the stored bytes and
the pose of every frame.
"""

import argparse
import contextlib
import importlib
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gnesf_core.config import FramesConfig
from gnesf_core.data import images
from gnesf_core.data.scan import ScanInfo
from gnesf_core.data.sens import SensReader, SensWriter
from gnesf_core.data.store import Frames
from stages import extract_frames

COLOR_SIZE, DEPTH_SIZE = (1296, 968), (640, 480)
DISTINCT_FRAMES = 12
CONFIG = FramesConfig(15.0, 0.1, 9, False, 10, 5)  # as in config/scannet.yaml
Seconds = dict[str, float]


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--official", type=Path)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    peer = load_peer(arguments.official) if arguments.official else None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scene.sens"
        write_scan(path, arguments.frames)
        per_frame = path.stat().st_size / arguments.frames / 1e3
        print(f"{arguments.frames} frames of {per_frame:.0f} kB each")
        ours, theirs = [], []
        for _ in range(arguments.rounds):
            ours.append(measure_ours(path))
            if peer is not None:
                theirs.append(measure_peer(peer, path, Path(folder) / "export"))
    our_load, our_total = report("ours", ours, arguments.frames)
    if peer is None:
        print("official reader absent: give --official DIR to compare")
        return
    peer_load, peer_total = report("official", theirs, arguments.frames)
    print(f"extraction: ours is {peer_total / our_total:.1f} times as fast")
    print(f"loading: ours is {peer_load / our_load:.1f} times as fast")


def write_scan(path: Path, count: int) -> None:
    """Write a scan of noisy, textured walls; equal bytes on every call."""
    focal = np.array([[1170.0, 0, 647.5], [0, 1170.0, 483.5], [0, 0, 1]])
    half = np.array([[577.0, 0, 319.5], [0, 577.0, 239.5], [0, 0, 1]])
    info = ScanInfo(
        path, count, *COLOR_SIZE, *DEPTH_SIZE, focal, half, 1000.0, "jpeg", "zlib"
    )
    rng = np.random.default_rng(0)
    frames = [make_frame(rng) for _ in range(min(count, DISTINCT_FRAMES))]
    with SensWriter(path, info, zlib_level=6) as writer:
        for index in range(count):
            pose = np.eye(4)
            pose[0, 3] = 0.01 * index  # a key frame every eleven frames, as in ScanNet
            writer.add(pose, *frames[index % len(frames)])


def make_frame(rng: np.random.Generator) -> tuple[bytes, np.ndarray]:
    """Return a JPEG and a depth image with a real sensor's noise, steps and holes."""
    rows, columns = np.mgrid[0 : COLOR_SIZE[1], 0 : COLOR_SIZE[0]]
    waves = 60 * np.sin(columns / rng.uniform(9, 40) + rows / rng.uniform(20, 60))
    shade = (120 + waves + rows / 20)[..., None] * rng.uniform(0.6, 1.1, 3)
    noisy = shade + rng.normal(0, 5, (*shade.shape[:2], 3))
    rgb = noisy.clip(0, 255).astype(np.uint8)
    rows, columns = np.mgrid[0 : DEPTH_SIZE[1], 0 : DEPTH_SIZE[0]]
    depth_m = 1.2 + 0.002 * np.abs(columns - rng.uniform(100, 500)) + 0.001 * rows
    depth_m += rng.normal(0, 0.0015, depth_m.shape) * depth_m**2
    step_m = 0.0028 * depth_m**2
    depth_m = np.round(depth_m / step_m) * step_m
    depth_m[rows // 16 + columns // 16 < rng.integers(5, 20)] = 0
    return images.encode_jpeg(rgb, 85), (depth_m * 1000).astype(np.uint16)


def measure_ours(path: Path) -> Seconds:
    """Load every frame, extract the scan to a store, and time the parts of that."""
    clock = Stopwatch()
    store = path.with_suffix(".h5")
    clock("load", lambda: load_ours(path))
    clock(
        "extract to store",
        lambda: extract_frames.main(path, store, "scene0000_00", "scannet", CONFIG),
    )
    scan = clock("  index", lambda: SensReader(path))
    info, frames = scan.info, range(scan.info.frame_count)
    color = "jpeg", info.color_width, info.color_height

    def check() -> None:
        for index in frames:
            images.check_color(scan.color_bytes(index), *color, (path, f"{index}"))

    def probe() -> None:
        for index in frames[:: len(frames) // kept]:
            images.probe_color(scan.color_bytes(index), *color, (path, f"{index}"))

    with Frames(store) as written:
        kept = len(written)
    clock("  check colour", check)
    clock("  inflate depth", lambda: [scan.decode_depth(i).max() for i in frames])
    clock(f"  probe {kept} kept", probe)
    clock("  hash", scan.sha256)
    scan.close()
    return clock.seconds


def load_ours(path: Path) -> None:
    """Hand out the stored bytes and the pose of every frame once."""
    with SensReader(path) as scan:
        for index in range(scan.info.frame_count):
            scan.color_bytes(index)
            scan.depth_bytes(index)


def measure_peer(module: object, path: Path, out: Path) -> Seconds:
    """Load and export with the official reader, timing each step."""
    clock = Stopwatch()
    with contextlib.redirect_stdout(io.StringIO()):
        scan = clock("load", lambda: module.SensorData(str(path)))
        clock("export depth", lambda: scan.export_depth_images(str(out / "depth")))
        clock("export colour", lambda: scan.export_color_images(str(out / "color")))
        clock("export poses", lambda: scan.export_poses(str(out / "pose")))
    return clock.seconds


class Stopwatch:
    """Run functions and keep how long each took."""

    def __init__(self) -> None:
        self.seconds: Seconds = {}

    def __call__(self, name: str, function: Callable[[], object]) -> object:
        """Run one function under a name."""
        start = time.perf_counter()
        result = function()
        self.seconds[name] = time.perf_counter() - start
        return result


def load_peer(folder: Path) -> object:
    """Import the official reader from the user's own checkout."""
    sys.path.insert(0, str(folder))
    return importlib.import_module("SensorData")


def report(name: str, rounds: list[Seconds], frames: int) -> tuple[float, float]:
    """Print the medians; return the seconds of loading and of extraction."""
    steps = {step: statistics.median(one[step] for one in rounds) for step in rounds[0]}
    # Ours is one stage, whose parts are measured once more beside it.
    ours = name == "ours"
    counted = [step for step in steps if not ours or step == "extract to store"]
    total = statistics.median(sum(one[step] for step in counted) for one in rounds)
    print(f"{name}: {frames / total:.1f} frames/s, {1e3 * total / frames:.2f} ms/frame")
    for step, seconds in steps.items():
        note = "" if step in counted else "  (beside)"
        print(f"  {step:20} {1e3 * seconds / frames:9.3f} ms/frame{note}")
    return steps["load"], total


if __name__ == "__main__":
    main()
