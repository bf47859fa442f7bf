"""Train a method of view synthesis: on the training split, or on one scene alone."""

from dataclasses import asdict
from pathlib import Path

import torch

from gnesf_core.config import SourceViewsConfig, TrainingConfig, ViewDataConfig
from gnesf_core.data.publish import sha256_of
from gnesf_core.errors import BadInput
from gnesf_core.training.weights import load_into
from gnesf_core.views.choice import HELD_OUT
from gnesf_core.views.samples import ViewPaths, ViewSamples
from gnesf_core.views.training import ViewTask
from stages.cli import run
from stages.learning import Outputs, learn
from stages.scene_inputs import build_method


def main(
    frames: list[Path],
    out: Path,
    last: Path,
    metrics: Path,
    module: str,
    recipe: str,
    sources: SourceViewsConfig,
    data: ViewDataConfig,
    training: TrainingConfig,
    priors: list[Path] | None = None,
    start: Path | None = None,
    judged_by: str = HELD_OUT,
    fitted_to: str = "",
    device: str = "cpu",
    code: str = "",
) -> None:
    """Train by `gnesf_core.views.<module>`; go on where a killed run stopped.

    `start` has weights to go on from: a method that is fitted to a scene, named by
    `fitted_to`, has learned on others before. `judged_by` is the view protocol: what it
    judges of scenes is left out. Writes the weights that did best on held-out scenes,
    and the last.
    """
    torch.manual_seed(training.seed)
    method, packages = build_method(module, recipe)
    maps = priors or [None] * len(frames)
    if not priors and ("prior" in method.needs or data.labels == "prior"):
        raise BadInput(
            "command line",
            "--priors",
            expected="the prior's maps of every scene",
            found="none",
            remedy="name a prior in the method's recipe",
        )
    paths = [ViewPaths(*own) for own in zip(frames, maps, strict=True)]
    samples = ViewSamples(
        paths, method, sources, data, training, judged_by, bool(fitted_to)
    )
    origin = {}
    if start is not None:
        load_into(method, start)
        origin["start"] = sha256_of(start)
    elif method.of_one_scene:
        method.fit_to(samples.centres_world())
    about = {
        "module": module,
        "settings": asdict(method.settings),
        "sources": asdict(sources),
        "data": asdict(data),
        "judged_by": judged_by,
        "fitted_to": fitted_to,
    }
    learn(
        "train_views",
        ViewTask(method, samples),
        method,
        training,
        about,
        samples.fingerprints | origin,
        Outputs(out, metrics, last),
        packages=packages,
        device=device,
        code=code,
    )


if __name__ == "__main__":
    run(main)
