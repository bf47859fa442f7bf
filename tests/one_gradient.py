"""Write the gradient of one step of geometry, in float64, from however many processes.

python -m tests.one_gradient FOLDER_OF_SCANS STEP OUT
"""

import sys
from pathlib import Path

import torch

from gnesf_core.config import NeuconConfig
from gnesf_core.geometries.fragments import FragmentSamples
from gnesf_core.geometries.neucon import build
from gnesf_core.geometries.training import GeometryTask
from gnesf_core.training.distributed import joined
from gnesf_core.training.loop import _Losses
from tests.stages.test_train_sdf import DATA, SETTINGS, TRAINING


def main(folder: Path, step: int, out: Path) -> None:
    frames = sorted(folder.glob("*.frames.h5"))
    targets = sorted(folder.glob("*.targets.h5"))
    settings = NeuconConfig(**SETTINGS)
    torch.manual_seed(1)
    network = build(settings, torch.device("cpu")).double().train()
    samples = FragmentSamples(frames, targets, settings, DATA, TRAINING)
    task = GeometryTask(network, samples, DATA)
    with joined(torch.device("cpu")) as team:
        share = TRAINING.batch // team.size
        first = TRAINING.batch * step + team.rank * share
        batch = samples.collate([samples[first + n] for n in range(share)])
        parallel = team.parallel(_Losses(task, team.device))
        losses = parallel(batch)
        torch.stack(list(losses.values())).sum().backward()
        gradient = {
            name: parameter.grad
            for name, parameter in network.named_parameters()
            if parameter.grad is not None
        }
        if team.leads:
            torch.save(gradient, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
