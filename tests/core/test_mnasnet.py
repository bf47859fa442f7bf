"""The encoder is torchvision's MnasNet, and its maps are where they say they are."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from gnesf_core.errors import BadInput
from gnesf_core.nets.mnasnet import MnasNet, Pyramid, load_imagenet
from gnesf_core.nets.norm import BatchNorm
from gnesf_core.nets.pictures import MEAN_RGB
from gnesf_core.training.weights import write_weights

# Stacks of torchvision's mnasnet1_0: inner and outer channels, kernel, expansion,
# blocks; the last three are beyond the maps used here.
STACKS = {
    8: (16, 24, 3, 3, 3),
    9: (24, 40, 5, 3, 3),
    10: (40, 80, 5, 6, 3),
    11: (80, 96, 3, 6, 2),
    12: (96, 192, 5, 6, 4),
    13: (192, 320, 3, 6, 1),
}
# Stem to layer 13 by width, and parameters in all, as torchvision's pages list them.
CHANNELS = {
    0.5: (16, 8, 16, 24, 40, 48, 96, 160),
    0.75: (24, 16, 24, 32, 64, 72, 144, 240),
    1.0: (32, 16, 24, 40, 80, 96, 192, 320),
    1.3: (40, 24, 32, 56, 104, 128, 248, 416),
}
PARAMETERS = {0.5: 2_218_512, 0.75: 3_170_208, 1.0: 4_383_312, 1.3: 6_282_256}


def norm(name, channels):
    kinds = ("weight", "bias", "running_mean", "running_var")
    shapes = {f"{name}.{kind}": (channels,) for kind in kinds}
    return shapes | {f"{name}.num_batches_tracked": ()}


def block(name, inner, outer, kernel, expansion):
    wide = inner * expansion
    return (
        {f"{name}.0.weight": (wide, inner, 1, 1)}
        | norm(f"{name}.1", wide)
        | {f"{name}.3.weight": (wide, 1, kernel, kernel)}
        | norm(f"{name}.4", wide)
        | {f"{name}.6.weight": (outer, wide, 1, 1)}
        | norm(f"{name}.7", outer)
    )


def torchvisions(width=1.0, layers=range(11)):
    """Return names and shapes of torchvision's state dict."""
    stem, thin, *rest = CHANNELS[width]
    shapes = {}
    if 0 in layers:
        shapes |= {"layers.0.weight": (stem, 3, 3, 3)} | norm("layers.1", stem)
        shapes |= {"layers.3.weight": (stem, 1, 3, 3)} | norm("layers.4", stem)
        shapes |= {"layers.6.weight": (thin, stem, 1, 1)} | norm("layers.7", thin)
    ends = zip([thin, *rest], rest, strict=False)
    for (layer, stack), (inner, outer) in zip(STACKS.items(), ends, strict=True):
        for number in range(stack[4] if layer in layers else 0):
            first = inner if number == 0 else outer
            name = f"layers.{layer}.{number}.layers"
            shapes |= block(name, first, outer, *stack[2:4])
    if 14 in layers:
        shapes |= {"layers.14.weight": (1280, rest[-1], 1, 1)} | norm("layers.15", 1280)
        shapes |= {"classifier.1.weight": (1000, 1280), "classifier.1.bias": (1000,)}
    return shapes


def checkpoint(width=1.0, layers=range(15)):
    torch.manual_seed(0)
    return {
        name: torch.rand(shape) if shape else torch.tensor(7)
        for name, shape in torchvisions(width, layers).items()
    }


def shapes_of(module):
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


# torchvision's network


@pytest.mark.parametrize("width", CHANNELS)
def test_names_and_shapes_are_torchvisions(width):
    assert shapes_of(MnasNet(width)) == torchvisions(width)
    assert MnasNet(width).channels == CHANNELS[width][2:5]


def test_channels_are_never_more_than_a_tenth_too_few():
    # 10.5, 17.5 and 35: 8 is too few for the first, 16 and 32 will do for the others.
    assert MnasNet(0.4375).channels == (16, 16, 32)


