"""The fused vote against sampled maps and the plain network in float64."""

import copy

import numpy as np
import pytest
import torch

from gnesf_core.fields import voting_numba
from gnesf_core.fields.voting import PaperVote, Sights
from gnesf_core.fields.voting_numba import paper_scores
from gnesf_core.nets.mnasnet import STRIDES
from gnesf_core.ops.layers_numba import add_product, through_elu, to_elu
from gnesf_core.ops.threads import on_threads
from gnesf_core.rendering.sources import Pairs, sample_maps

CHANNELS, ENCODING, CLASSES, VIEWS = (3, 5, 4), 6, 7, 5
WIDTH, HEIGHT = 48, 32
KINDS = {"vector": (True, False), "depth": (False, False), "informed": (True, True)}
COUNTS = (3, 1, 0, 5, 2, 0, 1, 4)
MANY = (*COUNTS * 20, 0, 90, 1)  # the last but one is larger than a small tile


class Case:
    """A vote, and everything it votes on."""

    def __init__(self, kind="vector", counts=COUNTS, seed=0, widths=(9, 6)):
        rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        self.kind = KINDS[kind]
        channels = sum(CHANNELS)
        self.vote = PaperVote(channels, ENCODING, CLASSES, widths, *self.kind)
        for head in (self.vote.semantic, self.vote.color):
            torch.nn.init.normal_(head.weight)
        self.maps = [
            torch.randn(VIEWS, own, HEIGHT // stride, WIDTH // stride)
            for own, stride in zip(CHANNELS, STRIDES, strict=True)
        ]
        point = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
        size = len(point)
        uv = rng.uniform(-0.5, np.array([WIDTH, HEIGHT]) - 0.5, (size, 2))
        self.displacement = torch.randn(size, 3)
        depth = self.displacement.norm(dim=1) * 0.9
        view = torch.from_numpy(rng.integers(0, VIEWS, size))
        self.pairs = Pairs(view, point, torch.from_numpy(uv).float(), depth)
        self.said = torch.from_numpy(rng.dirichlet(np.ones(CLASSES), size)).float()
        self.encoding = torch.randn(len(counts), ENCODING)

    def own(self):
        vector, informed = self.kind
        parts = [self.displacement if vector else self.pairs.depth_m[:, None]]
        if informed:
            logarithms = torch.log(self.said.clamp(min=1e-30))
            distance = (self.displacement**2).sum(1, keepdim=True).sqrt()
            entropy = (-self.said * logarithms).sum(1, keepdim=True)
            parts += [self.said, entropy, distance]
        return torch.cat(parts, 1)

    def twin(self, maps=None, threads=None):
        maps = self.maps if maps is None else maps
        own = self.own()
        return paper_scores(self.vote, maps, self.pairs, own, self.encoding, threads)

    def truth(self, vote=None, maps=None):
        """Return the scores by what the twin fuses, in float64."""
        vote = copy.deepcopy(self.vote).double() if vote is None else vote
        maps = [own.double() for own in self.maps] if maps is None else maps
        uv = self.pairs.uv.double()
        features = [
            sample_maps(own, self.pairs, uv / stride)
            for own, stride in zip(maps, STRIDES, strict=True)
        ]
        values = [
            torch.cat(features, 1), self.said[:, :3], self.said, self.displacement,
            self.pairs.depth_m, self.encoding,
        ]  # fmt: skip
        sights = Sights(self.pairs.point, *(v.double() for v in values), VIEWS)
        return vote(sights)

    def both(self):
        """Return scores and gradients of a random mixture: of twin, and of truth."""
        mix = torch.randn(2, len(self.pairs.point), dtype=torch.float64)
        maps = [own.requires_grad_() for own in self.maps]
        vote = copy.deepcopy(self.vote).double()
        double = [own.detach().double().requires_grad_() for own in maps]
        ours = self.twin(), [*maps, *self.vote.parameters()]
        truth = self.truth(vote, double), [*double, *vote.parameters()]
        results = []
        for scores, inputs in (ours, truth):
            loss = sum((m * s.double()).sum() for m, s in zip(mix, scores, strict=True))
            results.append([*scores, *torch.autograd.grad(loss, inputs)])
        return results


def small_tiles(monkeypatch):
    """Let few pairs make many tiles, jobs and rounds."""
    for name, value in (("_TILE", 16), ("_TILES", 2), ("_JOBS", 2)):
        monkeypatch.setattr(voting_numba, name, value)


def assert_all_close(ours, truth, error=2e-5):
    for one, two in zip(ours, truth, strict=True):
        scale = max(1.0, two.abs().max().item()) if two.numel() else 1.0
        torch.testing.assert_close(one.double(), two, atol=error * scale, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("counts", [COUNTS, (1,), (0, 0, 7), MANY], ids=len)
def test_scores_and_gradients_are_those_of_the_plain_network(kind, counts):
    assert_all_close(*Case(kind, counts).both())


@pytest.mark.parametrize("kind", KINDS)
def test_tiles_may_end_anywhere(kind, monkeypatch):
    small_tiles(monkeypatch)
    case = Case(kind, MANY)
    sizes = [
        n for b in voting_numba._jobs(case.pairs.point.numpy()) for n in np.diff(b)
    ]
    assert sum(sizes) == sum(MANY) and max(sizes) > 90 and len(sizes) > 15
    assert_all_close(*case.both())


def test_layers_of_the_papers_size_agree():
    assert_all_close(*Case("vector", MANY, widths=(64, 32)).both())


@pytest.mark.parametrize("seed", range(3))
def test_gradients_are_slopes_of_the_truth(seed):
    # Finite differences in float64 know nothing of anybody's backward.
    case = Case("informed", (2, 1, 3), seed)
    maps = [own.requires_grad_() for own in case.maps]
    inputs = [*maps, *case.vote.parameters()]
    mix = torch.randn(2, 6, dtype=torch.float64)
    loss = sum((m * s).sum() for m, s in zip(mix, case.twin(), strict=True))
    gradients = torch.autograd.grad(loss, inputs)
    ways = [torch.randn_like(one).double() for one in inputs]
    slope = sum((g * w).sum() for g, w in zip(gradients, ways, strict=True))

    def at(step):
        vote = copy.deepcopy(case.vote).double()
        moved = [one.detach().double() + step * w for one, w in zip(maps, ways)]  # noqa: B905
        with torch.no_grad():
            for one, way in zip(vote.parameters(), ways[len(maps) :], strict=True):
                one += step * way
            scores = case.truth(vote, moved)
        return sum((m * s).sum() for m, s in zip(mix, scores, strict=True))

    expected = (at(1e-6) - at(-1e-6)) / 2e-6
    assert float(slope) == pytest.approx(float(expected), rel=1e-4, abs=1e-4)


def test_the_number_of_threads_does_not_change_a_bit(monkeypatch):
    small_tiles(monkeypatch)
    case = Case("informed", MANY)
    maps = [own.requires_grad_() for own in case.maps]
    inputs = [*maps, *case.vote.parameters()]
    mix = torch.randn(2, sum(MANY))

    def results(threads):
        scores = case.twin(threads=threads)
        return *scores, *torch.autograd.grad(scores, inputs, list(mix))

    first = results(1)
    for threads in (2, 3, 16):
        for one, two in zip(first, results(threads), strict=True):
            assert torch.equal(one, two)


def test_without_pairs_there_is_nothing_and_gradients_are_zero():
    case = Case(counts=(0, 0, 0))
    maps = [own.requires_grad_() for own in case.maps]
    scores, color_scores = case.twin()
    assert scores.shape == color_scores.shape == (0,)
    inputs = [*maps, *case.vote.parameters()]
    for gradient in torch.autograd.grad(scores.sum() + color_scores.sum(), inputs):
        assert (gradient == 0).all()


@pytest.mark.parametrize("beyond", [0.0, 0.5, 1e9, np.inf])
def test_places_beyond_the_edge_are_at_the_edge_and_nothing_else_is_read(beyond):
    case = Case(counts=(4, 4))
    left, right = -beyond, WIDTH - 1 + beyond
    upper, lower = -beyond, HEIGHT - 1 + beyond
    corners = [(left, upper), (right, upper), (left, lower), (right, lower)]
    case.pairs = case.pairs._replace(uv=torch.tensor(corners * 2))
    expected = case.truth()
    # What lies before the first view and behind the last is no number.
    guarded = [torch.full((VIEWS + 2, *own.shape[1:]), torch.nan) for own in case.maps]
    guarded = [own.contiguous(memory_format=torch.channels_last) for own in guarded]
    for around, own in zip(guarded, case.maps, strict=True):
        around[1:-1] = own
    assert_all_close(case.twin([around[1:-1] for around in guarded]), expected)


@pytest.mark.parametrize("u", [-np.inf, -0.5, WIDTH - 1, WIDTH, np.inf, np.nan])
@pytest.mark.parametrize("v", [-3.0, HEIGHT - 1, HEIGHT - 4, np.inf])
def test_gradients_are_written_inside_their_view_alone(u, v):
    uv = np.full((6, 2), (u, v), np.float32)
    of_pairs = np.ones((6, sum(CHANNELS)), np.float32)
    around = [
        np.zeros((VIEWS, HEIGHT // stride, WIDTH // stride, own), np.float32)
        for own, stride in zip(CHANNELS, STRIDES, strict=True)
    ]
    maps = tuple(own[1:-1] for own in around)
    voting_numba._scatter(maps, of_pairs, np.full(6, 2), uv, 0, 2)
    for own in around:
        assert (own[[0, 1, 2, 4]] == 0).all()
        # The four weights sum to one.
        np.testing.assert_allclose(own[3].sum((0, 1)), 6)


def test_what_is_no_number_spoils_its_point_and_no_other():
    case = Case(counts=MANY)
    spoilt = 3
    case.encoding[spoilt, 0] = torch.nan
    scores, _ = case.twin()
    assert torch.equal(scores.isnan(), case.pairs.point == spoilt)


def test_the_layout_of_maps_in_memory_does_not_matter():
    case = Case()
    other = [m.contiguous(memory_format=torch.channels_last) for m in case.maps]
    for one, two in zip(case.twin(), case.twin(other), strict=True):
        assert torch.equal(one, two)


def test_maps_alone_may_learn_and_weights_alone():
    case = Case()
    ours, _ = case.both()
    maps = [own.detach().requires_grad_() for own in case.maps]
    case.vote.requires_grad_(False)
    scores = case.twin(maps)
    assert all(g is not None for g in torch.autograd.grad(sum(scores).sum(), maps))
    case.vote.requires_grad_(True)
    scores = case.twin([own.detach() for own in maps])
    weights = list(case.vote.parameters())
    for gradient in torch.autograd.grad(sum(scores).sum(), weights):
        assert gradient.isfinite().all()


@pytest.mark.parametrize(
    "change",
    [
        {"view": torch.full((16,), VIEWS)},
        {"view": torch.full((16,), -1)},
        {"point": torch.arange(16).flip(0)},
        {"point": torch.full((16,), len(COUNTS))},
    ],
    ids=["no such view", "negative view", "not sorted", "no such point"],
)
def test_pairs_that_would_be_read_wrongly_are_refused(change):
    case = Case()
    case.pairs = case.pairs._replace(**change)
    with pytest.raises(AssertionError):
        case.twin()


@pytest.mark.parametrize(
    "shape", [(4, 8, 8), (7, 5, 3), (1, 1, 1), (5, 0, 2), (8, 3, 9)]
)
@pytest.mark.parametrize("is_turned", [False, True])
def test_products_are_added(shape, is_turned):
    rows, terms, width = shape
    rng = np.random.default_rng(0)
    left = rng.normal(size=(rows, terms)).astype(np.float32)
    right = rng.normal(size=(terms, width)).astype(np.float32)
    total = rng.normal(size=(rows, width)).astype(np.float32)
    expected = total + left.astype(float) @ right
    add_product(total, np.ascontiguousarray(left.T).T if is_turned else left, right)
    np.testing.assert_allclose(total, expected, atol=1e-5)


def test_elu_and_its_slope_are_exact_to_rounding():
    x = np.concatenate([np.linspace(-40, 3, 100_001), -np.logspace(-30, 1, 1000)])
    x = np.concatenate([x, [0, np.inf, -np.inf, -1e30]]).astype(np.float32)
    y = x.copy()
    to_elu(y)
    exact = np.where(x > 0, x, np.expm1(np.minimum(x, 0).astype(float)))
    np.testing.assert_allclose(y, exact, rtol=5e-7, atol=0)
    slope = np.ones_like(x)
    through_elu(slope, y)
    np.testing.assert_allclose(slope, np.where(x > 0, 1, exact + 1), atol=2e-7)
    nothing = np.full(3, np.nan, np.float32)
    to_elu(nothing)
    assert np.isnan(nothing).all()


def test_every_job_is_done_once_and_errors_come_through():
    for threads in (1, 2, 5):
        done = []
        on_threads(done.append, 7, threads)
        assert sorted(done) == list(range(7))
        with pytest.raises(ZeroDivisionError):
            on_threads(lambda n: 1 // (n - 3), 7, threads)
    on_threads(done.append, 0)
    assert len(done) == 7
