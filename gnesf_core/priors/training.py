"""Fine-tuning a segmenter, as a task for the training loop."""

from torch import Tensor, nn

from gnesf_core.config import TrainingConfig
from gnesf_core.priors.crops import Crops
from gnesf_core.priors.segmenter import Segmenter
from gnesf_core.shapes import Float
from gnesf_core.training.groups import parameter_groups


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
        """Let the backbone learn at its own rate."""
        return parameter_groups(self.model, self.model.backbone_parameters(), config)
