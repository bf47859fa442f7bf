"""Fine-tuning a segmenter, as a task for the training loop."""

from torch import Tensor, nn

from gnesf_core.config import TrainingConfig
from gnesf_core.priors.crops import Crops
from gnesf_core.priors.segmenter import Segmenter
from gnesf_core.shapes import Float


class SegmentationTask:
    """A segmenter and the crops that it learns from."""

    def __init__(self, segmenter: Segmenter, crops: Crops) -> None:
        self.model: nn.Module = segmenter
        self.samples = crops

    def losses(
        self, model: Segmenter, batch: dict[str, Tensor | list[str]]
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the network's own losses."""
        return model.losses(batch["picture"], batch["labels"])

    def parameter_groups(self, config: TrainingConfig) -> list[dict[str, object]]:
        """Let the backbone learn at its own rate, and spare norms and biases decay."""
        backbone = {id(parameter) for parameter in self.model.backbone_parameters()}
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for parameter in self.model.parameters():
            if not parameter.requires_grad:
                continue
            rate = config.backbone_rate if id(parameter) in backbone else 1.0
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
        return [
            {"params": parameters, "lr": config.learning_rate * rate,
             "weight_decay": decay}
            for (rate, decay), parameters in groups.items()
        ]  # fmt: skip
