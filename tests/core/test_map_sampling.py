"""The compiled sampler of maps against the plain one, and against closed forms."""

import numpy as np
import pytest
import torch

from gnesf_core.ops import map_sampling_numba
from gnesf_core.ops.map_sampling_numba import sample
from gnesf_core.rendering.sources import Pairs, sample_maps


def pairs_of(views, count, size, seed=0):
    rng = np.random.default_rng(seed)
    view = torch.from_numpy(rng.integers(0, views, count))
    uv = torch.from_numpy(rng.uniform(-2, np.array(size) + 2, (count, 2))).float()
    return Pairs(view, torch.arange(count), uv, torch.ones(count))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("together", [False, True])
def test_samples_are_those_of_the_plain_sampler(dtype, together, monkeypatch):
    monkeypatch.setattr(map_sampling_numba, "_LANE", 16)
    rng = np.random.default_rng(1)
    maps = torch.from_numpy(rng.integers(0, 256, (4, 7, 6, 9))).to(dtype)
    if together:
        maps = maps.contiguous(memory_format=torch.channels_last)
    pairs = pairs_of(4, 101, (9, 6))
    exact = sample_maps(maps.double(), pairs, pairs.uv.double())
    found = sample(maps, pairs.view, pairs.uv)
    torch.testing.assert_close(found.double(), exact, atol=1e-4, rtol=0)


def test_pixel_centres_give_their_pixels_and_planes_are_reproduced():
    rows, columns = np.mgrid[:5, :8]
    maps = torch.from_numpy(np.stack([10 * rows + columns, 40 - 5 * rows]))[None]
    maps = maps.to(torch.uint8)
    where = torch.tensor([[0.0, 0], [7, 4], [3, 2], [2.5, 1.25], [7, 0.5]])
    found = sample(maps, torch.zeros(5, dtype=torch.long), where)
    u, v = where.T
    expected = torch.stack([10 * v + u, 40 - 5 * v], 1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (4, 1)])
def test_maps_of_one_row_or_column_have_one_value_across(size):
    maps = torch.arange(float(size[0] * size[1])).reshape(1, 1, *size)
    where = torch.tensor([[-9.0, -9], [99, 99], [torch.inf, -torch.inf]])
    found = sample(maps, torch.zeros(3, dtype=torch.long), where)[:, 0].tolist()
    last = maps[0, 0]
    assert found == [last[0, 0], last[-1, -1], last[0, -1]]


@pytest.mark.parametrize("view", [-1, 2])
def test_views_that_are_not_there_are_refused(view):
    with pytest.raises(AssertionError):
        sample(torch.ones(2, 1, 3, 3), torch.tensor([view]), torch.zeros(1, 2))
