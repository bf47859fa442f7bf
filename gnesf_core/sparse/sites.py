"""Active voxels of one level, and who is whose neighbour, child or corner.

A voxel is (batch, x, y, z), packed into one integer key so that a step along an axis
is a constant added to the key. Keys are sorted once; every map is then a search in
the sorted keys. Maps are made when first asked for and kept, because all layers of a
level use the same ones.
"""

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from gnesf_core.shapes import Bool, Float32, Int, Int32, Int64

_BITS = 16  # of x, y and z each; the batch has what is left
_BATCH, _X, _Y, _Z = 1 << 3 * _BITS, 1 << 2 * _BITS, 1 << _BITS, 1
_OFFSET = 1 << _BITS - 1  # makes coordinates positive
MOST = _OFFSET - 2  # of a coordinate, either way: one step further does not carry over
MOST_BATCH = 2**15 - 2
_NO_KEY = 2**63 - 1  # larger than every key

CENTRE = 13  # index of offset (0, 0, 0) of the 27
# Steps in (x, y) that lead to the columns of later keys; of the 27 offsets they are
# numbers 14 (the voxel above), 15..17, 18..20, 21..23 and 24..26.
_COLUMNS_AHEAD = ((0, 1), (1, -1), (1, 0), (1, 1))

Pair = tuple[Int64[Tensor, " _"], Int64[Tensor, " _"]]  # rows that meet, two by two
Pairs = tuple[Pair, ...]


