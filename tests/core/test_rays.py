"""Weights of samples against Eq. 8-9 by loops, and rays through known surfaces."""

import math

import numpy as np
import pytest
import torch

from gnesf_core.fields.rays import Sampling, sample_rays, sdf_along
from gnesf_core.geometry.distance_field import DistanceField
from gnesf_core.rendering.compositing import composite, sdf_weights
from gnesf_core.rendering.rays import Rays

VOXEL_M, TRUNCATION_M = 0.04, 0.12
RANGE_M, COUNTS = (0.1, 4.1), (32, 32)


def slab(near_x, thickness=math.inf, observed=None, shape=(100, 8, 8)):
    """A slab across x: free before and behind it, truncated like fused depth."""
    x = VOXEL_M * np.arange(shape[0])
    inside = np.minimum(x - near_x, near_x + thickness - x)
    tsdf = np.clip(-inside / TRUNCATION_M, -1, 1).astype(np.float32)
    tsdf = np.broadcast_to(tsdf[:, None, None], shape).copy()
    seen = np.ones(shape, bool)
    if observed is not None:
        seen &= observed(x)[:, None, None]
    return DistanceField(
        torch.from_numpy(np.where(seen, tsdf, np.float32(1))),
        torch.from_numpy(seen),
        torch.zeros(3, dtype=torch.float64),
        VOXEL_M,
        TRUNCATION_M,
    )


def along_x(count=3):
    origins = torch.full((count, 3), 0.14, dtype=torch.float64)
    directions = torch.zeros(count, 3, dtype=torch.float64)
    directions[:, 0] = 1
    return Rays(origins, directions)


def sampled(
    field, rays=None, jittered=False, truncation_m=0.02, counts=COUNTS, **changes
):
    rays = along_x() if rays is None else rays
    sampling = Sampling(*RANGE_M, *counts, truncation_m, truncation_m)
    return sample_rays(field, rays, sampling._replace(**changes), jittered)


def by_the_equations(sdf, distance, truncation):
    """Weigh one ray's samples, one by one: Eq. 8, then what is cut off, then Eq. 9."""
    end = None
    for before, after, at in zip(sdf[:-1], sdf[1:], distance[:-1], strict=True):
        if before > 0 and after <= 0:
            end = at + truncation
            break
    weights = []
    for value, at in zip(sdf, distance, strict=True):
        s = 1 / (1 + math.exp(-value / truncation))
        weights.append(s * (1 - s) if end is not None and at < end else 0.0)
    total = sum(weights)
    return [w / total if total else 0.0 for w in weights], end is not None


@pytest.mark.parametrize("seed", range(20))
def test_weights_are_those_of_the_equations(seed):
    rng = np.random.default_rng(seed)
    distance = np.sort(rng.uniform(0, 3, (4, 40)))
    # A walk of the distance that crosses zero often, or not at all.
    sdf = rng.uniform(-0.2, 0.6, (4, 1)) + rng.normal(0, 0.06, (4, 40)).cumsum(1)
    weights, hit = sdf_weights(
        torch.from_numpy(sdf), torch.from_numpy(distance), 0.07, 0.07
    )
    for ray in range(4):
        expected, meets = by_the_equations(sdf[ray], distance[ray], 0.07)
        np.testing.assert_allclose(weights[ray], expected, rtol=1e-12, atol=1e-15)
        assert bool(hit[ray]) == meets


def test_what_is_infinite_or_unknown_does_not_count():
    inf, nan = math.inf, math.nan
    sdf = torch.tensor([[inf, 0.1, nan, 0.02, -0.02, -inf, nan]])
    weights, hit = sdf_weights(sdf, torch.linspace(0, 0.6, 7)[None], 1.0, 1.0)
    assert hit.all()
    assert (weights > 0).tolist() == [[False, True, False, True, True, False, False]]


def test_a_jump_over_unknown_space_is_no_surface():
    sdf = torch.tensor([[0.1, math.nan, -0.1], [math.inf, math.nan, -0.1]])
    weights, hit = sdf_weights(sdf, torch.tensor([[0.0, 1, 2]] * 2), 0.1, 0.1)
    assert not hit.any()
    assert not weights.any()


def test_most_weight_is_at_the_surface():
    samples = sampled(slab(2.0))
    place = 0.14 + (samples.weights * samples.distance_m).sum(1)
    np.testing.assert_allclose(place, 2.0, atol=0.03)
    best = samples.distance_m.gather(1, samples.weights.argmax(1, keepdim=True))
    np.testing.assert_allclose(0.14 + best, 2.0, atol=0.02)


def test_nothing_counts_beyond_the_first_surface():
    field = slab(1.0, thickness=0.2)
    field.tsdf[70:] = -0.5  # another wall, at 2.8 m
    samples = sampled(field)
    assert samples.hit.all()
    far = samples.distance_m > 0.86 + 0.02
    assert not samples.weights[far].any()


