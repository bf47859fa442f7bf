"""Semantic-NeRF: scenes set by hand, what depends on what, and its size."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from gnesf_core.config import SemanticNerfConfig
from gnesf_core.labels import IGNORE
from gnesf_core.rendering.frame_samples import Truth
from gnesf_core.rendering.rays import Rays
from gnesf_core.views.semantic_nerf import PointNetwork, Points, SemanticNerf, build

CLASSES = 20


def settings(**changed):
    given = {
        "layers": 4,
        "width": 16,
        "position_frequencies": 4,
        "direction_frequencies": 2,
        "density_noise": 0.0,
        "near_m": 0.5,
        "far_m": 4.5,
        "coarse_samples": 33,
        "fine_samples": 32,
        "color_weight": 1.0,
        "semantic_weight": 0.5,
    }
    return SemanticNerfConfig(**{**given, **changed})


def fan(count=9):
    """Rays by depth from one camera, more and more slanted."""
    directions = torch.zeros(count, 3, dtype=torch.float64)
    directions[:, 0] = torch.linspace(-1, 1, count)
    directions[:, 2] = 1
    origins = torch.tensor([1.0, 2, 3]).double().expand(count, -1)
    return Rays(origins, directions)


class Medium(PointNetwork):
    """Says of points what it is told to, by their place in the network's units."""

    def __init__(self, density, semantic=(0.0, 0.0)):
        nn.Module.__init__(self)
        self.density, self.semantic = density, torch.tensor(semantic)

    def forward(self, positions, directions):
        self.directions = directions
        color = positions.clamp(0, 1)
        semantic = self.semantic.expand(*positions.shape[:2], -1)
        return Points(self.density(positions), color, semantic)


def method_of(medium, **changed):
    method = SemanticNerf(settings(**changed)).eval()
    method.coarse = method.fine = medium
    return method


def truth_of(labels, color):
    return Truth(torch.tensor(labels, dtype=torch.uint8), color)


def test_a_network_of_the_published_size_has_as_many_parameters():
    published = settings(
        layers=8, width=256, position_frequencies=10, direction_frequencies=4
    )
    count = sum(own.numel() for own in PointNetwork(published, 28).parameters())
    assert count == 632_352


def test_a_wall_is_seen_at_its_depth_however_slanted_the_ray():
    # Units are of 4.5 m around the origin; the wall is at z = 5 m, 2 m before the rays.
    method = method_of(Medium(lambda at: 1e5 * (at[..., 2] > 5 / 4.5 - 1e-6)))
    coarse, fine = method.render(None, fan())
    assert coarse.weights.shape == (9, 33)
    assert fine.weights.shape == (9, 65)
    for rendered in (coarse, fine):
        np.testing.assert_allclose(rendered.depth_m, 2.0, atol=1e-4)
        assert rendered.usable.all()
    across = fan().origins_world[:, 0] + 2 * fan().directions_world[:, 0]
    np.testing.assert_allclose(fine.color[:, 0], (across / 4.5).clamp(0, 1), atol=1e-5)


def test_light_is_lost_by_distance_while_samples_are_by_depth():
    density = 0.8
    method = method_of(Medium(lambda at: torch.full(at.shape[:2], density)))
    coarse, _ = method.render(None, fan())
    depth_m = np.linspace(0.5, 4.5, 33)
    for weights, direction in zip(coarse.weights, fan().directions_world, strict=True):
        distance_m = (depth_m - 0.5) * math.hypot(*direction.tolist())
        expected = -np.diff(np.append(np.exp(-density * distance_m), 0))
        np.testing.assert_allclose(weights, expected, atol=1e-6)


def test_logits_are_what_is_added_up():
    method = method_of(Medium(lambda at: torch.ones(at.shape[:2]), (3.0, -7.0)))
    _, fine = method.render(None, fan())
    np.testing.assert_allclose(fine.semantic, [[3, -7]] * 9, rtol=1e-5)


def test_only_colours_depend_on_the_direction():
    torch.manual_seed(0)
    network = PointNetwork(settings(), CLASSES)
    positions = torch.rand(1, 50, 3)
    one, other = (
        network(positions, torch.tensor([direction]))
        for direction in ([0.0, 0, 1], [0.6, 0.8, 0])
    )
    assert torch.equal(one.density, other.density)
    assert torch.equal(one.semantic, other.semantic)
    assert (one.color - other.color).abs().max() > 1e-3
    assert (one.color > 0).all() and (one.color < 1).all()


def test_all_that_its_cameras_see_along_their_axes_is_within_one():
    rng = np.random.default_rng(0)
    centres = torch.from_numpy(rng.uniform([10, -4, 0], [16, -2, 2], (40, 3)))
    method = SemanticNerf(settings())
    method.fit_to(centres)
    directions = torch.from_numpy(rng.normal(size=(40, 3)))
    directions /= directions.norm(dim=1, keepdim=True)
    farthest = (centres + 4.5 * directions - method.centre_world) / method.scale_m
    assert farthest.norm(dim=1).max() <= 1
    amid = method.centre_world - centres.amin(0)
    np.testing.assert_allclose(amid, centres.amax(0) - method.centre_world)
    outermost = (centres - method.centre_world).norm(dim=1).max()
    assert float(outermost + 4.5) == pytest.approx(float(method.scale_m))


