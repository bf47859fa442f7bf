"""A gated recurrent unit on sparse voxels: what is remembered meets what is seen."""

import torch
from torch import Tensor, nn

from gnesf_core.nets.spvcnn import SparseConv
from gnesf_core.shapes import Float
from gnesf_core.sparse.engine import Engine
from gnesf_core.sparse.sites import Sites


class _Gate(nn.Module):
    """A sparse convolution beside a linear layer of each voxel alone."""

    def __init__(self, channels: int, engine: Engine) -> None:
        super().__init__()
        self.conv = SparseConv(2 * channels, channels, "submanifold", engine)
        self.point = nn.Linear(2 * channels, channels)

    def forward(
        self, features: Float[Tensor, "n both"], sites: Sites
    ) -> Float[Tensor, "n c"]:
        return self.conv(features, sites) + self.point(features)


class ConvGru(nn.Module):
    """Cho et al.'s gated recurrent unit with sparse convolutions.

    Every gate sees the same voxels. (In the released code of NeuralRecon and GNeSF the
    reset gate reads coordinates that the update gate has rescaled.)
    """

    def __init__(self, channels: int, engine: Engine) -> None:
        super().__init__()
        self.update = _Gate(channels, engine)
        self.reset = _Gate(channels, engine)
        self.candidate = _Gate(channels, engine)
        # At first what is seen takes the place of what is remembered, squashed, and
        # where nothing is seen (zeros; features are sums of rectified ones, about 1 on
        # average) what is remembered stays. So a network that was trained without
        # memory goes on from about where it was.
        for gate in (self.update, self.reset, self.candidate):
            nn.init.normal_(gate.conv.weight, std=1e-3)
        with torch.no_grad():
            self.update.point.weight.zero_()
            self.update.point.weight[:, channels:] = 4 / channels
            self.update.point.bias.fill_(-2.0)
            self.candidate.point.weight.zero_()
            self.candidate.point.weight[:, channels:] = torch.eye(channels)
            self.candidate.point.bias.zero_()

    def forward(
        self,
        remembered: Float[Tensor, "n c"],
        seen: Float[Tensor, "n c"],
        sites: Sites,
    ) -> Float[Tensor, "n c"]:
        """Return what is remembered from now on."""
        both = torch.cat([remembered, seen], 1)
        update = self.update(both, sites).sigmoid()
        reset = self.reset(both, sites).sigmoid()
        both = torch.cat([reset * remembered, seen], 1)
        candidate = self.candidate(both, sites).tanh()
        return (1 - update) * remembered + update * candidate
