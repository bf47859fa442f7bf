"""Time votes and a step of training a field, beside a dense restatement.

    python -m bench.bench_voting [--rays N] [--samples N] [--views N] [--rounds N]
                                 [--size 640x480] [--device cpu|cuda]

A camera and its source views stand in a furnished box whose signed distances are known;
features, M and priors are random. The restatement is what one writes first: every
sample of every ray is projected into every view, features and probabilities are read
with `grid_sample`, layers see whole inputs, views that do not see a point are masked.

votes        all samples, whatever they weigh: the same votes on all sides
step         rays to losses: what weighs nothing is not asked about on our side

ours         as it is; on a CPU with numba that is a compiled twin
plain        pairs in plain torch, without any twin of votes and of sampling
dense        the restatement
"""

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import elu, grid_sample

from bench.bench_geometry import recipe
from gnesf_core.config import GnesfConfig
from gnesf_core.fields import network as field_network
from gnesf_core.fields.encoding import Encoding, sample_encoding
from gnesf_core.fields.network import Evidence, GnesfNetwork, Scene
from gnesf_core.fields.occlusion import hidden
from gnesf_core.fields.rays import sample_rays
from gnesf_core.geometry import camera
from gnesf_core.geometry.distance_field import DistanceField
from gnesf_core.labels import CLASS_NAMES
from gnesf_core.nets.mnasnet import STRIDES
from gnesf_core.rendering import sources as field_sources
from gnesf_core.rendering.compositing import composite
from gnesf_core.rendering.rays import Rays
from gnesf_core.rendering.sources import Sources
from gnesf_core.training.loop import moved