def test_it_does_not_matter_where_in_the_world_a_scene_is():
    torch.manual_seed(0)
    method = SemanticNerf(settings()).eval()
    centres = torch.rand(5, 3).double() * 3
    rays, shift = fan(), torch.tensor([1000.0, -500, 20]).double()
    method.fit_to(centres)
    here = method.render(None, rays)[-1]
    method.fit_to(centres + shift)
    moved = Rays(rays.origins_world + shift, rays.directions_world)
    there = method.render(None, moved)[-1]
    for one, other in zip(here, there, strict=True):
        np.testing.assert_allclose(one.detach(), other.detach(), atol=1e-5)


def test_where_its_scene_is_is_kept_with_its_weights():
    torch.manual_seed(0)
    method = SemanticNerf(settings()).eval()
    method.fit_to(torch.tensor([[5.0, 6, 7], [8, 9, 9]]).double())
    other = build(settings()).eval()
    other.load_state_dict(method.state_dict())
    expected, found = (own.render(None, fan())[-1] for own in (method, other))
    assert torch.equal(expected.color, found.color)


def test_samples_are_moved_only_while_it_learns():
    torch.manual_seed(0)
    method = SemanticNerf(settings()).eval()
    twice = [method.render(None, fan())[0].depth_m for _ in range(2)]
    assert torch.equal(*twice)
    method.train()
    twice = [method.render(None, fan())[0].depth_m for _ in range(2)]
    assert not torch.equal(*twice)


def test_densities_are_noisy_only_while_it_learns():
    torch.manual_seed(0)
    nothing = Medium(lambda at: torch.zeros(at.shape[:2]))
    method = method_of(nothing, density_noise=1.0)
    assert not method.render(None, fan())[0].weights.any()
    assert method.train().render(None, fan())[0].weights.any()
    quiet = method_of(nothing).train()
    assert not quiet.render(None, fan())[0].weights.any()


def test_the_fine_pass_looks_more_closely_where_the_coarse_one_saw_something():
    wall_m = 2.07  # before the rays, between two coarse samples
    method = method_of(Medium(lambda at: 1e5 * (4.5 * at[..., 2] > 3 + wall_m)))
    coarse, fine = method.render(None, fan())
    assert (coarse.depth_m > wall_m + 0.05).all()
    assert ((fine.depth_m - wall_m).abs() < 0.006).all()


def test_networks_are_told_directions_as_unit_vectors():
    medium = Medium(lambda at: torch.ones(at.shape[:2]))
    method_of(medium).render(None, fan())
    expected = fan().directions_world / fan().directions_world.norm(dim=1)[:, None]
    np.testing.assert_allclose(medium.directions, expected, atol=1e-6)


def test_errors_of_both_passes_and_their_weights():
    logits = (2.0, 0.0)
    method = method_of(Medium(lambda at: torch.ones(at.shape[:2]), logits))
    passes = method.render(None, fan(3))
    color = torch.full((3, 3), 0.25)
    errors = method.losses(None, passes, truth_of([0, 1, IGNORE], color))
    assert list(errors) == [
        "coarse_color",
        "coarse_semantic",
        "fine_color",
        "fine_semantic",
    ]
    surprise = math.log(1 + math.exp(-2))
    for name, rendered in zip(("coarse", "fine"), passes, strict=True):
        expected = [0.5 * surprise, 0.5 * (2 + surprise)]
        np.testing.assert_allclose(errors[f"{name}_semantic"], expected, rtol=1e-4)
        squares = ((rendered.color - 0.25) ** 2).mean(1)
        np.testing.assert_allclose(errors[f"{name}_color"], squares, rtol=1e-6)


def test_gradients_reach_every_weight_of_both_networks():
    torch.manual_seed(0)
    method = SemanticNerf(settings(density_noise=1.0))
    passes = method.render(None, fan())
    truth = truth_of([3] * 9, torch.rand(9, 3))
    errors = method.losses(None, passes, truth)
    sum(own.mean() for own in errors.values()).backward()
    for parameter in method.parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()


@pytest.mark.slow
def test_it_learns_a_scene_by_heart():
    torch.manual_seed(0)
    method = SemanticNerf(settings(density_noise=0.1, coarse_samples=8, fine_samples=8))
    method.fit_to(fan().origins_world)
    steps = torch.linspace(0, 1, 9)
    color = torch.stack([steps, 1 - steps, steps * 0 + 0.5], 1)
    truth = truth_of([2] * 4 + [IGNORE] + [7] * 4, color)
    optimiser = torch.optim.Adam(method.parameters(), 2e-2)
    for _ in range(60):
        errors = method.losses(None, method.render(None, fan()), truth)
        optimiser.zero_grad()
        sum(own.mean() for own in errors.values()).backward()
        optimiser.step()
    learned = method.eval().render(None, fan())[-1]
    np.testing.assert_allclose(learned.color.detach(), color, atol=0.2)
    known = truth.labels != IGNORE
    assert torch.equal(learned.semantic.argmax(1)[known], truth.labels[known].long())