def test_the_table_of_this_test_is_that_of_mnasnet():
    wide = CHANNELS[1.0]
    ends = [stack[:2] for stack in STACKS.values()]
    assert ends == list(zip(wide[1:], wide[2:], strict=False))


@pytest.mark.parametrize("width", CHANNELS)
def test_with_the_rest_there_are_as_many_parameters_as_torchvision_says(width):
    rest = torchvisions(width, layers=range(11, 15))
    learned = {name: s for name, s in rest.items() if "running" not in name}
    others = sum(math.prod(s) for name, s in learned.items() if "tracked" not in name)
    own = sum(parameter.numel() for parameter in MnasNet(width).parameters())
    assert own + others == PARAMETERS[width]


def restated(state, pictures):
    """Return the three maps by the names of a state dict, in use."""

    def layer(values, name, number, stride=1, rectified=True):
        kernel = state[f"{name}.{number}.weight"]
        groups = values.shape[1] // kernel.shape[1]
        padding = kernel.shape[-1] // 2
        values = functional.conv2d(values, kernel, None, stride, padding, 1, groups)
        kinds = ("running_mean", "running_var", "weight", "bias")
        table = [state[f"{name}.{number + 1}.{kind}"] for kind in kinds]
        mean, variance, weight, bias = (t[:, None, None] for t in table)
        values = (values - mean) / torch.sqrt(variance + 1e-5) * weight + bias
        return values.clamp(min=0) if rectified else values

    values = layer(pictures, "layers", 0, stride=2)
    values = layer(values, "layers", 3)
    values = layer(values, "layers", 6, rectified=False)
    maps = []
    for stack in (8, 9, 10):
        for number in range(3):
            name, before = f"layers.{stack}.{number}.layers", values
            values = layer(values, name, 0)
            values = layer(values, name, 3, stride=1 if number else 2)
            values = layer(values, name, 6, rectified=False)
            values = values + before if number else values
        maps.append(values)
    return maps


def test_maps_are_those_of_the_formulas():
    torch.manual_seed(0)
    net, pictures = MnasNet(0.5).eval(), torch.randn(2, 3, 64, 96)
    for module in net.modules():
        if isinstance(module, BatchNorm):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.bias)
    with torch.no_grad():
        found, expected = net(pictures), restated(net.state_dict(), pictures)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


# Where a pixel of a map looks


def linear_with_even_kernels(module):
    """Let a network look to all sides alike: it adds up what it sees."""
    for parameter in module.parameters():
        nn.init.constant_(parameter, 0.1 if parameter.ndim == 4 else 0.5)
    return module.eval()


def seen_from(maps, level, row, column, pictures):
    (gradient,) = torch.autograd.grad(
        maps[level][0, :, row, column].sum(), pictures, retain_graph=True
    )
    return gradient[0].abs().sum(0)


@pytest.mark.parametrize(("level", "stride"), [(0, 4), (1, 8), (2, 16)])
def test_a_pixel_of_a_map_looks_around_stride_times_its_place(level, stride):
    pictures = torch.full((1, 3, 320, 352), 2.0, requires_grad=True)
    maps = linear_with_even_kernels(MnasNet(0.25))(pictures)
    row, column = 144 // stride, 192 // stride
    seen = seen_from(maps, level, row, column, pictures)
    rows, columns = seen.sum(1), seen.sum(0)
    reach = min(144, 320 - 1 - 144)
    around = rows[144 - reach : 144 + reach + 1]
    torch.testing.assert_close(around, around.flip(0), rtol=1e-4, atol=0)
    assert rows.sum() == pytest.approx(float(around.sum()), rel=1e-5)  # nothing beyond
    reach = min(192, 352 - 1 - 192)
    around = columns[192 - reach : 192 + reach + 1]
    torch.testing.assert_close(around, around.flip(0), rtol=1e-4, atol=0)


