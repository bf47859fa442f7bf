"""Feature maps of pictures: MnasNet under torchvision's names, and a pyramid on it."""

import re
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from gnesf_core.errors import BadInput
from gnesf_core.nets.norm import BatchNorm
from gnesf_core.nets.pictures import normalize
from gnesf_core.shapes import Float, Shaped
from gnesf_core.training.weights import misfit, read_weights

STRIDES = (4, 8, 16)  # of the maps, fine to coarse

# Weights that crawl keep statistics that crawl; torchvision has this everywhere.
_PRETRAINED_MOMENTUM = 1 - 0.9997
_FIRST_MAP = 8  # its layers 8, 9 and 10 end with a map each
_NOT_USED = re.compile(r"layers\.1[1-6]\.|classifier\.")


class MnasNet(nn.Module):
    """MnasNet up to maps of 1/16 size: torchvision's `layers.0` to `layers.10`.

    Kernels are odd and padded by half their size, so pixel (i, j) of a map at 1/s is
    centred on pixel (s i, s j) of the picture.
    """

    def __init__(self, width: float) -> None:
        super().__init__()
        depths = (32, 16, 24, 40, 80)
        stem, thin, *channels = (_rounded(depth * width) for depth in depths)
        self.channels = tuple(channels)  # of the maps, fine to coarse
        self.layers = nn.Sequential(
            *_convolution(3, stem, 3, stride=2),
            nn.ReLU(inplace=True),
            *_convolution(stem, stem, 3, groups=stem),
            nn.ReLU(inplace=True),
            *_convolution(stem, thin, 1),
            _stack(thin, channels[0], kernel=3, expansion=3),
            _stack(channels[0], channels[1], kernel=5, expansion=3),
            _stack(channels[1], channels[2], kernel=5, expansion=6),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(
        self, pictures: Float[Tensor, "n 3 h w"]
    ) -> list[Float[Tensor, "n _ _ _"]]:
        """Return maps at 1/4, 1/8 and 1/16 of normalised pictures."""
        maps, values = [], pictures
        for number, layer in enumerate(self.layers):
            values = layer(values)
            if number >= _FIRST_MAP:
                maps.append(values)
        return maps


class _Block(nn.Module):
    """Widen, convolve each channel by itself, narrow; add, if shapes allow."""

    def __init__(
        self, inner: int, outer: int, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        wide = inner * expansion
        self.layers = nn.Sequential(
            *_convolution(inner, wide, 1),
            nn.ReLU(inplace=True),
            *_convolution(wide, wide, kernel, stride=stride, groups=wide),
            nn.ReLU(inplace=True),
            *_convolution(wide, outer, 1),
        )
        self._adds = inner == outer and stride == 1

    def forward(self, values: Float[Tensor, "n c h w"]) -> Float[Tensor, "n _ _ _"]:
        return self.layers(values) + values if self._adds else self.layers(values)


def _stack(inner: int, outer: int, *, kernel: int, expansion: int) -> nn.Sequential:
    """Return three blocks, the first of which halves the size."""
    return nn.Sequential(
        _Block(inner, outer, kernel, 2, expansion),
        *(_Block(outer, outer, kernel, 1, expansion) for _ in range(2)),
    )


def _convolution(
    inner: int, outer: int, kernel: int, stride: int = 1, groups: int = 1
) -> tuple[nn.Conv2d, BatchNorm]:
    padding = kernel // 2
    convolution = nn.Conv2d(
        inner, outer, kernel, stride, padding, groups=groups, bias=False
    )
    return convolution, BatchNorm(outer)


def _rounded(channels: float) -> int:
    """Return the nearest multiple of 8, or the next if that is over 10 % too few."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


class Pyramid(nn.Module):
    """NeuralRecon's encoder: maps at 1/4, 1/8 and 1/16, the coarse seen by the fine.

    A coarse map is repeated, not interpolated, to join the next finer one. So what it
    adds there may be half a coarse pixel away; the finer map's own part is in place.
    """

    def __init__(self, width: float) -> None:
        super().__init__()
        self.encoder = MnasNet(width)
        self.channels = self.encoder.channels
        fine, middle, coarse = self.channels
        self.out1 = nn.Conv2d(coarse, coarse, 1, bias=False)
        self.inner1 = nn.Conv2d(middle, coarse, 1)
        self.out2 = nn.Conv2d(coarse, middle, 3, padding=1, bias=False)
        self.inner2 = nn.Conv2d(fine, coarse, 1)
        self.out3 = nn.Conv2d(coarse, fine, 3, padding=1, bias=False)
        # Channels side by side: half as long again without it, and whoever samples
        # the maps wants them so.
        self.to(memory_format=torch.channels_last)

    def forward(
        self, pictures: Shaped[Tensor, "n 3 h w"]
    ) -> list[Float[Tensor, "n _ _ _"]]:
        """Return maps of RGB pictures, 0..255, the finest first.

        Pixel (u, v) of a picture is at (u, v) / stride in a map.
        """
        height, width = pictures.shape[2:]
        if height % STRIDES[-1] or width % STRIDES[-1]:
            raise ValueError(f"{width} x {height} are no multiples of {STRIDES[-1]}")
        normalised = normalize(pictures).to(self.out1.weight.dtype)
        normalised = normalised.contiguous(memory_format=torch.channels_last)
        fine, middle, coarse = self.encoder(normalised)
        joined = _doubled(coarse) + self.inner1(middle)
        finest = _doubled(joined) + self.inner2(fine)
        return [self.out3(finest), self.out2(joined), self.out1(coarse)]


def _doubled(values: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c _ _"]:
    return functional.interpolate(values, scale_factor=2, mode="nearest")


def load_imagenet(pyramid: Pyramid, path: Path) -> None:
    """Start a pyramid's encoder from a checkpoint of torchvision's MnasNet.

    Its statistics then change as slowly as torchvision's do.
    """
    tensors, _ = read_weights(path)
    used = {name: t for name, t in tensors.items() if not _NOT_USED.match(name)}
    if complaint := misfit(pyramid.encoder, used):
        raise BadInput(
            path,
            "names",
            expected="torchvision's MnasNet of the configured width",
            found=complaint,
            # Early releases left the stem at 32 channels, whatever the width.
            remedy="take mnasnet1_0 with width 1, or weights from a current "
            "torchvision with their own width",
        )
    pyramid.encoder.load_state_dict(used)
    for module in pyramid.encoder.modules():
        if isinstance(module, BatchNorm):
            module.momentum = _PRETRAINED_MOMENTUM
