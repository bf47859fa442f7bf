"""The whole field on a wall between two places: who sees what, and what is said."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from gnesf_core.fields.encoding import Encoding
from gnesf_core.fields.network import Evidence, GnesfNetwork, Scene
from gnesf_core.geometry.camera import look_at, pixel_from_world
from gnesf_core.geometry.distance_field import DistanceField
from gnesf_core.rendering.rays import rays_through
from gnesf_core.rendering.sources import Sources
from tests.field_scenes import ENCODER, SETTINGS

VOXEL_M, TRUNCATION_M = 0.05, 0.15
WIDTH, HEIGHT = ENCODER.image_width, ENCODER.image_height
INTRINSICS = np.array(
    [[0.8 * WIDTH, 0, (WIDTH - 1) / 2], [0, 0.8 * WIDTH, (HEIGHT - 1) / 2], [0, 0, 1]]
)
# A wall of 40 cm across x = 2, open above z = 1.2; a back wall across x = 4.
EYES = np.array([[0.4, 0.9, 0.6], [0.5, 1.1, 0.7], [0.4, 1.2, 2.0], [0.6, 0.8, 2.1]])
BACK = np.array([[4.0, 1.0, 0.5]])  # behind the low wall for the first two eyes
FRONT = np.array([[1.8, 1.0, 0.6]])
NOWHERE = np.array([[1.0, 9.0, 0.5]])


def scene():
    shape = (96, 44, 44)
    x, _, z = np.meshgrid(*(VOXEL_M * np.arange(n) for n in shape), indexing="ij")
    low = np.maximum.reduce([1.8 - x, x - 2.2, z - 1.2])
    tsdf = np.clip(np.minimum(low, 4.0 - x) / TRUNCATION_M, -1, 1)
    field = DistanceField(
        torch.from_numpy(tsdf.astype(np.float32)), torch.ones(shape, dtype=torch.bool),
        torch.zeros(3, dtype=torch.float64), VOXEL_M, TRUNCATION_M,
    )  # fmt: skip
    near = (field.tsdf.abs() < 1).nonzero()
    rows = torch.full(shape, -1, dtype=torch.int32)
    rows[tuple(near.T)] = torch.arange(len(near), dtype=torch.int32)
    torch.manual_seed(0)
    features = torch.randn(len(near), ENCODER.channels)
    return Scene(field, Encoding(rows, features, field.origin_world, VOXEL_M))


def sources(eyes=EYES, seed=0, alike=False):
    rng = np.random.default_rng(seed)
    count = len(eyes)
    poses = np.stack([look_at(eye, (2.8, 1, 0.5)) for eye in eyes])
    maps = rng.integers(0, 256, (1 if alike else count, 20, 12, 16), np.uint8)
    pictures = rng.integers(0, 256, (count, 3, HEIGHT, WIDTH), np.uint8)
    if alike:
        maps[:] = maps[:, :, :1, :1]  # a view says the same everywhere
        maps = np.repeat(maps, count, 0)
    return Sources(
        torch.from_numpy(pictures), torch.from_numpy(maps),
        torch.from_numpy(pixel_from_world(INTRINSICS, poses)),
        torch.from_numpy(poses[:, :3, 3].copy()),
    )  # fmt: skip


def only(views, chosen):
    return Sources(*(values[chosen] for values in views[:4]))


def network_of(seed=0, **changes):
    torch.manual_seed(seed)
    values = {"views": 10, "far_m": 6.0, "visibility": "sdf"} | changes
    settings = dataclasses.replace(SETTINGS, **values)
    network = GnesfNetwork(settings, ENCODER).eval()
    for module in network.modules():  # as if it had learned to tell views apart
        if isinstance(module, nn.Linear) and module.out_features == 1:
            nn.init.normal_(module.weight)
    return network


def reach(metres):
    return {"render_truncation_m": metres, "render_reach_m": metres}


def label(network, views, points):
    with torch.no_grad():
        evidence = network.look(scene(), views)
        return network.label(evidence, torch.from_numpy(points))


def voters(network, views, points):
    evidence = Evidence(scene(), views, [])
    return network.visible_pairs(evidence, torch.from_numpy(points)).view.tolist()


def test_a_wall_hides_what_is_behind_it():
    network = network_of()
    assert voters(network, sources(), BACK) == [2, 3]
    assert voters(network, sources(), FRONT) == [0, 1, 2, 3]
    assert voters(network_of(visibility="none"), sources(), BACK) == [0, 1, 2, 3]


@pytest.mark.parametrize("vote", ["learned", "direct", "mean", "nearest"])
def test_an_occluded_view_has_no_say(vote):
    network = network_of(vote=vote)
    whole = label(network, sources(), BACK)
    without = label(network, only(sources(), [2, 3]), BACK)
    assert torch.allclose(whole.semantic, without.semantic, atol=1e-6)
    assert torch.allclose(whole.color, without.color, atol=1e-6)
    # While one that does see the point has.
    other = label(network, only(sources(), [0, 1, 3]), BACK)
    assert vote == "nearest" or not torch.allclose(whole.color, other.color, atol=1e-4)


@pytest.mark.parametrize("payload", ["probabilities"])
def test_views_that_say_the_same_are_believed(payload):
    views = sources(alike=True)
    found = label(network_of(payload=payload), views, np.concatenate([FRONT, BACK]))
    said = views.maps[0, :, 0, 0].double()
    expected = (said / said.sum()).float()
    assert torch.allclose(found.semantic, expected.expand(2, -1), atol=1e-6)


@pytest.mark.parametrize("vote", ["learned", "direct", "mean", "nearest"])
def test_a_point_that_nobody_sees_is_flagged(vote):
    points = np.concatenate([FRONT, NOWHERE, BACK])
    found = label(network_of(vote=vote), sources(), points)
    assert found.seen.tolist() == [True, False, True]
    sums = found.semantic.sum(1)
    assert torch.allclose(sums, torch.tensor([1.0, 0, 1]), atol=1e-5)
    assert found.semantic.isfinite().all() and found.color.isfinite().all()


@pytest.mark.parametrize("vote", ["learned", "direct", "mean"])
def test_the_order_of_views_changes_nothing(vote):
    network, points = network_of(vote=vote), np.concatenate([FRONT, BACK])
    found = label(network, sources(), points)
    turned = label(network, only(sources(), [3, 1, 0, 2]), points)
    assert torch.allclose(found.semantic, turned.semantic, atol=1e-5)
    assert torch.allclose(found.color, turned.color, atol=1e-5)


def test_a_prior_that_knows_nothing_does_not_vote():
    views = sources()
    views.maps[3] = 0
    found = label(network_of(vote="mean"), views, BACK)
    alone = label(network_of(vote="mean"), only(views, [2]), BACK)
    assert torch.allclose(found.semantic, alone.semantic, atol=1e-6)
    views.maps[2] = 0
    assert not label(network_of(vote="mean"), views, BACK).seen.any()


def rendered(network, views):
    pose = look_at((0.5, 1.0, 1.7), (4, 1, 1.4))
    uv = np.array([[10, 8], [40, 12], [31, 20], [0, 0], [63, 47]])
    with torch.no_grad():
        rays = rays_through(INTRINSICS, pose, uv)
        return network.render(network.look(scene(), views), rays), rays


@pytest.mark.parametrize("vote_at", ["samples", "voxels"])
def test_a_ray_shows_what_all_views_say_of_it(vote_at):
    views = sources(alike=True)
    found, _ = rendered(network_of(vote_at=vote_at, **reach(0.02)), views)
    assert found.usable.any()
    said = views.maps[0, :, 0, 0].double()
    expected = (said / said.sum()).float().expand(int(found.usable.sum()), -1)
    assert torch.allclose(found.semantic[found.usable], expected, atol=1e-5)
    assert not found.semantic[~found.usable].any()


def test_rays_end_at_the_surface_that_they_meet():
    network = network_of(**reach(0.01), coarse_samples=64, fine_samples=64)
    found, rays = rendered(network, sources())
    ends = rays.origins_world + found.distance_m[:, None] * rays.directions_world
    x, z = ends[found.usable][:, 0], ends[found.usable][:, 2]
    low = torch.stack([1.8 - x, x - 2.2, z - 1.2]).amax(0)
    assert float(torch.minimum(low, 4 - x).abs().max()) < 0.03


@pytest.mark.parametrize(
    ("network", "vote"),
    [("paper", "learned"), ("released", "learned"), ("paper", "direct"),
     ("paper", "mean")],
)  # fmt: skip
def test_groups_vote_by_themselves_and_count_by_their_voters(network, vote):
    """Against each group's own answer; the wall hides two of the first group."""
    rng = np.random.default_rng(2)
    eyes = np.concatenate([EYES, EYES[2:] + rng.normal(0, 0.1, (2, 3)), EYES[3:]])
    views = sources(eyes)
    group = torch.tensor([0, 0, 0, 1, 1, 1, 2])
    depth = {"displacement": "depth"} if network == "released" else {}
    field = network_of(vote=vote, network=network, **depth)
    points = np.concatenate([BACK, FRONT, NOWHERE])
    found = label(field, views._replace(group=group), points)
    assert found.seen.tolist() == [True, True, False]
    groups = [(group == n).nonzero()[:, 0].tolist() for n in range(3)]
    for n, point in enumerate(points[:2]):
        own = [only(views, rows) for rows in groups]
        answers = [label(field, some, point[None]) for some in own]
        sizes = [len(voters(field, some, point[None])) for some in own]
        assert sizes == ([1, 3, 1] if n == 0 else [3, 3, 1])
        for name in ("semantic", "color"):
            parts = [
                size * getattr(a, name)[0]
                for size, a in zip(sizes, answers, strict=True)
            ]
            expected = sum(parts) / sum(sizes)
            torch.testing.assert_close(
                getattr(found, name)[n], expected, rtol=0, atol=2e-6
            )


def test_one_group_of_all_is_no_group():
    field, views = network_of(), sources()
    together = views._replace(group=torch.zeros(len(EYES), dtype=torch.int64))
    points = np.concatenate([FRONT, BACK, NOWHERE])
    for one, other in zip(
        label(field, views, points), label(field, together, points), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_rounding_to_bf16_changes_little():
    network, points = network_of(), np.concatenate([FRONT, BACK])
    exact = label(network, sources(), points)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = label(network, sources(), points)
    assert torch.allclose(exact.semantic, rounded.semantic, atol=0.02)
