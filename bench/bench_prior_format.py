"""Compare ways of storing class maps: bytes, rates, and what they cost in accuracy.

    python -m bench.bench_prior_format --results results/synthrooms
        [--prior mask2former] [--data resources/synthrooms] [--scenes ID ...]
        [--device cpu] [--frames N] [--megabytes N] [--rounds N] [--size 640x480]

Takes the trained network of a finished run and the validation scenes. The reference is
what the segmenters' libraries do: mask logits are interpolated to the colour image's
size, classes and masks are multiplied there, in float32. `full` layouts store that;
`native` ones store what the network says at a quarter of its input's size, `half` and
`quarter` its means over 2x2 and 4x4 pixels. Every reader interpolates bilinearly.

2D scores pool the pixels of all frames, 3D scores the vertices of all true meshes, by
ScanNet's rules; the `mean` rule votes the maps onto the fused surface. Differences are
in points, from the reference; "in truth" is that of mIoU over classes that the truth
has: a class that one wrong vertex brings in cannot disturb it. "moved" is the share of
pixels or vertices that got another class than from the reference. What `native fp32`
loses, the small size loses; the second table takes it for its reference and shows what
rounding alone does.

Rates are those of one thread, from a file in memory, one chunk per frame, checksums
included, nothing kept in HDF5's own cache; fp16 gets the shuffle filter where h5py
compresses. "container" is what the project's prior files are made by, SHA-256 of the
content included. Rounds take all codecs in turn; medians.

Sizes at ScanNet's resolution come from three sources, as no trained network of that
size is at hand: the demo network's masks interpolated to that size (smoother than
real ones), the same network fed pictures of that size (it was not trained for them:
rougher), and the `noisy-labels` prior.
"""

import argparse
import importlib
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import torch
import yaml
from torch.nn import functional

from gnesf_core.config import FusionConfig, Mask2FormerConfig, NoisyLabelsConfig
from gnesf_core.data.container import Container, write_container
from gnesf_core.data.scannet import read_mesh_labels, read_scene_list
from gnesf_core.data.store import (
    DistanceGrid,
    Frames,
    Targets,
    quantize_probabilities,
)
from gnesf_core.evaluation import semantics
from gnesf_core.fields import fusion
from gnesf_core.fields.interface import SceneInputs
from gnesf_core.geometry.grid import Grid
from gnesf_core.geometry.mesh import extract_surface
from gnesf_core.labels import train_ids_from_nyu40
from gnesf_core.nets.pictures import resize_picture
from gnesf_core.priors import criterion, noisy_labels
from gnesf_core.priors.criterion import Prediction
from gnesf_core.priors.mask2former import Mask2Former
from gnesf_core.priors.segmenter import STRIDE
from gnesf_core.training.weights import load_into, read_weights

CONFIG = Path(__file__).parent.parent / "config" / "config.yaml"

SCANNET_SCENES = 1613
KEY_FRAMES = 150.5  # per scene, in the fragments of the released GNeSF
VIEWS = 242_329 / 1513  # per scene, every 10th frame with a pose
KEPT_FRAMES = 0.9 * KEY_FRAMES + VIEWS  # a tenth of the keys are views too

READ_BYTES = 64_000_000  # read in each measurement, or 512 frames

Size = tuple[int, int]  # width, height
Maps = np.ndarray  # [frames, classes, h, w] as stored


class Layout(NamedTuple):
    """At which size and in which type maps are stored."""

    name: str
    divisor: int  # of the native size; 0 = the full size
    dtype: type


FULL_AND_NATIVE = (
    Layout("full fp16", 0, np.float16),
    Layout("full uint8", 0, np.uint8),
    Layout("native fp16", 1, np.float16),
    Layout("native uint8", 1, np.uint8),
)
LAYOUTS = (
    *FULL_AND_NATIVE,
    Layout("half uint8", 2, np.uint8),
    Layout("quarter uint8", 4, np.uint8),
)
OURS = Layout("native uint8", 1, np.uint8)
EXACT = (Layout("full fp32", 0, np.float32), Layout("native fp32", 1, np.float32))


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path("resources/synthrooms"))
    parser.add_argument("--prior", default="mask2former")
    parser.add_argument("--scenes", nargs="+")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--frames", type=int, default=48, help="most to time")
    parser.add_argument("--megabytes", type=int, default=48, help="most to time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", default="640x480", help="ScanNet's network input")
    options = parser.parse_args()
    scenes = options.scenes or read_scene_list(options.data / "scannetv2_val.txt")
    model = options.results / "priors" / options.prior / "model.safetensors"
    network, settings = open_network(model, torch.device(options.device))
    size = settings.image_width, settings.image_height
    print(f"{model}: {size[0]}x{size[1]}; h5py {h5py.__version__}, torch "
          f"{torch.__version__} on {options.device}; {', '.join(scenes)}")  # fmt: skip
    print("codecs:", ", ".join(codec.name for codec in codecs()))

    rooms = [open_room(options, scene, network, size) for scene in scenes]
    report_accuracy(rooms)
    budget = options.megabytes * 1_000_000, options.frames
    maps = {
        layout.name: stored_maps(rooms, layout, budget)
        for layout in LAYOUTS
    }  # fmt: skip
    report_storage("demo network at its own size", maps, options.rounds)

    large = tuple(map(int, options.size.split("x")))
    for source, maps in scannet_sized(rooms, network, large, budget):
        report_storage(source, maps, options.rounds, totals=True)


