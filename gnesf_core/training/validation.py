"""Which weights of a training did best on what it is not trained on."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gnesf_core.training.chance import seeded


class Best(NamedTuple):
    """The weights, on the CPU, that did best so far."""

    step: int
    value: float
    weights: dict[str, Tensor]


class Validation:
    """Tries the model now and then, and keeps the weights that did best.

    The training does not change by it: the model is in use, without gradients, and
    draws from generators that are seeded the same every time and put back.
    """

    def __init__(
        self,
        validate: Callable[[nn.Module], float] | None,  # None if never asked
        model: nn.Module,
        seed: int,
        device: torch.device,
    ) -> None:
        self.best: Best | None = None
        self._validate, self._model = validate, model
        self._seed, self._device = seed, device

    def start(self, saved: dict[str, Any] | None) -> None:
        """Go on with what a state has `saved`."""
        self.best = Best(**saved) if saved else None

    def saved(self) -> dict[str, Any] | None:
        """Return what `start` needs to go on from here."""
        return self.best and self.best._asdict()

    def value(self, step: int) -> float:
        """Try the model, which has made `step` steps; the earliest best is kept."""
        with torch.no_grad(), seeded(self._device, self._seed), _in_use(self._model):
            value = float(self._validate(self._model))
        if not math.isnan(value) and (self.best is None or value < self.best.value):
            weights = self._model.state_dict()
            copies = {name: tensor.cpu().clone() for name, tensor in weights.items()}
            self.best = Best(step, value, copies)
        return value


@contextmanager
def _in_use(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode for a while; parts may have been in it before."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
