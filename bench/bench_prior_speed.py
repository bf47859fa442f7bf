"""Compare both Mask2Former backends with their libraries' own single-image inference.

    python -m bench.bench_prior_speed [--settings tiny|swin-t|swin-l] [--size 640x480]
        [--picture 1296x968] [--batch N] [--train-batch N] [--pictures N]
        [--device cpu|cuda] [--rounds N] [--backends mmseg transformers]

`tiny` is the demo's recipe, `swin-l` that of config/scannet.yaml, `swin-t` the same
with the published Swin-T as its backbone. Weights and pictures are random.

training    losses, backward, clipping and AdamW's step on one batch that lies ready
batch       `class_scores` of one batch that lies ready on the device
cached      what `cache_prior` waits for: RGB arrays in, float32 maps in memory out
library     the library's own way, one image at a time, from the RGB array to a class
            per pixel of the picture: mmseg's `inference_model`; transformers' image
            processor, model and `post_process_semantic_segmentation`

Decoding files is part of none. On CUDA ours computes in bf16 as the pipeline does; the
library is measured in float32, its default, and in bf16. Every round takes all programs
in turn, after one call of each that is not counted; images per second are medians, and
ratios are to the same backend's `library` in the same round.
"""

import argparse
import importlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from gnesf_core.config import Mask2FormerConfig, TrainingConfig
from gnesf_core.labels import CLASS_NAMES, IGNORE
from gnesf_core.nets.pictures import MEAN_RGB, STD_RGB
from gnesf_core.priors.mask2former import Mask2Former
from gnesf_core.priors.segmenter import SegmenterPrior
from gnesf_core.priors.training import SegmentationTask
from gnesf_core.training.weights import write_weights

CONFIG = Path(__file__).parent.parent / "config"
SWIN_T = {
    "backbone_width": 96,
    "backbone_depths": [2, 2, 6, 2],
    "backbone_heads": [3, 6, 12, 24],
    "window": 7,
}
SIZES = {"tiny": "128x96", "swin-t": "320x240", "swin-l": "640x480"}

Size = tuple[int, int]  # width, height
Picture = np.ndarray  # uint8 [h, w, 3], RGB
Programs = dict[str, tuple[Callable[[], None], int]]  # with the images of one call


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--settings", choices=SIZES, default="tiny")
    parser.add_argument("--size", help="of the network's input; multiples of 32")
    parser.add_argument("--picture", help="of the pictures; as the input by default")
    parser.add_argument("--batch", type=int, help="for inference; else the recipe's")
    parser.add_argument("--train-batch", type=int, help="for training")
    parser.add_argument("--pictures", type=int, help="for `cached`; else two batches")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    names = ["mmseg", "transformers"]
    parser.add_argument("--backends", nargs="+", choices=names, default=names)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    size = pixels(options.size or SIZES[options.settings])
    picture = pixels(options.picture) if options.picture else size
    settings, training = recipe(options, size)
    device = torch.device(options.device)

    print(machine(device))
    print(
        f"{options.settings}: {size[0]}x{size[1]}, pictures {picture[0]}x{picture[1]}, "
        f"batches of {settings.batch}, in training {training.batch}"
    )
    rng = np.random.default_rng(0)
    count = options.pictures or 2 * settings.batch
    pictures = [random_picture(rng, picture) for _ in range(count)]
    programs: Programs = {}
    for backend in options.backends:
        made = make_programs(backend, settings, training, pictures, device)
        programs |= {f"{backend} {name}": entry for name, entry in made.items()}
    report(measure(programs, options.rounds, device))


def pixels(text: str) -> Size:
    """Read WIDTHxHEIGHT."""
    width, height = map(int, text.split("x"))
    return width, height


