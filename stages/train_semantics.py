"""Train a field on labelled frames of the training split."""

import importlib
from dataclasses import asdict
from pathlib import Path

import torch

from gnesf_core.config import NeuconConfig, RayDataConfig, TrainingConfig
from gnesf_core.data.publish import sha256_of
from gnesf_core.fields.samples import FieldSamples, ScenePaths
from gnesf_core.fields.training import FieldTask
from stages.cli import run, settings
from stages.learning import Outputs, learn


def main(
    frames: list[Path],
    priors: list[Path],
    surfaces: list[Path],
    features: list[Path],
    start: Path,
    out: Path,
    last: Path,
    metrics: Path,
    module: str,
    recipe: str,
    encoder: NeuconConfig,
    data: RayDataConfig,
    training: TrainingConfig,
    device: str = "cpu",
    code: str = "",
) -> None:
    """Train by `gnesf_core.fields.<module>`; go on where a killed run stopped.

    `start` has the weights of the picture encoder, which `encoder` describes. Writes
    the weights that did best on held-out scenes, and the last ones.
    """
    kind = importlib.import_module(f"gnesf_core.fields.{module}")
    sizes = settings(kind.Settings, recipe, "--recipe")
    torch.manual_seed(training.seed)
    network = kind.build(sizes, encoder, start)
    paths = zip(frames, priors, surfaces, features, strict=True)
    samples = FieldSamples(
        [ScenePaths(*own) for own in paths],
        encoder,
        sizes,
        data,
        training,
    )
    about = {
        "module": module,
        "settings": asdict(sizes),
        "encoder": asdict(encoder),
        "data": asdict(data),
    }
    learn(
        "train_semantics",
        FieldTask(network, samples, data),
        network,
        training,
        about,
        samples.fingerprints | {"start": sha256_of(start)},
        Outputs(out, metrics, last),
        packages=kind.PACKAGES,
        device=device,
        code=code,
    )


if __name__ == "__main__":
    run(main)
