"""Convolution of pairs of rows: gather the inputs of an offset, multiply, sum.

Work is proportional to the pairs that exist. It is done for a slab of outputs after
the other, so that what was just multiplied is still in the cache when it is summed, and
an output reads its products one after the other: nothing is added to memory, and the
order of sums is fixed.
"""

import itertools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.functional import embedding_bag

from gnesf_core.shapes import Float, Int32, Int64
from gnesf_core.sparse.precision import add_product, product, sum_type
from gnesf_core.sparse.sites import CENTRE, Pair, Sites

_SLAB_ROWS = 8192  # outputs


class Part(NamedTuple):
    """Pairs of a slab that meet the same matrix."""

    matrix: int
    inputs: Int32[Tensor, " pairs"]
    outputs: Int32[Tensor, " pairs"]


class Slab(NamedTuple):
    """Pairs of some consecutive outputs."""

    rows: slice  # the outputs
    parts: list[Part]
    positions: Int32[Tensor, " pairs"]  # of the first output's pairs, the second's ...
    starts: Int32[Tensor, " rows_plus_1"]  # of each output in `positions`, then the end


class Plan(NamedTuple):
    """All pairs of a convolution, and the same pairs backwards."""

    forward: list[Slab]
    backward: list[Slab]
    centre: int | None  # matrix that every row meets itself with

    def turned(self) -> "Plan":
        """Return the plan of the transposed convolution."""
        return self._replace(forward=self.backward, backward=self.forward)


def neighbour_plan(sites: Sites) -> Plan:
    """Return the plan of a submanifold convolution, made once."""
    if "neighbour_plan" not in sites.derived:
        others = dict(enumerate(sites.pairs))
        del others[CENTRE]
        forward = _slabs(others, len(sites))
        # A pair seen from its other end is a pair of the opposite offset.
        backward = [
            slab._replace(
                parts=[part._replace(matrix=26 - part.matrix) for part in slab.parts]
            )
            for slab in forward
        ]
        sites.derived["neighbour_plan"] = Plan(forward, backward, CENTRE)
    return sites.derived["neighbour_plan"]


def family_plan(sites: Sites) -> Plan:
    """Return the plan from the sites to the coarser ones, made once."""
    if "family_plan" not in sites.derived:
        families = dict(enumerate(sites.families))
        swapped = {place: pair[::-1] for place, pair in families.items()}
        sites.derived["family_plan"] = Plan(
            _slabs(families, len(sites.coarser)), _slabs(swapped, len(sites)), None
        )
    return sites.derived["family_plan"]


