"""Positions and directions as a network takes them in: NeRF's sines and cosines."""

import torch
from torch import Tensor

from gnesf_core.shapes import Float


def frequencies(
    values: Float[Tensor, "*batch axes"], count: int
) -> Float[Tensor, "*batch encoded"]:
    """Return values, then sin(2^k v) and cos(2^k v) of each, k = 0 .. count - 1.

    There is no pi in them, as in the released codes and unlike NeRF's paper: values of
    -1..1 are less than one turn of the slowest wave.
    """
    parts = [values]
    for k in range(count):
        parts += [(2**k * values).sin(), (2**k * values).cos()]
    return torch.cat(parts, -1)
