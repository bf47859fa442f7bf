"""How source views vote on points (Eq. 3-4), and what they can be made to vote with.

A network gives each pair of a point and a view a score; the softmax of a point's scores
over the views that see it are the weights by which what the views say is added up. What
they say may be probabilities, logits, colours or anything else that can be averaged.

`PaperVote` is the network as the paper describes it, `ReleasedVote` as the authors'
code has it, with the same names and shapes of its weights.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import elu
from torch.utils.checkpoint import checkpoint

from gnesf_core.nets.mlp import mlp
from gnesf_core.shapes import Bool, Float, Int64

_PART = 1 << 13  # pairs
_RECOMPUTED = {"use_reentrant": False, "preserve_rng_state": False}
_HIDDEN_COLOR = 16  # of the released code's layer that encodes depth


class Sights(NamedTuple):
    """What the voting network sees: rows are pairs of a point and a view."""

    point: Int64[Tensor, " pairs"]
    features: Float[Tensor, "pairs c"]  # F of the view, at the point
    color: Float[Tensor, "pairs 3"]
    said: Float[Tensor, "pairs classes"]  # probabilities, whatever is voted with
    displacement: Float[Tensor, "pairs 3"]  # m, from the camera's centre to the point
    depth_m: Float[Tensor, " pairs"]
    encoding: Float[Tensor, "n m"]  # M, of each point
    views: int  # that there are, whether they see a point or not


def blend(
    scores: Float[Tensor, " pairs"],
    said: Float[Tensor, "pairs k"],
    point: Int64[Tensor, " pairs"],
    count: int,
) -> tuple[Float[Tensor, "n k"], Bool[Tensor, " n"]]:
    """Return the weighted mean of what is said of each point, Eq. 4.

    Weights are the softmax of the scores over the point's pairs. Points that no view
    sees get zeros, and are not among those that the second result tells.
    """
    weights, seen = vote_weights(scores, point, count)
    return added_up(weights, said, point, count), seen


def added_up(
    weights: Float[Tensor, " pairs"],
    said: Float[Tensor, "pairs k"],
    point: Int64[Tensor, " pairs"],
    count: int,
) -> Float[Tensor, "n k"]:
    """Return the weighted sum of what is said of each point; zeros where nothing is."""
    blank = said.new_zeros(count, said.shape[1])
    return blank.index_add(0, point, weights[:, None] * said)


def vote_weights(
    scores: Float[Tensor, " pairs"], point: Int64[Tensor, " pairs"], count: int
) -> tuple[Float[Tensor, " pairs"], Bool[Tensor, " n"]]:
    """Return the softmax of scores over the pairs of each point, and who has any."""
    highest = scores.new_full((count,), -torch.inf)
    highest = highest.scatter_reduce(0, point, scores.detach(), "amax")
    powers = (scores - highest.index_select(0, point)).exp()
    total = scores.new_zeros(count).index_add(0, point, powers)
    return powers / total.index_select(0, point), total > 0


class Ballots(NamedTuple):
    """Who votes together on a point: all views that see it, or groups of them."""

    pair: Int64[Tensor, " pairs"]  # the ballot that a pair belongs to, ascending
    point: Int64[Tensor, " ballots"]
    share: Float[Tensor, " ballots"]  # of its point's views


def ballots_of(
    point: Int64[Tensor, " pairs"],
    count: int,
    group: Int64[Tensor, " pairs"] | None,
) -> Ballots:
    """Return one ballot per point, or one per point and group that has pairs.

    Pairs come point by point, and of a point group by group.
    """
    if group is None:
        everyone = torch.arange(count, device=point.device)
        return Ballots(point, everyone, torch.ones(count, device=point.device))
    groups = 1 + (int(group.max()) if len(group) else 0)
    ballots, pair, voters = (groups * point + group).unique_consecutive(
        return_inverse=True, return_counts=True
    )
    point, total = ballots // groups, point.bincount(minlength=count)
    return Ballots(pair, point, voters / total[point])


def mean_and_variance(
    values: Float[Tensor, "pairs c"],
    point: Int64[Tensor, " pairs"],
    count: int,
    weights: Float[Tensor, " pairs"] | None = None,
) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]:
    """Return mean and variance over the views of each point; zeros without any.

    Weights need not add up to 1; without them all views count alike.
    """
    if weights is None:
        weights = values.new_ones(len(values))
    total = values.new_zeros(count).index_add(0, point, weights)
    share = (weights / total.index_select(0, point))[:, None]
    blank = values.new_zeros(count, values.shape[1])
    mean = blank.index_add(0, point, share * values)
    difference = values - mean.index_select(0, point)
    return mean, blank.index_add(0, point, share * difference.square())


def entropy(probabilities: Float[Tensor, "pairs classes"]) -> Float[Tensor, "pairs 1"]:
    """Return the entropy of distributions, in nats."""
    logarithms = probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()
    return -(probabilities * logarithms).sum(1, keepdim=True)


class SplitLinear(nn.Module):
    """A linear layer whose inputs are partly of pairs, partly of their points.

    The part of the points is computed once per point: the same result as one layer on
    both side by side, with less work.
    """

    def __init__(self, of_pairs: int, of_points: int, outputs: int) -> None:
        super().__init__()
        whole = nn.Linear(of_pairs + of_points, outputs)
        self.weight, self.bias = whole.weight, whole.bias
        self._of_pairs = of_pairs

    def forward(
        self,
        pairs: Float[Tensor, "pairs a"],
        points: Float[Tensor, "n b"],
        point: Int64[Tensor, " pairs"],
    ) -> Float[Tensor, "pairs outputs"]:
        """Return the layer's outputs for each pair."""
        own, shared = self.weight.tensor_split([self._of_pairs], 1)
        by_point = torch.addmm(self.bias, points, shared.T)
        return pairs @ own.T + by_point.index_select(0, point)


