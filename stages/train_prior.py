"""Train a segmenter on the labelled frames of the training split."""

import importlib
import json
from dataclasses import asdict
from pathlib import Path

import torch

from gnesf_core.config import SegmentationDataConfig, TrainingConfig
from gnesf_core.data.publish import sha256_of
from gnesf_core.labels import CLASS_NAMES
from gnesf_core.priors.crops import Crops
from gnesf_core.priors.training import SegmentationTask
from stages.cli import run, settings
from stages.learning import Outputs, learn


def main(
    frames: list[Path],
    out: Path,
    metrics: Path,
    module: str,
    recipe: str,
    data: SegmentationDataConfig,
    training: TrainingConfig,
    device: str = "cpu",
    code: str = "",
) -> None:
    """Train by `gnesf_core.priors.<module>`; go on where a killed run stopped."""
    backend = importlib.import_module(f"gnesf_core.priors.{module}")
    sizes = settings(backend.Settings, recipe, "--recipe")
    torch.manual_seed(training.seed)
    segmenter = backend.build(sizes)
    size = sizes.image_width, sizes.image_height
    crops = Crops(sorted(frames), data, size, training.seed)
    about = {"module": module, "settings": asdict(sizes), "data": asdict(data)}
    sources = {str(path): sha256_of(path) for path in backend.sources(sizes)}
    learn(
        "train_prior",
        SegmentationTask(segmenter, crops),
        segmenter.network,
        training,
        about,
        crops.fingerprints | sources,
        Outputs(out, metrics),
        packages=backend.PACKAGES,
        device=device,
        code=code,
        words={"class_names": json.dumps(CLASS_NAMES)},
    )


if __name__ == "__main__":
    run(main)
