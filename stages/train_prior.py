"""Train a segmenter on the labelled frames of the training split."""

import importlib
import json
from dataclasses import asdict
from pathlib import Path

import torch

from gnesf_core.config import SegmentationDataConfig, TrainingConfig
from gnesf_core.data.provenance import provenance, recipe_digest
from gnesf_core.data.publish import sha256_of, write_bytes
from gnesf_core.labels import CLASS_NAMES
from gnesf_core.priors.crops import Crops
from gnesf_core.priors.training import SegmentationTask
from gnesf_core.training import loop, weights
from gnesf_core.training.state import remove_states
from stages.cli import device_named, run, settings


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
    """Train by `gnesf_core.priors.<module>`; go on where a killed run stopped.

    `code` tells states of training apart that other versions of the code have left.
    """
    backend = importlib.import_module(f"gnesf_core.priors.{module}")
    sizes = settings(backend.Settings, recipe, "--recipe")
    torch.manual_seed(training.seed)
    segmenter = backend.build(sizes)
    size = sizes.image_width, sizes.image_height
    crops = Crops(sorted(frames), data, size, training.seed)
    about = {
        "module": module,
        "device": torch.device(device).type,
        "settings": asdict(sizes),
        "data": asdict(data),
        "training": asdict(training),
    }
    sources = {str(path): sha256_of(path) for path in backend.sources(sizes)}
    inputs = crops.fingerprints | sources
    made_by = provenance("train_prior", about, inputs, training.seed, backend.PACKAGES)
    # A run that goes on with fewer cores is the same training still.
    key = recipe_digest({"made_by": made_by | {"threads": None}, "code": code})
    workspace = out.parent / "training"
    task = SegmentationTask(segmenter, crops)
    trained = loop.train(task, training, workspace, key, device_named(device))
    if trained is None:
        return  # another process of the team writes
    metadata = {
        "class_names": json.dumps(CLASS_NAMES),
        "provenance": json.dumps(made_by, sort_keys=True),
    }
    weights.write_weights(out, segmenter.network.state_dict(), metadata)
    write_bytes(metrics, trained.metrics)
    remove_states(workspace)


if __name__ == "__main__":
    run(main)
