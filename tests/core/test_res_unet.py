"""The encoder has the released weights' shapes, and treats pictures evenly."""

import pytest
import torch
from torch import nn

from gnesf_core.nets.res_unet import STRIDE, ResUNet

RELEASED = 8_917_120  # parameters of IBRNet's encoder with 32 + 32 outputs


def small(seed=0, exact=False):
    torch.manual_seed(seed)
    network = ResUNet([2, 1, 1], [4, 6, 8], 5, exact).double()
    for module in network.modules():
        if isinstance(module, nn.InstanceNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return network


def conv(name, inner, outer, kernel, bias=False):
    shapes = {f"{name}.weight": (outer, inner, kernel, kernel)}
    return shapes | ({f"{name}.bias": (outer,)} if bias else {})


def norm(name, channels):
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def joined(name, inner, outer):
    return conv(f"{name}.conv", inner, outer, 3, bias=True) | norm(f"{name}.bn", outer)


def released():
    """Return names and shapes of the released encoder's state dict."""
    shapes = conv("conv1", 3, 64, 7) | norm("bn1", 64)
    for stage, (inner, outer, blocks) in enumerate(
        [(64, 64, 3), (64, 128, 4), (128, 256, 6)], 1
    ):
        for number in range(blocks):
            name, first = f"layer{stage}.{number}", inner if number == 0 else outer
            for place, before in enumerate((first, outer), 1):
                shapes |= conv(f"{name}.conv{place}", before, outer, 3)
                shapes |= norm(f"{name}.bn{place}", outer)
        name = f"layer{stage}.0.downsample"
        shapes |= conv(f"{name}.0", inner, outer, 1) | norm(f"{name}.1", outer)
    shapes |= joined("upconv3.conv", 256, 128) | joined("iconv3", 256, 128)
    shapes |= joined("upconv2.conv", 128, 64) | joined("iconv2", 128, 64)
    return shapes | conv("out_conv", 64, 64, 1, bias=True)


def test_weights_of_the_released_encoder_fit():
    network = ResUNet([3, 4, 6], [64, 128, 256], 64)
    own = {name: tuple(own.shape) for name, own in network.state_dict().items()}
    assert own == released()
    assert sum(own.numel() for own in network.parameters()) == RELEASED


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("column", [24, 32, 44])
def test_exact_features_are_above_the_pixels_that_they_depend_on(column, exact):
    """The centre of what a column looks at, if layers take means, far from edges."""
    network = ResUNet([1, 1, 1], [2, 3, 4], 1, exact).double()
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
        elif isinstance(module, nn.InstanceNorm2d):
            _leave_out(network, name)
    picture = torch.rand(1, 3, 20, 256, dtype=torch.float64, requires_grad=True)
    network(picture)[0, 0, 2, column].backward()
    weight = picture.grad.abs().sum((0, 1, 2))
    centre = float((weight * torch.arange(256)).sum() / weight.sum())
    # An odd column of the finest map lies amid two of the coarser.
    assert (abs(centre - STRIDE * column) < 0.1) == exact


def _leave_out(network, name):
    parent, _, own = name.rpartition(".")
    network.get_submodule(parent).add_module(own, nn.Identity())


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("size", [(17, 17), (32, 48), (33, 50), (45, 31), (62, 79)])
def test_pictures_of_any_size_get_maps_of_a_quarter(size, exact):
    maps = small(exact=exact)(torch.rand(2, 3, *size, dtype=torch.float64))
    height, width = size
    assert maps.shape == (2, 5, -(-height // 4), -(-width // 4))
    assert maps.isfinite().all()


def test_features_do_not_depend_on_company_or_on_training():
    network, pictures = small(), torch.rand(3, 3, 40, 36, dtype=torch.float64)
    together = network.train()(pictures)
    for number in range(3):
        alone = network.eval()(pictures[number : number + 1])
        torch.testing.assert_close(alone[0], together[number])


def test_exposure_does_not_matter():
    """Reflected borders and norms right behind convolutions leave nothing of it."""
    network, pictures = small(), torch.rand(1, 3, 40, 36, dtype=torch.float64)
    bright = network(90 * pictures + 20)
    torch.testing.assert_close(bright, network(900 * pictures), rtol=1e-3, atol=1e-3)


def test_a_mirrored_network_sees_the_mirror_image():
    """So maps lie on the picture alike from left and right, up the decoder too."""
    network, mirrored = small(), small()
    with torch.no_grad():
        for module in mirrored.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.copy_(module.weight.flip(2, 3))
    picture = torch.rand(1, 3, 65, 81, dtype=torch.float64)
    maps = network(picture).flip(2, 3)
    torch.testing.assert_close(mirrored(picture.flip(2, 3)), maps)
