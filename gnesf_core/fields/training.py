"""Learning to vote from labelled pictures, as a task for the training loop.

Rays of a frame are rendered from what its source views say; what they should show are
the frame's own labels and colours (Eq. 6, and Eq. 1-2 of the supplement). Rays that hit
nothing, or only what no view sees, teach nothing.
"""

from typing import Any

import torch
from torch import Tensor, nn

from gnesf_core.config import RayDataConfig, TrainingConfig
from gnesf_core.fields.network import GnesfNetwork, Rendered
from gnesf_core.fields.samples import FieldSample, FieldSamples
from gnesf_core.labels import IGNORE
from gnesf_core.rendering.frame_samples import Truth
from gnesf_core.shapes import Float
from gnesf_core.training.distributed import mean_over_processes
from gnesf_core.training.groups import parameter_groups
from gnesf_core.training.loop import moved

_LEAST = 1e-4  # probability: nothing is learned from how wrong a vote was beyond


class FieldTask:
    """A field, the rays that it learns from, and those that judge it."""

    def __init__(
        self, network: GnesfNetwork, samples: FieldSamples, data: RayDataConfig
    ) -> None:
        self.model: nn.Module = network
        self.samples = samples
        self._data = data

    def parameter_groups(self, config: TrainingConfig) -> list[dict[str, Any]]:
        """Let everything that is not frozen learn alike."""
        return parameter_groups(self.model, (), config)

    def losses(
        self, model: GnesfNetwork, batch: dict[str, Any]
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the losses of classes and colours, means over the batch's rays."""
        told = [self._errors(model, sample) for sample in batch["sample"]]
        semantic, color = (torch.cat(part) for part in zip(*told, strict=True))
        counts = torch.tensor([len(semantic), len(color)], device=color.device)
        divisors = mean_over_processes(counts.float()).clamp(min=1)
        return {
            "semantic": self._data.semantic_weight * semantic.sum() / divisors[0],
            "color": self._data.color_weight * color.sum() / divisors[1],
        }

    def _errors(
        self, model: GnesfNetwork, sample: FieldSample
    ) -> tuple[Float[Tensor, " labelled"], Float[Tensor, " usable"]]:
        """Return each usable ray's own losses."""
        evidence = model.look(sample.scene, sample.sources)
        rendered = model.render(evidence, sample.rays)
        return (
            semantic_errors(rendered, sample.truth, self._data.semantic_loss),
            color_errors(rendered, sample.truth, self._data.color_loss),
        )

    def validate(self, model: GnesfNetwork) -> float:
        """Return the mean cross-entropy over rays of held-out scenes."""
        device = next(model.parameters()).device
        errors = []
        for sample in self.samples.held_out():
            sample = moved(sample, device)
            evidence = model.look(sample.scene, sample.sources)
            rendered = model.render(evidence, sample.rays)
            errors.append(semantic_errors(rendered, sample.truth, "cross-entropy"))
        return float(torch.cat(errors).mean()) if errors else float("nan")


def semantic_errors(
    rendered: Rendered, truth: Truth, loss: str
) -> Float[Tensor, " labelled"]:
    """Return the losses of the rays that are usable and have a label."""
    labelled = rendered.usable & (truth.labels != IGNORE)
    label = truth.labels[labelled].long()
    probability = rendered.semantic[labelled].float().gather(1, label[:, None])[:, 0]
    if loss == "one-minus-probability":
        return 1 - probability
    assert loss == "cross-entropy"
    return -probability.clamp(min=_LEAST).log()


def color_errors(
    rendered: Rendered, truth: Truth, loss: str
) -> Float[Tensor, " usable"]:
    """Return the losses of the rays that are usable."""
    difference = (rendered.color - truth.color)[rendered.usable].float()
    if loss == "absolute":
        return difference.abs().mean(1)
    assert loss == "squared"
    return difference.square().sum(1)
