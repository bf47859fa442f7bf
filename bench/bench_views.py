"""Time methods of view synthesis, each beside a restatement as one writes it first.

    python -m bench.bench_views [--rounds N] [--sizes demo larger] [--no-table]
                                [--device cpu|cuda]

Pictures and maps are random; cameras are on an arc around what they look at. There are
no surfaces, and weights are random: nothing here is learned, and nothing is skipped
that a trained method would look at.

against     ratios to the restatement, which has the same weights: whole layers on dense
            tensors of rays x samples x views, `grid_sample` of all views, single
            precision throughout, activations in place, products of transparencies; of
            Semantic-NeRF one list of points. Picture encoders, places along rays and
            the volume's interpolation are the same on both sides.
table       cost by number of views, of samples, and by the size of pictures, relative
            to the demo's, which is measured in turn with the others.

train       looking at the views, rendering, losses, gradients
render      rays of one camera whose views have been looked at, without gradients
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from torch import Tensor, nn
from torch.nn.functional import elu, grid_sample, linear, relu, softplus

from gnesf_core.fields.voting import SplitLinear
from gnesf_core.geometry import camera
from gnesf_core.labels import CLASS_NAMES
from gnesf_core.nets.attention import SelfAttention, sinusoids
from gnesf_core.nets.positional import frequencies
from gnesf_core.nets.res_unet import STRIDE
from gnesf_core.rendering.frame_samples import Truth
from gnesf_core.rendering.rays import Rays, depth_rays
from gnesf_core.rendering.samplers import importance, jittered, spaced
from gnesf_core.rendering.sources import Sources, project
from gnesf_core.training.loop import moved
from gnesf_core.views import gnesf_density, ibrnet
from gnesf_core.views.gnesf_density import GnesfDensity, frustum, sample_volume
from gnesf_core.views.ibrnet import Ibrnet
from gnesf_core.views.interface import Camera, Method, Rendered
from gnesf_core.views.semantic_nerf import PointNetwork, SemanticNerf
from workflow.recipes import resolve_all

RECIPES = ("ibrnet", "ibrnet-predicted", "gnesf-released-2d", "gnesf-density",
           "semantic-nerf")  # fmt: skip
TABLED = ("gnesf-released-2d", "gnesf-density")
RENDERED, LARGER_RENDERED = 512, 256  # rays
TABLE_ROUNDS = 3

ENCODER = {
    "encoder_blocks": [3, 4, 6], "encoder_widths": [32, 64, 128], "features": 32,
    "coarse_samples": 32, "fine_samples": 32,
}  # fmt: skip
LARGER = {
    "ibrnet": ENCODER,
    "gnesf_density": ENCODER | {"volume": [48, 36, 48], "widths": [64, 32]},
    "semantic_nerf": {
        "layers": 8, "width": 256, "position_frequencies": 10,
        "direction_frequencies": 4, "coarse_samples": 64, "fine_samples": 64,
    },
}  # fmt: skip

RING_M, FIRST_DEG, STEP_DEG = 2.5, 2.5, 2.5
TARGET_SIZE = (80, 60)


class Case(NamedTuple):
    """What is timed."""

    module: str
    settings: dict[str, Any]
    views: int
    size: tuple[int, int]  # of the source pictures
    rays: int  # of a training step
    rendered: int  # rays


class Inputs(NamedTuple):
    """What a method is shown."""

    sources: Sources
    camera: Camera
    rays: Rays  # to render
    learned: Rays  # to learn from
    truth: Truth


class Side(NamedTuple):
    """A method, and how it looks and renders."""

    method: Method
    encode: Callable[[Sources, Camera], Any]
    render: Callable[[Any, Rays], list[Rendered]]


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", nargs="*", default=["demo", "larger"])
    parser.add_argument("--no-table", action="store_true")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(arguments.device)
    cases = {name: demo_case(name) for name in RECIPES}
    tables = {} if arguments.no_table else {n: varied(cases[n]) for n in TABLED}
    # Before anything else: processes are forked off that know how much they came with.
    peaks = {name: [peak_mib(own) for own in t.values()] for name, t in tables.items()}
    for size in arguments.sizes:
        for name, own in cases.items():
            case = own if size == "demo" else larger(own)
            line = against(case, device, arguments.rounds)
            print(f"{size:7s} {name:18s} {line}", flush=True)
    for name, table in tables.items():
        print_table(name, table, peaks[name], device)


def demo_case(name: str) -> Case:
    """Return a recipe of the demo."""
    config = yaml.safe_load(Path("config/config.yaml").read_text())
    resolve_all(config)
    recipe = config["methods"][name]
    sources = recipe["sources"]
    size = sources["image_width"], sources["image_height"]
    counts = recipe["data"]["rays"], RENDERED
    own = recipe["module"], recipe["settings"], sources["views"], size
    return Case(*own, *counts)


def larger(case: Case) -> Case:
    """Return the same method nearer to its published size."""
    settings = case.settings | LARGER[case.module]
    rays = 64 if case.module == "semantic_nerf" else 128
    return Case(case.module, settings, 8, (160, 120), rays, LARGER_RENDERED)


def varied(case: Case) -> dict[str, Case]:
    """Return the demo's recipe, and others that differ in one thing each."""
    cases = {"the demo's": case}
    for views in (2, 4, 8, 12):
        cases[f"{views} views"] = case._replace(views=views)
    for count in (32, 64):
        counts = {"coarse_samples": count, "fine_samples": count}
        settings = case.settings | counts
        cases[f"{count}+{count} samples"] = case._replace(settings=settings)
    for width, height in ((64, 48), (160, 120), (320, 240)):
        cases[f"{width}x{height}"] = case._replace(size=(width, height))
    return cases