def in_parts(
    network: nn.Module, sights: Sights
) -> tuple[Float[Tensor, " pairs"], Float[Tensor, " pairs"]]:
    """Return a network's scores, computed for some points after the other.

    What a part needs stays in the processor's cache, and for the gradient it is
    computed once more rather than kept: that is several times faster on a CPU, and
    takes a fraction of the memory anywhere. Pairs must come point by point.
    """
    *of_pairs, encoding, views = sights
    total = len(sights.point)
    if total <= _PART:
        return network(sights)
    # A part ends where the pairs of a point end.
    firsts = torch.arange(_PART, total, _PART, device=sights.point.device)
    points = sights.point[firsts].unique()
    ends = torch.searchsorted(sights.point, points)
    # The first part is never empty, but its first point may be the next one's too.
    pairs, lows = torch.stack([ends, points])[:, ends > 0].tolist()
    bounds, edges = [0, *pairs, total], [0, *lows, len(encoding)]
    sizes = [[high - low for low, high in pairwise(ends)] for ends in (bounds, edges)]
    # Not slices: each of their gradients would be as large as the whole.
    parts = [values.split(sizes[0]) for values in of_pairs]
    scores = []
    for low, point, *own in zip(edges, *parts, encoding.split(sizes[1]), strict=False):
        part = Sights(point - low, *own, views)
        if torch.is_grad_enabled():
            scores.append(checkpoint(network, part, **_RECOMPUTED))
        else:
            scores.append(network(part))
    semantic, color = zip(*scores, strict=True)
    return torch.cat(semantic), torch.cat(color)


class PaperVote(nn.Module):
    """F' from a view's features with their mean and variance; a score from F', M, d.

    The scores of colours have a last layer of their own. `informed`, which the paper
    does not have, shows the second layer what the view itself says, how unsure it is,
    and how far away it is.
    """

    def __init__(
        self,
        features: int,
        encoding: int,
        classes: int,
        widths: tuple[int, int],
        vector: bool,
        informed: bool,
    ) -> None:
        super().__init__()
        first, second = widths
        self._vector, self._informed = vector, informed
        self.first = SplitLinear(features, 2 * features, first)
        self.second = nn.Linear(first, second)  # F'
        own = second + (3 if vector else 1) + (classes + 2 if informed else 0)
        self.third = SplitLinear(own, encoding, second)
        self.semantic = nn.Linear(second, 1)
        self.color = nn.Linear(second, 1)
        for head in (self.semantic, self.color):
            # Before anything is learned all views count alike.
            nn.init.zeros_(head.weight)

    def forward(
        self, sights: Sights
    ) -> tuple[Float[Tensor, " pairs"], Float[Tensor, " pairs"]]:
        """Return the scores of what views say of classes, and of colours."""
        point, count = sights.point, len(sights.encoding)
        statistics = torch.cat(mean_and_variance(sights.features, point, count), 1)
        new = elu(self.second(elu(self.first(sights.features, statistics, point))))
        own = torch.cat([new, self.own(sights)], 1)
        hidden = elu(self.third(own, sights.encoding, point))
        return self.semantic(hidden)[:, 0], self.color(hidden)[:, 0]

    def own(self, sights: Sights) -> Float[Tensor, "pairs e"]:
        """Return what the third layer sees of pairs beside F'."""
        own = [sights.displacement if self._vector else sights.depth_m[:, None]]
        if self._informed:
            distance_m = sights.displacement.norm(dim=1, keepdim=True)
            own += [sights.said, entropy(sights.said), distance_m]
        return torch.cat(own, 1)


