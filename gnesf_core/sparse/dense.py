"""Sparse 3D convolution by Torch's own convolution of a dense grid, and by blocks.

The grid around the sites is zero elsewhere, and only results at sites are read, so
nothing differs from the truth but the work: it grows with the box, not with the sites.

`down` and `up` treat the eight children of a voxel as one block, absent ones as zeros,
and need a single matrix product. They serve other engines as well.
"""

from torch import Tensor
from torch.nn import functional

from gnesf_core.shapes import Float
from gnesf_core.sparse.precision import computed_type
from gnesf_core.sparse.sites import Sites

_MOST_CELLS = 2**28  # 32 GiB of 32 float32 channels


def submanifold(
    features: Float[Tensor, "n cin"], weight: Float[Tensor, "27 cin cout"], sites: Sites
) -> Float[Tensor, "n cout"]:
    """Compute `gather.submanifold_truth`."""
    features, weight = computed_type(features, weight)
    places, shape = sites.box
    cells = shape[0] * shape[1] * shape[2] * shape[3]
    if cells == 0:
        return features @ weight[0]  # no rows
    if cells > _MOST_CELLS:
        raise ValueError(
            f"dense convolution: {len(sites)} sites lie in a box of {shape} cells, "
            f"more than {_MOST_CELLS}; remedy: the gather engine"
        )
    cin, cout = weight.shape[1:]
    grid = features.new_zeros(cells, cin).index_copy(0, places, features)
    grid = grid.view(*shape, cin).permute(0, 4, 1, 2, 3)  # channels last in memory
    kernel = weight.view(3, 3, 3, cin, cout).permute(4, 3, 0, 1, 2)
    out = functional.conv3d(grid, kernel, padding=1)
    return out.permute(0, 2, 3, 4, 1).reshape(cells, cout).index_select(0, places)


def down(
    features: Float[Tensor, "n cin"], weight: Float[Tensor, "8 cin cout"], sites: Sites
) -> Float[Tensor, "m cout"]:
    """Compute `gather.down_truth`."""
    features, weight = computed_type(features, weight)
    blocks, cin = len(sites.coarser), weight.shape[1]
    places = sites.parent * 8 + sites.child
    children = features.new_zeros(blocks * 8, cin).index_copy(0, places, features)
    return children.view(blocks, 8 * cin) @ weight.flatten(0, 1)


def up(
    features: Float[Tensor, "m cin"], weight: Float[Tensor, "8 cin cout"], sites: Sites
) -> Float[Tensor, "n cout"]:
    """Compute `gather.up_truth`."""
    features, weight = computed_type(features, weight)
    children = features @ weight.transpose(0, 1).flatten(1)
    children = children.view(len(features) * 8, weight.shape[2])
    return children.index_select(0, sites.parent * 8 + sites.child)