def recipe(
    options: argparse.Namespace, size: Size
) -> tuple[Mask2FormerConfig, TrainingConfig]:
    """Return the settings that were asked for, from the configuration's recipes."""
    demo = yaml.safe_load((CONFIG / "config.yaml").read_text())
    chosen = demo["priors"]["mask2former"]
    network, training = chosen["settings"], chosen["training"]
    if options.settings != "tiny":
        large = yaml.safe_load((CONFIG / "scannet.yaml").read_text())
        network |= large["priors"]["mask2former"]["settings"]
        training |= large["priors"]["mask2former"]["training"]
    network |= SWIN_T if options.settings == "swin-t" else {}
    network |= {"image_width": size[0], "image_height": size[1], "start_from": ""}
    network["batch"] = options.batch or network["batch"]
    training["batch"] = options.train_batch or training["batch"]
    return Mask2FormerConfig(**network), TrainingConfig(**training)


def machine(device: torch.device) -> str:
    """Describe what is measured on."""
    names = ["mmsegmentation", "mmdet", "mmcv", "mmcv-lite", "transformers"]
    found = {d.metadata["Name"]: d.version for d in metadata.distributions()}
    versions = [f"{name} {found[name]}" for name in names if name in found]
    where = f"cpu, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        where = f"{torch.cuda.get_device_name(device)}, {where}"
    return f"{where}; torch {torch.__version__}, {', '.join(versions)}"


def random_picture(rng: np.random.Generator, size: Size) -> Picture:
    """Return noise."""
    return rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)


def make_programs(
    backend: str,
    settings: Mask2FormerConfig,
    training: TrainingConfig,
    pictures: list[Picture],
    device: torch.device,
) -> Programs:
    """Return what is measured of one backend."""
    module = importlib.import_module(f"gnesf_core.priors.mask2former_{backend}")
    learner, segmenter = module.build(settings), module.build(settings)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "model.safetensors"
        write_weights(weights, segmenter.network.state_dict(), {})
        prior = SegmenterPrior(segmenter, settings, weights, device)
    library = LIBRARIES[backend](segmenter.network, settings, device)
    step = training_step(learner.to(device).train(), training, settings, device)
    batch = random_batch(settings, settings.batch, device)

    def infer() -> None:
        with torch.inference_mode(), mixed_precision(device):
            segmenter.class_scores(batch)

    def cache() -> None:
        for _ in prior.scores(InMemory(pictures), 0):
            pass

    turns = itertools.cycle(pictures)
    programs: Programs = {
        "training": (step, training.batch),
        "batch": (infer, settings.batch),
        "cached": (cache, len(pictures)),
        "library": (lambda: library(next(turns)), 1),
    }
    if device.type == "cuda":

        def library_in_bf16() -> None:
            with mixed_precision(device):
                library(next(turns))

        programs["library, bf16"] = (library_in_bf16, 1)
    return programs


def mixed_precision(device: torch.device) -> AbstractContextManager:
    """Return bf16 on CUDA, float32 elsewhere, as the pipeline has it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def random_batch(
    settings: Mask2FormerConfig, count: int, device: torch.device
) -> Tensor:
    """Return pictures of noise at the network's size."""
    shape = count, 3, settings.image_height, settings.image_width
    return torch.randint(0, 256, shape, dtype=torch.uint8, device=device)


class InMemory:
    """Decoded frames, in place of `Frames`."""

    def __init__(self, pictures: list[Picture]) -> None:
        self._pictures = pictures

    def __len__(self) -> int:
        return len(self._pictures)

    def color(self, position: int) -> Picture:
        """Return a frame's picture."""
        return self._pictures[position]


def training_step(
    segmenter: Mask2Former,
    training: TrainingConfig,
    settings: Mask2FormerConfig,
    device: torch.device,
) -> Callable[[], None]:
    """Return a step as the training loop makes it, on one batch."""
    groups = SegmentationTask(segmenter, None).parameter_groups(training)
    optimizer = torch.optim.AdamW(groups, weight_decay=training.weight_decay)
    pictures = random_batch(settings, training.batch, device)
    labels = random_labels(settings, training.batch).to(device)
    learned = [parameter for group in groups for parameter in group["params"]]

    def step() -> None:
        segmenter.zero_grad()
        with mixed_precision(device):
            parts = segmenter.losses(pictures, labels)
        torch.stack(list(parts.values())).sum().backward()
        nn.utils.clip_grad_norm_(learned, training.clip_norm)
        optimizer.step()

    return step


