"""Random generators of all libraries: set them, or leave them as they were."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed(*numbers: int) -> None:
    """Set every generator from a few numbers."""
    value = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    torch.manual_seed(value)
    np.random.seed(value)  # noqa: NPY002 (a library may draw from it)
    random.seed(value)


@contextmanager
def seeded(device: torch.device, *numbers: int) -> Iterator[None]:
    """Set every generator for a while; nobody else's random numbers change."""
    python = random.getstate()
    numpy = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        seed(*numbers)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
