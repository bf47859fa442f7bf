"""Distances between voxels against closed forms; what is unobserved is not known."""

import itertools

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from gnesf_core.data.store import DistanceGrid
from gnesf_core.geometry.distance_field import (
    distance_field,
    nearby_voxels,
    sample_distance,
    voxel_centres,
)

SHAPE, ORIGIN, VOXEL_M = (5, 4, 6), np.array([-0.3, 0.2, 0.1]), 0.05


def grid(tsdf, weight=None):
    weight = np.ones(SHAPE, np.uint16) if weight is None else weight
    return distance_field(
        DistanceGrid(ORIGIN, VOXEL_M, 0.15, tsdf.astype(np.float32), weight)
    )


def random_grid(seed=0):
    rng = np.random.default_rng(seed)
    return grid(rng.uniform(-1, 1, SHAPE), rng.integers(0, 3, SHAPE).astype(np.uint16))


def at(*ijk):
    return torch.tensor(ORIGIN + VOXEL_M * np.array(ijk, float))[None]


fractions = st.floats(0.01, 0.99)


@given(st.tuples(fractions, fractions, fractions), st.integers(0, 3 * 2 * 4))
def test_a_trilinear_function_comes_back_exactly(fraction, cell):
    i, j, k = np.indices(SHAPE)
    tsdf = 0.1 * i - 0.05 * j + 0.02 * k + 0.01 * i * j * k - 0.3
    x, y, z = np.unravel_index(cell % 24, (3, 2, 4)) + np.array(fraction)
    value, known = sample_distance(grid(tsdf), at(x, y, z))
    expected = 0.1 * x - 0.05 * y + 0.02 * z + 0.01 * x * y * z - 0.3
    assert known.all()
    np.testing.assert_allclose(value, expected, atol=1e-5)


def test_a_point_is_known_if_all_eight_voxels_around_it_are():
    field = random_grid()
    for cell in itertools.product(range(-1, 5), range(-1, 4), range(-1, 6)):
        around = [
            tuple(np.add(cell, step)) for step in itertools.product((0, 1), repeat=3)
        ]
        expected = all(
            all(0 <= c < n for c, n in zip(ijk, SHAPE, strict=True))
            and bool(field.observed[ijk])
            for ijk in around
        )
        value, known = sample_distance(field, at(*(np.array(cell) + 0.4)))
        assert bool(known) == expected
        assert expected or float(value) == 1


def test_nearby_voxels_mix_to_the_distance_where_it_is_known():
    field = random_grid(1)
    rng = np.random.default_rng(2)
    points = torch.from_numpy(ORIGIN + VOXEL_M * rng.uniform(-1, 6, (500, 3)))
    flat, weights = nearby_voxels(field, points)
    value, known = sample_distance(field, points)
    assert known.any()
    mixed = (field.tsdf.flatten()[flat] * weights).sum(1)
    torch.testing.assert_close(mixed[known], value[known])
    assert float(weights.sum(1).max()) <= 1 + 1e-6
    used = weights > 0
    assert field.observed.flatten()[flat[used]].all()
    offsets = points[:, None] - voxel_centres(field, flat.flatten()).view(500, 8, 3)
    assert float(offsets[used].abs().max()) <= VOXEL_M + 1e-9
