"""What every training stage does: train, then publish weights, metrics and origin."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from gnesf_core.config import TrainingConfig
from gnesf_core.data.provenance import provenance, recipe_digest
from gnesf_core.data.publish import write_bytes
from gnesf_core.training import loop, weights
from gnesf_core.training.state import remove_states
from stages.cli import device_named


class Outputs(NamedTuple):
    """Where the results of a training go."""

    weights: Path  # that did best on held-out scenes, where there are any
    metrics: Path
    last: Path | None = None  # the weights that training ended with


def learn(
    stage: str,
    task: loop.Task,
    network: nn.Module,
    training: TrainingConfig,
    about: Mapping[str, Any],
    inputs: Mapping[str, str],
    outputs: Outputs,
    *,
    packages: Sequence[str],
    device: str,
    code: str,
    words: Mapping[str, str] | None = None,
) -> None:
    """Train the task's model, or go on where a killed run of the same stopped.

    The weights of `network` are published, with `words` and where they come from.
    `code` tells states of training apart that other versions of the code have left.
    """
    where = device_named(device)
    about = dict(about) | {"device": where.type, "training": asdict(training)}
    made_by = provenance(stage, about, dict(inputs), training.seed, packages)
    # A run that goes on with fewer cores is the same training still.
    key = recipe_digest({"made_by": made_by | {"threads": None}, "code": code})
    workspace = outputs.weights.parent / "training"
    trained = loop.train(task, training, workspace, key, where)
    if trained is None:
        return  # another process of the team writes
    final = network.state_dict()
    best = final if trained.best is None else trained.best
    best_step = training.steps if trained.best is None else trained.best_step
    origin = {"provenance": json.dumps(made_by, sort_keys=True)} | dict(words or {})
    weights.write_weights(outputs.weights, best, origin | {"step": str(best_step)})
    if outputs.last is not None:
        steps = {"step": str(training.steps)}
        weights.write_weights(outputs.last, final, origin | steps)
    write_bytes(outputs.metrics, trained.metrics)
    remove_states(workspace)
