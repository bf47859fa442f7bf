"""Samples along rays against inverse distribution functions, and where they may lie."""

import numpy as np
import pytest
import torch

from gnesf_core.rendering.samplers import (
    around,
    by_weight,
    edges_between,
    importance,
    in_intervals,
    jittered,
    offsets,
    spaced,
)

CPU = torch.device("cpu")
SPACINGS = ["depth", "inverse-depth"]


def random_edges(rng, rays, count):
    return torch.from_numpy(rng.uniform(0, 3, (rays, count))).sort(1).values


def test_places_are_evenly_spaced_in_depth():
    places = spaced((0.5, 2.5), 5, "depth", CPU)
    np.testing.assert_allclose(places, [0.5, 1.0, 1.5, 2.0, 2.5], rtol=1e-15)


def test_places_are_evenly_spaced_in_inverse_depth():
    places = spaced((0.1, 10.0), 64, "inverse-depth", CPU)
    steps = (1 / places).diff()
    np.testing.assert_allclose(steps, (0.1 - 10) / 63, rtol=1e-10)
    assert places[0].item() == pytest.approx(0.1, rel=1e-15)
    assert places[-1].item() == pytest.approx(10, rel=1e-15)
    assert (places.diff() > 0).all()


@pytest.mark.parametrize("spacing", SPACINGS)
def test_jittered_places_stay_between_the_middles_around_them(spacing):
    torch.manual_seed(0)
    places = spaced((0.1, 10.0), 9, spacing, CPU).expand(500, -1)
    moved = jittered(places)
    middles = (places[:, 1:] + places[:, :-1]) / 2
    assert (moved[:, 1:] >= middles).all()
    assert (moved[:, :-1] <= middles).all()
    assert moved.min() >= 0.1
    assert moved.max() <= 10
    # They get close to either end of where they may lie.
    reached = moved.max(0).values[:-1] - moved.min(0).values[:-1]
    room = edges_between(places)[0].diff()[:-1]
    assert (reached > 0.95 * room).all()


def test_a_place_amid_each_interval_or_anywhere_in_it():
    edges = torch.tensor([[0.0, 1, 3, 4]]).double()
    middle = in_intervals(edges, offsets((1, 3), False, CPU))
    assert middle.tolist() == [[0.5, 2.0, 3.5]]
    torch.manual_seed(0)
    chance = in_intervals(edges, offsets((2000, 3), True, CPU))
    np.testing.assert_allclose(chance.mean(0), [0.5, 2.0, 3.5], atol=0.05)


@pytest.mark.parametrize("seed", range(10))
def test_samples_invert_the_distribution_of_the_weights(seed):
    rng = np.random.default_rng(seed)
    edges = random_edges(rng, 4, 12)
    weights = torch.from_numpy(rng.uniform(0.01, 1, (4, 11)) ** 3)
    within = torch.from_numpy(rng.uniform(0, 1, (4, 30)))
    found = by_weight(weights, edges, within)
    for ray in range(4):
        climbing = np.concatenate([[0], np.cumsum(weights[ray].numpy())])
        wanted = (np.arange(30) + within[ray].numpy()) / 30
        expected = np.interp(wanted, climbing / climbing[-1], edges[ray])
        np.testing.assert_allclose(found[ray], expected, rtol=1e-10)


def test_samples_are_as_many_as_an_interval_has_weight():
    edges = torch.tensor([[0.0, 1, 2, 4, 8]]).double()
    weights = torch.tensor([[1.0, 0, 5, 2]]).double()
    for by_chance in (False, True):
        found = by_weight(weights, edges, offsets((1, 80), by_chance, CPU))
        count, _ = np.histogram(found, edges[0])
        assert count.tolist() == [10, 0, 50, 20]


def test_the_first_and_the_last_share_reach_the_ends_of_the_weighted():
    edges = torch.tensor([[0.0, 1, 2, 4, 8]]).double()
    weights = torch.tensor([[0.0, 3, 1, 0]]).double()
    within = torch.tensor([[0.0, 0.5, 0.5, 1.0]]).double()
    found = by_weight(weights, edges, within)
    np.testing.assert_allclose(found, [[1.0, 1.5, 1 + 5 / 6, 4.0]], atol=1e-9)


