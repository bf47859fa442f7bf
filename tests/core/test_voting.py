"""Votes against Eq. 3-4 written out by loops in float64, and against what must hold."""

import numpy as np
import pytest
import torch
from torch import nn

from gnesf_core.fields import voting
from gnesf_core.fields.voting import (
    DirectSemantics,
    PaperVote,
    ReleasedVote,
    Sights,
    SplitLinear,
    ballots_of,
    blend,
    entropy,
    in_parts,
    mean_and_variance,
    vote_weights,
)

FEATURES, ENCODING, CLASSES, POINTS = 5, 4, 6, 7
VIEWS = 5
NETWORKS = ("paper", "depth", "informed", "released")


def network_of(kind, seed=0):
    torch.manual_seed(seed)
    if kind == "released":
        return ReleasedVote(FEATURES, ENCODING).double()
    sees = kind != "depth", kind == "informed"
    network = PaperVote(FEATURES, ENCODING, CLASSES, (8, 6), *sees).double()
    # As if it had learned something: untrained heads let all views count alike.
    for head in (network.semantic, network.color):
        nn.init.normal_(head.weight)
    return network


def random_sights(seed=0, counts=(3, 1, 0, 5, 2, 4, 1)):
    """Return pairs in the order of views: point 2 is seen by nobody."""
    rng = np.random.default_rng(seed)
    point = np.concatenate([np.full(n, i) for i, n in enumerate(counts)])
    point = torch.from_numpy(rng.permutation(point))
    count = len(point)
    said = rng.dirichlet(np.ones(CLASSES), count)
    values = [
        rng.normal(size=(count, FEATURES)), rng.random((count, 3)), said,
        rng.normal(size=(count, 3)), rng.uniform(0.5, 4, count),
        rng.normal(size=(len(counts), ENCODING)),
    ]  # fmt: skip
    return Sights(point, *map(torch.from_numpy, values), VIEWS)


def chosen(sights, order):
    """Return some of the pairs, in an order."""
    *of_pairs, encoding, views = sights
    return Sights(*(values[order] for values in of_pairs), encoding, views)


def voted(network, sights):
    scores, for_colors = network(sights)
    said, _ = blend(scores, sights.said, sights.point, len(sights.encoding))
    color, _ = blend(for_colors, sights.color, sights.point, len(sights.encoding))
    return torch.cat([said, color], 1)


def elu(x):
    return np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1)


def layer(module, x):
    return x @ module.weight.detach().numpy().T + module.bias.detach().numpy()


def by_the_equations(network, sights, vector, informed):
    """Vote on each point by itself: Eq. 3 and 4, with plain layers on whole inputs."""
    results = []
    for point in range(len(sights.encoding)):
        own = [i for i, p in enumerate(sights.point.tolist()) if p == point]
        if not own:
            results.append(np.zeros(CLASSES + 3))
            continue
        f = sights.features[own].numpy()
        mean, variance = f.mean(0), f.var(0)
        scores = []
        for row, i in enumerate(own):
            new = elu(layer(network.first, np.concatenate([f[row], mean, variance])))
            new = elu(layer(network.second, new))
            d, said = sights.displacement[i].numpy(), sights.said[i].numpy()
            parts = [new, d if vector else sights.depth_m[i : i + 1].numpy()]
            if informed:
                parts += [said, [-(said * np.log(said)).sum()], [np.sqrt((d**2).sum())]]
            parts.append(sights.encoding[point].numpy())
            hidden = elu(layer(network.third, np.concatenate(parts)))
            both = layer(network.semantic, hidden), layer(network.color, hidden)
            scores.append(np.concatenate(both))
        power = np.exp(np.array(scores))
        weights = power / power.sum(0)
        said, color = sights.said[own].numpy(), sights.color[own].numpy()
        results.append(np.concatenate([weights[:, 0] @ said, weights[:, 1] @ color]))
    return np.array(results)


