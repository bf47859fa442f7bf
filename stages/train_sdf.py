"""Train a geometry on the fragments of the training split."""

import importlib
from dataclasses import asdict
from pathlib import Path

import torch

from gnesf_core.config import FragmentDataConfig, TrainingConfig
from gnesf_core.data.publish import sha256_of
from gnesf_core.geometries.fragments import FragmentSamples
from gnesf_core.geometries.training import GeometryTask
from stages.cli import run, settings
from stages.learning import Outputs, learn


def main(
    frames: list[Path],
    targets: list[Path],
    out: Path,
    last: Path,
    metrics: Path,
    module: str,
    recipe: str,
    data: FragmentDataConfig,
    training: TrainingConfig,
    device: str = "cpu",
    code: str = "",
) -> None:
    """Train by `gnesf_core.geometries.<module>`; go on where a killed run stopped.

    Writes the weights that did best on held-out scenes, and the last ones.
    """
    kind = importlib.import_module(f"gnesf_core.geometries.{module}")
    sizes = settings(kind.Settings, recipe, "--recipe")
    torch.manual_seed(training.seed)
    network = kind.build(sizes, torch.device(device))
    samples = FragmentSamples(frames, targets, sizes, data, training)
    about = {"module": module, "settings": asdict(sizes), "data": asdict(data)}
    sources = {str(path): sha256_of(path) for path in kind.sources(sizes)}
    learn(
        "train_sdf",
        GeometryTask(network, samples, data),
        network,
        training,
        about,
        samples.fingerprints | sources,
        Outputs(out, metrics, last),
        packages=kind.PACKAGES,
        device=device,
        code=code,
    )


if __name__ == "__main__":
    run(main)
