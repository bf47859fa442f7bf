"""Sparse 3D convolution by gathered rows and matrix products: the default on a CPU.

`*_truth` are the definitions, differentiated by autograd. `submanifold`, `down` and
`up` compute the same with written-out gradients, in one of two ways:

* pairs: for each offset gather the inputs, multiply, add to the outputs. Work is
  proportional to the pairs that exist.
* table: gather all 27 neighbours of some sites (zeros where absent) into one wide
  matrix, and multiply once. Nothing is scattered, so it wins where most exist, and
  on a GPU, which has the power to multiply zeros but no time for many small steps.

Sums run in a fixed order: on a CPU results are the same bits in every run. Under
autocast the products are of autocast's type, and sums over offsets in float32.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from gnesf_core.shapes import Float, Int32, Int64
from gnesf_core.sparse.sites import Pairs, Sites

# Measured on a CPU with 16 to 96 channels: from this share of active neighbours on the
# table is faster.
_TABLE_FILL = 0.35
# Gathered numbers at once: they should stay in the cache of a CPU, and fill a GPU.
_CPU_CHUNK, _GPU_CHUNK = 2**18, 2**28


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
        return _ByTable.apply(features, weight, sites.neighbours)
    return _ByPairs.apply(features, weight, sites.pairs, len(sites))


def down(
    features: Float[Tensor, "n cin"], weight: Float[Tensor, "8 cin cout"], sites: Sites
) -> Float[Tensor, "m cout"]:
    """Compute `down_truth`."""
    features, weight = computed_type(features, weight)
    return _ByPairs.apply(features, weight, sites.families, len(sites.coarser))


def up(
    features: Float[Tensor, "m cin"], weight: Float[Tensor, "8 cin cout"], sites: Sites
) -> Float[Tensor, "n cout"]:
    """Compute `up_truth`."""
    features, weight = computed_type(features, weight)
    return _ByPairs.apply(features, weight, _swapped(sites.families), len(sites))


def computed_type(
    features: Float[Tensor, "n cin"], weight: Float[Tensor, "k cin cout"]
) -> tuple[Float[Tensor, "n cin"], Float[Tensor, "k cin cout"]]:
    """Return both in the type that autocast wants here, or as they are."""
    device = features.device.type
    if not torch.is_autocast_enabled(device) or features.dtype == torch.float64:
        return features, weight
    dtype = torch.get_autocast_dtype(device)
    return features.to(dtype), weight.to(dtype)


class _ByPairs(Function):
    """Sum of matrix products over pairs of rows, grouped by the matrix."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        features: Float[Tensor, "inputs cin"],
        weight: Float[Tensor, "k cin cout"],
        pairs: Pairs,
        rows: int,
    ) -> Float[Tensor, "outputs cout"]:
        ctx.save_for_backward(features, weight)
        ctx.pairs = pairs
        cin, cout = weight.shape[1:]
        out = features.new_zeros(rows, cout, dtype=_sum_type(features.dtype))
        chunk = _chunk(features, cin + cout, _longest(pairs))
        left, product = (features.new_empty(chunk, c) for c in (cin, cout))
        for matrix, (inputs, outputs) in zip(weight, pairs, strict=True):
            if inputs is outputs:  # all rows in order
                _add_product(out, features, matrix)
                continue
            for some, their in _parts(inputs, outputs, chunk):
                wanted = _rows(features, some, left)
                results = torch.mm(wanted, matrix, out=product[: len(some)])
                out.index_add_(0, their, results.to(out.dtype))
        return out.to(features.dtype)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, grad: Float[Tensor, "outputs cout"]
    ) -> tuple[Tensor | None, ...]:
        features, weight = ctx.saved_tensors
        of_features, of_weight = ctx.needs_input_grad[:2]
        cin, cout = weight.shape[1:]
        grad_features = torch.zeros_like(features, dtype=_sum_type(features.dtype))
        grad_weight = torch.zeros_like(weight, dtype=_sum_type(features.dtype))
        chunk = _chunk(features, 2 * cin + cout, _longest(ctx.pairs))
        left, product = (features.new_empty(chunk, cin) for _ in range(2))
        right = features.new_empty(chunk, cout)
        for number, (inputs, outputs) in enumerate(ctx.pairs):
            matrix, total = weight[number].T, grad_weight[number]
            if inputs is outputs:
                _add_product(grad_features, grad, matrix)
                _add_product(total, features.T, grad)
                continue
            for some, their in _parts(inputs, outputs, chunk):
                theirs = _rows(grad, their, right)
                if of_features:
                    results = torch.mm(theirs, matrix, out=product[: len(some)])
                    grad_features.index_add_(0, some, results.to(grad_features.dtype))
                if of_weight:
                    _add_product(total, _rows(features, some, left).T, theirs)
        return grad_features.to(grad.dtype), grad_weight.to(grad.dtype), None, None