def against(case: Case, device: torch.device, rounds: int) -> str:
    """Return a line of rays per second, and how many times the restatement's."""
    ours, inputs = prepared(case, device)
    dense = restated(ours.method)
    check(ours, dense, inputs)
    sides = ours, dense
    steps = interleaved([lambda s=s: train(s, inputs) for s in sides], rounds)
    renders = interleaved([rendering(s, inputs) for s in sides], rounds)
    parts = []
    for what, count, times in (
        ("train", case.rays, steps),
        ("render", case.rendered, renders),
    ):
        ratios = [other / own for own, other in zip(*times, strict=True)]
        rate = count / statistics.median(times[0])
        parts.append(f"{what} {rate:7.0f} rays/s = {statistics.median(ratios):5.2f} x"
                     f" ({min(ratios):.2f}-{max(ratios):.2f})")  # fmt: skip
    if not ours.method.of_one_scene:
        parts.append(f"{seen_percent(inputs):.0f} % of pairs in pictures")
    return "   ".join(parts)


def print_table(
    name: str,
    table: Mapping[str, Case],
    peaks: Sequence[tuple[float, float]],
    device: torch.device,
) -> None:
    """Print rates relative to the first case, all measured in turns."""
    ready = [prepared(case, device) for case in table.values()]
    jobs = (
        [lambda s=s, i=i: look(s, i) for s, i in ready],
        [lambda s=s, i=i: train(s, i) for s, i in ready],
        [rendering(s, i) for s, i in ready],
    )
    looks, steps, renders = (
        [statistics.median(times) for times in interleaved(own, TABLE_ROUNDS)]
        for own in jobs
    )
    print(f"\n{name}\n{'':16s}   look ms   train rays/s   render rays/s   "
          f"MiB train, render")  # fmt: skip
    for row, label in enumerate(table):
        case = table[label]
        print(f"{label:16s} {1e3 * looks[row]:7.0f}   "
              f"{case.rays / steps[row]:6.0f} x{steps[0] / steps[row]:5.2f}   "
              f"{case.rendered / renders[row]:7.0f} x{renders[0] / renders[row]:5.2f}"
              f"   {peaks[row][0]:6.0f} {peaks[row][1]:6.0f}")  # fmt: skip


