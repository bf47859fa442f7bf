"""IBRNet's picture encoder: a U-Net on the first stages of a residual network.

Modules have the names and shapes of the released code, so that weights of it fit.

Strided convolutions put column c of their map above column `STRIDE` c of the picture.
The released code grows coarser maps, and samples the finest, as if corner pixels were
above each other: at the far edges of small pictures it is several pixels off. `exact`
maps are not; IBRNet, whose weights are to fit, keeps to the released ones.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from gnesf_core.shapes import Float

STRIDE = 4  # pixels of a picture, from one pixel of its map to the next


class ResUNet(nn.Module):
    """Feature maps at 1/4 of the size of pictures, which have 17 x 17 pixels or more.

    Statistics of norms are those of each picture: features of a view do not depend on
    its company, and are the same in training.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        widths: Sequence[int],
        outputs: int,
        exact: bool = False,
    ) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.conv1 = _convolution(3, fine, 7, stride=2)
        self.bn1 = _norm(fine)
        self.layer1 = _stage(fine, fine, blocks[0])
        self.layer2 = _stage(fine, middle, blocks[1])
        self.layer3 = _stage(middle, coarse, blocks[2])
        self.upconv3 = _Up(coarse, middle, exact)
        self.iconv3 = _Join(2 * middle, middle)
        self.upconv2 = _Up(middle, fine, exact)
        self.iconv2 = _Join(2 * fine, outputs)
        self.out_conv = nn.Conv2d(outputs, outputs, 1)

    def forward(
        self, pictures: Float[Tensor, "n 3 h w"]
    ) -> Float[Tensor, "n outputs _ _"]:
        """Return features of RGB pictures, 0..1."""
        stem = functional.relu(self.bn1(self.conv1(pictures)))
        fine = self.layer1(stem)
        middle = self.layer2(fine)
        coarse = self.layer3(middle)
        joined = self.iconv3(self.upconv3(coarse, middle))
        return self.out_conv(self.iconv2(self.upconv2(joined, fine)))


class _Block(nn.Module):
    """Two convolutions, and the values that they started from."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(inner, outer, 3, stride)
        self.bn1 = _norm(outer)
        self.conv2 = _convolution(outer, outer, 3)
        self.bn2 = _norm(outer)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1:
            self.downsample = nn.Sequential(
                _convolution(inner, outer, 1, stride), _norm(outer)
            )

    def forward(self, values: Float[Tensor, "n c h w"]) -> Float[Tensor, "n _ _ _"]:
        new = functional.relu(self.bn1(self.conv1(values)))
        return functional.relu(self.bn2(self.conv2(new)) + self.downsample(values))


class _Join(nn.Module):
    """A convolution, norm and ELU."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.conv = _convolution(inner, outer, 3, bias=True)
        self.bn = _norm(outer)

    def forward(self, values: Float[Tensor, "n c h w"]) -> Float[Tensor, "n _ h w"]:
        return functional.elu(self.bn(self.conv(values)))


class _Up(nn.Module):
    """Bring a map to the size of a finer one, and put that behind it."""

    def __init__(self, inner: int, outer: int, exact: bool) -> None:
        super().__init__()
        self.conv = _Join(inner, outer)
        self._exact = exact

    def forward(
        self, values: Float[Tensor, "n c _ _"], finer: Float[Tensor, "n d h w"]
    ) -> Float[Tensor, "n _ h w"]:
        size = finer.shape[2:]
        if self._exact:
            grown = _doubled(_doubled(values, 2, size[0]), 3, size[1])
        else:
            # It may be odd: there the released code doubles, and pads the finer map,
            # which then is moved against the picture.
            grown = functional.interpolate(
                values, size, mode="bilinear", align_corners=True
            )
        return torch.cat([self.conv(grown), finer], 1)


def _doubled(
    values: Float[Tensor, "n c _ _"], axis: int, size: int
) -> Float[Tensor, "n c _ _"]:
    """Put new rows (axis 2) or columns (3) amid those that there are."""
    place = torch.arange(size, device=values.device)
    low, last = place // 2, values.shape[axis] - 1
    high = ((place + 1) // 2).clamp(max=last)
    return (values.index_select(axis, low) + values.index_select(axis, high)) / 2


def _stage(inner: int, outer: int, blocks: int) -> nn.Sequential:
    """Return blocks, the first of which halves the size."""
    later = (_Block(outer, outer, 1) for _ in range(blocks - 1))
    return nn.Sequential(_Block(inner, outer, 2), *later)


def _convolution(
    inner: int, outer: int, kernel: int, stride: int = 1, *, bias: bool = False
) -> nn.Conv2d:
    return nn.Conv2d(
        inner, outer, kernel, stride, kernel // 2, bias=bias, padding_mode="reflect"
    )


def _norm(channels: int) -> nn.InstanceNorm2d:
    return nn.InstanceNorm2d(channels, affine=True)