class Sites:
    """Voxels at which features exist; row i of a feature tensor belongs to voxel i.

    Rows are kept in the order given. They must be unique, with coordinates within
    +-`MOST` and batches 0..`MOST_BATCH`; this is checked, at the cost of one
    synchronization on CUDA.
    """

    def __init__(self, batch_xyz: Int[Tensor, "n 4"]) -> None:
        self.batch_xyz: Int64[Tensor, "n 4"] = batch_xyz.long()
        self._sorted_keys, self._order = _pack(self.batch_xyz).sort()
        if not (_in_range(self.batch_xyz).all() & self._unique()):
            raise ValueError(
                f"sites: expected unique voxels with |x|, |y|, |z| <= {MOST} and "
                f"batches 0..{MOST_BATCH}; remedy: Tensor.unique(dim=0)"
            )
        self.derived: dict[str, object] = {}  # what engines keep, under their own keys
        self._interpolations: dict[tuple[Sites, int], tuple[Tensor, Tensor]] = {}

    def _unique(self) -> Bool[Tensor, ""]:
        return (self._sorted_keys[1:] != self._sorted_keys[:-1]).all()

    def __len__(self) -> int:
        return len(self.batch_xyz)

    @property
    def device(self) -> torch.device:
        """Where the sites and all their maps live."""
        return self.batch_xyz.device

    def lookup(self, batch_xyz: Int[Tensor, "queries 4"]) -> Int64[Tensor, " queries"]:
        """Return the row of each voxel, -1 where it is not active."""
        wanted = batch_xyz.long()
        keys = torch.where(_in_range(wanted), _pack(wanted), -1)
        places = _search(self._sorted_keys, keys)
        return torch.where(self._keys_then_end[places] == keys, self._rows[places], -1)

    @cached_property
    def _keys_then_end(self) -> Int64[Tensor, " n_plus_1"]:
        """The sorted keys and one that is never found: any search result is valid."""
        return torch.cat([self._sorted_keys, self._sorted_keys.new_full((1,), _NO_KEY)])

    @cached_property
    def _rows(self) -> Int64[Tensor, " n_plus_1"]:
        """Rows in the order of the keys, then -1."""
        return torch.cat([self._order, self._order.new_full((1,), -1)])

    def _column(
        self,
        lowest: Int64[Tensor, " queries"],
        places: Int64[Tensor, " queries"],
        height: int,
    ) -> list[Int32[Tensor, " queries"]]:
        """Return places of voxels stacked upon `lowest`, len(self) where inactive.

        `places` is where the lowest is, or would be. Voxels of a column are adjacent
        keys, so one search finds the whole column.
        """
        found = []
        for step in range(height):
            hit = self._keys_then_end.index_select(0, places) == lowest + step
            found.append(torch.where(hit, places, len(self)).int())
            places = places + hit
        return found

    @cached_property
    def _ahead(self) -> Int32[Tensor, "13 n"]:
        """Places of the neighbours at offsets 14..26 of each site in order of keys.

        The other half is the same pairs seen from their other ends.
        """
        keys = self._sorted_keys
        places = torch.arange(1, len(self) + 1, device=self.device)
        found = self._column(keys + _Z, places, 1)
        for dx, dy in _COLUMNS_AHEAD:
            lowest = keys + (dx * _X + dy * _Y - _Z)
            found += self._column(lowest, _search(keys, lowest), 3)
        return torch.stack(found)

    @cached_property
    def fill(self) -> float:
        """Share of the 27 neighbours that are active, over all sites."""
        ahead = int((self._ahead < len(self)).sum())
        return (2 * ahead + len(self)) / max(27 * len(self), 1)

    @cached_property
    def pairs(self) -> Pairs:
        """Rows (inputs, outputs) for each of the 27 offsets: input = output + offset.

        Offset (dx, dy, dz) in -1..1 has number (dx + 1) * 9 + (dy + 1) * 3 + dz + 1.
        Within one offset no row occurs twice among inputs, nor among outputs; at the
        `CENTRE` both are the same tensor, all rows in order.
        """
        ahead = []
        for places in self._ahead:
            here = (places < len(self)).nonzero().squeeze(1)
            there = places.index_select(0, here)
            ahead.append((self._order[there], self._order[here]))
        behind = [(outputs, inputs) for inputs, outputs in reversed(ahead)]
        itself = torch.arange(len(self), device=self.device)
        return (*behind, (itself, itself), *ahead)

    @cached_property
    def neighbours(self) -> Int32[Tensor, "n 27"]:
        """Row of each of the 27 neighbours (numbered as `pairs`), -1 where absent."""
        bin_ = len(self)  # what is absent writes into a last column, thrown away
        rows = self._rows.int()
        targets = torch.cat([self._order, self._order.new_full((1,), bin_)])
        table = rows.new_full((27, bin_ + 1), -1)
        table[CENTRE] = torch.arange(bin_ + 1, device=self.device)
        for number, places in enumerate(self._ahead, start=CENTRE + 1):
            table[number].index_copy_(0, self._order, rows.index_select(0, places))
            there = targets.index_select(0, places)
            table[26 - number].index_copy_(0, there, rows[:-1])
        return table[:, :-1].T.contiguous()

    @cached_property
    def box(self) -> tuple[Int64[Tensor, " n"], tuple[int, int, int, int]]:
        """Places of the sites in a dense grid (batch, x, y, z), and the grid's shape.

        The grid of each batch begins at the batch's own smallest coordinates.
        """
        if len(self) == 0:
            return self._order, (0, 0, 0, 0)
        batch, xyz = self.batch_xyz[:, 0], self.batch_xyz[:, 1:]
        batch = batch - batch.min()
        lower = xyz.new_full((int(batch.max()) + 1, 3), MOST)
        lower = lower.scatter_reduce(0, batch[:, None].expand(-1, 3), xyz, "amin")
        x, y, z = (xyz - lower[batch]).unbind(1)
        nx, ny, nz = (int(axis.max()) + 1 for axis in (x, y, z))
        place = ((batch * nx + x) * ny + y) * nz + z
        return place, (len(lower), nx, ny, nz)

    @cached_property
    def _coarser_and_parent(self) -> "tuple[Sites, Int64[Tensor, ' n']]":
        coarse_xyz = self.batch_xyz.clone()
        coarse_xyz[:, 1:] >>= 1  # rounds down, below zero as well
        keys, parent = _pack(coarse_xyz).unique(return_inverse=True)
        return Sites(_unpack(keys)), parent

    @property
    def coarser(self) -> "Sites":
        """Sites of the next level: voxels twice as large that have an active child."""
        return self._coarser_and_parent[0]

    @property
    def parent(self) -> Int64[Tensor, " n"]:
        """Row of `coarser` that each site lies in."""
        return self._coarser_and_parent[1]

    @cached_property
    def child(self) -> Int64[Tensor, " n"]:
        """Place of each site in its parent: dx * 4 + dy * 2 + dz, each 0 or 1."""
        _, x, y, z = (self.batch_xyz & 1).unbind(1)
        return x * 4 + y * 2 + z

    @cached_property
    def families(self) -> Pairs:
        """Rows (here, of `coarser`) of the children at each of the 8 places."""
        rows = self.child.argsort(stable=True)
        counts = torch.bincount(self.child, minlength=8).tolist()
        children, parents = rows.split(counts), self.parent[rows].split(counts)
        return tuple(zip(children, parents, strict=True))

    def interpolation(
        self, coarse: "Sites", factor: int
    ) -> tuple[Int64[Tensor, "n 8"], Float32[Tensor, "n 8"]]:
        """Return rows of `coarse` around each site and their trilinear weights.

        Coarse voxels are `factor` times as large, and coarse voxel I has the same
        centre as voxel I * factor here. Corners that are not active get row 0 and
        weight 0, and the others share their weight; with no active corner all are 0.
        """
        if (coarse, factor) not in self._interpolations:
            self._interpolations[coarse, factor] = self._corners(coarse, factor)
        return self._interpolations[coarse, factor]

    def _corners(
        self, coarse: "Sites", factor: int
    ) -> tuple[Int64[Tensor, "n 8"], Float32[Tensor, "n 8"]]:
        lower = self.batch_xyz.clone()
        lower[:, 1:] = lower[:, 1:].div(factor, rounding_mode="floor")
        part = (self.batch_xyz - lower * factor)[:, 1:].float() / factor
        sides = torch.stack([1 - part, part], dim=2)  # n, axis, lower or upper
        weights = (
            sides[:, 0, :, None, None]
            * sides[:, 1, None, :, None]
            * sides[:, 2, None, None, :]
        ).flatten(1)
        key, places = _pack(lower), []
        for step in (0, _Y, _X, _X + _Y):
            first = _search(coarse._sorted_keys, key + step)
            places += coarse._column(key + step, first, 2)
        rows = coarse._rows[torch.stack(places, dim=1)]
        weights = weights * (rows >= 0)
        total = weights.sum(1, keepdim=True)
        return rows.clamp(min=0), weights / torch.where(total > 0, total, 1)