def peak_mib(case: Case) -> tuple[float, float]:
    """Return by how much a process grows in a training step, and rendering.

    What is not on a CPU is not counted.
    """
    with get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        jobs = [(case, what) for what in ("train", "render")]
        trained, rendered = pool.starmap(growth_mib, jobs, chunksize=1)
    return trained, rendered


def growth_mib(case: Case, what: str) -> float:
    """Return how much more memory this process ever had than before."""
    torch.set_num_threads(1)
    side, inputs = prepared(case, torch.device("cpu"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    train(side, inputs) if what == "train" else rendering(side, inputs)()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def interleaved(
    functions: Sequence[Callable[[], object]], rounds: int
) -> list[list[float]]:
    """Return each function's times, of the processor if it does all; they take turns.

    A processor that others use as well is timed best by what we had of it.
    """
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    times: list[list[float]] = [[] for _ in functions]
    for number in range(rounds + 1):
        for function, own in zip(functions, times, strict=True):
            _wait()
            started = clock()
            function()
            _wait()
            if number:  # the first round warms up
                own.append(clock() - started)
    return times


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def train(side: Side, inputs: Inputs) -> None:
    """Make a step of training, the optimiser's part left out."""
    method = side.method.train()
    context = side.encode(inputs.sources, inputs.camera)
    passes = side.render(context, inputs.learned)
    errors = method.losses(context, passes, inputs.truth)
    torch.stack([own.mean() for own in errors.values()]).sum().backward()
    method.zero_grad()


@torch.inference_mode()
def look(side: Side, inputs: Inputs) -> object:
    """Look at the source views."""
    side.method.eval()
    return side.encode(inputs.sources, inputs.camera)


def rendering(side: Side, inputs: Inputs) -> Callable[[], list[Rendered]]:
    """Look at the source views, and return what renders all rays."""
    context = look(side, inputs)

    @torch.inference_mode()
    def render() -> list[Rendered]:
        side.method.eval()
        return side.render(context, inputs.rays)

    return render


def prepared(case: Case, device: torch.device) -> tuple[Side, Inputs]:
    """Return our side, and a scene for it."""
    torch.manual_seed(0)
    module = import_module(f"gnesf_core.views.{case.module}")
    method = module.build(module.Settings(**case.settings))
    for parameter in method.parameters():
        if not parameter.any():  # before anything is learned, views are all alike
            nn.init.normal_(parameter, std=0.1)
    method.to(device)
    return Side(method, method.encode, method.render), moved(made_up(case), device)


def made_up(case: Case) -> Inputs:
    """Return random pictures on an arc, a camera amid them, and rays of it."""
    rng = np.random.default_rng(0)
    (width, height), views = case.size, case.views
    # Left and right of the camera in turn, further and further away.
    steps = FIRST_DEG + STEP_DEG * (np.arange(views) // 2)
    poses = [ring_pose(deg, rng) for deg in steps * (-1.0) ** np.arange(views)]
    target = ring_pose(0.0, rng)
    maps = rng.dirichlet(np.full(len(CLASS_NAMES), 0.1),
                         (views, height // 4, width // 4))  # fmt: skip
    pictures = rng.integers(0, 256, (views, 3, height, width), np.uint8)
    together = {"memory_format": torch.channels_last}
    maps = torch.from_numpy(np.rint(255 * maps).astype(np.uint8)).permute(0, 3, 1, 2)
    sources = Sources(
        torch.from_numpy(pictures).contiguous(**together),
        maps.contiguous(**together),
        torch.from_numpy(camera.pixel_from_world(matrix(case.size), np.stack(poses))),
        torch.from_numpy(np.stack(poses)[:, :3, 3].copy()),
    )
    who = Camera(torch.from_numpy(matrix(TARGET_SIZE)), torch.from_numpy(target),
                 TARGET_SIZE)  # fmt: skip
    rendered, learned = (
        depth_rays(matrix(TARGET_SIZE), target, rng.random((count, 2)) * TARGET_SIZE)
        for count in (case.rendered, case.rays)
    )
    labels = torch.from_numpy(rng.integers(0, len(CLASS_NAMES), case.rays, np.uint8))
    color = torch.from_numpy(rng.random((case.rays, 3), np.float32))
    return Inputs(sources, who, rendered, learned, Truth(labels, color))


def ring_pose(degrees: float, rng: np.random.Generator) -> np.ndarray:
    """Return a camera on the ring that looks at about its middle."""
    angle = np.deg2rad(degrees)
    eye = [RING_M * np.cos(angle), RING_M * np.sin(angle), 1.5 + rng.normal(0, 0.1)]
    return camera.look_at(eye, rng.normal([0, 0, 1.0], 0.1))


def matrix(size: tuple[int, int]) -> np.ndarray:
    """Return intrinsics of a camera of 58 degrees."""
    width, height = size
    return np.array([[0.9 * width, 0, (width - 1) / 2],
                     [0, 0.9 * width, (height - 1) / 2], [0, 0, 1]])  # fmt: skip


def seen_percent(inputs: Inputs) -> float:
    """Return how many pairs of evenly spread samples and views are in pictures."""
    ends = (0.2, 5.0), 32, "inverse-depth", inputs.rays.origins_world.device
    points = inputs.rays.at(spaced(*ends).expand(len(inputs.rays.origins_world), -1))
    inside = project(inputs.sources, points.flatten(0, 1), torch.inf).inside
    return 100 * float(inside.float().mean())


def check(ours: Side, dense: Side, inputs: Inputs) -> None:
    """Refuse to time what does not agree.

    Places of the fine pass follow weights in double precision on one side only.
    """
    for one, other in zip(
        rendering(ours, inputs)(), rendering(dense, inputs)(), strict=True
    ):
        for values, others in zip(one[:4], other[:4], strict=True):
            difference = (values - others).abs()
            assert not difference.numel() or float(difference.mean()) < 1e-3, difference
        assert float((one.usable == other.usable).float().mean()) > 0.98


def restated(method: Method) -> Side:
    """Return the dense restatement of a method, with the same weights."""
    method = deepcopy(method)
    for module in method.modules():
        if isinstance(module, nn.ELU):
            module.inplace = True
    if isinstance(method, GnesfDensity):
        return Side(
            method,
            lambda *shown: dense_volume(method, *shown),
            lambda context, rays: dense_density(method, context, rays),
        )
    if isinstance(method, Ibrnet):
        return Side(
            method,
            method.encode,
            lambda context, rays: dense_ibrnet(method, context, rays),
        )
    assert isinstance(method, SemanticNerf)
    return Side(method, method.encode, lambda _, rays: dense_nerf(method, rays))


def dense_passes(
    method: Method,
    rays: Rays,
    spacing: str,
    render: Callable[[int, Tensor, Tensor], Rendered],
) -> list[Rendered]:
    """Render even samples, then more where the first pass saw something.

    `render` is told which pass it is, points and depths, in single precision.
    """
    s, count = method.settings, len(rays.origins_world)
    depth_m = spaced(method.range_m, s.coarse_samples, spacing,
                     rays.origins_world.device).expand(count, -1)  # fmt: skip
    if method.training:
        depth_m = jittered(depth_m)
    coarse = render(0, rays.at(depth_m).float(), depth_m.float())
    depth_m = importance(
        depth_m, coarse.weights, s.fine_samples, spacing, method.training
    )
    return [coarse, render(1, rays.at(depth_m).float(), depth_m.float())]


def dense_composite(
    thickness: Tensor, color: Tensor, depth_m: Tensor, semantic: Tensor, usable: Tensor
) -> Rendered:
    """Add up samples by their opacities and a product of transparencies."""
    alpha = 1 - torch.exp(-relu(thickness))
    passed = torch.cumprod(1 - alpha + 1e-10, 1)
    weights = alpha * torch.cat([torch.ones_like(alpha[:, :1]), passed[:, :-1]], 1)
    return Rendered(
        (weights[..., None] * color).sum(1),
        (weights * depth_m).sum(1),
        (weights[..., None] * semantic).sum(1),
        weights,
        usable,
    )


def dense_project(sources: Sources, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return where all views have points, [v r s 2], and a mask, [r s v 1]."""
    height, width = sources.pictures.shape[2:]
    flat = points.flatten(0, 1)
    whole = torch.cat([flat, torch.ones_like(flat[:, :1])], 1)
    ahead = (sources.pixel_from_world.float() @ whole.T).transpose(1, 2)
    uv = (ahead[..., :2] / ahead[..., 2:].clamp(min=1e-8)).clamp(-1e6, 1e6)
    inside = (ahead[..., 2] > 0) & camera.in_image(uv, width, height)
    shape = points.shape[:2]
    return uv.unflatten(1, shape), inside.unflatten(1, shape).permute(1, 2, 0)[
        ..., None
    ]


def dense_read(maps: Tensor, uv: Tensor, sources: Sources, corners: bool) -> Tensor:
    """Interpolate maps of all views, [r s v c]; `corners` are those of pictures."""
    size = uv.new_tensor(sources.pictures.shape[:1:-1])
    at = 2 * uv / (size - 1) - 1 if corners else 2 * (uv + 0.5) / size - 1
    at = at.clamp(-2, 2)
    how = {"padding_mode": "border", "align_corners": corners}
    return grid_sample(maps, at, **how).permute(2, 3, 0, 1)


def dense_features(maps: Tensor, uv: Tensor) -> Tensor:
    """Interpolate maps whose pixels are above every `STRIDE`th one, [r s v c]."""
    size = uv.new_tensor(maps.shape[:1:-1])
    at = (2 * uv / STRIDE / (size - 1) - 1).clamp(-2, 2)
    how = {"padding_mode": "border", "align_corners": True}
    return grid_sample(maps, at, **how).permute(2, 3, 0, 1)


def dense_said(sources: Sources, uv: Tensor) -> Tensor:
    """Return probabilities by all views, [r s v classes]."""
    said = dense_read(sources.maps.float(), uv, sources, corners=False)
    return said / said.sum(-1, keepdim=True).clamp(min=1e-9)


def dense_directions(sources: Sources, who: Camera, points: Tensor) -> Tensor:
    """Return how differently camera and views look, [r s v 4]."""
    centres = sources.centres_world.float()[:, None, None]
    to_camera = who.world_from_camera[:3, 3].float() - points[None]
    to_view = centres - points[None]
    to_camera = to_camera / (to_camera.norm(dim=-1, keepdim=True) + 1e-6)
    to_view = to_view / (to_view.norm(dim=-1, keepdim=True) + 1e-6)
    apart = to_camera - to_view
    length = apart.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    cosine = (to_camera * to_view).sum(-1, keepdim=True)
    return torch.cat([apart / length, cosine], -1).permute(1, 2, 0, 3)


def moments(values: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Return means and variances over views, [r s 1 c]."""
    mean = (shares * values).sum(2, keepdim=True)
    return mean, (shares * (values - mean).square()).sum(2, keepdim=True)


def masked_votes(scores: Tensor, mask: Tensor, values: Tensor) -> Tensor:
    """Return the mean of values by the softmax of scores over views."""
    weights = scores.masked_fill(~mask, -1e9).softmax(2)
    return (weights * values).sum(2)


def dense_ibrnet(method: Ibrnet, context: ibrnet.Context, rays: Rays) -> list[Rendered]:
    """Render as IBRNet is released, with either kind of classes."""
    sources, who, pictures, features = context
    kind = method.settings.semantics

    def render(number: int, points: Tensor, depth_m: Tensor) -> Rendered:
        network = (method.net_coarse, method.net_fine)[number]
        uv, mask = dense_project(sources, points)
        color = dense_read(pictures, uv, sources, corners=True)
        sight = dense_read(features[number], uv, sources, corners=True)
        sight = torch.cat([color, sight], -1)
        directions = dense_directions(sources, who, points)
        x, density, known = dense_network(network, sight, directions, mask)
        blended = masked_votes(network.rgb_fc(x), mask, color)
        semantic = blended[..., :0]
        if kind == "voted":
            said = dense_said(sources, uv)
            semantic = masked_votes(network.rgb_fc(x), mask, said)
        elif kind == "predicted":
            semantic = network.sem_fc(known)
        seen_by, least = mask.sum(2)[..., 0], method.settings.coarse_samples / 8
        usable = (seen_by > 0).any(1)
        if method.training:
            usable = (seen_by > 1).sum(1) > least
        return dense_composite(density, blended, depth_m, semantic, usable)

    return dense_passes(method, rays, "inverse-depth", render)


def dense_network(
    network: ibrnet.Network, sight: Tensor, directions: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what views are taken for, densities, and what is known of points."""
    own = sight + network.ray_dir_fc(directions)
    alike = torch.exp(network.s.abs() * (directions[..., 3:] - 1))
    shares = (alike - least_alike(network, alike, mask)) * mask
    if network.mask == "keys":
        apart = shares.sum(2, keepdim=True) > 1e-6
        shares = torch.where(apart, shares, alike * mask)
    shares = shares / (shares.sum(2, keepdim=True) + 1e-8)
    both = torch.cat(moments(own, shares), -1).expand(-1, -1, own.shape[2], -1)
    x = network.base_fc(torch.cat([both, own], -1))
    change, visible = network.vis_fc(x * shares).split([32, 1], -1)
    x = x + change
    visible = network.vis_fc2(x * (visible.sigmoid() * mask)) * mask
    shares = visible / (visible.sum(2, keepdim=True) + 1e-8)
    mean, variance = moments(x, shares)
    views = shares.shape[2]
    if network.mask == "keys":
        views = mask.sum(2).clamp(min=1)
    known = torch.cat([mean[:, :, 0], variance[:, :, 0], shares.sum(2) / views], -1)
    known = network.geometry_fc(known)
    known = known + sinusoids(known.shape[1], known.shape[2], known.device)
    count = mask.sum(2)
    known = dense_attention(network.ray_attention, known, count[..., 0] > 1)
    density = network.out_geometry_fc(known).masked_fill(count < 1, 0)[..., 0]
    return torch.cat([x, visible, directions], -1), density, known


def least_alike(network: ibrnet.Network, alike: Tensor, mask: Tensor) -> Tensor:
    """Return how alike the view looks that does so least: of all, or those that see."""
    if network.mask == "keys":
        alike = alike.masked_fill(~mask, 1e9)
    least = alike.min(2, keepdim=True)[0]
    return torch.where(least < 1e9, least, 0.0)


def dense_attention(layer: SelfAttention, rows: Tensor, usable: Tensor) -> Tensor:
    """Let samples look at each other by products and a softmax, four heads of four."""
    query, key, value = (
        own(rows).unflatten(-1, (4, 4)).transpose(1, 2)
        for own in (layer.w_qs, layer.w_ks, layer.w_vs)
    )
    scores = torch.matmul(query / 2, key.transpose(2, 3))
    if layer.mask == "queries":
        usable = usable[:, None, :, None]
        heard = torch.matmul(scores.masked_fill(~usable, -1e9).softmax(-1), value)
    else:
        scores = scores.masked_fill(~usable[:, None, None], -1e9)
        heard = torch.matmul(scores.softmax(-1), value)
        heard = heard * usable.any(1)[:, None, None, None]
    heard = heard.transpose(1, 2).flatten(2)
    return layer.layer_norm(layer.fc(heard) + rows)


def dense_volume(
    method: GnesfDensity, sources: Sources, who: Camera
) -> gnesf_density.Context:
    """Fill the volume from tensors of voxels x views, and a mask."""
    features = method.encoder(sources.pictures / 255)
    columns, rows, depths = method.settings.volume
    voxels = frustum(who, method.range_m, (columns, rows, depths)).float()[None]
    uv, mask = dense_project(sources, voxels)
    seen = dense_features(features, uv)
    both = torch.cat(moments(seen, mask / mask.sum(2, keepdim=True).clamp(min=1)), -1)
    both = both[0, :, 0].T.reshape(1, -1, depths, rows, columns)
    return gnesf_density.Context(sources, who, features, method.aggregate(both))


def dense_density(
    method: GnesfDensity, context: gnesf_density.Context, rays: Rays
) -> list[Rendered]:
    """Render as the paper says, from whole tensors of points x views and a mask."""
    sources, who, features, _ = context

    def render(number: int, points: Tensor, depth_m: Tensor) -> Rendered:
        network = (method.coarse, method.fine)[number]
        uv, mask = dense_project(sources, points)
        views = mask.shape[2]
        sight = dense_features(features, uv)
        count = mask.sum(2, keepdim=True)
        both = torch.cat(moments(sight, mask / count.clamp(min=1)), -1)
        both = both.expand(-1, -1, views, -1)
        new = elu(whole_layer(network.first, torch.cat([sight, both], -1)))
        new = elu(network.second(new))
        away = points[:, :, None] - sources.centres_world.float()
        flat = points.double().flatten(0, 1)
        encoding = sample_volume(context, flat, method.range_m)
        encoding = encoding.unflatten(0, points.shape[:2])
        beside = encoding[:, :, None].expand(-1, -1, views, -1)
        own = torch.cat([new, away], -1)
        scores = dense_score(network.semantic, torch.cat([own, beside], -1))
        semantic = masked_votes(scores, mask, dense_said(sources, uv))
        directions = dense_directions(sources, who, points)
        own = torch.cat([own, directions, beside], -1)
        shown = dense_read(sources.pictures / 255, uv, sources, corners=True)
        color = masked_votes(dense_score(network.color, own), mask, shown)
        density = softplus(network.density(encoding)[..., 0])
        seen = count[:, :, 0, 0] > 0
        density = density.masked_fill(~seen, 0)
        return dense_composite(density, color, depth_m, semantic, seen.any(1))

    return dense_passes(method, rays, "inverse-depth", render)


def dense_score(score: gnesf_density.Score, values: Tensor) -> Tensor:
    """Score all pairs of points and views."""
    return score.score(elu(whole_layer(score.hidden, values)))


def whole_layer(layer: SplitLinear, values: Tensor) -> Tensor:
    """Apply a split layer to all its inputs side by side."""
    return linear(values, layer.weight, layer.bias)


def dense_nerf(method: SemanticNerf, rays: Rays) -> list[Rendered]:
    """Render from one list of points, each with its encoded direction."""
    length = rays.directions_world.float().norm(dim=1, keepdim=True)
    directions = rays.directions_world.float() / length
    centre, scale = method.centre_world.float(), method.scale_m.float()

    def render(number: int, points: Tensor, depth_m: Tensor) -> Rendered:
        network = (method.coarse, method.fine)[number]
        flat = ((points - centre) / scale).flatten(0, 1)
        along = directions[:, None].expand_as(points).flatten(0, 1)
        told = dense_points(network, method.settings, flat, along)
        density, color, semantic = (own.unflatten(0, points.shape[:2]) for own in told)
        gaps = torch.cat([depth_m.diff(dim=1), torch.full_like(length, 1e10)], 1)
        usable = torch.ones_like(length[:, 0], dtype=torch.bool)
        thickness = density[..., 0] * gaps * length
        return dense_composite(thickness, color, depth_m, semantic, usable)

    return dense_passes(method, rays, "depth", render)


def dense_points(
    network: PointNetwork, s: Any, positions: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return densities, colours and logits of points."""
    encoded = frequencies(positions, s.position_frequencies)
    hidden = encoded
    for number, layer in enumerate(network.layers):
        if number == s.layers // 2 + 1:
            hidden = torch.cat([encoded, hidden], -1)
        hidden = relu(layer(hidden))
    along = frequencies(directions, s.direction_frequencies)
    color = network.color(torch.cat([network.feature(hidden), along], -1))
    return network.density(hidden), color, network.semantic(hidden)


if __name__ == "__main__":
    main()
