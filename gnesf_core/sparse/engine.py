"""Which program computes sparse convolutions."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from gnesf_core.errors import BadInput
from gnesf_core.shapes import Float
from gnesf_core.sparse import dense, gather
from gnesf_core.sparse.sites import Sites

NAMES = ("auto", "gather", "dense", "implicit", "torchsparse")
_FULL_CELLS = 1.4  # per site: up to here a CPU is faster with a dense grid


class Engine(NamedTuple):
    """The three convolutions: functions of (features, weight, sites).

    `sites` are always the finer of the voxels that come in and go out.
    """

    submanifold: Callable  # 3x3x3 in place; weight[(dx+1) * 9 + (dy+1) * 3 + (dz+1)]
    down: Callable  # 2x2x2 to sites.coarser; weight[dx * 4 + dy * 2 + dz] of the child
    up: Callable  # its transpose, from sites.coarser


def engine(name: str, device: torch.device | str) -> Engine:
    """Return the engine of this name for tensors on `device`.

    `auto` on a CPU is what was measured to be the fastest: `gather`, and Torch's own
    convolution for boxes that are nearly full, as coarsest levels are. On CUDA nothing
    was measured yet. There `auto` gathers, with `down` and `up` by blocks: a layer is
    one gather and one large matrix product, and work is proportional to the sites.
    `dense` multiplies that work by the cells per site, 10 and more on fine levels, and
    could only win on full boxes, which are small. `implicit` saves writing and reading
    the gathered matrix, some 0.1 ms a layer on an H200: it is the one to try.
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
    if torch.device(device).type == "cuda":
        return Engine(gather.submanifold, dense.down, dense.up)
    submanifold = _submanifold_on_cpu if name == "auto" else gather.submanifold
    return Engine(submanifold, gather.down, gather.up)


def _submanifold_on_cpu(
    features: Float[Tensor, "n cin"], weight: Float[Tensor, "27 cin cout"], sites: Sites
) -> Float[Tensor, "n cout"]:
    """Compute `gather.submanifold_truth` by the faster of two engines."""
    batches, x, y, z = sites.box[1]
    is_full = batches * x * y * z <= _FULL_CELLS * len(sites)
    # For less than this, Torch takes a slow path.
    is_large = batches > 1 or features.shape[1] * x * y > 20480
    chosen = dense if is_full and is_large else gather
    return chosen.submanifold(features, weight, sites)


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
