"""Compare engines of sparse convolution, and spconv where it is installed.

    python -m bench.bench_sparse [--cases NAME ...] [--rounds N] [--threads N]
                                 [--device cpu|cuda] [--bf16]

Each case is one 3x3x3 submanifold convolution:

surface   60,000 voxels, half of a wavy sheet, 32 channels: few neighbours are active
block     60,000 voxels without a hole, 32 channels
coarse, middle, fine
          the three levels of the network of config/scannet.yaml at its widths: a full
          volume of 24^3 voxels, and bands of six voxels around a surface in 48^3 and
          96^3, made of blocks of eight as refined voxels are

map+forward    from coordinates to features: nothing is known about the voxels
forward        with the map of neighbours at hand, as in all but a level's first layer
forward+back   the same with the gradients of features and weights

spconv is version 2.3, as it is installed; on a CPU its backward pass asks for a CUDA
stream, which is replaced by none. Dense grids are left out where they would have more
than 20 cells per voxel. Every round takes all programs in turn, after one call of each
that is not counted. Times are medians; "x" is the time relative to gather's in the same
round.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

from gnesf_core.errors import BadInput
from gnesf_core.sparse.engine import NAMES, Engine, engine
from gnesf_core.sparse.sites import Sites

_MOST_CELLS_PER_VOXEL = 20
_STEPS = ("map+forward", "forward", "forward+back")

Convolution = Callable[[Tensor, Tensor], Tensor]  # of features and weight
# A convolution of which nothing is known, and the same with its map.
Both = tuple[Convolution, Convolution]


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="under autocast")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    print(
        f"torch {torch.__version__}, {device}, {options.threads} threads, medians of "
        f"{options.rounds} rounds in ms"
    )
    with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
        for name in options.cases:
            voxels, channels = CASES[name]()
            compare(name, voxels.to(device), channels, options.rounds)


def surface() -> tuple[Tensor, int]:
    """Return half of the voxels of a sheet, sorted."""
    x, y = torch.cartesian_prod(torch.arange(350), torch.arange(350)).unbind(1)
    z = 40 * torch.sin(x * 0.05) * torch.cos(y * 0.05)
    voxels = torch.stack([0 * x, x, y, z.long()], 1)
    order = torch.randperm(len(voxels), generator=torch.Generator().manual_seed(0))
    return voxels[order[:60_000].sort().values], 32


def block() -> tuple[Tensor, int]:
    """Return all voxels of a block."""
    axes = [torch.arange(n) for n in (1, 100, 60, 10)]
    return torch.cartesian_prod(*axes), 32


def coarse() -> tuple[Tensor, int]:
    """Return all voxels of a volume."""
    axes = [torch.arange(n) for n in (1, 24, 24, 24)]
    return torch.cartesian_prod(*axes), 96


def band(edge: int) -> Tensor:
    """Return voxels around a surface: three blocks of 2x2x2 on top of each other."""
    axes = [torch.arange(n) for n in (edge // 2, edge // 2, 3, 2, 2, 2)]
    x, y, level, dx, dy, dz = torch.cartesian_prod(*axes).unbind(1)
    height = edge / 8 * (1 + torch.sin(x * 12 / edge) * torch.cos(y * 9 / edge))
    z = height.long() + level
    return torch.stack([0 * x, 2 * x + dx, 2 * y + dy, 2 * z + dz], 1)


CASES: dict[str, Callable[[], tuple[Tensor, int]]] = {
    "surface": surface,
    "block": block,
    "coarse": coarse,
    "middle": lambda: (band(48), 48),
    "fine": lambda: (band(96), 24),
}


def compare(name: str, voxels: Tensor, channels: int, rounds: int) -> None:
    """Measure one case and print a table."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(len(voxels), channels, generator=generator)
    weight = torch.randn(27, channels, channels, generator=generator) / channels
    features = features.to(voxels.device).requires_grad_()
    weight = weight.to(voxels.device).requires_grad_()
    sites = Sites(voxels)
    print(
        f"\n{name}: {len(sites):,} voxels, {channels} channels, "
        f"{27 * sites.fill:.1f} of 27 neighbours active"
    )
    convolutions = ours(sites)
    if find_spec("spconv") is not None:
        convolutions["spconv"] = spconv(voxels, weight)
    check(convolutions, features, weight)
    report(measure(convolutions, features, weight, rounds))


def ours(sites: Sites) -> dict[str, Both]:
    """Return the engines that can run here."""
    found: dict[str, Both] = {}
    for name in NAMES:
        if name == "dense" and cells(sites) > _MOST_CELLS_PER_VOXEL * len(sites):
            continue
        try:
            chosen = engine(name, sites.device)
        except BadInput:  # not installed, or not for this device
            continue
        found[name] = (with_new_map(chosen, sites), with_map(chosen, sites))
    return found