def open_network(
    path: Path, device: torch.device
) -> tuple[Mask2Former, Mask2FormerConfig]:
    """Return a trained network and its settings, by the recipe inside the file."""
    recipe = json.loads(read_weights(path)[1]["provenance"])["recipe"]
    backend = importlib.import_module(f"gnesf_core.priors.{recipe['module']}")
    settings = replace(backend.Settings(**recipe["settings"]), start_from="")
    network = backend.build(settings)
    load_into(network.network, path)
    return network.to(device).eval(), settings


@dataclass(frozen=True)
class Room:
    """One scene with what the network says of each of its frames."""

    frames: Frames
    surface: DistanceGrid
    vertices_world: np.ndarray  # of the fused surface
    true_vertices_world: np.ndarray
    true_labels: np.ndarray
    said: list[Prediction]  # of one frame each


def open_room(
    options: argparse.Namespace, scene: str, network: Mask2Former, size: Size
) -> Room:
    """Open a scene's files and run the network on all its kept frames."""
    frames = Frames(options.results / "frames" / f"{scene}.h5", scene)
    with Targets(options.results / "targets" / f"{scene}.h5", scene) as targets:
        surface = targets.level(0)
    grid = Grid(surface.origin_world, surface.voxel_size_m, surface.tsdf.shape)
    vertices, _ = extract_surface(surface.tsdf, surface.weight, grid)
    truth = options.data / "scans" / scene / f"{scene}_vh_clean_2.labels.ply"
    true_vertices, _, nyu40 = read_mesh_labels(truth)
    true_labels = train_ids_from_nyu40(nyu40)
    said = predictions(network, frames, range(len(frames)), size)
    return Room(frames, surface, vertices, true_vertices, true_labels, said)


def predictions(
    network: Mask2Former, frames: Frames, positions: Sequence[int], size: Size
) -> list[Prediction]:
    """Run the network on frames; return what its last layer says of each."""
    device = next(network.parameters()).device
    said = []
    for position in positions:
        picture = resize_picture(frames.color(position), *size)[None]
        with torch.inference_mode():
            last = network.layers(picture.to(device))[-1]
        said.append(
            Prediction(last.class_logits.float().cpu(), last.mask_logits.float().cpu())
        )
    return said


def map_of(said: Prediction, layout: Layout, full: Size) -> np.ndarray:
    """Return one frame's map [classes, h, w] as a layout stores it."""
    if layout.divisor == 0:
        masks = functional.interpolate(said.mask_logits, full[::-1], mode="bilinear")
        scores = criterion.class_scores(Prediction(said.class_logits, masks))
    else:
        scores = criterion.class_scores(said)
        shares = scores / scores.sum(dim=1, keepdim=True)
        scores = functional.avg_pool2d(shares, layout.divisor)
    return stored(scores[0].numpy(), layout.dtype)


def stored(scores: np.ndarray, dtype: type) -> np.ndarray:
    """Return scores [classes, h, w] as probabilities of a type."""
    if dtype is np.uint8:
        return quantize_probabilities(scores)
    total = scores.sum(axis=0)
    return (scores / np.where(total > 0, total, 1)).astype(dtype)


class LayoutMaps:
    """A scene's maps as the reader of a layout gets them, in place of `PriorMaps`."""

    def __init__(self, room: Room, layout: Layout) -> None:
        self._said, self._layout = room.said, layout
        self._full = room.frames.color_size
        self.map_size: Size = self.probabilities(0).shape[:0:-1]

    def probabilities(self, position: int) -> np.ndarray:
        """Return one frame's map in uint8 or float32."""
        values = map_of(self._said[position], self._layout, self._full)
        return values.astype(np.float32) if values.dtype == np.float16 else values


