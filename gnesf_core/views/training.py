"""Learning to render pictures and classes, as a task for the training loop."""

from typing import Any

import torch
from torch import Tensor

from gnesf_core.config import TrainingConfig
from gnesf_core.shapes import Float
from gnesf_core.training.distributed import mean_over_processes
from gnesf_core.training.loop import moved
from gnesf_core.views.interface import Method
from gnesf_core.views.samples import ViewSamples


class ViewTask:
    """A method, the rays that it learns from, and those that judge it."""

    def __init__(self, method: Method, samples: ViewSamples) -> None:
        self.model: Method = method
        self.samples = samples

    def parameter_groups(self, config: TrainingConfig) -> list[dict[str, Any]]:
        """Let the method say what learns at which rate."""
        return self.model.parameter_groups(config)

    def losses(
        self, model: Method, batch: dict[str, Any]
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the method's losses, means over the batch's rays."""
        told: dict[str, list[Tensor]] = {}
        for sample in batch["sample"]:
            context = model.encode(sample.sources, sample.camera)
            passes = model.render(context, sample.rays)
            for name, errors in model.losses(context, passes, sample.truth).items():
                told.setdefault(name, []).append(errors)
        joined = {name: torch.cat(errors) for name, errors in told.items()}
        device = next(model.parameters()).device
        counts = [float(len(errors)) for errors in joined.values()]
        divisors = mean_over_processes(torch.tensor(counts, device=device))
        return {
            name: errors.sum() / divisor
            for (name, errors), divisor in zip(
                joined.items(), divisors.clamp(min=1), strict=True
            )
        }

    def validate(self, model: Method) -> float:
        """Return how wrong rays of held-out scenes are, as the method judges it."""
        device = next(model.parameters()).device
        errors = []
        for sample in self.samples.held_out():
            sample = moved(sample, device)
            context = model.encode(sample.sources, sample.camera)
            answer = model.render(context, sample.rays)[-1]
            errors.append(model.judge(answer, sample.truth))
        return float(torch.cat(errors).mean()) if errors else float("nan")
