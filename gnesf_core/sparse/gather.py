"""Sparse 3D convolution by gathering rows: the truth, and the default on a CPU.

Each operation takes features with one row per voxel. `*_truth` are the definitions in
plain Torch, differentiable by autograd.
"""

from torch import Tensor

from gnesf_core.shapes import Float
from gnesf_core.sparse.sites import Sites


def submanifold_truth(
    features: Float[Tensor, "n cin"], weight: Float[Tensor, "27 cin cout"], sites: Sites
) -> Float[Tensor, "n cout"]:
    """Convolve 3x3x3 at the active sites, as if all other voxels were zero."""
    out = features.new_zeros(len(sites), weight.shape[2])
    for matrix, (inputs, outputs) in zip(weight, sites.pairs, strict=True):
        out = out.index_add(0, outputs, features[inputs] @ matrix)
    return out


def down_truth(
    features: Float[Tensor, "n cin"], weight: Float[Tensor, "8 cin cout"], sites: Sites
) -> Float[Tensor, "m cout"]:
    """Convolve 2x2x2 with stride 2: each voxel of `sites.coarser` sums its children."""
    out = features.new_zeros(len(sites.coarser), weight.shape[2])
    for matrix, (children, parents) in zip(weight, sites.families, strict=True):
        out = out.index_add(0, parents, features[children] @ matrix)
    return out


def up_truth(
    features: Float[Tensor, "m cin"], weight: Float[Tensor, "8 cin cout"], sites: Sites
) -> Float[Tensor, "n cout"]:
    """Undo the stride of `down` (its transpose): each voxel reads its parent."""
    out = features.new_zeros(len(sites), weight.shape[2])
    for matrix, (children, parents) in zip(weight, sites.families, strict=True):
        out = out.index_add(0, children, features[parents] @ matrix)
    return out


submanifold, down, up = submanifold_truth, down_truth, up_truth
