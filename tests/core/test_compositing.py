"""Weights of samples against the light that goes through a medium."""

import math

import numpy as np
import torch

from gnesf_core.rendering.compositing import (
    attention_weights,
    composite,
    density_weights,
)


def test_equal_densities_weigh_as_a_geometric_series():
    weights = density_weights(torch.full((1, 5), 0.7, dtype=torch.float64))
    passed = math.exp(-0.7)
    expected = [(1 - passed) * passed**k for k in range(5)]
    np.testing.assert_allclose(weights[0], expected, rtol=1e-12)


def test_weights_of_a_homogeneous_medium_are_what_it_takes_from_the_light():
    depth_m = torch.tensor([[0.5, 0.6, 1.0, 2.5, 2.75]]).double()
    weights = density_weights(torch.full((1, 5), 1.3, dtype=torch.float64), depth_m)
    passed = np.exp(-1.3 * (depth_m[0].numpy() - 0.5))
    # The last sample stands for all that is behind it.
    expected = -np.diff(np.append(passed, 0))
    np.testing.assert_allclose(weights[0], expected, rtol=1e-12)


def test_weights_are_alpha_times_what_was_left():
    torch.manual_seed(0)
    density = torch.randn(20, 30).double() * 2
    depth_m = torch.rand(20, 30).double().sort(1).values
    for weights, widths in [
        (density_weights(density), torch.ones(20, 30)),
        (
            density_weights(density, depth_m),
            torch.cat([depth_m.diff(dim=1), torch.full((20, 1), torch.inf)], 1),
        ),
    ]:
        for ray in range(20):
            left = 1.0
            for found, own, width in zip(
                weights[ray], density[ray], widths[ray], strict=True
            ):
                alpha = 1 - math.exp(-float(own) * float(width)) if own > 0 else 0.0
                np.testing.assert_allclose(found, alpha * left, atol=1e-12)
                left *= 1 - alpha


def test_weights_add_up_to_what_does_not_pass():
    torch.manual_seed(0)
    density = torch.rand(50, 64).double() * 0.1
    weights = density_weights(density)
    np.testing.assert_allclose(weights.sum(1), 1 - (-density.sum(1)).exp(), rtol=1e-12)


def test_dividing_an_interval_divides_its_weight():
    torch.manual_seed(0)
    density = torch.rand(6, 8).double()
    depth_m = torch.rand(6, 8).double().sort(1).values
    middles = (depth_m[:, 1:] + depth_m[:, :-1]) / 2
    finer = torch.cat([depth_m, middles], 1).sort(1).values
    twice = density.repeat_interleave(2, 1)[:, :-1]
    whole, parts = density_weights(density, depth_m), density_weights(twice, finer)
    together = parts[:, :-1].reshape(6, 7, 2).sum(2)
    np.testing.assert_allclose(together, whole[:, :-1], rtol=1e-10)


def test_empty_space_weighs_nothing_and_a_wall_everything():
    weights = density_weights(torch.tensor([[-5.0, 0, 1e30, 3, 1e30]]))
    assert weights.tolist() == [[0, 0, 1, 0, 0]]
    depth_m = torch.tensor([[0.0, 0, 1, 2, 3]])
    weights = density_weights(torch.tensor([[1e30, -5.0, 0, 1e30, 3]]), depth_m)
    assert weights.tolist() == [[0, 0, 0, 1, 0]]  # the first sample has no extent


def test_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    density = torch.rand(3, 6, dtype=torch.float64, requires_grad=True)
    depth_m = torch.rand(3, 6).double().sort(1).values
    assert torch.autograd.gradcheck(density_weights, (density,))
    # The last interval has no end: nothing changes with its density.
    assert torch.autograd.gradcheck(lambda own: density_weights(own, depth_m), density)


def test_gradients_stay_finite_in_walls_and_in_nothing():
    density = torch.tensor([[0.0, 1e30, 0, 1e30], [0, 0, 0, 0], [-1, 5, -1, 90]])
    density.requires_grad_()
    depth_m = torch.tensor([[0.0, 1, 1, 2]]).expand(3, -1)
    for weights in (density_weights(density), density_weights(density, depth_m)):
        total = (weights * torch.arange(4.0)).sum()
        (gradient,) = torch.autograd.grad(total, density)
        assert gradient.isfinite().all()


def test_depth_by_attention_is_what_heads_agree_on():
    attention = torch.zeros(1, 2, 3, 3)
    attention[0, 0, 0] = torch.tensor([0.2, 0.3, 0.5])
    attention[0, 1, 0] = torch.tensor([0.6, 0.3, 0.1])
    attention[0, :, 1:] = 7.0  # what other samples attend to is not asked
    weights = attention_weights(attention)
    np.testing.assert_allclose(weights, [[0.4, 0.3, 0.3]], rtol=1e-6)


def test_a_constant_is_seen_as_far_as_the_ray_is_filled():
    torch.manual_seed(0)
    density = torch.rand(4, 9)
    seen = composite(density_weights(density), torch.full((4, 9, 2), 3.0).double())
    opacity = 1 - (-density.sum(1)).exp()
    np.testing.assert_allclose(seen, 3 * opacity[:, None].expand(-1, 2), rtol=1e-5)
    assert seen.dtype == torch.float64