ROOM_M, VOXEL_M, TRUNCATION_M = (6.0, 5.0, 2.6), 0.04, 0.12
MARGIN_M = 0.4
BLOCKS = (((1.5, 1.0, 0.0), (2.6, 2.0, 0.8)), ((3.8, 3.0, 0.0), (4.4, 4.4, 1.6)))


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rays", type=int, default=512)
    parser.add_argument("--samples", type=int, default=64, help="coarse, and as many")
    parser.add_argument("--views", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", default="640x480", help="of the pictures")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    if not find_spec("numba"):
        print("no numba: ours is plain")
    device = torch.device(arguments.device)
    size = tuple(int(side) for side in arguments.size.split("x"))
    network = GnesfNetwork(settings(arguments), recipe("paper")).to(device).train()
    for head in (network.vote.semantic, network.vote.color):
        nn.init.normal_(head.weight)  # at the start all votes are alike
    scene, sources, rays = (moved(part, device) for part in made_up(arguments, size))
    maps = random_maps(network, arguments.views, size, device)
    evidence = Evidence(scene, sources, maps)
    with torch.no_grad():
        samples = sample_rays(scene.field, rays, network.sampling, jittered=False)
    points = rays.at(samples.distance_m).flatten(0, 1)
    check(network, evidence, points)
    pairs = network.visible_pairs(evidence, points)
    share = len(pairs.point) / (len(points) * arguments.views)
    weighty = float((samples.weights > 0).double().mean())
    print(f"{arguments.rays} rays x {2 * arguments.samples} samples x "
          f"{arguments.views} views, pictures {arguments.size}, {device}, "
          f"{torch.get_num_threads()} threads; {100 * share:.0f} % of pairs see their "
          f"point, {100 * weighty:.0f} % of samples weigh anything")  # fmt: skip

    def ours_votes() -> Tensor:
        return network.label(evidence, points).semantic

    def dense_votes() -> Tensor:
        return dense_label(network, evidence, points)[0]

    def ours_step() -> Tensor:
        return network.render(evidence, rays).semantic

    def dense_step() -> Tensor:
        semantic, color = dense_label(network, evidence, points)
        shape = *samples.weights.shape, -1
        return composite(samples.weights, semantic.view(shape)) + 0 * color.sum()

    for name, ours, dense in (
        ("votes", ours_votes, dense_votes),
        ("step", ours_step, dense_step),
    ):
        for backward in (False, True):
            peers = ours, without_twins(ours), dense
            times = interleaved(peers, arguments.rounds, backward)
            kind = "forward+backward" if backward else "forward"
            print(f"{name:6s} {kind:17s} ours {times[0]:7.3f} s   "
                  f"plain {times[1]:7.3f} s = {times[1] / times[0]:5.1f} x   "
                  f"dense {times[2]:7.3f} s = {times[2] / times[0]:5.1f} x"
            )  # fmt: skip


def without_twins(function: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Return a function that votes, and reads maps, as where there is no numba.

    Visibility keeps its own: without, it would be another rule.
    """

    def plain() -> Tensor:
        with (
            patch.object(field_network, "find_spec", return_value=None),
            patch.object(field_sources, "find_spec", return_value=None),
        ):
            return function()

    return plain


def interleaved(
    functions: tuple[Callable[[], Tensor], ...], rounds: int, backward: bool
) -> list[float]:
    """Return each function's median time; they take turns."""
    times: list[list[float]] = [[] for _ in functions]
    for number in range(rounds + 1):
        for function, own in zip(functions, times, strict=True):
            _wait()
            started = time.perf_counter()
            if backward:
                function().clamp(min=1e-4).log().sum().backward()
            else:
                with torch.no_grad():
                    function()
            _wait()
            if number:  # the first round warms up
                own.append(time.perf_counter() - started)
    return [statistics.median(own) for own in times]


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def settings(arguments: argparse.Namespace) -> GnesfConfig:
    """Return the paper's field."""
    return GnesfConfig(
        vote="learned", network="paper", payload="probabilities", informed=False,
        displacement="vector", feature_channels=[8, 16, 32], widths=[64, 32],
        source_frames="keys", voters="nearest", views=arguments.views, view_overlap=0.1,
        visibility="sdf", unobserved="skip", vote_at="samples", near_m=0.1, far_m=5.0,
        sampler="by-weight", coarse_samples=arguments.samples,
        fine_samples=arguments.samples, render_truncation_m=0.05,
        render_reach_m=0.05,
    )  # fmt: skip


def made_up(
    arguments: argparse.Namespace, size: tuple[int, int]
) -> tuple[Scene, Sources, Rays]:
    """Return a room with two blocks in it, views of it, and rays of one more camera."""
    rng = np.random.default_rng(0)
    width, height = size
    matrix = np.array([[0.9 * width, 0, (width - 1) / 2],
                       [0, 0.9 * width, (height - 1) / 2], [0, 0, 1]])  # fmt: skip
    eye, middle = np.array([3.0, 2.4, 1.5]), np.array([0.5, 4.5, 0.8])
    poses = np.stack([
        camera.look_at(eye + rng.normal(0, 0.3, 3) * [1, 1, 0.3],
                       middle + rng.normal(0, 0.4, 3))
        for _ in range(arguments.views)
    ])  # fmt: skip
    maps = rng.dirichlet(np.full(len(CLASS_NAMES), 0.1),
                         (arguments.views, height // 4, width // 4))  # fmt: skip
    pictures = rng.integers(0, 256, (arguments.views, 3, height, width), np.uint8)
    sources = Sources(
        torch.from_numpy(pictures).contiguous(memory_format=torch.channels_last),
        torch.from_numpy(np.rint(255 * maps).astype(np.uint8)).permute(0, 3, 1, 2),
        torch.from_numpy(camera.pixel_from_world(matrix, poses)),
        torch.from_numpy(poses[:, :3, 3].copy()),
    )
    pose = camera.look_at(eye, middle)
    pixels = rng.random((arguments.rays, 2)) * size
    ahead = np.concatenate([pixels, np.ones((arguments.rays, 1))], 1)
    ahead = ahead @ np.linalg.inv(matrix).T @ pose[:3, :3].T
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    start = np.broadcast_to(eye, ahead.shape).copy()
    rays = Rays(torch.from_numpy(start), torch.from_numpy(ahead))
    field = furnished_box()
    near = (field.tsdf.abs() < 1).nonzero()
    rows = torch.full(field.tsdf.shape, -1, dtype=torch.int32)
    rows[tuple(near.T)] = torch.arange(len(near), dtype=torch.int32)
    features = torch.from_numpy(rng.normal(size=(len(near), 24))).float()
    encoding = Encoding(rows, features, field.origin_world, VOXEL_M)
    return Scene(field, encoding), sources, rays


def furnished_box() -> DistanceField:
    """Return the truncated distances of a room that was observed from inside."""
    low = -MARGIN_M * np.ones(3)
    counts = np.ceil((np.array(ROOM_M) + 2 * MARGIN_M) / VOXEL_M).astype(int)
    axes = [o + VOXEL_M * np.arange(n) for o, n in zip(low, counts, strict=True)]
    xyz = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    distance = np.minimum(xyz, np.array(ROOM_M) - xyz).min(-1)
    for lower, upper in BLOCKS:
        outside = np.maximum(np.array(lower) - xyz, xyz - np.array(upper))
        distance = np.minimum(distance, outside.max(-1))
    tsdf = np.clip(distance / TRUNCATION_M, -1, 1).astype(np.float32)
    return DistanceField(
        torch.from_numpy(tsdf), torch.from_numpy(distance > -TRUNCATION_M),
        torch.from_numpy(low), VOXEL_M, TRUNCATION_M,
    )  # fmt: skip


def random_maps(
    network: GnesfNetwork, views: int, size: tuple[int, int], device: torch.device
) -> list[Tensor]:
    """Return features as `network.look` would, with gradients to give."""
    maps = [
        torch.randn(views, channels, size[1] // stride, size[0] // stride)
        for channels, stride in zip(
            network.settings.feature_channels, STRIDES, strict=True
        )
    ]
    return [own.to(device).requires_grad_() for own in maps]


def dense_label(
    network: GnesfNetwork, evidence: Evidence, points_world: Tensor
) -> tuple[Tensor, Tensor]:
    """Vote as one writes it first: tensors of views x points, and a mask."""
    scene, sources, maps = evidence
    views, count = len(sources.pictures), len(points_world)
    height, width = sources.pictures.shape[2:]
    matrices = sources.pixel_from_world
    ahead = torch.einsum("vrc,pc->vpr", matrices[:, :, :3], points_world)
    ahead = ahead + matrices[:, None, :, 3]
    depth = ahead[..., 2]
    divisor = torch.where(depth > 0, depth, 1.0)
    uv = ahead[..., :2] / divisor[..., None]
    far_m = network.settings.far_m
    seen = (depth > 0) & (depth <= far_m) & camera.in_image(uv, width, height)
    origins = sources.centres_world[:, None].expand(-1, count, -1).reshape(-1, 3)
    targets = points_world[None].expand(views, -1, -1).reshape(-1, 3)
    rules = network.settings.visibility, network.settings.unobserved
    seen &= ~hidden(scene.field, origins, targets, *rules).view(views, count)

    def read(images: Tensor, stride: float | None) -> Tensor:
        """Sample maps that cover the picture, or have pixels at its multiples."""
        h, w = images.shape[2:]
        if stride is None:
            at = (uv + 0.5) / uv.new_tensor([width, height]) * 2 - 1
        else:
            at = (uv / stride + 0.5) / uv.new_tensor([w, h]) * 2 - 1
        grid = at[:, None].float()
        values = grid_sample(images.float(), grid, padding_mode="border",
                             align_corners=False)  # fmt: skip
        return values[:, :, 0].transpose(1, 2)

    said = read(sources.maps, None)
    said = said / said.sum(-1, keepdim=True).clamp(min=1e-9)
    color = read(sources.pictures, None) / 255
    features = torch.cat(
        [read(own, stride) for own, stride in zip(maps, STRIDES, strict=True)], -1
    )
    mask = seen[..., None].float()
    number = mask.sum(0).clamp(min=1)
    mean = (features * mask).sum(0) / number
    variance = ((features - mean).square() * mask).sum(0) / number
    both = torch.cat([mean, variance], -1)[None].expand(views, -1, -1)
    new = elu(_whole(network.vote.first, torch.cat([features, both], -1)))
    new = elu(network.vote.second(new))
    displacement = points_world[None] - sources.centres_world[:, None]
    encoded = sample_encoding(scene.encoding, points_world)
    encoded = encoded[None].expand(views, -1, -1)
    parts = torch.cat([new, displacement.float(), encoded], -1)
    new = elu(_whole(network.vote.third, parts))
    results = []
    for head, payload in ((network.vote.semantic, said), (network.vote.color, color)):
        scores = head(new)[..., 0].masked_fill(~seen, -1e9)
        weights = scores.softmax(0) * seen
        results.append((weights[..., None] * payload).sum(0))
    return results[0], results[1]


def _whole(layer: nn.Module, inputs: Tensor) -> Tensor:
    return inputs @ layer.weight.T + layer.bias


def check(network: GnesfNetwork, evidence: Evidence, points: Tensor) -> None:
    """Refuse to time what does not agree."""
    with torch.no_grad():
        ours = network.label(evidence, points)
        dense = dense_label(network, evidence, points)
        plain = without_twins(lambda: network.label(evidence, points)[0])()
    torch.testing.assert_close(ours.semantic, plain, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(ours.semantic, dense[0], atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(ours.color, dense[1], atol=2e-4, rtol=1e-3)


if __name__ == "__main__":
    main()