def test_a_ray_that_meets_nothing_is_flagged():
    rays = along_x()
    rays.directions_world[1] = torch.tensor([-1.0, 0, 0])
    samples = sampled(slab(2.0), rays)
    assert samples.hit.tolist() == [True, False, True]
    assert not samples.weights[1].any()


def test_a_surface_that_nobody_observed_is_not_met():
    samples = sampled(slab(2.0, observed=lambda x: np.abs(x - 2) > 0.3))
    assert not samples.hit.any()


def test_space_that_was_not_observed_is_no_surface_either():
    samples = sampled(slab(9.0, observed=lambda x: x < 1.5))
    assert not samples.hit.any()


@pytest.mark.parametrize("jittered", [False, True])
def test_fine_samples_gather_at_the_surface(jittered):
    torch.manual_seed(0)
    samples = sampled(slab(2.0), jittered=jittered)
    assert samples.distance_m.shape == (3, 64)
    assert (samples.distance_m.diff(dim=1) >= 0).all()
    near = ((0.14 + samples.distance_m - 2.0).abs() < 0.3).sum(1)
    assert (near >= 32).all()
    assert samples.distance_m.min() >= 0.1
    assert samples.distance_m.max() <= 4.1


def test_fine_samples_are_spread_where_nothing_is_met():
    samples = sampled(slab(9.0), counts=(4, 64))
    steps = samples.distance_m.diff(dim=1)
    assert float(steps.max()) < 0.15


def test_coarse_samples_alone_will_do():
    samples = sampled(slab(2.0), counts=(64, 0))
    assert samples.hit.all()
    assert samples.distance_m.shape == (3, 64)


def test_seeds_decide_where_jittered_samples_lie():
    def drawn(seed):
        torch.manual_seed(seed)
        return sampled(slab(2.0), jittered=True).distance_m

    assert torch.equal(drawn(3), drawn(3))
    assert not torch.equal(drawn(3), drawn(4))


def test_distances_are_metres_infinite_if_saturated_and_nan_if_unknown():
    field, rays = slab(2.0), along_x(1)
    where = torch.tensor([[0.5, 1.80, 1.86, 1.92, 2.5, 9.0]], dtype=torch.float64)
    found = sdf_along(field, rays, where)[0].tolist()
    assert found[0] == math.inf
    assert found[4] == -math.inf
    assert math.isnan(found[5])
    np.testing.assert_allclose(found[1:4], [0.06, 0.0, -0.06], atol=1e-6)


def test_what_samples_say_is_added_up_by_weight():
    weights = torch.tensor([[0.25, 0.75], [0.0, 0.0]])
    values = torch.tensor([[[4.0, 0], [0, 4]], [[1, 1], [1, 1]]])
    assert composite(weights, values).tolist() == [[1.0, 3.0], [0.0, 0.0]]


def test_what_is_further_behind_the_first_surface_than_the_reach_does_not_count():
    field = slab(2.0, thickness=0.24)
    for reach_m in (0.01, 0.05, 0.1):
        samples = sampled(field, reach_m=reach_m, counts=(400, 0))
        behind = samples.distance_m - (2.0 - 0.14)
        counted = samples.weights > 0
        assert float(behind[counted].max()) == pytest.approx(reach_m, abs=0.016)


@pytest.mark.parametrize("near_x", [0.9, 2.03, 3.5])
def test_a_search_by_error_bounds_finds_the_surface(near_x):
    as_released = {"sampler": "error-bound", "reach_m": 0.1, "truncation_m": 0.012}
    samples = sampled(slab(near_x), **as_released)
    assert samples.hit.all()
    assert samples.distance_m.shape == (3, 64)
    assert (samples.distance_m.diff(dim=1) >= 0).all()
    met_m = (samples.weights * samples.distance_m).sum(1)
    # As much counts before the surface as behind it: there is no room to end early.
    np.testing.assert_allclose(met_m, near_x - 0.14, atol=0.015)
    near = (samples.distance_m - (near_x - 0.14)).abs() < 0.12
    assert (near.sum(1) >= 28).all()


def test_a_search_of_a_ray_that_meets_nothing_is_flagged():
    samples = sampled(slab(9.0), sampler="error-bound")
    assert not samples.hit.any() and not samples.weights.any()
    assert samples.distance_m.min() == 0.1
    assert samples.distance_m.max() == 4.1


def test_searching_by_chance_looks_elsewhere_each_time():
    kind = {"sampler": "error-bound", "jittered": True}
    one, two = (sampled(slab(2.0), **kind).distance_m for _ in range(2))
    assert not torch.equal(one, two)
