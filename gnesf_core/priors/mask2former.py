"""Mask2Former, whichever library it comes from: its scores, its losses, its start."""

import logging
from abc import abstractmethod
from pathlib import Path
from typing import NoReturn

from torch import Tensor, nn

from gnesf_core.config import Mask2FormerConfig
from gnesf_core.errors import BadInput
from gnesf_core.labels import CLASS_NAMES
from gnesf_core.priors import criterion
from gnesf_core.priors.criterion import Prediction
from gnesf_core.priors.segmenter import Segmenter
from gnesf_core.shapes import Float, UInt8
from gnesf_core.training.weights import flaw, read_weights

log = logging.getLogger(__name__)


class Mask2Former(Segmenter):
    """A library's network; a backend says what its decoder's layers predict."""

    def __init__(
        self, settings: Mask2FormerConfig, network: nn.Module, queries: int
    ) -> None:
        super().__init__()
        if settings.matching == "class" and queries != len(CLASS_NAMES):
            several = f"{len(CLASS_NAMES)} for matching: class"
            _refuse("queries", several, queries, "or set matching: hungarian")
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


def check_sizes(settings: Mask2FormerConfig) -> None:
    """Refuse sizes that no library can build a network of."""
    if settings.hidden % 32:
        _refuse("hidden", "a multiple of 32 (norms of 32 groups)", settings.hidden)
    if settings.hidden % settings.heads:
        _refuse("heads", f"a divisor of hidden, {settings.hidden}", settings.heads)
    widths = [settings.backbone_width * 2**stage for stage in range(4)]
    heads = settings.backbone_heads
    for width, several in zip(widths, heads, strict=True):
        if settings.backbone == "swin" and width % several:
            _refuse("backbone_heads", f"divisors of the widths {widths}", heads)


def _refuse(place: str, expected: str, found: object, remedy: str = "") -> NoReturn:
    remedy = f"correct the configuration {remedy}"
    raise BadInput("settings", place, expected=expected, found=found, remedy=remedy)


def start_files(settings: Mask2FormerConfig) -> list[Path]:
    """Return the files, if any, whose content decides where training starts."""
    return [Path(settings.start_from)] if settings.start_from else []


def start_from(network: nn.Module, path: Path, backbone: str) -> None:
    """Give a network those modules of a checkpoint that fit it, and log the others.

    The checkpoint is of a whole network, possibly for other classes, or of a backbone
    alone, whose names lack the prefix `backbone`. A module's own tensors come together
    or not at all, but for buffers that the checkpoint lacks.
    """
    tensors, _ = read_weights(path)
    own = network.state_dict()
    if not tensors.keys() & own.keys():
        tensors = {backbone + name: tensor for name, tensor in tensors.items()}
    known = tensors.keys() & own.keys()
    for name in sorted(known):
        if why := flaw(tensors[name], own[name]):
            remedy = "get another copy, or set start_from: ''"
            raise BadInput(path, name, expected="usable", found=why, remedy=remedy)
    unfit = {name for name in known if tensors[name].shape != own[name].shape}
    fitting = _in_whole_modules(network, known - unfit, unfit)
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
    for name in sorted(unfit):
        shapes = list(tensors[name].shape), list(own[name].shape)
        log.warning("%s: %s is %s, not %s: not taken", path, name, *shapes)
    left = sorted(own.keys() - fitting)
    if left:
        log.warning("%s: %s start at random", path, ", ".join(left))


def _in_whole_modules(network: nn.Module, fits: set[str], unfit: set[str]) -> set[str]:
    """Return those names that fit and whose modules miss none of their parameters."""
    parameters = {name for name, _ in network.named_parameters()}
    broken = {name.rpartition(".")[0] for name in unfit | (parameters - fits)}
    return {name for name in fits if name.rpartition(".")[0] not in broken}
