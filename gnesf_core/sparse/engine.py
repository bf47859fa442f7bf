"""Which program computes sparse convolutions."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import torch

from gnesf_core.errors import BadInput
from gnesf_core.sparse import dense, gather

NAMES = ("auto", "gather", "dense", "implicit", "torchsparse")


class Engine(NamedTuple):
    """The three convolutions: functions of (features, weight, sites).

    `sites` are always the finer of the voxels that come in and go out.
    """

    submanifold: (
        Callable  # 3x3x3 in place: weight[(dx + 1) * 9 + (dy + 1) * 3 + dz + 1]
    )
    down: Callable  # 2x2x2, stride 2, to sites.coarser: weight[dx * 4 + dy * 2 + dz]
    up: Callable  # its transpose, from sites.coarser


def engine(name: str, device: torch.device | str) -> Engine:
    """Return the engine of this name for tensors on `device`.

    `auto` is `gather` on a CPU, where it was measured to be the fastest. On CUDA,
    where nothing was measured yet, it gathers too, with `down` and `up` by blocks: a
    layer is then one gather and one large matrix product, and work is proportional to
    the sites. `dense` multiplies that work by the cells per site, 10 and more on fine
    levels; it can only win on full grids, which are small. `implicit` saves writing and
    reading the gathered matrix, some 0.1 ms a layer on an H200: it is the one to try.
    """
    if name not in NAMES:
        raise BadInput(
            "config",
            "sparse_engine",
            expected=f"one of {', '.join(NAMES)}",
            found=name,
            remedy="sparse_engine: auto",
        )
    if name == "dense":
        return Engine(dense.submanifold, dense.down, dense.up)
    if name == "implicit":
        return _implicit(torch.device(device))
    if name == "torchsparse":
        from gnesf_core.sparse import torchsparse_engine

        torchsparse_engine.check_installed()
        return Engine(
            torchsparse_engine.submanifold,
            torchsparse_engine.down,
            torchsparse_engine.up,
        )
    if name == "auto" and torch.device(device).type == "cuda":
        return Engine(gather.submanifold, dense.down, dense.up)
    return Engine(gather.submanifold, gather.down, gather.up)


def _implicit(device: torch.device) -> Engine:
    found = f"device {device}"
    if find_spec("triton") is None:
        found += ", no triton"
    else:
        from gnesf_core.sparse import implicit

        if device.type == "cuda" or implicit.INTERPRETED:
            return Engine(implicit.submanifold, implicit.down, implicit.up)
    raise BadInput(
        "config",
        "sparse_engine",
        expected="for implicit, a CUDA device and an installed triton",
        found=found,
        remedy="sparse_engine: auto",
    )
