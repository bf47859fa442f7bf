"""LPIPS: how different two pictures look to a network trained on photographs.

Zhang et al., *The Unreasonable Effectiveness of Deep Features as a Perceptual Metric*,
CVPR 2018, version 0.1 with VGG16. Features of five layers are scaled to unit length at
each pixel; their squared differences are weighed channel by channel, averaged over
pixels and added up. Weights come from two files that the user has: torchvision's VGG16,
and the channels' weights as the `lpips` package holds them (`weights/v0.1/vgg.pth`).
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from gnesf_core.errors import BadInput
from gnesf_core.shapes import Float
from gnesf_core.training.weights import misfit, read_weights

SMALLEST = 16  # pixels on a side, of which four halvings leave one

# Channels of convolutions, as torchvision lists VGG16's; "M" halves the size.
_LAYERS = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M",
           512, 512, 512, "M", 512, 512, 512)  # fmt: skip
_CHANNELS = (64, 128, 256, 512, 512)  # of the last layer before each halving
# ImageNet's statistics for colours in -1..1, to the digits that LPIPS has.
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_TINY = 1e-10  # keeps features of length 0 where they are


class _Features(nn.Module):
    """VGG16 up to its last convolution, under torchvision's names."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inner = 3
        for outer in _LAYERS:
            if outer == "M":
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(inner, outer, 3, padding=1), nn.ReLU(inplace=True)]
            inner = outer
        self.features = nn.Sequential(*layers)

    def forward(
        self, values: Float[Tensor, "n 3 h w"]
    ) -> list[Float[Tensor, "n _ _ _"]]:
        """Return what each size ends with."""
        maps = []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                maps.append(values)
            values = layer(values)
        return [*maps, values]


class _Channels(nn.Module):
    """The weights of channels, under the names of the `lpips` package."""

    def __init__(self) -> None:
        super().__init__()
        for number, channels in enumerate(_CHANNELS):
            weight = nn.Conv2d(channels, 1, 1, bias=False)
            own = nn.Sequential(nn.Identity(), weight)  # there, the first drops out
            self.add_module(f"lin{number}", nn.ModuleDict({"model": own}))

    def forward(
        self, differences: list[Float[Tensor, "n _ _ _"]]
    ) -> Float[Tensor, " n"]:
        """Weigh channels, average over pixels, add up layers."""
        parts = [
            layer["model"](values).mean((1, 2, 3))
            for layer, values in zip(self.children(), differences, strict=True)
        ]
        return torch.stack(parts).sum(0)


class Lpips(nn.Module):
    """Distances of pictures by VGG16; 0 for equal ones."""

    def __init__(self) -> None:
        super().__init__()
        self.vgg, self.linear = _Features(), _Channels()
        for name, values in (("shift", _SHIFT), ("scale", _SCALE)):
            self.register_buffer(name, torch.tensor(values)[:, None, None])
        self.requires_grad_(False).eval()

    def forward(
        self, first: Float[Tensor, "n 3 h w"], second: Float[Tensor, "n 3 h w"]
    ) -> Float[Tensor, " n"]:
        """Return the distances of pictures, which the network expects in -1..1."""
        if min(first.shape[2:]) < SMALLEST:
            raise ValueError(f"pictures: expected at least {SMALLEST} pixels a side")
        pairs = zip(self._directions(first), self._directions(second), strict=True)
        return self.linear([(one - other) ** 2 for one, other in pairs])

    def _directions(
        self, pictures: Float[Tensor, "n 3 h w"]
    ) -> list[Float[Tensor, "n _ _ _"]]:
        maps = self.vgg((pictures - self.shift) / self.scale)
        return [values / (values.norm(dim=1, keepdim=True) + _TINY) for values in maps]

    @torch.inference_mode()
    def distance(
        self,
        picture: Float[np.ndarray, "h w 3"],
        truth: Float[np.ndarray, "h w 3"],
        signed: bool,
    ) -> float:
        """Return the distance of two pictures with colours 0..1.

        `signed` brings them to -1..1 first; some published figures left that out.
        """
        pair = torch.from_numpy(np.stack([picture, truth]))
        pair = pair.permute(0, 3, 1, 2).to(self.shift)
        first, second = (pair * 2 - 1 if signed else pair).split(1)
        return float(self(first, second))


def read_lpips(vgg: Path, linear: Path) -> Lpips:
    """Return LPIPS with the weights of two files, safetensors or state dicts."""
    network = Lpips()
    tensors, _ = read_weights(vgg)
    used = {name: t for name, t in tensors.items() if name.startswith("features.")}
    _load(network.vgg, vgg, used, "torchvision's VGG16 without batch norm")
    tensors, _ = read_weights(linear)
    _load(network.linear, linear, tensors, "the VGG16 weights of `lpips`, v0.1")
    return network


def _load(module: nn.Module, path: Path, tensors: dict[str, Tensor], what: str) -> None:
    if complaint := misfit(module, tensors):
        remedy = f"give {what}"
        raise BadInput(path, "names", expected=what, found=complaint, remedy=remedy)
    module.load_state_dict(tensors)
