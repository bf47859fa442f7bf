"""Mask2Former, whichever library it comes from: its scores, its losses, its start."""

import logging
from abc import abstractmethod
from pathlib import Path

from torch import Tensor, nn

from gnesf_core.config import Mask2FormerConfig
from gnesf_core.errors import BadInput
from gnesf_core.labels import CLASS_NAMES
from gnesf_core.priors import criterion
from gnesf_core.priors.criterion import Prediction
from gnesf_core.priors.segmenter import Segmenter
from gnesf_core.shapes import Float, UInt8
from gnesf_core.training.weights import read_weights

log = logging.getLogger(__name__)


class Mask2Former(Segmenter):
    """A library's network; a backend says what its decoder's layers predict."""

    def __init__(
        self, settings: Mask2FormerConfig, network: nn.Module, queries: int
    ) -> None:
        super().__init__()
        if settings.matching == "class" and queries != len(CLASS_NAMES):
            raise ValueError(
                f"matching: class needs {len(CLASS_NAMES)} queries, not {queries}"
            )
        self.network = network
        self._settings = settings

    @abstractmethod
    def layers(self, pictures: UInt8[Tensor, "b 3 h w"]) -> list[Prediction]:
        """Return what each layer of the decoder predicts, the final one last."""

    def class_scores(
        self, pictures: UInt8[Tensor, "b 3 h w"]
    ) -> Float[Tensor, "b classes h4 w4"]:
        """Return scores >= 0 at a quarter of the size; void has no channel."""
        return criterion.class_scores(self.layers(pictures)[-1])

    def losses(
        self, pictures: UInt8[Tensor, "b 3 h w"], labels: UInt8[Tensor, "b h w"]
    ) -> dict[str, Float[Tensor, ""]]:
        """Return weighted losses, to be added; pixels of `IGNORE` take no part."""
        return criterion.losses(self._settings, self.layers(pictures), labels)


def start_from(network: nn.Module, path: Path, backbone: str) -> None:
    """Give a network those tensors of a checkpoint that fit it, and log the others.

    The checkpoint is of a whole network, possibly for other classes, or of a backbone
    alone, whose names lack the prefix `backbone`.
    """
    tensors, _ = read_weights(path)
    own = network.state_dict()
    if not tensors.keys() & own.keys():
        tensors = {backbone + name: tensor for name, tensor in tensors.items()}
    known = tensors.keys() & own.keys()
    fitting = {name for name in known if tensors[name].shape == own[name].shape}
    if not fitting:
        raise BadInput(
            path,
            "names of the tensors",
            expected=f"some of {type(network).__name__}'s, such as {next(iter(own))}",
            found=", ".join(sorted(tensors)[:3]) or "none",
            remedy="name a checkpoint of the same network, or start_from: ''",
        )
    network.load_state_dict({name: tensors[name] for name in fitting}, strict=False)
    log.info("%s: %d of the network's %d tensors", path, len(fitting), len(own))
    for name in sorted(known - fitting):
        shapes = list(tensors[name].shape), list(own[name].shape)
        log.warning("%s: %s is %s, not %s: not taken", path, name, *shapes)
    missing = sorted(own.keys() - known)
    if missing:
        log.warning("%s: no %s: these start at random", path, ", ".join(missing))
