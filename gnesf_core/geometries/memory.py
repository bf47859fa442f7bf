"""Features of a scene's voxels that outlive a fragment.

Features grow with the number of voxels that are remembered, thus with the surface; a
4-byte number per voxel of the whole box finds them. What is done for a fragment costs
no more in a large scene than in a small one.
"""

import math

import torch
from torch import Tensor

from gnesf_core.shapes import Float, Int64


class Memory:
    """Features of some of the voxels of a box, read and replaced by smaller boxes.

    Coordinates are voxels of the level's own size. Nothing here has a gradient: what
    comes from an earlier fragment is given.
    """

    def __init__(
        self,
        lower: Int64[Tensor, " 3"],
        shape: tuple[int, int, int],
        channels: int,
        device: torch.device,
    ) -> None:
        self.lower = lower.cpu()
        # A number per voxel of the box is what lets a fragment find its own at once.
        self._rows = torch.full(shape, -1, dtype=torch.int32, device=device)
        self._features = torch.zeros(0, channels, device=device)
        self._free = torch.zeros(0, dtype=torch.int64, device=device)
        self._used = 0  # rows that were ever given out

    def __len__(self) -> int:
        return self._used - len(self._free)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return how many voxels the box has along each axis."""
        x, y, z = self._rows.shape
        return x, y, z

    @property
    def device(self) -> torch.device:
        """Return where the features are."""
        return self._features.device

    def like(self, channels: int) -> "Memory":
        """Return an empty memory of the same box, for other features."""
        return Memory(self.lower, self.shape, channels, self.device)

    @property
    def nbytes(self) -> int:
        """Return the bytes that features and the grid of rows take."""
        return self._features.nbytes + self._rows.nbytes

    def read(
        self, lower: Int64[Tensor, " 3"], shape: tuple[int, int, int]
    ) -> tuple[Int64[Tensor, "n 3"], Float[Tensor, "n c"]]:
        """Return what is remembered in a box, with coordinates from its first voxel."""
        rows = self._box(lower, shape)
        inside = rows >= 0
        return inside.nonzero(), self._features[rows[inside].long()]

    def replace(
        self,
        lower: Int64[Tensor, " 3"],
        shape: tuple[int, int, int],
        xyz: Int64[Tensor, "n 3"],
        features: Float[Tensor, "n c"],
    ) -> None:
        """Forget what is remembered in a box, and remember this instead."""
        rows = self._box(lower, shape)
        known = rows >= 0
        freed = rows[known].long()
        rows[known] = -1
        self._free = torch.cat([self._free, freed])
        given = self._take(len(xyz))
        rows[tuple(xyz.T)] = given.int()
        self._features[given] = features.detach().to(self._features.dtype)

    def _box(self, lower: Int64[Tensor, " 3"], shape: tuple[int, int, int]) -> Tensor:
        """Return a view of the rows of a box, which must lie in the whole."""
        start = (lower.cpu() - self.lower).tolist()
        stop = [a + n for a, n in zip(start, shape, strict=True)]
        assert min(start) >= 0
        assert all(b <= n for b, n in zip(stop, self._rows.shape, strict=True))
        return self._rows[tuple(map(slice, start, stop))]

    def _take(self, count: int) -> Int64[Tensor, " count"]:
        """Give out rows, those that were freed first."""
        reused, self._free = self._free[:count], self._free[count:]
        fresh = count - len(reused)
        capacity = len(self._features)
        if self._used + fresh > capacity:
            # Half as much again each time: the cost of growing stays small on average.
            more = max(self._used + fresh, math.ceil(1.5 * capacity)) - capacity
            blank = self._features.new_zeros(more, self._features.shape[1])
            self._features = torch.cat([self._features, blank])
        new = torch.arange(self._used, self._used + fresh, device=self._rows.device)
        self._used += fresh
        return torch.cat([reused, new])
