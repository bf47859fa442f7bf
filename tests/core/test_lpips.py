import numpy as np
import pytest
import torch
from torch.nn import functional

from gnesf_core.errors import BadInput
from gnesf_core.evaluation.lpips import Lpips, read_lpips
from gnesf_core.training.weights import write_weights

CHANNELS = (64, 128, 256, 512, 512)
# torchvision's numbers of the convolutions, by the size at which they work.
CONVOLUTIONS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))


@pytest.fixture(scope="module")
def weights():
    """Return random weights under the names that the published files have."""
    rng = torch.Generator().manual_seed(1)
    vgg, inner = {"classifier.6.bias": torch.zeros(1000)}, 3
    for outer, numbers in zip(CHANNELS, CONVOLUTIONS, strict=True):
        for number in numbers:
            spread = (2 / (9 * inner)) ** 0.5
            kernel = torch.randn(outer, inner, 3, 3, generator=rng) * spread
            vgg[f"features.{number}.weight"] = kernel
            vgg[f"features.{number}.bias"] = torch.randn(outer, generator=rng) * 0.1
            inner = outer
    linear = {
        f"lin{n}.model.1.weight": torch.rand(1, c, 1, 1, generator=rng)
        for n, c in enumerate(CHANNELS)
    }
    return vgg, linear


@pytest.fixture(scope="module")
def files(weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lpips")
    torch.save(weights[0], folder / "vgg16.pth")
    write_weights(folder / "vgg.safetensors", weights[1], {})
    return folder / "vgg16.pth", folder / "vgg.safetensors"


@pytest.fixture(scope="module")
def network(files):
    return read_lpips(*files)


def pictures(seed, height=19, width=34):
    rng = np.random.default_rng(seed)
    first = rng.random((height, width, 3), np.float32)
    return first, np.clip(first + rng.normal(0, 0.2, first.shape), 0, 1)


def restated(weights, first, second):
    """Follow the definition layer by layer, in double precision."""
    vgg, linear = ({n: t.double() for n, t in part.items()} for part in weights)
    pair = torch.from_numpy(np.stack([first, second]).astype(np.float64))
    values = pair.permute(0, 3, 1, 2)
    shift = torch.tensor([-0.030, -0.088, -0.188]).double()[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450]).double()[:, None, None]
    values, total = (values - shift) / scale, 0.0
    for size, numbers in enumerate(CONVOLUTIONS):
        if size:
            values = functional.max_pool2d(values, 2, 2)
        for number in numbers:
            names = (f"features.{number}.{part}" for part in ("weight", "bias"))
            values = functional.conv2d(values, *(vgg[n] for n in names), padding=1)
            values = values.clamp(min=0)
        lengths = (values**2).sum(1, keepdim=True).sqrt() + 1e-10
        one, other = values / lengths
        weight = linear[f"lin{size}.model.1.weight"].reshape(-1, 1, 1)
        total += float((weight * (one - other) ** 2).sum(0).mean())
    return total


@pytest.mark.parametrize("signed", [False, True])
def test_it_is_its_definition_in_either_range(weights, network, signed):
    first, second = pictures(1)
    shown = [p * 2 - 1 for p in (first, second)] if signed else (first, second)
    expected = restated(weights, *shown)
    assert expected > 0.01
    got = network.distance(first, second.astype(np.float32), signed)
    assert got == pytest.approx(expected, rel=1e-4)


def test_ranges_give_different_distances(network):
    first, second = pictures(2)
    pair = first.astype(np.float64), second.astype(np.float64)
    narrow, wide = (network.distance(*pair, signed) for signed in (False, True))
    assert abs(narrow - wide) > 0.01 * wide


def test_equal_pictures_are_not_apart_and_order_does_not_matter(network):
    first, second = pictures(3)
    first, second = first.astype(np.float64), second.astype(np.float64)
    assert network.distance(first, first, True) == 0
    there = network.distance(first, second, True)
    assert network.distance(second, first, True) == pytest.approx(there, rel=1e-6)
    flat = np.zeros((16, 16, 3))
    assert network.distance(flat, flat, True) == 0


def test_weights_of_channels_scale_the_distance(weights, files, network, tmp_path):
    first, second = pictures(4)
    pair = first.astype(np.float64), second.astype(np.float64)
    path = tmp_path / "double.pth"
    torch.save({name: 2 * tensor for name, tensor in weights[1].items()}, path)
    twice = read_lpips(files[0], path).distance(*pair, True)
    assert twice == pytest.approx(2 * network.distance(*pair, True), rel=1e-5)


def test_pictures_that_four_halvings_leave_nothing_of_are_refused(network):
    with pytest.raises(ValueError, match="at least 16"):
        network.distance(np.zeros((15, 40, 3)), np.zeros((15, 40, 3)), True)


def without(name):
    return lambda tensors: {n: t for n, t in tensors.items() if n != name}


def under(name, tensor):
    return lambda tensors: tensors | {name: tensor}


@pytest.mark.parametrize(
    ("which", "spoil", "message"),
    [
        (0, without("features.28.weight"), "missing features.28.weight"),
        (0, under("features.1.running_mean", torch.ones(64)), "unexpected features.1"),
        (0, under("features.0.weight", torch.ones(64, 1, 3, 3)), "misshapen features"),
        (0, under("features.0.bias", torch.full((64,), torch.nan)), "not finite"),
        (0, lambda _: {}, "missing features.0.weight"),
        (1, without("lin3.model.1.weight"), "missing lin3.model.1.weight"),
        (1, under("lin5.model.1.weight", torch.ones(1, 9, 1, 1)), "unexpected lin5"),
        (1, under("lin1.model.1.weight", torch.ones(1, 192, 1, 1)), "misshapen lin1"),
        (1, under("lin0.model.1.weight", torch.ones(1, 64, 1, 1).long()), "int64"),
    ],
)
def test_files_that_do_not_fit_are_refused_by_name(
    weights, files, tmp_path, which, spoil, message
):
    paths = list(files)
    paths[which] = tmp_path / "spoilt.pth"
    torch.save(spoil(weights[which]), paths[which])
    with pytest.raises(BadInput, match=rf"spoilt\.pth: names: .*{message}"):
        read_lpips(*paths)


class _Runs:
    """Make a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_file_that_would_run_code_is_refused_and_does_not(files, tmp_path):
    path, made = tmp_path / "hostile.pth", tmp_path / "made"
    torch.save({"lin0.model.1.weight": _Runs(made)}, path)
    with pytest.raises(BadInput, match=r"hostile\.pth: content"):
        read_lpips(files[0], path)
    assert not made.exists()


def test_files_that_are_no_weights_or_absent_are_refused(files, tmp_path):
    text = tmp_path / "notes.pth"
    text.write_text("not weights")
    for bad in (text, tmp_path / "absent.pth", tmp_path / "vgg.txt"):
        with pytest.raises(BadInput, match=bad.name):
            read_lpips(bad, files[1])


def test_nothing_is_trained_or_left_for_a_gradient():
    network = Lpips()
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
