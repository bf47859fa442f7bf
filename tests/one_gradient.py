"""Write the gradient of one step of a training, from however many processes.

python -m tests.one_gradient FOLDER STEP OUT [field]

Geometry in float64; a field as it is, its points and pictures being float32.
"""

import sys
from pathlib import Path

import torch

from gnesf_core.config import NeuconConfig, TrainingConfig
from gnesf_core.fields import gnesf
from gnesf_core.fields.samples import FieldSamples
from gnesf_core.fields.training import FieldTask
from gnesf_core.geometries.fragments import FragmentSamples
from gnesf_core.geometries.neucon import build
from gnesf_core.geometries.training import GeometryTask
from gnesf_core.training.distributed import joined
from gnesf_core.training.loop import Task, _Losses
from tests import field_scenes
from tests.stages import test_train_sdf as sdf


def geometry(folder: Path) -> tuple[Task, TrainingConfig]:
    frames = sorted(folder.glob("*.frames.h5"))
    targets = sorted(folder.glob("*.targets.h5"))
    settings = NeuconConfig(**sdf.SETTINGS)
    network = build(settings, torch.device("cpu")).double().train()
    samples = FragmentSamples(frames, targets, settings, sdf.DATA, sdf.TRAINING)
    return GeometryTask(network, samples, sdf.DATA), sdf.TRAINING


def field(folder: Path) -> tuple[Task, TrainingConfig]:
    """Return a field in use: processes that train move their samples by chance."""
    settings, encoder = field_scenes.SETTINGS, field_scenes.ENCODER
    data, training = field_scenes.DATA, field_scenes.TRAINING
    network = gnesf.build(settings, encoder, folder / "start.safetensors").eval()
    paths = field_scenes.scenes_in(folder)
    samples = FieldSamples(paths, encoder, settings, data, training)
    return FieldTask(network, samples, data), training


def main(folder: Path, step: int, out: Path, what: str = "geometry") -> None:
    torch.manual_seed(1)
    task, training = {"geometry": geometry, "field": field}[what](folder)
    samples = task.samples
    with joined(torch.device("cpu")) as team:
        share = training.batch // team.size
        first = training.batch * step + team.rank * share
        batch = samples.collate([samples[first + n] for n in range(share)])
        parallel = team.parallel(_Losses(task, team.device))
        losses = parallel(batch)
        torch.stack(list(losses.values())).sum().backward()
        gradient = {
            name: parameter.grad
            for name, parameter in task.model.named_parameters()
            if parameter.grad is not None
        }
        if team.leads:
            torch.save(gradient, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])
