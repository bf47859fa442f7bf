"""IBRNet against its layers written out by loops, and in scenes of closed form."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot

from gnesf_core.config import IbrnetConfig, TrainingConfig
from gnesf_core.errors import BadInput
from gnesf_core.geometry.camera import pixel_from_world
from gnesf_core.labels import CLASS_NAMES, IGNORE
from gnesf_core.rendering import samplers
from gnesf_core.rendering.directions import direction_differences
from gnesf_core.rendering.frame_samples import Truth
from gnesf_core.rendering.rays import Rays, depth_rays
from gnesf_core.rendering.samplers import spaced
from gnesf_core.rendering.sources import Sources
from gnesf_core.training.weights import load_into, write_weights
from gnesf_core.views import ibrnet
from gnesf_core.views.ibrnet import Network, Seen
from gnesf_core.views.interface import Camera, Rendered

SETTINGS = IbrnetConfig(
    semantics="nothing", encoder_blocks=[1, 1, 1], encoder_widths=[4, 6, 8],
    features=4, mask="keys", semantic_loss="cross-entropy", near_m=0.5, far_m=6.0,
    coarse_samples=16, fine_samples=8, color_weight=1.0, semantic_weight=0.5,
)  # fmt: skip
RELEASED = IbrnetConfig(
    semantics="nothing", encoder_blocks=[3, 4, 6], encoder_widths=[64, 128, 256],
    features=32, mask="queries", semantic_loss="one-minus-probability", near_m=0.5,
    far_m=6.0, coarse_samples=64, fine_samples=64, color_weight=1.0,
    semantic_weight=1.0,
)  # fmt: skip
TRAINING = TrainingConfig(
    seed=1, steps=6, batch=2, learning_rate=5e-4, backbone_rate=2.0, weight_decay=0.0,
    schedule="constant", warmup_steps=1, clip_norm=1.0, precision="float32", workers=0,
    report_steps=1, state_steps=2, validate_steps=3,
)  # fmt: skip
ALL = ("nothing", "predicted", "voted")
CLASSES = len(CLASS_NAMES)
CPU = torch.device("cpu")
WIDTH, HEIGHT = 48, 36
K = np.array([[40.0, 0, (WIDTH - 1) / 2], [0, 40, (HEIGHT - 1) / 2], [0, 0, 1]])
LEFT, RIGHT = 3, 7  # classes
AHEAD = np.eye(4)


def moved_by(x, y, z=0.0):
    pose = np.eye(4)
    pose[:3, 3] = x, y, z
    return pose


BACKWARDS = np.diag([-1.0, 1, -1, 1])
POSES = [moved_by(-0.2, 0), moved_by(0.15, 0.1), moved_by(0.05, -0.1)]


def method_of(semantics="nothing", seed=0, **settings):
    torch.manual_seed(seed)
    method = ibrnet.build(replace(SETTINGS, semantics=semantics, **settings))
    # As if they had learned something: untrained ones see the same density anywhere.
    for network in (method.net_coarse, method.net_fine):
        nn.init.normal_(network.out_geometry_fc[2].weight, std=0.3)
    return method.eval()


def sources_at(poses, pictures=None, maps=None, seed=0):
    rng = np.random.default_rng(seed)
    if pictures is None:
        pictures = rng.integers(0, 256, (len(poses), 3, HEIGHT, WIDTH))
    if maps is None:
        maps = rng.integers(1, 256, (len(poses), CLASSES, 9, 12))
    poses = np.stack(poses)
    return Sources(
        torch.from_numpy(np.asarray(pictures, np.uint8)),
        torch.from_numpy(np.asarray(maps, np.uint8)),
        torch.from_numpy(pixel_from_world(K, poses)),
        torch.from_numpy(poses[:, :3, 3].copy()),
    )


def camera_at(pose):
    return Camera(torch.tensor(K), torch.tensor(pose), (WIDTH, HEIGHT))


def rays_of(pose, low=(0, 0), high=(WIDTH, HEIGHT), step=5):
    columns, rows = (np.arange(*ends, step) for ends in zip(low, high, strict=True))
    return depth_rays(K, pose, np.stack(np.meshgrid(columns, rows), -1).reshape(-1, 2))


def rendered(method, sources, pose=AHEAD, rays=None):
    context = method.encode(sources, camera_at(pose))
    return method.render(context, rays_of(pose) if rays is None else rays)


def is_finite(passes):
    return all(values.isfinite().all() for own in passes for values in own)


def random_truth(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    labels[::3] = IGNORE
    color = torch.rand(count, 3, generator=generator)
    return Truth(labels.to(torch.uint8), color)


def shapes_of_layers(name, *widths):
    shapes = {}
    for place, (inner, outer) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        shapes[f"{name}.{2 * place}.weight"] = (outer, inner)
        shapes[f"{name}.{2 * place}.bias"] = (outer,)
    return shapes


def released_network():
    """Return names and shapes of the released state dict of one pass."""
    shapes = {"s": ()}
    for name, *widths in [
        ("ray_dir_fc", 4, 16, 35), ("base_fc", 105, 64, 32), ("vis_fc", 32, 32, 33),
        ("vis_fc2", 32, 32, 1), ("geometry_fc", 65, 64, 16),
        ("out_geometry_fc", 16, 16, 1), ("rgb_fc", 37, 16, 8, 1),
    ]:  # fmt: skip
        shapes |= shapes_of_layers(name, *widths)
    for name in ("w_qs", "w_ks", "w_vs", "fc"):
        shapes[f"ray_attention.{name}.weight"] = (16, 16)
    for kind in ("weight", "bias"):
        shapes[f"ray_attention.layer_norm.{kind}"] = (16,)
    return shapes


def test_weights_of_the_released_code_fit(tmp_path):
    method = ibrnet.build(RELEASED)
    coarse = method.net_coarse.state_dict()
    assert {
        name: tuple(own.shape) for name, own in coarse.items()
    } == released_network()
    for network in (method.net_coarse, method.net_fine):
        assert sum(own.numel() for own in network.parameters()) == 20_136
    checkpoint = {
        part: {
            name: own + 1 for name, own in getattr(method, part).state_dict().items()
        }
        for part in ("net_coarse", "net_fine", "feature_net")
    }
    tensors = {
        f"{part}.{name}": values
        for part, own in checkpoint.items()
        for name, values in own.items()
    }
    write_weights(tmp_path / "released.safetensors", tensors, {})
    load_into(method, tmp_path / "released.safetensors")
    assert torch.equal(method.net_fine.s, checkpoint["net_fine"]["s"])


def random_sights(rays=3, samples=5, views=4, features=4, seed=3):
    generator = torch.Generator().manual_seed(seed)

    def drawn(*size):
        size = rays, samples, views, *size
        return torch.rand(size, generator=generator, dtype=torch.float64)

    inside = drawn() < 0.6
    inside[0, 0], inside[0, 1, 1:], inside[0, 2] = False, False, True
    directions = drawn(4) * 2 - 1
    said = drawn(CLASSES)
    said = said / said.sum(-1, keepdim=True) * (drawn(1) < 0.7)
    return Seen(drawn(3), drawn(features) - 0.5, directions, said, inside)


def written_out(network, seen, ray):
    """Return densities, colours and votes of a ray's samples, one view at a time."""
    tokens, asking, per_sample = [], [], []
    samples, views = seen.inside.shape[1:]
    for sample in range(samples):
        color, features, direction, said, inside = (own[ray, sample] for own in seen)
        rows = range(views)
        alike = [(network.s.abs() * (direction[v, 3] - 1)).exp() for v in rows]
        compared = [alike[v] for v in rows if inside[v] or network.mask == "queries"]
        excess = [(alike[v] - min(compared)) * inside[v] for v in rows if compared]
        if network.mask == "keys" and sum(excess) < 1e-6:
            excess = [alike[v] * inside[v] for v in rows]
        share = [own / (sum(excess) + 1e-8) for own in excess]
        own = [
            torch.cat([color[v], features[v]]) + network.ray_dir_fc(direction[v])
            for v in rows
        ]
        mean = sum(share[v] * own[v] for v in rows)
        variance = sum(share[v] * (own[v] - mean) ** 2 for v in rows)
        x = [network.base_fc(torch.cat([mean, variance, own[v]])) for v in rows]
        change = [network.vis_fc(x[v] * share[v]) for v in rows]
        x = [x[v] + change[v][:-1] for v in rows]
        seen_by = [
            network.vis_fc2(x[v] * change[v][-1].sigmoid() * inside[v]) * inside[v]
            for v in rows
        ]
        share = [own / (sum(seen_by) + 1e-8) for own in seen_by]
        mean = sum(share[v] * x[v] for v in rows)
        variance = sum(share[v] * (x[v] - mean) ** 2 for v in rows)
        counted = views if network.mask == "queries" else max(int(inside.sum()), 1)
        known = torch.cat([mean, variance, sum(share) / counted])
        angles = [
            sample / 10_000 ** (2 * (place // 2) / 16) + (place % 2) * np.pi / 2
            for place in range(16)
        ]
        waves = torch.tensor(np.sin(angles)).float()  # as the module keeps them
        tokens.append(network.geometry_fc(known) + waves)
        asking.append(inside.sum() > 1)
        last = [torch.cat([x[v], seen_by[v], direction[v]]) for v in rows]
        voters = [v for v in rows if inside[v] and said[v].sum() > 0]
        per_sample.append(
            [
                blended(network.rgb_fc, last, color, [v for v in rows if inside[v]]),
                blended(network.rgb_fc, last, said, voters),
            ]
        )
    tokens = network.ray_attention(torch.stack(tokens)[None], torch.stack(asking)[None])
    density = network.out_geometry_fc(tokens[0])[:, 0] * seen.inside[ray].any(1)
    color, votes = (torch.stack(own) for own in zip(*per_sample, strict=True))
    return density, color, votes


def blended(layers, rows, values, voters):
    if not voters:
        return torch.zeros_like(values[0])
    powers = torch.stack([layers(rows[v])[0] for v in voters]).exp()
    weights = powers / powers.sum()
    return sum(own * values[v] for own, v in zip(weights, voters, strict=True))


@pytest.mark.parametrize("mask", ["keys", "queries"])
def test_the_network_is_its_layers_written_out(mask):
    torch.manual_seed(1)
    network = Network(4, mask, "voted").double()
    nn.init.normal_(network.out_geometry_fc[2].weight)
    seen = random_sights()
    points = network(seen)
    for ray in range(len(seen.inside)):
        density, color, votes = written_out(network, seen, ray)
        # Two heads and the density are added up in single precision.
        close = {"rtol": 1e-5, "atol": 1e-6}
        torch.testing.assert_close(points.density[ray].double(), density, **close)
        torch.testing.assert_close(points.color[ray].double(), color, **close)
        torch.testing.assert_close(points.semantic[ray].double(), votes, **close)


def test_directions_differ_as_triangles_have_it():
    points = torch.tensor([[0.0, 0, 0], [1, 1, 0]], dtype=torch.float64)
    target = torch.tensor([2.0, 0, 0], dtype=torch.float64)
    sources = [[0.0, 3, 0], [5, 0, 0], [-1, 0, 0]]  # aside, behind it, opposite
    sources = torch.tensor(sources, dtype=torch.float64)
    differences = direction_differences(points, target, sources)
    half = 0.5**0.5
    expected = [[half, -half, 0, 0], [0, 0, 0, 1], [1, 0, 0, -1]]
    torch.testing.assert_close(differences[0], torch.tensor(expected).double())
    # Towards (1, -1) from the second point, and to (-1, 2), (4, -1), (-2, -1).
    cosines = [-3 / 10**0.5, 5 / 34**0.5, -1 / 10**0.5]
    torch.testing.assert_close(differences[1, :, 3], torch.tensor(cosines).double())
    unit = torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(differences[1, :, :3].norm(dim=1), unit)


def test_a_camera_at_a_view_or_at_a_point_sees_finite_directions():
    origin = torch.zeros(1, 3, dtype=torch.float64)
    same = direction_differences(origin + 1, origin[0], origin)
    torch.testing.assert_close(same, torch.tensor([[[0, 0, 0, 1.0]]]).double())
    assert direction_differences(origin, origin[0], origin + 1).isfinite().all()


def test_corners_of_features_are_on_corners_of_pictures():
    """A map that is its own place in the picture is found where points project to."""
    method = method_of()
    context = method.encode(sources_at(POSES), camera_at(AHEAD))
    u = torch.linspace(0, WIDTH - 1, 12).expand(9, 12)
    v = torch.linspace(0, HEIGHT - 1, 9)[:, None].expand(9, 12)
    places = torch.stack([u, v]).expand(len(POSES), 2, 9, 12)
    rays = rays_of(AHEAD)
    points = rays.at(torch.full((len(rays.origins_world), 1), 2.0, dtype=torch.float64))
    seen = ibrnet.look(context, places, points, votes=False)
    for view, pose in enumerate(POSES):
        own = (points - torch.from_numpy(pose[:3, 3])).numpy()
        uv = torch.from_numpy(own[..., :2] / own[..., 2:] * K[0, 0] + K[:2, 2]).float()
        amid = ((uv >= 0) & (uv <= torch.tensor([WIDTH - 1, HEIGHT - 1]))).all(-1)
        assert amid.sum() > 20
        assert seen.inside[amid][:, view].all()
        found = seen.features[amid][:, view]
        torch.testing.assert_close(found, uv[amid], rtol=0, atol=1e-4)


def test_half_precision_hardly_changes_what_is_seen():
    method, sources = method_of("voted"), sources_at(POSES)
    rays = rays_of(AHEAD, step=12)
    exact = rendered(method, sources, rays=rays)[0]
    with torch.autocast("cpu", torch.bfloat16):
        rough = rendered(method, sources, rays=rays)[0]
    assert (exact.color - rough.color).abs().max() < 0.02
    assert (exact.semantic - rough.semantic).abs().max() < 0.02
    assert torch.equal(exact.usable, rough.usable)


@pytest.mark.parametrize("seed", range(4))
def test_networks_see_something_before_they_have_learned(seed):
    torch.manual_seed(seed)
    network, seen = Network(4, "keys", "nothing").double(), random_sights(seed=seed)
    density = network(seen).density
    assert torch.equal(density > 0, seen.inside.any(2))
    density.square().sum().backward()
    assert (network.out_geometry_fc[2].weight.grad != 0).any()


PLANE = 5  # the coarse sample that lies on the plane


def on_a_plane(monkeypatch, method):
    """Put all density where the plane is; return its depth."""
    depths = spaced(method.range_m, SETTINGS.coarse_samples, "inverse-depth", CPU)
    plane_m, looked_at = float(depths[PLANE]), []

    def look(context, features, points_world, votes, look=ibrnet.look):
        looked_at.append(points_world[..., 2])
        return look(context, features, points_world, votes)

    def dense(forward):
        def wrapped(seen):
            there = (looked_at[-1] - plane_m).abs() < 1e-9
            return forward(seen)._replace(density=1e3 * there.float())

        return wrapped

    monkeypatch.setattr(ibrnet, "look", look)
    for network in (method.net_coarse, method.net_fine):
        monkeypatch.setattr(network, "forward", dense(network.forward))
    return plane_m


def shade(x, y):
    """Return the plane's colours, 0..1, linear along it."""
    return np.stack([0.5 + 0.2 * x, 0.5 - 0.25 * y, 0.4 + 0.1 * x + 0.1 * y], -1)


def share_left(x, _):
    return 0.5 - 0.3 * x


def plane_views(plane_m, poses):
    """Return what views show of the plane, and what a prior says of two classes."""
    u, v = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    pictures, maps = [], []
    for pose in poses:
        x = (u - K[0, 2]) / K[0, 0] * plane_m + pose[0, 3]
        y = (v - K[1, 2]) / K[1, 1] * plane_m + pose[1, 3]
        pictures.append((255 * shade(x, y)).round().clip(0, 255).transpose(2, 0, 1))
        own = np.zeros((CLASSES, HEIGHT, WIDTH))
        own[LEFT] = (200 * share_left(x, y)).round()
        own[RIGHT] = 200 - own[LEFT]
        maps.append(own)
    return sources_at(poses, np.stack(pictures), np.stack(maps))


def test_a_plane_is_rendered_where_it_is_and_as_it_is(monkeypatch):
    method = method_of("voted")
    plane_m = on_a_plane(monkeypatch, method)
    sources = plane_views(plane_m, POSES)
    pose = moved_by(0.02, 0.03)
    rays = rays_of(pose, (10, 8), (WIDTH - 10, HEIGHT - 8), 3)
    x, y, _ = (rays.origins_world + plane_m * rays.directions_world).T.numpy()
    color, left = (torch.tensor(own(x, y)).float() for own in (shade, share_left))
    for own in rendered(method, sources, pose, rays):
        assert (own.depth_m - plane_m).abs().max() < 1e-6
        assert (own.color - color).abs().max() < 0.6 / 255
        assert (own.semantic[:, LEFT] - left).abs().max() < 0.6 / 200
        assert (own.semantic[:, RIGHT] - (1 - left)).abs().max() < 0.6 / 200
        assert own.usable.all()


def test_a_view_that_says_nothing_or_sees_nothing_has_no_vote(monkeypatch):
    method = method_of("voted")
    plane_m = on_a_plane(monkeypatch, method)
    views = plane_views(plane_m, [*POSES, BACKWARDS])
    maps = views.maps.clone()
    maps[0] = 0
    maps[3] = 0
    maps[3, 11] = 255  # which is only in sight of the view that looks away
    rays = rays_of(AHEAD, (10, 8), (WIDTH - 10, HEIGHT - 8), 3)
    x, y, _ = (rays.origins_world + plane_m * rays.directions_world).T.numpy()
    left = torch.tensor(share_left(x, y)).float()
    answer = rendered(method, views._replace(maps=maps), AHEAD, rays)[-1]
    assert (answer.semantic[:, LEFT] - left).abs().max() < 0.6 / 200
    assert (answer.semantic[:, 11] == 0).all()


def test_logits_of_a_head_that_always_says_the_same_are_weighted_by_light():
    method = method_of("predicted")
    said = torch.linspace(-1, 2, CLASSES)
    with torch.no_grad():
        for network in (method.net_coarse, method.net_fine):
            network.sem_fc[-1].weight.zero_()
            network.sem_fc[-1].bias.copy_(said)
    assert method.says == "logits"
    for own in rendered(method, sources_at(POSES)):
        expected = own.weights.sum(1, keepdim=True) * said
        torch.testing.assert_close(own.semantic, expected)


@pytest.mark.parametrize("semantics", ALL)
def test_the_order_of_sources_does_not_matter(semantics):
    method, sources = method_of(semantics), sources_at([*POSES, BACKWARDS])
    order = torch.tensor([2, 0, 3, 1])
    turned = Sources(*(values[order] for values in sources[:4]))
    for one, other in zip(
        rendered(method, sources), rendered(method, turned), strict=True
    ):
        assert torch.equal(one.usable, other.usable)
        for values, others in zip(one[:4], other[:4], strict=True):
            torch.testing.assert_close(values, others, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("mask", ["keys", "queries"])
@pytest.mark.parametrize("semantics", ALL)
@pytest.mark.parametrize(
    ("poses", "is_known"),
    [
        ([*POSES, BACKWARDS], True),
        ([POSES[0]], True),
        ([POSES[0], BACKWARDS], False),  # two must see a point
        ([BACKWARDS, moved_by(0, 0, 50.0)], False),  # nobody sees any
        ([AHEAD, AHEAD], True),  # where the camera itself is
    ],
)
def test_nothing_breaks_whatever_views_see(poses, is_known, semantics, mask):
    method = method_of(semantics, mask=mask).train()
    context = method.encode(sources_at(poses), camera_at(AHEAD))
    rays = rays_of(AHEAD)
    passes = method.render(context, rays)
    assert is_finite(passes)
    assert passes[-1].usable.any() == is_known
    truth = random_truth(len(passes[0].color))
    losses = method.losses(context, passes, truth)
    sum(errors.sum() for errors in losses.values()).backward()
    gradients = [own.grad for own in method.parameters()]
    assert all(own is not None and own.isfinite().all() for own in gradients)
    if not is_known:
        assert all(len(errors) == 0 for errors in losses.values())


@pytest.mark.parametrize("learns", [True, False])
def test_rays_are_learned_from_if_an_eighth_is_seen_twice_and_told_if_any_is_seen(
    learns, monkeypatch
):
    """Two views see a slab each; the rays run through both slabs, or through one."""
    method = method_of(coarse_samples=64, fine_samples=64).train(learns)
    monkeypatch.setattr(samplers, "jittered", lambda places: places)
    aside = 0.0 if learns else 3.0
    poses = [moved_by(aside - 0.5, 0), moved_by(aside + 0.5, 0)]
    sources = sources_at(poses)
    rays = rays_of(AHEAD, step=4)
    coarse = rendered(method, sources, rays=rays)[0]
    depths = spaced(method.range_m, 64, "inverse-depth", CPU)
    points = rays.at(depths.expand(len(rays.origins_world), -1)).numpy()
    counts = np.zeros(points.shape[:2], int)
    for pose in poses:
        own = points - pose[:3, 3]
        uv = own[..., :2] / own[..., 2:] * K[0, 0] + K[:2, 2]
        counts += ((uv >= -0.5) & (uv < [WIDTH - 0.5, HEIGHT - 0.5])).all(-1)
    expected = (counts == 2).sum(1) > 8 if learns else counts.any(1)
    assert 0 < expected.sum() < len(expected)
    assert (coarse.usable.numpy() == expected).all()


@pytest.mark.parametrize("semantics", ALL)
def test_a_view_that_sees_nothing_is_as_good_as_none(semantics):
    method = method_of(semantics)
    pictures = sources_at([*POSES, BACKWARDS])
    alone = Sources(*(values[:-1] for values in pictures[:4]))
    for own, other in zip(
        rendered(method, pictures), rendered(method, alone), strict=True
    ):
        assert torch.equal(own.usable, other.usable)
        for values, others in zip(own[:4], other[:4], strict=True):
            torch.testing.assert_close(values, others, rtol=1e-4, atol=1e-5)


def test_views_that_look_the_same_way_are_heard():
    """Of them none looks less like the camera than others do, to be left out for it."""
    network = Network(4, "keys", "nothing").double()
    nn.init.normal_(network.out_geometry_fc[2].weight)
    nn.init.constant_(network.out_geometry_fc[2].bias, 10.0)
    seen = random_sights()
    alike = seen.directions[:, :, :1].expand_as(seen.directions)
    alike = seen._replace(directions=alike, inside=torch.ones_like(seen.inside))
    density = network(alike).density
    other = network(alike._replace(features=alike.features + 1)).density
    assert ((density - other).abs() > 1e-3).all()


def test_a_fine_pass_wants_no_more_samples_than_a_coarse_one():
    """It looks where something is: what two views see may be few of its samples."""
    method = method_of(coarse_samples=16, fine_samples=48).train()
    inside = torch.zeros(2, 64, 2, dtype=torch.bool)
    inside[0, :3], inside[1, :2] = True, True
    assert method._enough(inside).tolist() == [True, False]


def test_the_released_loss_is_one_minus_the_probability():
    method = method_of("voted", semantic_loss="one-minus-probability")
    truth = random_truth(6)
    said = torch.rand(6, CLASSES)
    usable = torch.ones(6, dtype=torch.bool)
    own = Rendered(truth.color, truth.color[:, 0], said, truth.color, usable)
    told = method.losses(None, [own, own], truth)["fine_semantic"]
    rows = [row for row in range(6) if row % 3]
    expected = [0.5 * (1 - float(said[row, int(truth.labels[row])])) for row in rows]
    assert told.tolist() == pytest.approx(expected)
    with pytest.raises(BadInput, match="semantic_loss"):
        method_of("predicted", semantic_loss="one-minus-probability")


def test_chance_takes_part_in_training_alone():
    method, sources = method_of(), sources_at(POSES)
    one, other = (rendered(method, sources)[-1] for _ in range(2))
    assert torch.equal(one.depth_m, other.depth_m)
    method.train()
    one, other = (rendered(method, sources)[0] for _ in range(2))
    assert not torch.equal(one.depth_m, other.depth_m)


def test_the_second_pass_looks_where_the_first_and_more():
    method = method_of()
    coarse, fine = rendered(method, sources_at(POSES))
    assert coarse.weights.shape[1] == SETTINGS.coarse_samples
    assert fine.weights.shape[1] == SETTINGS.coarse_samples + SETTINGS.fine_samples


@pytest.mark.parametrize("semantics", ALL)
def test_losses_hold_both_passes_against_what_is_known(semantics):
    method = method_of(semantics)
    context = method.encode(sources_at(POSES), camera_at(AHEAD))
    truth = random_truth(6)
    right = one_hot(truth.labels.clamp(max=CLASSES - 1).long(), CLASSES)
    usable = torch.tensor([True, True, True, True, True, False])
    said = {"nothing": right[:, :0], "predicted": 50 * right, "voted": right}[semantics]
    own = Rendered(truth.color, truth.color[:, 0], said.float(), truth.color, usable)
    wrong = own._replace(color=1 + truth.color, semantic=torch.zeros_like(own.semantic))
    losses = method.losses(context, [wrong, own], truth)
    assert losses["fine_color"].tolist() == [0] * 5
    assert losses["coarse_color"].tolist() == pytest.approx([1] * 5)
    if semantics == "nothing":
        assert set(losses) == {"coarse_color", "fine_color"}
        return
    assert losses["fine_semantic"].tolist() == pytest.approx([0] * 3)
    worst = {"predicted": np.log(CLASSES), "voted": -np.log(1e-4)}[semantics]
    assert losses["coarse_semantic"].tolist() == pytest.approx([0.5 * worst] * 3)


def test_the_encoder_learns_at_the_rate_of_a_backbone():
    method = method_of("voted")
    rates = {
        id(own): group["lr"]
        for group in method.parameter_groups(TRAINING)
        for own in group["params"]
    }
    for name, own in method.named_parameters():
        rate = 1e-3 if name.startswith("feature_net.") else 5e-4
        assert rates[id(own)] == pytest.approx(rate)


def test_rooms_may_be_anywhere():
    method, far = method_of("voted"), moved_by(4000.0, -3000.0, 200.0)
    here, there = (
        rendered(method, sources_at([own @ pose for pose in POSES]), own)[-1]
        for own in (AHEAD, far)
    )
    assert torch.equal(here.usable, there.usable)
    for values, others in zip(here[:4], there[:4], strict=True):
        torch.testing.assert_close(values, others, rtol=1e-3, atol=1e-4)


def test_rays_are_rendered_alike_in_parts_and_together():
    method, sources = method_of("voted"), sources_at(POSES)
    rays = rays_of(AHEAD)
    whole = rendered(method, sources, rays=rays)[-1]
    half = Rays(*(values[20:] for values in rays))
    part = rendered(method, sources, rays=half)[-1]
    for values, others in zip(whole[:4], part[:4], strict=True):
        torch.testing.assert_close(values[20:], others, rtol=1e-4, atol=1e-5)