class Judged(NamedTuple):
    """Which class each pixel and each true vertex of all scenes gets."""

    map_size: Size
    pixels: list[np.ndarray]
    vertices: list[np.ndarray]


def judge(rooms: list[Room], layout: Layout) -> Judged:
    """Decide on all pixels and vertices by the maps of one layout."""
    pixels, vertices = [], []
    for room in rooms:
        maps = LayoutMaps(room, layout)
        size = room.frames.color_size
        pixels += [
            winners(maps.probabilities(position), size)
            for position in range(len(room.frames))
        ]
        vertices.append(fused(room, maps))
    return Judged(maps.map_size, pixels, vertices)


def winners(probabilities: np.ndarray, size: Size) -> np.ndarray:
    """Return each pixel's class as `evaluation.prior.decide` would."""
    values = torch.from_numpy(probabilities)[None].float()
    resized = functional.interpolate(values, size[::-1], mode="bilinear")
    return resized.argmax(dim=1)[0].byte().numpy()


def fused(room: Room, maps: LayoutMaps) -> np.ndarray:
    """Return the class of each true vertex, as `evaluate_scene` finds it."""
    points, scene = room.vertices_world, SceneInputs(room.frames, maps, room.surface)
    settings = FusionConfig(**config()["fields"]["oracle"]["settings"])
    labels = fusion.label_points(points, scene, replace(settings, rule="mean"))
    return semantics.transfer_labels(room.true_vertices_world, points, labels.class_id)


def config() -> dict:
    """Read the demo's configuration."""
    return yaml.safe_load(CONFIG.read_text())


def report_accuracy(rooms: list[Room]) -> None:
    """Print what each layout changes in 2D and in 3D."""
    pixels = [
        room.frames.labels(position)
        for room in rooms
        for position in range(len(room.frames))
    ]
    truth = Judged((0, 0), pixels, [room.true_labels for room in rooms])
    print(f"\naccuracy, {len(pixels)} frames of {len(rooms)} scenes")
    columns = f"{'mIoU':>6s} {'diff':>7s} {'in truth':>8s} {'moved':>8s}"
    print(f"{'layout':14s} {'map':>6s}    | {columns} in 2D | {columns} in 3D")
    full, native = (judge(rooms, layout) for layout in EXACT)
    report_change("reference", truth, full, full)
    ours = full
    for layout in LAYOUTS:
        found = judge(rooms, layout)
        report_change(layout.name, truth, full, found)
        ours = found if layout == OURS else ours
    report_change(EXACT[1].name, truth, full, native)
    print("\nrounding alone, at the native size")
    report_change(EXACT[1].name, truth, native, native)
    report_change(OURS.name, truth, native, ours)


def report_change(name: str, truth: Judged, base: Judged, found: Judged) -> None:
    """Print mIoU in percent, its differences from the base's, and what has moved."""
    line = f"{name:14s} {found.map_size[0]:>4d}x{found.map_size[1]:<4d}"
    for kind in ("pixels", "vertices"):
        true, before, after = (getattr(judged, kind) for judged in (truth, base, found))
        scores, old = miou(true, after), miou(true, before)
        line += f" | {scores[0]:6.2f} {scores[0] - old[0]:+7.3f}"
        line += f" {scores[1] - old[1]:+8.3f} {moved(before, after):7.3f}%"
    print(line, flush=True)


def miou(truth: list[np.ndarray], found: list[np.ndarray]) -> tuple[float, float]:
    """Return mIoU in percent over everything at once, and of classes in the truth."""
    scores = semantics.scannet_scores(sum(map(semantics.confusion, truth, found)))
    return 100 * scores["miou"], 100 * scores["miou_in_truth"]


def moved(before: list[np.ndarray], after: list[np.ndarray]) -> float:
    """Return the percentage of labels that differ."""
    different = sum(int((a != b).sum()) for a, b in zip(before, after, strict=True))
    return 100 * different / sum(labels.size for labels in before)


def stored_maps(rooms: list[Room], layout: Layout, budget: tuple[int, int]) -> Maps:
    """Return maps of frames spread over all scenes, in one layout."""
    everything = [(room, said) for room in rooms for said in room.said]
    first = map_of(rooms[0].said[0], layout, rooms[0].frames.color_size)
    chosen = spread(len(everything), first.nbytes, budget)
    return np.stack(
        [
            map_of(said, layout, room.frames.color_size)
            for room, said in (everything[number] for number in chosen)
        ]
    )


