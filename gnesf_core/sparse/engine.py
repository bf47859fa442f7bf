"""Which implementation of sparse convolution runs."""

from types import ModuleType

import torch

from gnesf_core.sparse import gather

Engine = ModuleType


def engine(name: str, device: torch.device) -> Engine:
    """Return the engine of a name."""
    return gather
