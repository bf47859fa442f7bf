"""Train a geometry on the fragments of the training split."""

import importlib
import json
from dataclasses import asdict
from pathlib import Path

import torch

from gnesf_core.config import FragmentDataConfig, TrainingConfig
from gnesf_core.data.provenance import provenance, recipe_digest
from gnesf_core.data.publish import sha256_of, write_bytes
from gnesf_core.geometries.fragments import FragmentSamples
from gnesf_core.geometries.training import GeometryTask
from gnesf_core.training import loop, weights
from gnesf_core.training.state import remove_states
from stages.cli import device_named, run, settings


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

    Writes the weights that did best on held-out scenes, and the last ones. `code` tells
    states of training apart that other versions of the code have left.
    """
    kind = importlib.import_module(f"gnesf_core.geometries.{module}")
    sizes = settings(kind.Settings, recipe, "--recipe")
    torch.manual_seed(training.seed)
    network = kind.build(sizes, torch.device(device))
    samples = FragmentSamples(frames, targets, sizes, data, training)
    about = {
        "module": module,
        "device": torch.device(device).type,
        "settings": asdict(sizes),
        "data": asdict(data),
        "training": asdict(training),
    }
    sources = {str(path): sha256_of(path) for path in kind.sources(sizes)}
    inputs = samples.fingerprints | sources
    made_by = provenance("train_sdf", about, inputs, training.seed, kind.PACKAGES)
    # A run that goes on with fewer cores is the same training still.
    key = recipe_digest({"made_by": made_by | {"threads": None}, "code": code})
    workspace = out.parent / "training"
    task = GeometryTask(network, samples, data)
    trained = loop.train(task, training, workspace, key, device_named(device))
    if trained is None:
        return  # another process of the team writes
    final = {"step": training.steps, "weights": network.state_dict()}
    best = final
    if trained.best is not None:
        best = {"step": trained.best_step, "weights": trained.best}
    for path, state in ((out, best), (last, final)):
        words = {"step": str(state["step"])}
        words["provenance"] = json.dumps(made_by, sort_keys=True)
        weights.write_weights(path, state["weights"], words)
    write_bytes(metrics, trained.metrics)
    remove_states(workspace)


if __name__ == "__main__":
    run(main)