def spread(total: int, frame_bytes: int, budget: tuple[int, int]) -> np.ndarray:
    """Return which of `total` frames to store: evenly spread, within the budget."""
    most_bytes, most_frames = budget
    count = min(total, most_frames, max(4, most_bytes // frame_bytes))
    return np.linspace(0, total - 1, count).astype(int)


def scannet_sized(
    rooms: list[Room], network: Mask2Former, full: Size, budget: tuple[int, int]
) -> Iterator[tuple[str, dict[str, Maps]]]:
    """Yield sources of maps with names, each in the four layouts."""
    native = full[0] // STRIDE, full[1] // STRIDE
    name = f"at {native[0]}x{native[1]} (full: {full[0]}x{full[1]})"
    frames = [(room, i) for room in rooms for i in range(len(room.frames))]
    some = [frames[i] for i in spread(len(frames), 1, budget)]

    said = [enlarged(room.said[i], native) for room, i in some]
    yield f"demo network, masks interpolated, {name}", large_maps(said, full, budget)
    said = [predictions(network, room.frames, [i], full)[0] for room, i in some]
    yield f"demo network on large pictures, {name}", large_maps(said, full, budget)
    yield f"noisy-labels, {name}", noisy_maps(some, native, full, budget)


def enlarged(said: Prediction, size: Size) -> Prediction:
    """Return a prediction with its masks interpolated to a size."""
    masks = functional.interpolate(said.mask_logits, size[::-1], mode="bilinear")
    return Prediction(said.class_logits, masks)


def large_maps(
    said: list[Prediction], full: Size, budget: tuple[int, int]
) -> dict[str, Maps]:
    """Store predictions in the four layouts."""
    maps = {}
    for layout in FULL_AND_NATIVE:
        frame_bytes = map_of(said[0], layout, full).nbytes
        chosen = spread(len(said), frame_bytes, budget)
        maps[layout.name] = np.stack([map_of(said[i], layout, full) for i in chosen])
    return maps


def noisy_maps(
    some: list[tuple[Room, int]], native: Size, full: Size, budget: tuple[int, int]
) -> dict[str, Maps]:
    """Store the maps of `noisy-labels`, made at each size, in the four layouts."""
    recipe = NoisyLabelsConfig(**config()["priors"]["noisy-labels"]["settings"])
    maps = {}
    for layout in FULL_AND_NATIVE:
        width, height = full if layout.divisor == 0 else native
        settings = replace(recipe, map_width=width, map_height=height)
        frame_bytes = noisy_map(*some[0], settings, layout.dtype).nbytes
        chosen = spread(len(some), frame_bytes, budget)
        maps[layout.name] = np.stack(
            [noisy_map(*some[number], settings, layout.dtype) for number in chosen]
        )
    return maps


def noisy_map(
    room: Room, position: int, settings: NoisyLabelsConfig, dtype: type
) -> np.ndarray:
    """Return one frame's map by `noisy-labels`; nothing is known of void pixels."""
    prior = noisy_labels.open_prior(settings, None, "cpu")
    return stored(next(prior.scores(room.frames, position)), dtype)


class Codec(NamedTuple):
    """A way to write maps to a file and to read single frames back."""

    name: str
    write: Callable[[Path, Maps], float]  # returns seconds
    read: Callable[[Path, Sequence[int]], float]


def codecs() -> list[Codec]:
    """Return the codecs that can be tried here."""
    filters = {
        "raw": {},
        "lzf": {"compression": "lzf", "shuffle": True},
        "gzip-1": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
        "gzip-4": {"compression": "gzip", "compression_opts": 4, "shuffle": True},
    }
    try:
        import hdf5plugin

        filters["zstd-3"] = {**hdf5plugin.Zstd(clevel=3), "shuffle": True}
        blosc = hdf5plugin.Blosc(cname="lz4", shuffle=hdf5plugin.Blosc.BITSHUFFLE)
        filters["blosc-lz4-bit"] = dict(blosc)
    except ImportError:
        pass  # `main` says so
    plain = [
        Codec(name, partial(write_with_h5py, options), read_with_h5py)
        for name, options in filters.items()
    ]
    return [*plain, Codec("container", write_container_file, read_container_file)]


def write_with_h5py(options: dict, path: Path, maps: Maps) -> float:
    """Write frames one by one through HDF5's filters."""
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        dataset = file.create_dataset(
            "maps",
            maps.shape,
            maps.dtype,
            chunks=(1, *maps.shape[1:]),
            fletcher32=True,
            **options,
        )
        started = time.perf_counter()
        for index, values in enumerate(maps):
            dataset[index] = values
        file.flush()
        return time.perf_counter() - started


def read_with_h5py(path: Path, order: Sequence[int]) -> float:
    """Read frames in an order."""
    with h5py.File(path, "r", rdcc_nbytes=0) as file:
        dataset = file["maps"]
        started = time.perf_counter()
        for index in order:
            dataset[index]
        return time.perf_counter() - started


def write_container_file(path: Path, maps: Maps) -> float:
    """Write frames one by one as prior files are written."""
    with write_container(path, "prior", "bench", {"inputs": {}}) as writer:
        dataset = writer.frames("maps", len(maps), maps.shape[1:], maps.dtype.str)
        started = time.perf_counter()
        for index, values in enumerate(maps):
            writer.put(dataset, index, values)
        writer.file.flush()
        return time.perf_counter() - started


def read_container_file(path: Path, order: Sequence[int]) -> float:
    """Read frames in an order as prior files are read."""
    with Container(path, "prior") as file:
        dataset = file.file["maps"]
        started = time.perf_counter()
        for index in order:
            file.frame(dataset, index)
        return time.perf_counter() - started


@dataclass(frozen=True)
class Cost:
    """What a codec took for one layout in all rounds."""

    frame_bytes: float
    writes_per_s: list[float]
    reads_per_s: list[float]


def measure(sources: dict[str, Maps], rounds: int) -> dict[tuple[str, str], Cost]:
    """Return the cost of each layout with each codec, taken in turns."""
    rng = np.random.default_rng(0)
    costs: dict[tuple[str, str], Cost] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "maps.h5"
        pairs = itertools.product(sources.items(), codecs())
        for (layout, maps), codec in itertools.chain(*[list(pairs)] * rounds):
            write_s = codec.write(path, maps)
            draws = int(np.clip(READ_BYTES // maps[0].nbytes, len(maps), 512))
            order = rng.integers(len(maps), size=draws).tolist()
            read_s = codec.read(path, order)
            with h5py.File(path, "r") as file:
                size = file["maps"].id.get_storage_size() / len(maps)
                assert np.array_equal(file["maps"][-1], maps[-1])
            path.unlink()
            cost = costs.setdefault((layout, codec.name), Cost(size, [], []))
            cost.writes_per_s.append(len(maps) / write_s)
            cost.reads_per_s.append(len(order) / read_s)
    return costs


def report_storage(
    source: str, sources: dict[str, Maps], rounds: int, totals: bool = False
) -> None:
    """Measure, then print sizes, rates and rates relative to gzip-1 by h5py."""
    sure = winner_share(sources[OURS.name])
    print(f"\n{source}; the likeliest class has {sure:.2f} on average")
    if totals:
        print(f"GB for {SCANNET_SCENES} scenes: of {KEY_FRAMES} key frames each / with "
              f"every 10th frame, {KEPT_FRAMES:.1f} in all")  # fmt: skip
    print(f"{'layout':14s} {'codec':14s} {'kB/frame':>9s} {'reads/s':>8s} {'x':>5s} "
          f"{'writes/s':>9s} {'x':>5s}" + totals * "  keys /  kept")  # fmt: skip
    costs = measure(sources, rounds)
    for (layout, codec), cost in costs.items():
        peer = costs[layout, "gzip-1"]
        line = (
            f"{layout:14s} {codec:14s} {cost.frame_bytes / 1e3:9.1f} "
            f"{statistics.median(cost.reads_per_s):8.0f} "
            f"{ratio(cost.reads_per_s, peer.reads_per_s):5.1f} "
            f"{statistics.median(cost.writes_per_s):9.0f} "
            f"{ratio(cost.writes_per_s, peer.writes_per_s):5.1f}"
        )
        if totals:
            scene_gb = cost.frame_bytes * SCANNET_SCENES / 1e9
            line += f" {scene_gb * KEY_FRAMES:6.0f} / {scene_gb * KEPT_FRAMES:5.0f}"
        print(line, flush=True)


def winner_share(maps: Maps) -> float:
    """Return the mean probability of the likeliest class, of pixels that have one."""
    total = maps.sum(axis=1, dtype=np.float64)
    shares = maps.max(axis=1)[total > 0] / total[total > 0]
    return float(shares.mean())


def ratio(ours: list[float], theirs: list[float]) -> float:
    """Return the median of the ratios of the same rounds."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    main()