def cells(sites: Sites) -> int:
    """Return how many cells a dense grid around the sites has."""
    batches, x, y, z = sites.box[1]
    return batches * x * y * z


def with_new_map(chosen: Engine, sites: Sites) -> Convolution:
    """Return a convolution that begins with coordinates."""
    voxels = sites.batch_xyz
    return lambda features, weight: chosen.submanifold(features, weight, Sites(voxels))


def with_map(chosen: Engine, sites: Sites) -> Convolution:
    """Return a convolution that keeps the map of its first call."""
    return lambda features, weight: chosen.submanifold(features, weight, sites)


def spconv(voxels: Tensor, weight: Tensor) -> Both:
    """Return spconv's convolution."""
    import spconv.pytorch as library
    from spconv.pytorch import ops

    if not voxels.is_cuda:
        ops.get_current_stream = lambda: 0
    count, cin, cout = weight.shape
    coordinates = (voxels - voxels.amin(0)).int()
    shape = (coordinates.amax(0)[1:] + 1).tolist()
    convolution = library.SubMConv3d(cin, cout, 3, bias=False, indice_key="same")
    del convolution.weight  # ours takes its place, so that it gets the gradient
    maps = {}

    def run(features: Tensor, matrices: Tensor, known: dict) -> Tensor:
        kernel = matrices.permute(2, 0, 1).reshape(cout, 3, 3, 3, cin)
        convolution.weight = kernel.contiguous()
        sparse = library.SparseConvTensor(
            features, coordinates, shape, 1, indice_dict=known
        )
        out = convolution(sparse)
        maps.update(out.indice_dict)
        return out.features

    return (
        lambda features, matrices: run(features, matrices, {}),
        lambda features, matrices: run(features, matrices, dict(maps)),
    )


def check(convolutions: dict[str, Both], features: Tensor, weight: Tensor) -> None:
    """Print how far results and gradients are from gather's."""
    expected = run_once(convolutions["gather"][1], features, weight)
    for name, both in convolutions.items():
        with torch.no_grad():
            both[0](features, weight)  # makes spconv's map
        found = run_once(both[1], features, weight)
        errors = [
            ((a - b).abs().max() / b.abs().max()).item()
            for a, b in zip(found, expected, strict=True)
        ]
        if name != "gather":
            print(f"{name} is off by {max(errors):.0e} of the largest number")


def run_once(
    convolution: Convolution, features: Tensor, weight: Tensor
) -> tuple[Tensor, ...]:
    """Return the result and the gradients of half the sum of its squares."""
    out = convolution(features, weight)
    return out, *torch.autograd.grad(out, (features, weight), out.detach())


def measure(
    convolutions: dict[str, Both], features: Tensor, weight: Tensor, rounds: int
) -> dict[tuple[str, str], list[float]]:
    """Return seconds of each engine and step in each round, taken in turns."""
    programs: dict[tuple[str, str], Callable[[], object]] = {}
    for name, (fresh, known) in convolutions.items():
        programs[name, _STEPS[0]] = lambda run=fresh: forward(run, features, weight)
        programs[name, _STEPS[1]] = lambda run=known: forward(run, features, weight)
        programs[name, _STEPS[2]] = lambda run=known: run_once(run, features, weight)
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in programs}
    for number, (key, program) in itertools.product(
        range(rounds + 1), programs.items()
    ):  # fmt: skip
        synchronize(features.device)
        started = time.perf_counter()
        program()
        synchronize(features.device)
        if number:
            seconds[key].append(time.perf_counter() - started)
    return seconds


@torch.no_grad()
def forward(convolution: Convolution, features: Tensor, weight: Tensor) -> Tensor:
    """Return the result alone."""
    return convolution(features, weight)


def synchronize(device: torch.device) -> None:
    """Wait for what the device has been told to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def report(seconds: dict[tuple[str, str], list[float]]) -> None:
    """Print medians, and ratios to gather of the same round."""
    print(f"{'':12s}" + "".join(f"{step:>24s}" for step in _STEPS))
    for name in dict.fromkeys(name for name, _ in seconds):
        line = f"{name:12s}"
        for step in _STEPS:
            times = seconds[name, step]
            ratio = statistics.median(
                a / b for a, b in zip(times, seconds["gather", step], strict=True)
            )
            line += f"{1e3 * statistics.median(times):14.1f} (x {ratio:4.1f} )"
        print(line)


if __name__ == "__main__":
    main()