class DirectSemantics(nn.Module):
    """Classes predicted from the views' features and M, with no vote: Table 4, row 1.

    Colours are voted on, as in the other rows.
    """

    def __init__(
        self, features: int, encoding: int, classes: int, widths: tuple[int, int]
    ) -> None:
        super().__init__()
        first, second = widths
        self.vote = PaperVote(features, encoding, classes, widths, True, False)
        self.layers = nn.Sequential(
            nn.Linear(2 * features + encoding, first),
            nn.ELU(),
            nn.Linear(first, second),
            nn.ELU(),
            nn.Linear(second, classes),
        )

    def forward(self, sights: Sights) -> Float[Tensor, "n classes"]:
        """Return the probabilities of each point's classes."""
        statistics = mean_and_variance(
            sights.features, sights.point, len(sights.encoding)
        )
        return self.layers(torch.cat([*statistics, sights.encoding], 1)).softmax(1)


class ReleasedVote(nn.Module):
    """The voting network of the authors' code, an IBRNet with two blending heads.

    It sees colours beside features, depths in place of displacements, and M in its
    first layer; mean and variance count near views for more. Names and shapes of its
    weights are the released ones.
    """

    def __init__(self, features: int, encoding: int) -> None:
        super().__init__()
        inputs = features + 3
        self.s = nn.Parameter(torch.tensor(0.2))
        self.dist_fc_rgb = mlp(1, _HIDDEN_COLOR, inputs, last=nn.ELU())
        self.base_fc = mlp(encoding + 3 * inputs, 64, 32, last=nn.ELU())
        self.vis_fc = mlp(32, 32, 33, last=nn.ELU())
        self.vis_fc2 = mlp(32, 32, 1, last=nn.Sigmoid())
        self.rgb_fc = mlp(34, 16, 8, 1)
        self.sem_fc = mlp(34, 16, 8, 1)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(
        self, sights: Sights
    ) -> tuple[Float[Tensor, " pairs"], Float[Tensor, " pairs"]]:
        """Return the scores of what views say of classes, and of colours."""
        point, count = sights.point, len(sights.encoding)
        depth = sights.depth_m[:, None]
        own = torch.cat([sights.color, sights.features], 1) + self.dist_fc_rgb(depth)
        nearness = (-self.s.abs() * sights.depth_m).exp()
        least = nearness.new_full((count,), torch.inf)
        least = least.scatter_reduce(0, point, nearness, "amin")
        # A view that does not see a point is infinitely far there.
        least = torch.where(point.bincount(minlength=count) < sights.views, 0.0, least)
        nearness = nearness - least.index_select(0, point)
        total = nearness.new_zeros(count).index_add(0, point, nearness)
        share = nearness / (total.index_select(0, point) + 1e-8)
        blank = own.new_zeros(count, own.shape[1])
        mean = blank.index_add(0, point, share[:, None] * own)
        difference = own - mean.index_select(0, point)
        variance = blank.index_add(0, point, share[:, None] * difference.square())
        of_point = torch.cat([sights.encoding, mean, variance], 1)
        x = self.base_fc(torch.cat([of_point.index_select(0, point), own], 1))
        change, seen = self.vis_fc(x * share[:, None]).tensor_split([32], 1)
        x, seen = x + change, seen.sigmoid()
        seen = self.vis_fc2(x * seen)
        x = torch.cat([x, seen, depth], 1)
        return self.sem_fc(x)[:, 0], self.rgb_fc(x)[:, 0]