@pytest.mark.parametrize(
    ("kind", "vector", "informed"),
    [("paper", True, False), ("depth", False, False), ("informed", True, True)],
)
def test_votes_are_those_of_the_equations(kind, vector, informed):
    network, sights = network_of(kind), random_sights()
    expected = by_the_equations(network, sights, vector, informed)
    found = voted(network, sights).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", NETWORKS)
def test_voted_probabilities_sum_to_one_where_any_view_sees(kind):
    found = voted(network_of(kind), random_sights())[:, :CLASSES].sum(1)
    expected = [1, 1, 0, 1, 1, 1, 1]
    np.testing.assert_allclose(found.detach(), expected, atol=1e-12)


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_order_of_views_changes_nothing(kind):
    network, sights = network_of(kind), random_sights()
    order = torch.randperm(len(sights.point), generator=torch.manual_seed(1))
    found = voted(network, chosen(sights, order))
    torch.testing.assert_close(found, voted(network, sights), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", NETWORKS)
def test_views_that_show_the_same_give_back_what_they_say(kind):
    sights = random_sights(counts=(1,))
    repeated = chosen(sights, torch.zeros(9, dtype=torch.long))
    found = voted(network_of(kind), repeated)
    expected = torch.cat([sights.said, sights.color], 1)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", NETWORKS)
def test_other_points_have_no_say(kind):
    network, sights = network_of(kind), random_sights()
    alone = chosen(sights, (sights.point == 3).nonzero()[:, 0])
    found = voted(network, alone)[3]
    torch.testing.assert_close(found, voted(network, sights)[3], rtol=1e-10, atol=0)


def test_adding_to_all_scores_changes_no_weight():
    point, scores = random_sights().point, torch.randn(16, dtype=torch.float64)
    weights, seen = vote_weights(scores, point, POINTS)
    shifted, _ = vote_weights(scores + 700, point, POINTS)
    torch.testing.assert_close(shifted, weights, rtol=1e-9, atol=0)
    assert seen.tolist() == [True, True, False, True, True, True, True]


def test_a_vote_with_nobody_to_vote_is_empty():
    nothing = torch.zeros(0, dtype=torch.long)
    found, seen = blend(torch.zeros(0), torch.zeros(0, 3), nothing, 4)
    assert found.tolist() == [[0.0] * 3] * 4
    assert not seen.any()


def test_anything_can_be_voted_with():
    point, scores = torch.tensor([0, 0]), torch.log(torch.tensor([1.0, 3.0]))
    said = torch.tensor([[8.0, 0, -4, 1], [0, 4, 4, 1]])
    found, _ = blend(scores, said, point, 1)
    torch.testing.assert_close(found, torch.tensor([[2.0, 3, 2, 1]]))


def test_mean_and_variance_survive_large_values():
    rng = np.random.default_rng(0)
    values = torch.from_numpy(1e4 + 1e-2 * rng.normal(size=(4000, 1))).float()
    point = torch.zeros(4000, dtype=torch.long)
    _, variance = mean_and_variance(values, point, 1)
    expected = values.double().var(unbiased=False)
    assert float(variance) == pytest.approx(float(expected), rel=0.05)


def test_weights_count_views_as_often_as_they_say():
    values = torch.tensor([[1.0], [4.0]], dtype=torch.float64)
    weights = torch.tensor([3.0, 1.0], dtype=torch.float64)
    point = torch.zeros(2, dtype=torch.long)
    found = mean_and_variance(values, point, 1, weights)
    repeated = np.array([1, 1, 1, 4.0])
    assert [float(f) for f in found] == [repeated.mean(), repeated.var()]


def test_a_split_layer_is_the_layer():
    layer = SplitLinear(3, 2, 4)
    whole = nn.Linear(5, 4)
    whole.load_state_dict(layer.state_dict())
    point = torch.tensor([1, 0, 1])
    pairs, points = torch.randn(3, 3), torch.randn(2, 2)
    expected = whole(torch.cat([pairs, points[point]], 1))
    torch.testing.assert_close(layer(pairs, points, point), expected)


def test_entropy_of_one_class_is_zero_and_of_all_alike_is_log_n():
    said = torch.tensor([[1.0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25]])
    expected = torch.tensor([[0.0], [np.log(4)]], dtype=torch.float32)
    torch.testing.assert_close(entropy(said), expected)


def test_untrained_votes_count_alike():
    network = PaperVote(FEATURES, ENCODING, CLASSES, (8, 6), True, False).double()
    sights = random_sights()
    found = voted(network, sights)[3, :CLASSES]
    expected = sights.said[sights.point == 3].mean(0)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("part", [1, 3, 4, 7, 100])
@pytest.mark.parametrize("kind", NETWORKS)
def test_points_can_be_voted_on_part_by_part(kind, part, monkeypatch):
    network, sights = network_of(kind), random_sights()
    sights = chosen(sights, sights.point.argsort(stable=True))

    def of(scores):
        network.zero_grad()
        features = sights.features.clone().requires_grad_()
        told = scores(sights._replace(features=features))
        (told[0].square().sum() + told[1].exp().sum()).backward()
        grads = [p.grad.clone() for p in network.parameters()]
        return [*told, features.grad, *grads]

    whole = of(network)
    monkeypatch.setattr(voting, "_PART", part)
    for found, expected in zip(of(lambda s: in_parts(network, s)), whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", NETWORKS)
def test_gradients_are_those_of_finite_differences(kind):
    network, sights = network_of(kind), random_sights(counts=(3, 1, 2))

    def of(features):
        return voted(network, sights._replace(features=features))

    assert torch.autograd.gradcheck(of, sights.features.requires_grad_())


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_weight_learns(kind):
    network, sights = network_of(kind), random_sights()
    voted(network, sights).square().sum().backward()
    still = [n for n, p in network.named_parameters() if not p.grad.abs().sum() > 0]
    # A softmax does not care what is added to all its scores.
    assert all(name.endswith("bias") for name in still), still


def test_the_released_network_has_the_released_weights():
    network = ReleasedVote(56, 24)
    assert sum(p.numel() for p in network.parameters()) == 20_688
    shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
    assert shapes["base_fc.0.weight"] == (64, 201)
    assert shapes["dist_fc_rgb.2.weight"] == (59, 16)
    assert shapes["sem_fc.4.weight"] == shapes["rgb_fc.4.weight"] == (1, 8)


def test_direct_prediction_needs_no_opinion_of_a_view():
    torch.manual_seed(0)
    network = DirectSemantics(FEATURES, ENCODING, CLASSES, (8, 6)).double()
    sights = random_sights()
    other = sights._replace(said=sights.said.flip(1))
    found = network(sights)
    torch.testing.assert_close(found, network(other))
    np.testing.assert_allclose(found.sum(1).detach(), 1, atol=1e-12)


def test_without_groups_all_who_see_a_point_vote_together():
    point = torch.tensor([0, 0, 2, 3, 3, 3])
    ballots = ballots_of(point, 5, None)
    assert ballots.pair.tolist() == point.tolist()
    assert ballots.point.tolist() == [0, 1, 2, 3, 4]
    assert ballots.share.tolist() == [1] * 5


def test_groups_count_by_how_many_of_them_see_a_point():
    point = torch.tensor([0, 0, 0, 2, 2, 2, 2])
    group = torch.tensor([1, 1, 4, 1, 3, 3, 3])
    ballots = ballots_of(point, 4, group)
    assert ballots.pair.tolist() == [0, 0, 1, 2, 3, 3, 3]
    assert ballots.point.tolist() == [0, 0, 2, 2]
    torch.testing.assert_close(ballots.share, torch.tensor([2 / 3, 1 / 3, 0.25, 0.75]))
    nothing = torch.zeros(0, dtype=torch.int64)
    assert len(ballots_of(nothing, 4, nothing).point) == 0
