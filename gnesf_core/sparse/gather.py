"""Sparse 3D convolution by gathered rows and matrix products: the default on a CPU.

`*_truth` are the definitions, differentiated by autograd. `submanifold`, `down` and
`up` compute the same with written-out gradients, either from the pairs of rows that
meet (`pairs.py`) or, where most neighbours are active and on a GPU, from the table of
all of them (`table.py`). On a CPU their results are the same bits in every run. Under
autocast the products are of autocast's type, and sums of products in float32.
"""

from torch import Tensor

from gnesf_core.shapes import Float
from gnesf_core.sparse import pairs, table
from gnesf_core.sparse.precision import computed_type
from gnesf_core.sparse.sites import Sites

# Measured on a CPU: from this share of active neighbours on the table is faster (0.3
# with 12 channels, 0.4 with 32, 0.6 with 96). A GPU has the power to multiply zeros,
# but no time for small steps.
_TABLE_FILL = 0.45


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


def submanifold(
    features: Float[Tensor, "n cin"], weight: Float[Tensor, "27 cin cout"], sites: Sites
) -> Float[Tensor, "n cout"]:
    """Compute `submanifold_truth`."""
    features, weight = computed_type(features, weight)
    if features.is_cuda or sites.fill > _TABLE_FILL:
        return table.Convolution.apply(features, weight, sites.neighbours)
    plan = pairs.neighbour_plan(sites)
    return pairs.Convolution.apply(features, weight, plan, len(sites))


def down(
    features: Float[Tensor, "n cin"], weight: Float[Tensor, "8 cin cout"], sites: Sites
) -> Float[Tensor, "m cout"]:
    """Compute `down_truth`."""
    features, weight = computed_type(features, weight)
    plan = pairs.family_plan(sites)
    return pairs.Convolution.apply(features, weight, plan, len(sites.coarser))


def up(
    features: Float[Tensor, "m cin"], weight: Float[Tensor, "8 cin cout"], sites: Sites
) -> Float[Tensor, "n cout"]:
    """Compute `up_truth`."""
    features, weight = computed_type(features, weight)
    plan = pairs.family_plan(sites).turned()
    return pairs.Convolution.apply(features, weight, plan, len(sites))