def _parts(
    inputs: Int64[Tensor, " n"], outputs: Int64[Tensor, " n"], chunk: int
) -> Iterator[tuple[Int64[Tensor, " some"], Int64[Tensor, " some"]]]:
    return zip(inputs.split(chunk), outputs.split(chunk), strict=True)


def _rows(
    values: Float[Tensor, "n c"],
    rows: Int64[Tensor, " some"],
    buffer: Float[Tensor, "chunk c"],
) -> Float[Tensor, "some c"]:
    return torch.index_select(values, 0, rows, out=buffer[: len(rows)])


class _ByTable(Function):
    """Product of the concatenated neighbours of each site with the stacked weights."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        features: Float[Tensor, "n cin"],
        weight: Float[Tensor, "27 cin cout"],
        neighbours: Int32[Tensor, "n 27"],
    ) -> Float[Tensor, "n cout"]:
        ctx.save_for_backward(features, weight, neighbours)
        out = features.new_empty(len(features), weight.shape[2])
        stacked = weight.flatten(0, 1)
        for wide, result in _gathered(features, neighbours, out):
            torch.mm(wide, stacked, out=result)
        return out

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, grad: Float[Tensor, "n cout"]
    ) -> tuple[Tensor | None, ...]:
        """The neighbour at offset 26 - k sees this site at its offset k."""
        features, weight, neighbours = ctx.saved_tensors
        grad_features = torch.empty_like(features)
        flipped = weight.flip(0).transpose(1, 2).flatten(0, 1)
        sums = features.new_zeros(
            features.shape[1], 27 * grad.shape[1], dtype=_sum_type(features.dtype)
        )
        first = 0
        for wide, result in _gathered(grad, neighbours, grad_features):
            if ctx.needs_input_grad[0]:
                torch.mm(wide, flipped, out=result)
            if ctx.needs_input_grad[1]:
                _add_product(sums, features[first : first + len(wide)].T, wide)
            first += len(wide)
        by_offset = sums.unflatten(1, (27, -1)).transpose(0, 1)
        return grad_features, by_offset.flip(0).to(weight.dtype), None


def _gathered(
    features: Float[Tensor, "n c"],
    neighbours: Int32[Tensor, "n 27"],
    out: Float[Tensor, "n cout"],
) -> Iterator[tuple[Float[Tensor, "some c27"], Float[Tensor, "some cout"]]]:
    """Yield neighbours of some sites, side by side, and the rows of `out` of the sites.

    The first is overwritten by the next.
    """
    width = features.shape[1]
    padded = torch.cat([features.new_zeros(1, width), features])
    chunk = _chunk(features, 27 * width, len(features))
    buffer = features.new_empty(chunk * 27, width)
    for rows, result in zip(neighbours.split(chunk), out.split(chunk), strict=True):
        wide = buffer[: rows.numel()]
        torch.index_select(padded, 0, rows.flatten() + 1, out=wide)
        yield wide.view(len(rows), 27 * width), result


def _swapped(pairs: Pairs) -> Pairs:
    return tuple((outputs, inputs) for inputs, outputs in pairs)


def _longest(pairs: Pairs) -> int:
    return max(len(inputs) for inputs, outputs in pairs if inputs is not outputs)


def _sum_type(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _chunk(features: Tensor, columns: int, most: int) -> int:
    """Return how many rows of so many numbers are gathered at once."""
    numbers = _GPU_CHUNK if features.is_cuda else _CPU_CHUNK
    return min(max(numbers // max(columns, 1), 1), most)


def _add_product(
    total: Float[Tensor, "a c"], left: Float[Tensor, "a b"], right: Float[Tensor, "b c"]
) -> None:
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