def _search(
    sorted_keys: Int64[Tensor, " n"], wanted: Int64[Tensor, " queries"]
) -> Int64[Tensor, " queries"]:
    """Return how many keys are smaller than each wanted one."""
    if sorted_keys.is_cuda:
        return torch.searchsorted(sorted_keys, wanted)
    # NumPy continues from the last result: twice as fast where queries are sorted.
    found = np.searchsorted(sorted_keys.numpy(), wanted.numpy())
    return torch.from_numpy(found)


def _pack(batch_xyz: Int64[Tensor, "n 4"]) -> Int64[Tensor, " n"]:
    batch, x, y, z = batch_xyz.unbind(1)
    return batch * _BATCH + (x + _OFFSET) * _X + (y + _OFFSET) * _Y + (z + _OFFSET)


def _unpack(keys: Int64[Tensor, " n"]) -> Int64[Tensor, "n 4"]:
    batch = keys >> 3 * _BITS
    xyz = [
        (keys >> shift & 2 * _OFFSET - 1) - _OFFSET for shift in (2 * _BITS, _BITS, 0)
    ]
    return torch.stack([batch, *xyz], dim=1)


def _in_range(batch_xyz: Int64[Tensor, "n 4"]) -> Bool[Tensor, " n"]:
    batch, xyz = batch_xyz[:, 0], batch_xyz[:, 1:]
    inside = (xyz >= -MOST) & (xyz <= MOST)
    return inside.all(1) & (batch >= 0) & (batch <= MOST_BATCH)
