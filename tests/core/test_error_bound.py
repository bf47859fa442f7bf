"""VolSDF's bound against opacities by fine integration, and the search that uses it."""

import numpy as np
import pytest
import torch

from gnesf_core.fields.error_bound import EPSILON, opacity_error_bounds, search

FAR = 5.0


def distance(kind, t):
    """Return true signed distances along a ray, as their definition has them."""
    if kind == "plane":  # met at 60 degrees
        return 0.5 * (2.2 - t)
    if kind == "ball":  # of radius 0.3, passed by 0.25 beside its centre
        return np.hypot(t - 3.0, 0.25) - 0.3
    assert kind == "near miss"
    return np.hypot(t - 3.0, 0.34) - 0.3


KINDS = pytest.mark.parametrize("kind", ["plane", "ball", "near miss"])


def density(sdf, beta):
    tail = 0.5 * np.exp(-np.abs(sdf) / beta)
    return np.where(sdf >= 0, tail, 1 - tail) / beta


def true_opacity(kind, beta, ends):
    t = np.linspace(0, FAR, 500_001)
    own = density(distance(kind, t), beta)
    passed = np.concatenate([[0], np.cumsum((own[1:] + own[:-1]) / 2 * np.diff(t))])
    return 1 - np.exp(-np.interp(ends, t, passed))


@KINDS
@pytest.mark.parametrize("beta", [0.3, 0.1, 0.02])
@pytest.mark.parametrize("count", [17, 65, 257])
def test_opacity_is_never_more_wrong_than_the_bound(kind, beta, count):
    rng = np.random.default_rng(count)
    places = np.sort(np.append(rng.uniform(0, FAR, count - 2), [0, FAR]))
    sdf = distance(kind, places)
    steps = density(sdf, beta)[:-1] * np.diff(places)
    opacity = 1 - np.exp(-steps.cumsum())
    wrong = np.abs(opacity - true_opacity(kind, beta, places[1:]))
    both = torch.from_numpy(places)[None], torch.from_numpy(sdf)[None]
    bound = opacity_error_bounds(*both, beta)[0].numpy()
    assert (wrong <= bound + 1e-6).all()


@pytest.mark.parametrize("count", [16, 256])
def test_the_first_beta_is_wide_enough_for_any_distances(count):
    """VolSDF's lemma 2, whatever the ray meets."""
    places = torch.linspace(0, FAR, count, dtype=torch.float64).expand(50, -1)
    torch.manual_seed(0)
    walk = torch.randn(50, count, dtype=torch.float64).cumsum(1) * FAR / count
    wide = FAR / (4 * (count - 1) * np.log(1 + EPSILON)) ** 0.5
    assert float(opacity_error_bounds(places, walk, wide).max()) <= EPSILON


class Noted:
    """Takes down what is known of each ray when its places are drawn."""

    def __init__(self, kinds):
        self.kinds, self.known = kinds, {}

    def distances(self, rows, places):
        return torch.stack([
            torch.from_numpy(distance(self.kinds[row], own.numpy()))
            for row, own in zip(rows.tolist(), places, strict=True)
        ])  # fmt: skip

    def draw(self, places, distances):
        for own, sdf in zip(places, distances, strict=True):
            kind = next(
                kind for kind in self.kinds
                if np.array_equal(distance(kind, own.numpy()), sdf.numpy())
            )  # fmt: skip
            self.known[kind] = own
        return places[:, -1:]


def known_after(beta, count=32):
    noted = Noted(["plane", "ball", "near miss"])
    first = torch.linspace(0, FAR, count, dtype=torch.float64).expand(3, -1)
    found = search(noted.distances, first, noted.draw, beta)
    assert found.tolist() == [[FAR]] * 3
    return noted.known


def test_a_search_ends_when_opacities_are_known():
    for kind, places in known_after(0.03, 256).items():
        sdf = torch.from_numpy(distance(kind, places.numpy()))
        bound = opacity_error_bounds(places[None], sdf[None], 0.03)
        assert float(bound.max()) <= EPSILON
        assert (places.diff() >= 0).all()
        assert len(places) > 256


def test_nothing_is_added_where_enough_is_known():
    known = known_after(1.0)
    assert {len(places) for places in known.values()} == {32}


def test_places_are_added_where_the_surface_is():
    places = known_after(0.02)["plane"].numpy()
    # The plane is at 4.4 / 2 m; what is behind it is hidden and of no concern.
    near, behind = (np.abs(places - 2.2) < 0.4).sum(), (places > 3).sum()
    assert near > len(places) / 2
    assert near / 0.8 > 10 * behind / 2


def test_a_search_gives_up_after_six_rounds():
    known = known_after(1e-5)
    assert max(len(places) for places in known.values()) == 7 * 32
