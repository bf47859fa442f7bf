"""The sparse 3D network of NeuralRecon: an encoder-decoder beside a branch of points.

Voxels are aligned with the world's axes, so the points of the second branch are the
voxels' centres, and bringing features from voxels to points at the finest scale is the
identity. (The released code turns points with the camera and lets them collide.)
"""

import torch
from torch import Tensor, nn

from gnesf_core.nets.norm import BatchNorm
from gnesf_core.shapes import Float
from gnesf_core.sparse.engine import Engine
from gnesf_core.sparse.sites import Sites


class SparseConv(nn.Module):
    """A sparse convolution without bias: 3x3x3 in place, or 2x2x2 down or up."""

    def __init__(self, inputs: int, outputs: int, kind: str, engine: Engine) -> None:
        super().__init__()
        offsets = 27 if kind == "submanifold" else 8
        # A voxel that goes up meets one of the 8 weights.
        fan_in = inputs * (1 if kind == "up" else offsets)
        self.weight = nn.Parameter(torch.empty(offsets, inputs, outputs))
        nn.init.normal_(self.weight, std=(2 / fan_in) ** 0.5)
        self._apply_kernel = getattr(engine, kind)

    def forward(
        self, features: Float[Tensor, "n inputs"], sites: Sites
    ) -> Float[Tensor, "m outputs"]:
        """Convolve; `sites` are the finer of the voxels that come in and go out."""
        return self._apply_kernel(features, self.weight, sites)


class ConvNorm(nn.Module):
    """A sparse convolution and its batch norm."""

    def __init__(self, inputs: int, outputs: int, kind: str, engine: Engine) -> None:
        super().__init__()
        self.conv = SparseConv(inputs, outputs, kind, engine)
        self.norm = BatchNorm(outputs)

    def forward(
        self, features: Float[Tensor, "n inputs"], sites: Sites
    ) -> Float[Tensor, "m outputs"]:
        """Convolve, then normalize."""
        return self.norm(self.conv(features, sites))


class Residual(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, inputs: int, outputs: int, engine: Engine) -> None:
        super().__init__()
        self.first = ConvNorm(inputs, outputs, "submanifold", engine)
        self.second = ConvNorm(outputs, outputs, "submanifold", engine)
        self.around: nn.Module = nn.Identity()
        if inputs != outputs:
            linear = nn.Linear(inputs, outputs, bias=False)
            self.around = nn.Sequential(linear, BatchNorm(outputs))

    def forward(
        self, features: Float[Tensor, "n inputs"], sites: Sites
    ) -> Float[Tensor, "n outputs"]:
        """Add what the convolutions make of the features to the features."""
        inner = self.first(features, sites).relu()
        return (self.second(inner, sites) + self.around(features)).relu()


class _Scale(nn.Module):
    """A change of scale, then two residual blocks."""

    def __init__(
        self, inputs: int, middle: int, skipped: int, outputs: int, engine: Engine
    ) -> None:
        super().__init__()
        kind = "up" if skipped else "down"
        self.change = ConvNorm(inputs, middle, kind, engine)
        self.blocks = nn.ModuleList(
            [
                Residual(middle + skipped, outputs, engine),
                Residual(outputs, outputs, engine),
            ]
        )

    def forward(
        self,
        features: Float[Tensor, "n inputs"],
        finer: Sites,
        sites: Sites,
        skipped: Float[Tensor, "m skipped"] | None = None,
    ) -> Float[Tensor, "m outputs"]:
        """Go to the voxels `sites`; `finer` are the finer ones of before and after."""
        features = self.change(features, finer).relu()
        if skipped is not None:
            features = torch.cat([features, skipped], 1)
        for block in self.blocks:
            features = block(features, sites)
        return features


class Spvcnn(nn.Module):
    """Features of voxels -> features of the same voxels that know their surroundings.

    Widths are 1/3, 2/3, 4/3, 1 and 1 times `channels`, which come out.
    """

    def __init__(self, inputs: int, channels: int, engine: Engine) -> None:
        super().__init__()
        c0, c1, c2 = channels // 3, 2 * channels // 3, 4 * channels // 3
        self.stem = ConvNorm(inputs, c0, "submanifold", engine)
        self.down1 = _Scale(c0, c0, 0, c1, engine)
        self.down2 = _Scale(c1, c1, 0, c2, engine)
        self.up1 = _Scale(c2, channels, c1, channels, engine)
        self.up2 = _Scale(channels, channels, c0, channels, engine)
        self.points1 = _pointwise(c0, c2)
        self.points2 = _pointwise(c2, channels)

    def forward(
        self, features: Float[Tensor, "n inputs"], sites: Sites
    ) -> Float[Tensor, "n channels"]:
        """Aggregate the features of voxels."""
        half = sites.coarser
        quarter = half.coarser
        x0 = self.stem(features, sites).relu()
        x1 = self.down1(x0, sites, half)
        x2 = self.down2(x1, half, quarter)
        z1 = interpolate(x2, quarter, sites, 4) + self.points1(x0)
        y = mean_by(z1, half.parent[sites.parent], len(quarter))
        y = self.up1(y, half, half, x1)
        y = self.up2(y, sites, sites, x0)
        return y + self.points2(z1)


def _pointwise(inputs: int, outputs: int) -> nn.Module:
    linear = nn.Linear(inputs, outputs)
    return nn.Sequential(linear, BatchNorm(outputs), nn.ReLU())


def interpolate(
    features: Float[Tensor, "m c"], coarse: Sites, fine: Sites, factor: int
) -> Float[Tensor, "n c"]:
    """Interpolate trilinearly between coarse voxels, at the centres of fine ones."""
    rows, weights = fine.interpolation(coarse, factor)
    return nn.functional.embedding_bag(
        rows, features, per_sample_weights=weights.to(features.dtype), mode="sum"
    )


def mean_by(
    features: Float[Tensor, "n c"], group: Tensor, groups: int
) -> Float[Tensor, "m c"]:
    """Average the features of each group."""
    values = features.to(torch.promote_types(features.dtype, torch.float32))
    total = values.new_zeros(groups, values.shape[1]).index_add(0, group, values)
    count = torch.bincount(group, minlength=groups).clamp(min=1)
    return (total / count[:, None]).to(features.dtype)