def _slabs(pairs: dict[int, Pair], rows: int) -> list[Slab]:
    """Sort pairs by the slab of their output, then by their matrix."""
    inputs = torch.cat([pair[0] for pair in pairs.values()]).int()
    outputs = torch.cat([pair[1] for pair in pairs.values()]).int()
    counts = torch.tensor([len(pair[0]) for pair in pairs.values()])
    which = torch.arange(len(pairs)).repeat_interleave(counts).to(outputs)
    groups = -(-rows // _SLAB_ROWS) * len(pairs)
    group = outputs // _SLAB_ROWS * len(pairs) + which
    order = _order(group, groups)
    sizes = torch.bincount(group, minlength=groups).tolist()
    parts = zip(
        itertools.cycle(pairs),
        inputs[order].split(sizes),
        outputs[order].split(sizes),
        strict=False,
    )
    return [
        _slab(
            [Part(*part) for part in itertools.islice(parts, len(pairs))],
            slice(first, min(first + _SLAB_ROWS, rows)),
        )
        for first in range(0, rows, _SLAB_ROWS)
    ]


def _slab(parts: list[Part], rows: slice) -> Slab:
    outputs = torch.cat([part.outputs for part in parts]) - rows.start
    count = rows.stop - rows.start
    ends = torch.bincount(outputs, minlength=count).cumsum(0).int()
    starts = torch.cat([ends.new_zeros(1), ends])
    parts = [part for part in parts if len(part.inputs) > 0]
    return Slab(rows, parts, _order(outputs, count).int(), starts)


def _order(values: Int32[Tensor, " n"], limit: int) -> Int64[Tensor, " n"]:
    """Return what sorts small numbers, equal ones as they come."""
    if values.is_cuda or limit > 2**16:
        return values.argsort(stable=True)
    # NumPy counts numbers of 16 bits instead of comparing them.
    order = values.numpy().astype(np.uint16).argsort(kind="stable")
    return torch.from_numpy(order)


class Convolution(Function):
    """Sums of products of input rows with matrices."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        features: Float[Tensor, "inputs cin"],
        weight: Float[Tensor, "k cin cout"],
        plan: Plan,
        rows: int,
    ) -> Float[Tensor, "outputs cout"]:
        """Multiply and sum slab by slab."""
        ctx.save_for_backward(features, weight)
        ctx.plan = plan
        dtype = sum_type(features.dtype)
        out = features.new_empty(rows, weight.shape[2], dtype=dtype)
        gathered = _buffer(features, weight.shape[1], plan.forward)
        products = out.new_empty(_most_pairs(plan.forward), weight.shape[2])
        for slab in plan.forward:
            done = 0
            for part in slab.parts:
                left = _rows(features, part.inputs, gathered)
                product(left, weight[part.matrix], products[done : done + len(left)])
                done += len(left)
            _sum(products[:done], slab, out)
        if plan.centre is not None:
            add_product(out, features, weight[plan.centre])
        return out.to(features.dtype)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, grad: Float[Tensor, "outputs cout"]
    ) -> tuple[Tensor | None, ...]:
        """Here the inputs of `plan.backward` are outputs, and its outputs inputs."""
        features, weight = ctx.saved_tensors
        slabs, centre = ctx.plan.backward, ctx.plan.centre
        of_features, of_weight = ctx.needs_input_grad[:2]
        dtype, cin = sum_type(features.dtype), weight.shape[1]
        grad_features = torch.empty_like(features, dtype=dtype)
        grad_weight = torch.zeros_like(weight, dtype=dtype)
        gathered = _buffer(grad, weight.shape[2], slabs)
        gathered_features = _buffer(features, cin, slabs)
        products = grad_features.new_empty(_most_pairs(slabs), cin)
        for slab in slabs:
            done = 0
            for part in slab.parts:
                grads = _rows(grad, part.inputs, gathered)
                matrix, place = weight[part.matrix].T, slice(done, done + len(grads))
                done += len(grads)
                if of_features:
                    product(grads, matrix, products[place])
                if of_weight:
                    those = _rows(features, part.outputs, gathered_features)
                    add_product(grad_weight[part.matrix], those.T, grads)
            if of_features:
                _sum(products[:done], slab, grad_features)
        if centre is not None:
            add_product(grad_features, grad, weight[centre].T)
            add_product(grad_weight[centre], features.T, grad)
        return grad_features.to(grad.dtype), grad_weight.to(grad.dtype), None, None


def _sum(
    products: Float[Tensor, "pairs c"], slab: Slab, out: Float[Tensor, "outputs c"]
) -> None:
    """Write the sums of the products of each output."""
    out[slab.rows] = embedding_bag(
        slab.positions, products, slab.starts, mode="sum", include_last_offset=True
    )


def _rows(
    values: Float[Tensor, "n c"],
    rows: Int32[Tensor, " some"],
    buffer: Float[Tensor, "most c"],
) -> Float[Tensor, "some c"]:
    return torch.index_select(values, 0, rows, out=buffer[: len(rows)])


def _buffer(
    values: Float[Tensor, "n c"], columns: int, slabs: list[Slab]
) -> Float[Tensor, "most columns"]:
    """Return memory for the rows of any part."""
    most = max((len(part.inputs) for slab in slabs for part in slab.parts), default=0)
    return values.new_empty(most, columns)


def _most_pairs(slabs: list[Slab]) -> int:
    return max((len(slab.positions) for slab in slabs), default=0)