def random_labels(settings: Mask2FormerConfig, count: int) -> Tensor:
    """Return images of 6 x 8 blocks of 10 classes, a twentieth of them void."""
    rng = np.random.default_rng(0)
    blocks = rng.choice(len(CLASS_NAMES), 10, replace=False)[
        rng.integers(0, 10, (count, 6, 8))
    ]
    blocks[rng.random(blocks.shape) < 0.05] = IGNORE
    labels = torch.from_numpy(blocks.astype(np.uint8))[:, None]
    size = settings.image_height, settings.image_width
    return nn.functional.interpolate(labels, size)[:, 0]


def mmseg_alone(
    network: nn.Module, settings: Mask2FormerConfig, device: torch.device
) -> Callable[[Picture], None]:
    """Return mmsegmentation's inference of one image."""
    from mmengine.config import Config
    from mmseg.apis import inference_model
    from mmseg.models.data_preprocessor import SegDataPreProcessor
    from mmseg.utils import register_all_modules

    register_all_modules()
    preprocessor = SegDataPreProcessor(mean=MEAN_RGB, std=STD_RGB, bgr_to_rgb=True)
    network.data_preprocessor = preprocessor.to(device)
    size = settings.image_width, settings.image_height
    pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "Resize", "scale": size, "keep_ratio": False},
        {"type": "PackSegInputs"},
    ]
    network.cfg = Config({"test_pipeline": pipeline})
    network.test_cfg = Config({"mode": "whole"})

    def infer(picture: Picture) -> None:
        bgr = np.ascontiguousarray(picture[..., ::-1])
        found = inference_model(network, bgr).pred_sem_seg.data[0]
        assert found.shape == picture.shape[:2]
        found.cpu()

    return infer


def transformers_alone(
    network: nn.Module, settings: Mask2FormerConfig, device: torch.device
) -> Callable[[Picture], None]:
    """Return transformers' inference of one image."""
    import transformers

    size = {"height": settings.image_height, "width": settings.image_width}
    processor = transformers.Mask2FormerImageProcessorPil(size=size)

    @torch.no_grad()
    def infer(picture: Picture) -> None:
        inputs = processor(images=picture, return_tensors="pt").to(device)
        assert inputs["pixel_values"].shape[-2:] == (size["height"], size["width"])
        outputs = network(**inputs)
        found = processor.post_process_semantic_segmentation(
            outputs, target_sizes=[picture.shape[:2]]
        )[0]
        assert found.shape == picture.shape[:2]
        found.cpu()

    return infer


LIBRARIES = {"mmseg": mmseg_alone, "transformers": transformers_alone}


def measure(
    programs: Programs, rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Return images per second of each program in each round, taken in turns."""
    rates: dict[str, list[float]] = {name: [] for name in programs}
    for number, (name, entry) in itertools.product(
        range(rounds + 1), programs.items()
    ):  # fmt: skip
        rate = images_per_s(*entry, device)
        if number:
            rates[name].append(rate)
    return rates


def images_per_s(
    program: Callable[[], None], images: int, device: torch.device
) -> float:
    """Call a program for at least a second; return its rate."""
    synchronize(device)
    calls, started = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - started < 1:
        program()
        calls += 1
        synchronize(device)
    return calls * images / (time.perf_counter() - started)


def synchronize(device: torch.device) -> None:
    """Wait for what the device has been told to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def report(rates: dict[str, list[float]]) -> None:
    """Print medians, and ratios to the same backend's library in the same round."""
    print(f"{'program':28s} {'images/s':>9s}  times library (range)")
    for name, values in rates.items():
        peer = rates[f"{name.split(' ')[0]} library"]
        ratios = [a / b for a, b in zip(values, peer, strict=True)]
        print(
            f"{name:28s} {statistics.median(values):9.2f}  "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
