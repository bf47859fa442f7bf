"""The paper's field of densities on a wall at a known depth, and in corner cases."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import grid_sample

from gnesf_core.config import GnesfDensityConfig
from gnesf_core.geometry import camera as cameras
from gnesf_core.labels import IGNORE
from gnesf_core.rendering.frame_samples import Truth
from gnesf_core.rendering.rays import depth_rays
from gnesf_core.rendering.sources import Sources
from gnesf_core.views.gnesf_density import (
    GnesfDensity,
    PlanewiseConv3d,
    VolumeUNet,
    build,
    frustum,
    look,
    sample_volume,
)
from gnesf_core.views.interface import Camera

WALL_M = 2.0  # before the target, at the origin, which looks along z
SIZE = WIDTH, HEIGHT = 40, 32
INTRINSICS = np.array([[30.0, 0, 19.5], [0, 30, 15.5], [0, 0, 1]])
CENTRES = [(-0.3, 0.05, 0.0), (0.3, 0.1, 0.0), (0.0, -0.2, -0.2)]


def settings(**changed):
    given = {
        "encoder_blocks": [1, 1, 1],
        "encoder_widths": [8, 8, 8],
        "features": 6,
        "volume": [5, 4, 7],
        "volume_channels": 4,
        "widths": [12, 8],
        "near_m": 1.0,
        "far_m": 4.0,
        "coarse_samples": 13,  # the wall is at the 9th
        "fine_samples": 8,
        "color_weight": 1.0,
        "semantic_weight": 0.5,
    }
    return GnesfDensityConfig(**{**given, **changed})


def camera_at(centre=(0.0, 0, 0), size=SIZE):
    pose = np.eye(4)
    pose[:3, 3] = centre
    intrinsics = cameras.scale_intrinsics(INTRINSICS, SIZE, size)
    return Camera(torch.from_numpy(intrinsics), torch.from_numpy(pose), size)


def color_on_wall(x, y):
    return np.stack([0.5 + 0.2 * x, 0.5 + 0.25 * y, 0.5 - 0.1 * x], -1)


def share_on_wall(x, y):
    """Probability of class 3; of class 5 it is the rest."""
    return 0.5 + 0.2 * x - 0.1 * y


def picture_of_wall(pose):
    """What a camera that looks along z shows of the wall, as bytes."""
    rays = depth_rays(INTRINSICS, pose, pixels())
    depth = (WALL_M - rays.origins_world[:, 2]) / rays.directions_world[:, 2]
    x, y, _ = (rays.origins_world + depth[:, None] * rays.directions_world).numpy().T
    picture = color_on_wall(x, y).clip(0, 1).T.reshape(3, HEIGHT, WIDTH)
    maps = np.zeros((20, HEIGHT * WIDTH))
    maps[3] = share_on_wall(x, y).clip(0, 1)
    maps[5] = 1 - maps[3]
    maps = maps.reshape(20, HEIGHT, WIDTH)
    return [(255 * own).round().astype(np.uint8) for own in (picture, maps)]


def pixels():
    grid = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    return np.stack(grid, -1).reshape(-1, 2)


def sources_at(centres, turned=()):
    """Views that look along z, or backwards those that are `turned`."""
    poses = np.tile(np.eye(4), (len(centres), 1, 1))
    poses[:, :3, 3] = centres
    seen = [picture_of_wall(pose) for pose in poses]
    for view in turned:
        poses[view, :3, :3] = np.diag([-1.0, 1, -1])
    pictures, maps = (np.stack(own) for own in zip(*seen, strict=True))
    return Sources(
        torch.from_numpy(pictures),
        torch.from_numpy(maps),
        torch.from_numpy(cameras.pixel_from_world(INTRINSICS, poses)),
        torch.from_numpy(poses[:, :3, 3].copy()),
    )


def only(sources, views):
    return Sources(*(own[list(views)] for own in sources[:4]))


def some_rays(count=12):
    rng = np.random.default_rng(0)
    uv = rng.uniform([5, 5], [WIDTH - 6, HEIGHT - 6], (count, 2))
    return depth_rays(INTRINSICS, np.eye(4), uv)


def random_method(**changed):
    """A method whose votes and densities differ, as if it had learned."""
    torch.manual_seed(0)
    method = GnesfDensity(settings(**changed)).eval()
    for own in (method.coarse, method.fine):
        for score in (own.semantic, own.color):
            nn.init.normal_(score.score.weight)
        nn.init.normal_(own.density[-1].weight)
        nn.init.constant_(own.density[-1].bias, 0.0)
    return method


def rendered_by(method, sources, rays=None):
    context = method.encode(sources, camera_at())
    return method.render(context, some_rays() if rays is None else rays)


def assert_same(one, other, atol=2e-5):
    for passes in zip(one, other, strict=True):
        for found, expected in zip(*passes, strict=True):
            np.testing.assert_allclose(found.detach(), expected.detach(), atol=atol)


class Wall(nn.Module):
    """Dense from where M, which then is inverse depth, says that the wall is."""

    def __init__(self, depth_m):
        super().__init__()
        self.depth_m = depth_m

    def forward(self, encoding):
        return torch.where(encoding[:, :1] < 1 / self.depth_m, 50.0, -50.0)


def wall_method(sources, depth_m=WALL_M - 0.004):
    """An untrained method with a volume and densities set by hand; its context."""
    torch.manual_seed(0)
    method = GnesfDensity(settings()).eval()
    method.coarse.density = method.fine.density = Wall(depth_m)
    context = method.encode(sources, camera_at())
    places = frustum(context.camera, method.range_m, (5, 4, 7))
    inverse = (1 / places[:, 2]).float().reshape(1, 1, 7, 4, 5)
    return method, context._replace(volume=inverse.expand(-1, 4, -1, -1, -1))


def test_a_wall_is_seen_at_its_depth_in_its_colours_and_classes():
    method, context = wall_method(sources_at(CENTRES))
    rays = some_rays()
    x, y = (WALL_M * rays.directions_world[:, :2]).numpy().T
    for rendered in method.render(context, rays):
        assert rendered.usable.all()
        np.testing.assert_allclose(rendered.depth_m, WALL_M, atol=5e-3)
        expected = color_on_wall(x, y)
        np.testing.assert_allclose(rendered.color.detach(), expected, atol=4e-3)
        semantic = rendered.semantic.detach().numpy()
        np.testing.assert_allclose(semantic[:, 3], share_on_wall(x, y), atol=5e-3)
        np.testing.assert_allclose(semantic.sum(1), 1, atol=1e-5)


def test_the_fine_pass_looks_more_closely_where_the_coarse_one_saw_something():
    wall_m = 1.89  # the next coarse sample is at 2 m
    method, context = wall_method(sources_at(CENTRES), wall_m)
    coarse, fine = method.render(context, some_rays())
    np.testing.assert_allclose(coarse.depth_m, 2.0, rtol=1e-5)
    assert ((fine.depth_m - wall_m).abs() < 0.03).all()


def test_before_anything_is_learned_all_views_that_see_a_point_count_alike():
    sources = sources_at(CENTRES)
    for view, shade in enumerate((30, 60, 240)):
        sources.pictures[view] = shade
        sources.maps[view] = 0
        sources.maps[view, view] = 255
    method, context = wall_method(sources)
    answer = method.render(context, some_rays())[-1]
    np.testing.assert_allclose(answer.color.detach(), 110 / 255, atol=1e-5)
    expected = torch.zeros(12, 20)
    expected[:, :3] = 1 / 3
    np.testing.assert_allclose(answer.semantic.detach(), expected, atol=1e-5)


def test_a_view_whose_prior_says_nothing_votes_on_colours_alone():
    sources = sources_at(CENTRES)
    sources.maps[:] = 0
    sources.maps[0, 7] = 255
    sources.maps[1, 9] = 255
    for view, shade in enumerate((30, 60, 240)):
        sources.pictures[view] = shade
    method, context = wall_method(sources)
    answer = method.render(context, some_rays())[-1]
    np.testing.assert_allclose(answer.color.detach(), 110 / 255, atol=1e-5)
    np.testing.assert_allclose(answer.semantic[:, [7, 9]].detach(), 0.5, atol=1e-5)


def test_a_frustum_fills_the_picture_and_the_range():
    turned = camera_at((3.0, -1, 2))
    turned.world_from_camera[:3, :3] = torch.from_numpy(
        cameras.look_at((0, 0, 0), (1, 2, -0.5))[:3, :3]
    )
    places = frustum(turned, (0.5, 8.0), (5, 4, 7))
    camera_from_world = cameras.invert_rigid(turned.world_from_camera)
    uv, depth_m = cameras.project(
        cameras.transform(camera_from_world, places), turned.intrinsics
    )
    u, v = uv.reshape(7, 4, 5, 2).unbind(-1)
    np.testing.assert_allclose(u - torch.linspace(-0.5, 39.5, 5), 0, atol=1e-5)
    np.testing.assert_allclose(v.mT - torch.linspace(-0.5, 31.5, 4), 0, atol=1e-5)
    inverse = 1 / depth_m.reshape(7, -1)
    np.testing.assert_allclose(inverse.T - torch.linspace(2, 1 / 8, 7), 0, atol=1e-6)


def test_a_frustum_does_not_depend_on_the_size_of_the_picture():
    full, half = (
        frustum(camera_at(size=size), (0.5, 8.0), (5, 4, 7))
        for size in (SIZE, (WIDTH // 2, HEIGHT // 2))
    )
    np.testing.assert_allclose(full, half, rtol=1e-12)


def test_the_network_of_the_volume_is_given_means_and_variances_of_views():
    method, sources = random_method(), sources_at([*CENTRES, (1.2, -0.05, 0)], [2])
    method.aggregate = nn.Identity()
    context = method.encode(sources, camera_at())
    places = frustum(context.camera, method.range_m, (5, 4, 7))
    both = context.volume[0].detach().reshape(12, -1)
    features = context.features.detach()
    counts = set()
    for place, mean, variance in zip(places, both[:6].T, both[6:].T, strict=True):
        seen = []
        for view in (0, 1, 3):
            x, y, z = (place - sources.centres_world[view]).tolist()
            u, v = 30 * x / z + 19.5, 30 * y / z + 15.5
            if -0.5 <= u < WIDTH - 0.5 and -0.5 <= v < HEIGHT - 0.5:
                # Each feature belongs to a fourth pixel.
                rows, columns = features.shape[2:]
                at = [u / 4 / (columns - 1), v / 4 / (rows - 1)]
                at = 2 * torch.tensor(at).reshape(1, 1, 1, 2) - 1
                how = {"align_corners": True, "padding_mode": "border"}
                seen.append(grid_sample(features[view, None], at, **how).flatten())
        counts.add(len(seen))
        seen = torch.stack(seen) if seen else torch.zeros(1, 6)
        np.testing.assert_allclose(mean, seen.mean(0), atol=1e-4)
        np.testing.assert_allclose(variance, seen.var(0, correction=0), atol=1e-4)
    assert counts == {0, 1, 2, 3}


def test_between_voxels_the_volume_is_interpolated():
    method, context = wall_method(sources_at(CENTRES))
    rng = np.random.default_rng(1)
    uv = torch.from_numpy(rng.uniform([-0.5, -0.5], [39.5, 31.5], (200, 2)))
    depth_m = 1 / torch.from_numpy(rng.uniform(1 / 4, 1, 200))
    rays = depth_rays(INTRINSICS, np.eye(4), uv.numpy())
    points = rays.at(depth_m[:, None])[:, 0]
    corners = frustum(context.camera, method.range_m, (5, 4, 7))
    linear = torch.stack(
        [
            30 * corners[:, 0] / corners[:, 2] + 19.5,
            30 * corners[:, 1] / corners[:, 2] + 15.5,
            1 / corners[:, 2],
        ]
    )
    context = context._replace(volume=linear.float().reshape(1, 3, 7, 4, 5))
    found = sample_volume(context, points, method.range_m)
    np.testing.assert_allclose(found[:, :2], uv, atol=1e-4)
    np.testing.assert_allclose(found[:, 2], 1 / depth_m, atol=1e-6)


def test_the_order_of_the_views_does_not_matter():
    method, sources = random_method(), sources_at(CENTRES)
    mixed = rendered_by(method, only(sources, (2, 0, 1)))
    assert_same(rendered_by(method, sources), mixed)


def test_a_view_that_looks_away_changes_nothing():
    method = random_method()
    sources = sources_at([*CENTRES, (0.0, 0, 0)], turned=[3])
    expected = rendered_by(method, only(sources, (0, 1, 2)))
    assert_same(rendered_by(method, sources), expected)


def test_learned_votes_prefer_views():
    method, sources = random_method(), sources_at(CENTRES)
    for view in range(3):
        sources.maps[view] = 0
        sources.maps[view, view] = 255
    answer = rendered_by(method, sources)[-1]
    shares = answer.semantic[:, :3] / answer.semantic.sum(1, keepdim=True)
    assert (shares - 1 / 3).abs().max() > 0.02


@pytest.mark.parametrize("training", [False, True])
def test_rays_that_no_view_sees_are_unusable_and_teach_nothing(training):
    method = random_method().train(training)
    sources = sources_at(CENTRES, turned=[0, 1, 2])
    context = method.encode(sources, camera_at())
    passes = method.render(context, some_rays())
    truth = Truth(torch.full((12,), 3, dtype=torch.uint8), torch.rand(12, 3))
    for rendered in passes:
        assert not rendered.usable.any()
        assert not rendered.weights.any()
        assert all(own.isfinite().all() for own in rendered)
    errors = method.losses(context, passes, truth)
    assert all(len(own) == 0 for own in errors.values())
    sum(own.sum() for own in errors.values()).backward()
    gradients = [own.grad for own in method.parameters() if own.grad is not None]
    assert all(own.isfinite().all() and not own.any() for own in gradients)


def test_there_is_nothing_where_no_view_looks():
    # Sources are 1.5 m further on: what is before them they do not see.
    sources = sources_at([(x, y, 1.5) for x, y, _ in CENTRES])
    uv = np.random.default_rng(0).uniform(14, 20, (12, 2))
    rays = depth_rays(INTRINSICS, np.eye(4), uv)
    coarse, fine = rendered_by(random_method(), sources, rays)
    assert coarse.usable.all() and fine.usable.all()
    depth_m = 1 / torch.linspace(1, 1 / 4, 13)
    unseen = depth_m <= 1.5
    assert unseen.sum() == 6
    assert not coarse.weights[:, unseen].any()
    assert (coarse.weights[:, -1] > 0).all()


def test_one_source_says_it_all():
    sources = only(sources_at(CENTRES), [1])
    method, context = wall_method(sources)
    for own in (method.coarse, method.fine):
        nn.init.normal_(own.semantic.score.weight)
    answer = method.render(context, some_rays())[-1]
    x, y = (WALL_M * some_rays().directions_world[:, :2]).numpy().T
    np.testing.assert_allclose(answer.color.detach(), color_on_wall(x, y), atol=4e-3)
    shares = answer.semantic[:, 3].detach()
    np.testing.assert_allclose(shares, share_on_wall(x, y), atol=5e-3)


def test_only_votes_on_colours_depend_on_where_the_target_looks_from():
    method, sources = random_method(), sources_at(CENTRES)
    context = method.encode(sources, camera_at())
    aside = context._replace(camera=camera_at((0.8, 0.3, 0)))
    points = some_rays().at(torch.full((12, 1), WALL_M).double())[:, 0]
    encoding = torch.rand(12, 4)
    one, other = (method.fine(look(who, points, encoding)) for who in (context, aside))
    assert torch.equal(one.semantic, other.semantic)
    assert torch.equal(one.density, other.density)
    sources.pictures[0] = 0  # colours on which views agree tell nothing of votes
    one, other = (method.fine(look(who, points, encoding)) for who in (context, aside))
    assert (one.color - other.color).abs().max() > 1e-3


def test_gradients_are_finite_and_reach_all_that_learns():
    method = random_method().train()
    sources = sources_at(CENTRES)
    for view in range(3):
        sources.maps[view] = 0
        sources.maps[view, view] = 255
    context = method.encode(sources, camera_at())
    passes = method.render(context, some_rays())
    truth = Truth(torch.tensor([0, 1, 2] * 4, dtype=torch.uint8), torch.rand(12, 3))
    errors = method.losses(context, passes, truth)
    sum(own.mean() for own in errors.values()).backward()
    for name, parameter in method.named_parameters():
        assert parameter.grad.isfinite().all(), name
        # A norm that follows takes this away.
        if not (name.endswith("conv.bias") and "encoder" in name):
            assert parameter.grad.any(), name


def test_errors_of_classes_and_colours_are_weighted():
    method, context = wall_method(sources_at(CENTRES))
    passes = method.render(context, some_rays())
    labels = torch.tensor([3, 5, IGNORE] * 4, dtype=torch.uint8)
    truth = Truth(labels, torch.zeros(12, 3))
    errors = method.losses(context, passes, truth)
    x, y = (WALL_M * some_rays().directions_world[:, :2]).numpy().T
    color = (color_on_wall(x, y) ** 2).mean(1)
    share = share_on_wall(x, y)
    shares = np.where(labels == 3, share, 1 - share)[labels != IGNORE]
    for name in ("coarse", "fine"):
        np.testing.assert_allclose(errors[f"{name}_color"].detach(), color, atol=0.01)
        found = errors[f"{name}_semantic"].detach()
        np.testing.assert_allclose(found, -0.5 * np.log(shares), atol=0.02)


@pytest.mark.parametrize("size", [(5, 4, 4), (7, 6, 9), (8, 5, 3)])
def test_a_volume_of_any_size_keeps_it(size):
    torch.manual_seed(0)
    network = VolumeUNet(6, 4)
    assert network(torch.randn(1, 6, *size)).shape == (1, 4, *size)


def test_untrained_rays_let_little_light_through():
    torch.manual_seed(0)
    method = build(settings(coarse_samples=64)).eval()
    coarse, _ = rendered_by(method, sources_at(CENTRES))
    opacity = coarse.weights.sum(1)
    assert (opacity > 0.6).all()
    # The first sixth of a ray does not hide the rest.
    assert (coarse.weights[:, :11].sum(1) < 0.6 * opacity).all()


def test_lower_precision_changes_little():
    method, sources = random_method(), sources_at(CENTRES)
    expected = rendered_by(method, sources)[0]
    with torch.autocast("cpu", torch.bfloat16):
        found = rendered_by(method, sources)[0]
    assert found.color.dtype == found.weights.dtype == torch.float32
    np.testing.assert_allclose(found.color.detach(), expected.color.detach(), atol=0.1)
    assert found.depth_m.isfinite().all()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(6, 5, 7), (5, 8, 3), (1, 2, 2)])
def test_planes_are_convolved_as_a_volume_is(stride, size):
    layer = PlanewiseConv3d(3, 4, 3, stride, padding=1, bias=False)
    values = torch.randn(1, 3, *size, requires_grad=True)
    by_planes, whole = layer(values), nn.Conv3d.forward(layer, values)
    torch.testing.assert_close(by_planes, whole)
    wanted = torch.randn_like(whole)
    ours, theirs = (
        torch.autograd.grad((own * wanted).sum(), [values, layer.weight])
        for own in (by_planes, whole)
    )
    torch.testing.assert_close(ours, theirs)