@pytest.mark.parametrize(("level", "stride"), [(0, 4), (1, 8), (2, 16)])
def test_maps_of_a_pyramid_are_in_place_but_for_what_is_repeated(level, stride):
    pyramid = linear_with_even_kernels(Pyramid(0.25))
    if level < 2:  # leave out what coarser maps add
        coarser = [pyramid.encoder.layers[10], pyramid.inner1][: 2 - level]
        for module in coarser:
            for parameter in module.parameters():
                nn.init.zeros_(parameter)
    pictures = torch.full((1, 3, 304, 304), 250.0, requires_grad=True)
    seen = seen_from(pyramid(pictures), level, 144 // stride, 144 // stride, pictures)
    around = seen[:289, :289]
    assert around.sum() > 0
    torch.testing.assert_close(around, around.flip(0), rtol=1e-4, atol=0)
    torch.testing.assert_close(around, around.flip(1), rtol=1e-4, atol=0)


def test_a_picture_moved_by_a_coarse_pixel_moves_every_map():
    torch.manual_seed(0)
    pyramid = Pyramid(0.25).eval()
    wide = torch.randint(0, 256, (1, 3, 64, 608), dtype=torch.uint8)
    with torch.no_grad():
        here, there = pyramid(wide[..., :592]), pyramid(wide[..., 16:])
    for stride, one, two in zip((4, 8, 16), here, there, strict=True):
        assert one.shape[2:] == (64 // stride, 592 // stride)
        inner = slice(288 // stride, 304 // stride)
        moved = slice(inner.start - 16 // stride, inner.stop - 16 // stride)
        scale = one.std().item()
        torch.testing.assert_close(
            one[..., inner], two[..., moved], rtol=1e-4, atol=1e-4 * scale
        )


# The pyramid


def test_the_pyramid_has_neuralrecons_maps():
    pyramid = Pyramid(1.0)
    assert pyramid.channels == (24, 40, 80)
    own = {n: s for n, s in shapes_of(pyramid).items() if not n.startswith("encoder")}
    assert own == {
        "out1.weight": (80, 80, 1, 1),
        "inner1.weight": (80, 40, 1, 1),
        "inner1.bias": (80,),
        "out2.weight": (40, 80, 3, 3),
        "inner2.weight": (80, 24, 1, 1),
        "inner2.bias": (80,),
        "out3.weight": (24, 80, 3, 3),
    }
    maps = pyramid(torch.zeros(2, 3, 48, 64, dtype=torch.uint8))
    shapes = [(2, 24, 12, 16), (2, 40, 6, 8), (2, 80, 3, 4)]
    assert [tuple(values.shape) for values in maps] == shapes


def test_coarse_maps_reach_fine_ones():
    pyramid = Pyramid(0.25).eval()
    pictures = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    before = pyramid(pictures)
    with torch.no_grad():
        pyramid.encoder.layers[10][2].layers[7].bias += 1
    assert all(
        not torch.allclose(one, two)
        for one, two in zip(before, pyramid(pictures), strict=True)
    )


def test_the_mean_colour_of_imagenet_in_rgb_is_zero():
    pyramid, given = Pyramid(0.25), []
    pyramid.encoder.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    rgb = torch.tensor([123.675, 116.28, 103.53]).reshape(1, 3, 1, 1)
    one_off = torch.tensor([58.395, 57.12, 57.375]).reshape(1, 3, 1, 1)
    pyramid(rgb.expand(1, 3, 16, 16))
    pyramid((rgb + one_off).expand(1, 3, 16, 16))
    torch.testing.assert_close(given[0], torch.zeros(1, 3, 16, 16), rtol=0, atol=1e-5)
    torch.testing.assert_close(given[1], torch.ones(1, 3, 16, 16), rtol=0, atol=1e-5)
    assert MEAN_RGB[0] > MEAN_RGB[2]  # ImageNet is warm


def test_the_order_of_channels_matters():
    torch.manual_seed(0)
    pyramid = Pyramid(0.25).eval()
    pictures = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    rgb, bgr = pyramid(pictures), pyramid(pictures.flip(1))
    assert not torch.allclose(rgb[0], bgr[0], rtol=0.01)


def test_bytes_and_floats_are_the_same_picture():
    pyramid = Pyramid(0.25).eval()
    pictures = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    for one, two in zip(pyramid(pictures), pyramid(pictures.float()), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("size", [(40, 64), (64, 40)])
def test_sizes_that_do_not_divide_are_refused(size):
    with pytest.raises(ValueError, match="no multiples of 16"):
        Pyramid(0.25)(torch.zeros(1, 3, *size))


# Checkpoints


def save(path, tensors):
    if path.suffix == ".safetensors":
        write_weights(path, tensors, {})
    else:
        old = not path.stem.endswith("new")
        torch.save(tensors, path, _use_new_zipfile_serialization=not old)
    return path


@pytest.mark.parametrize("name", ["old.pth", "new.pth", "a.safetensors"])
def test_a_checkpoint_of_torchvision_is_taken(tmp_path, name):
    tensors, pyramid = checkpoint(), Pyramid(1.0)
    others = {n: v.clone() for n, v in pyramid.named_parameters() if n[:3] != "enc"}
    load_imagenet(pyramid, save(tmp_path / name, tensors))
    for key, value in pyramid.encoder.state_dict().items():
        assert torch.equal(value, tensors[key])
    for key, value in others.items():
        assert torch.equal(pyramid.get_parameter(key), value)


def test_pretrained_statistics_change_as_slowly_as_torchvisions(tmp_path):
    pyramid = Pyramid(0.5)
    load_imagenet(pyramid, save(tmp_path / "a.pth", checkpoint(0.5)))
    stem = pyramid.encoder.layers[1]
    before = stem.running_mean.clone()
    seen = []
    pyramid.encoder.layers[0].register_forward_hook(lambda *args: seen.append(args[2]))
    pyramid(torch.full((1, 3, 32, 32), 255.0))
    change = (stem.running_mean - before) / (seen[0].mean((0, 2, 3)) - before)
    assert change.tolist() == pytest.approx([0.0003] * 16, rel=0.05)


def without(name):
    return lambda tensors: {n: t for n, t in tensors.items() if n != name}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("layers.9.1.layers.4.running_var"), "missing layers.9.1.layers.4.run"),
        (without("layers.10.2.layers.7.weight"), "missing layers.10.2.layers.7.weight"),
        (lambda t: t | {"layers.17.weight": torch.zeros(1)}, "unexpected layers.17.w"),
        (lambda t: t | {"layers.8.3.x": torch.zeros(1)}, "unexpected layers.8.3.x"),
        (lambda t: t | {"head.weight": torch.zeros(1)}, "unexpected head.weight"),
        (lambda t: t | {"layers.0.weight": torch.zeros(1)}, "misshapen layers.0.weig"),
        (lambda t: t | {"layers.1.bias": torch.ones(32) / 0}, "unusable layers.1.bias"),
        (lambda _: {}, "missing layers.0.weight"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused_by_name(tmp_path, spoil, message):
    pyramid = Pyramid(1.0)
    before = {name: value.clone() for name, value in pyramid.state_dict().items()}
    path = save(tmp_path / "a.pth", spoil(checkpoint()))
    with pytest.raises(BadInput, match=rf"a\.pth: names: .*{message}"):
        load_imagenet(pyramid, path)
    after = pyramid.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("width", [0.5, 0.75, 1.3])
def test_another_width_is_refused(tmp_path, width):
    path = save(tmp_path / "a.pth", checkpoint(width))
    with pytest.raises(BadInput, match=r"misshapen .*; remedy: take mnasnet1_0 with"):
        load_imagenet(Pyramid(1.0), path)


def test_the_fixed_stem_of_early_releases_is_refused_for_narrow_nets(tmp_path):
    tensors = checkpoint(0.5) | {"layers.0.weight": torch.rand(32, 3, 3, 3)}
    path = save(tmp_path / "a.pth", tensors)
    with pytest.raises(BadInput, match=r"layers\.0\.weight \[32, 3, 3, 3\] for \[16"):
        load_imagenet(Pyramid(0.5), path)
