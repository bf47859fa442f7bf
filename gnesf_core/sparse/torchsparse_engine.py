"""Sparse 3D convolution by torchsparse, whose version 2.0 the released networks ran on.

This is written for version 2.1. Its kernels are given the maps of `Sites`, so rows and
offsets are ours and no coordinates pass hands. (Its own maps need CUDA, coordinates as
(batch, x, y, z), and weights of the 27 offsets with x running fastest.) The kernels are
those of its gather-scatter dataflow: that of version 2.0, and the only one that also
runs on a CPU.
"""

import torch
from torch import Tensor

from gnesf_core.errors import BadInput
from gnesf_core.shapes import Float
from gnesf_core.sparse.precision import computed_type
from gnesf_core.sparse.sites import Pairs, Sites


def check_installed() -> None:
    """Refuse to go on where torchsparse cannot be imported."""
    try:
        import torchsparse  # noqa: F401
    except (ImportError, AssertionError, RuntimeError) as error:  # or there is no CUDA
        raise BadInput(
            "config",
            "sparse_engine",
            expected="an installed torchsparse 2.1, and a CUDA device",
            found=f"{type(error).__name__}: {error}",
            remedy="sparse_engine: auto, or pip install rootpath and, with "
            "--no-deps --no-build-isolation, "
            "git+https://github.com/mit-han-lab/torchsparse",
        ) from error


def submanifold(
    features: Float[Tensor, "n cin"], weight: Float[Tensor, "27 cin cout"], sites: Sites
) -> Float[Tensor, "n cout"]:
    """Compute `gather.submanifold_truth`."""
    if "torchsparse_neighbours" not in sites.derived:
        rows = _map(sites.pairs, len(sites), len(sites))
        sites.derived["torchsparse_neighbours"] = rows
    rows = sites.derived["torchsparse_neighbours"]
    return _convolve(features, weight, rows, transposed=False)


def down(
    features: Float[Tensor, "n cin"], weight: Float[Tensor, "8 cin cout"], sites: Sites
) -> Float[Tensor, "m cout"]:
    """Compute `gather.down_truth`."""
    return _convolve(features, weight, _families(sites), transposed=False)


def up(
    features: Float[Tensor, "m cin"], weight: Float[Tensor, "8 cin cout"], sites: Sites
) -> Float[Tensor, "n cout"]:
    """Compute `gather.up_truth`."""
    return _convolve(features, weight, _families(sites), transposed=True)


def _families(sites: Sites) -> dict[str, object]:
    if "torchsparse_families" not in sites.derived:
        rows = _map(sites.families, len(sites), len(sites.coarser))
        sites.derived["torchsparse_families"] = rows
    return sites.derived["torchsparse_families"]


def _map(pairs: Pairs, inputs: int, outputs: int) -> dict[str, object]:
    """Return pairs of rows as torchsparse keeps them."""
    both = [torch.stack(pair, dim=1) for pair in pairs]
    rows = torch.cat(both).int()
    counts = torch.tensor([len(some) for some in both], dtype=torch.int32)
    unused = rows.new_empty(0)
    return {
        "nbmaps": rows,
        "nbsizes": counts,
        "sizes": (inputs, outputs),
        "input_mask": unused,
        "output_mask": unused,
    }


def _convolve(
    features: Float[Tensor, "n cin"],
    weight: Float[Tensor, "k cin cout"],
    rows: dict[str, object],
    *,
    transposed: bool,
) -> Float[Tensor, "m cout"]:
    from torchsparse.nn.functional.conv.func import GatherScatterConvolutionFuntion

    features, weight = computed_type(features, weight)
    if features.dtype == torch.bfloat16:  # which it does not know
        features, weight = features.float(), weight.float()
    if len(features) == 0:
        return features @ weight[0]  # no rows, and so no sites above or below
    settings = {"epsilon": 0.0, "mm_thresh": 0}
    return GatherScatterConvolutionFuntion.apply(
        features, weight, rows, settings, transposed
    )