def test_without_any_weight_all_intervals_count_alike():
    edges = torch.tensor([[0.0, 1, 3]]).double()
    found = by_weight(torch.zeros(1, 2).double(), edges, offsets((1, 4), False, CPU))
    np.testing.assert_allclose(found, [[0.25, 0.75, 1.5, 2.5]], atol=1e-12)


def test_places_around_a_depth_are_normally_distributed():
    torch.manual_seed(0)
    drawn = around(torch.tensor([1.0, 5.0]).double(), 0.2, 20000)
    np.testing.assert_allclose(drawn.mean(1), [1, 5], atol=0.01)
    np.testing.assert_allclose(drawn.std(1), 0.2, atol=0.01)
    within = ((drawn - drawn.mean(1, keepdim=True)).abs() < 0.2).double().mean(1)
    np.testing.assert_allclose(within, 0.6827, atol=0.015)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("by_chance", [False, True])
def test_the_second_set_is_sorted_and_holds_the_first(spacing, by_chance):
    torch.manual_seed(0)
    places = jittered(spaced((0.1, 10.0), 16, spacing, CPU).expand(7, -1))
    found = importance(places, torch.rand(7, 16), 24, spacing, by_chance)
    assert found.shape == (7, 40)
    assert (found.diff(dim=1) >= 0).all()
    for ray in range(7):
        assert set(places[ray].tolist()) <= set(found[ray].tolist())
    assert (found[:, 0] == places[:, 0]).all()
    assert (found[:, -1] == places[:, -1]).all()


@pytest.mark.parametrize("spacing", SPACINGS)
def test_the_second_set_gathers_around_a_peak(spacing):
    places = spaced((0.5, 8.0), 16, spacing, CPU)[None]
    weights = torch.zeros(1, 16)
    weights[0, 6] = 1.0
    found = importance(places, weights, 32, spacing, False)
    scale = places if spacing == "depth" else 1 / places
    added = found[~torch.isin(found, places)]
    added = added if spacing == "depth" else 1 / added
    ends = ((scale[0, 5:7] + scale[0, 6:8]) / 2).sort().values.tolist()
    assert len(added) == 32
    assert ((added > ends[0]) & (added < ends[1])).all()
    # Evenly, in the spacing of the first set.
    np.testing.assert_allclose(added.diff().abs(), (ends[1] - ends[0]) / 32, rtol=2e-3)


def test_weights_of_the_outermost_samples_do_not_count():
    places = spaced((1.0, 2.0), 6, "depth", CPU)[None]
    weights = torch.rand(1, 6)
    other = weights.clone()
    other[0, 0], other[0, -1] = 50.0, 70.0
    found, same = (importance(places, w, 9, "depth", False) for w in (weights, other))
    assert torch.equal(found, same)


def test_inverse_depth_is_depth_of_a_ray_turned_inside_out():
    torch.manual_seed(1)
    places = jittered(spaced((0.1, 10.0), 12, "inverse-depth", CPU).expand(5, -1))
    weights = torch.rand(5, 12)
    found = importance(places, weights, 20, "inverse-depth", False)
    inverse = (1 / places).flip(1)
    expected = 1 / importance(inverse, weights.flip(1), 20, "depth", False).flip(1)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_no_gradient_goes_through_where_samples_lie():
    places = spaced((1.0, 2.0), 6, "depth", CPU)[None]
    weights = torch.rand(1, 6, requires_grad=True)
    assert not importance(places, weights, 4, "depth", True).requires_grad


def test_a_ray_without_weights_is_sampled_all_along():
    places = spaced((1.0, 3.0), 5, "depth", CPU)[None]
    found = importance(places, torch.zeros(1, 5), 30, "depth", False)
    added = found[~torch.isin(found, places)]
    np.testing.assert_allclose(added.diff(), 1.5 / 30, rtol=1e-6)
