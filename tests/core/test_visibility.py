"""Visibility against closed forms, a fine march and a solver of polynomials."""

import sys

import numpy as np
import pytest
import torch

from gnesf_core.geometry import visibility_numba, visibility_torch
from gnesf_core.geometry.distance_field import DistanceField
from gnesf_core.geometry.visibility import NO_SIGN, Occluders, check, occluded_truth

VOXEL_M, TRUNCATION_M = 0.04, 0.12
RULES = pytest.mark.parametrize("unobserved", ["skip", "free"])


def exact(field, origins, points, unobserved="skip"):
    return Occluders(field, unobserved).occluded(origins, points)


def march(field, origins, points, unobserved="skip"):
    return occluded_truth(field, origins, points, 16, unobserved)


def in_torch(field, origins, points, unobserved="skip"):
    """As where there is no numba, or on a GPU."""
    check(field, origins, points)
    cells = visibility_torch.classify(field, unobserved, NO_SIGN)
    return visibility_torch.occluded(cells, origins, points)


BOTH = pytest.mark.parametrize("occluded", [exact, in_torch, march])
TWINS = pytest.mark.parametrize("occluded", [exact, in_torch])


def make_field(distance, shape, origin=(0.0, 0.0, 0.0), observed=None):
    """A field of the distances in metres that a function of x, y, z gives."""
    axes = [o + VOXEL_M * np.arange(n) for o, n in zip(origin, shape, strict=True)]
    xyz = np.meshgrid(*axes, indexing="ij")
    distance_m = np.broadcast_to(distance(*xyz), shape)
    tsdf = np.clip(distance_m / TRUNCATION_M, -1, 1).astype(np.float32)
    observed = np.ones(shape, bool) if observed is None else observed(*xyz)
    return of_values(tsdf, observed, origin)


def of_values(tsdf, observed, origin=(0.0, 0.0, 0.0)):
    return DistanceField(
        torch.from_numpy(np.where(observed, tsdf, np.float32(1))),
        torch.from_numpy(observed),
        torch.tensor(origin, dtype=torch.float64),
        VOXEL_M,
        TRUNCATION_M,
    )


def random_field(seed, shape=(11, 9, 10), share_unobserved=0.0, is_smooth=True):
    """Random distances, with unobserved voxels here and there."""
    rng = np.random.default_rng(seed)
    tsdf = rng.normal(size=shape)
    for axis in range(3 if is_smooth else 0):
        tsdf += np.roll(tsdf, 1, axis)
    tsdf = np.clip(tsdf / 3, -1, 1).astype(np.float32)
    return of_values(tsdf, rng.random(shape) >= share_unobserved, (0.3, -0.2, 0.1))


def random_pairs(field, count, seed, beyond_m=0.1):
    """Ways in and around a field."""
    rng = np.random.default_rng(seed)
    size_m = VOXEL_M * (np.array(field.tsdf.shape) - 1)
    ends = rng.uniform(-beyond_m, size_m + beyond_m, (2, count, 3))
    return tuple(field.origin_world + torch.from_numpy(ends))


def pairs(*ways):
    return torch.tensor(ways, dtype=torch.float64).unbind(1)


@BOTH
def test_a_sphere_hides_what_lies_behind_it(occluded):
    centre, radius = np.array([0.8, 0.8, 0.8]), 0.4
    field = make_field(
        lambda *xyz: np.linalg.norm(np.stack(xyz, -1) - centre, axis=-1) - radius,
        (41, 41, 41),
    )
    origins, points = random_pairs(field, 1500, 0, beyond_m=-0.01)
    start, end = origins.numpy() - centre, points.numpy() - centre
    way = end - start
    nearest = np.clip(-(start * way).sum(1) / (way**2).sum(1), 0, 1)
    depth = np.linalg.norm(start + nearest[:, None] * way, axis=1)
    outside = [np.linalg.norm(of, axis=1) > radius for of in (start, end)]
    expected = outside[0] & outside[1] & (depth < radius)
    # Between voxels a sphere is a little off.
    distances = [depth] + [np.linalg.norm(of, axis=1) for of in (start, end)]
    clear = (abs(np.array(distances) - radius) > 0.003).all(0)
    assert 200 < expected[clear].sum() < 1000
    found = occluded(field, origins, points).numpy()
    np.testing.assert_array_equal(found[clear], expected[clear])


@BOTH
@pytest.mark.parametrize("voxels", [0.3, 1.0, 5.0])
def test_a_slab_parts_its_two_sides(occluded, voxels):
    # Linear between voxels, with its crease on a layer of them: nothing is rounded.
    middle, half = 12 * VOXEL_M, voxels / 2 * VOXEL_M
    field = make_field(lambda x, y, z: abs(x - middle) - half, (25, 9, 9))
    origins, points = random_pairs(field, 2000, 1, beyond_m=0)
    start, end = (of[:, 0].numpy() - middle for of in (origins, points))
    out = half + NO_SIGN * TRUNCATION_M
    expected = (np.minimum(start, end) < -out) & (np.maximum(start, end) > out)
    assert 0.2 < expected.mean() < 0.6
    np.testing.assert_array_equal(occluded(field, origins, points), expected)


@BOTH
def test_a_point_on_the_far_surface_is_not_behind_it_until_it_is(occluded):
    field = make_field(lambda x, y, z: abs(x - 0.48) - 0.06, (25, 9, 9))
    ways = [((0.1, 0.16, 0.2), (x, 0.14, 0.1)) for x in
            (0.41, 0.42, 0.48, 0.54 - 1e-7, 0.54, 0.54 + 1e-7, 0.541)]  # fmt: skip
    found = occluded(field, *pairs(*ways))
    assert found.tolist() == [False] * 6 + [True]


def two_rooms():
    """Rooms on both sides of a wall 0.6 m thick, seen to 12 cm into it, and a door."""

    def distance(x, y, z):
        wall = abs(x - 1.2) - 0.3
        beside_door = np.maximum(wall, 0.3 - abs(y - 1.2))
        return np.where(wall > 0, np.hypot(wall, np.maximum(0.3 - abs(y - 1.2), 0)),
                        beside_door)  # fmt: skip

    return make_field(
        distance, (61, 61, 7), observed=lambda *xyz: distance(*xyz) > -TRUNCATION_M
    )


@BOTH
@RULES
def test_a_wall_hides_the_other_room_but_for_what_is_seen_through_the_door(
    occluded, unobserved
):
    field = two_rooms()
    rng = np.random.default_rng(2)
    start, end = rng.uniform(0.05, (0.8, 2.35, 0.2), (2, 1000, 3))
    end[:, 0] += 1.55
    slope = (end - start)[:, 1] / (end - start)[:, 0]
    at_faces = np.stack([start[:, 1] + slope * (x - start[:, 0]) for x in (0.9, 1.5)])
    off = abs(at_faces - 1.2).max(0) - 0.3
    clear = abs(off) > VOXEL_M
    found = occluded(field, torch.tensor(start), torch.tensor(end), unobserved)
    assert 0.05 < (off < 0).mean() < 0.5
    np.testing.assert_array_equal(found.numpy()[clear], (off > 0)[clear])


@BOTH
def test_the_unobserved_core_of_a_wall_is_no_other_side(occluded):
    in_room, other = (0.4, 0.3, 0.1), (2.0, 0.3, 0.1)
    near_band, core, far_band = ((x, 0.3, 0.1) for x in (0.95, 1.2, 1.45))
    ways = pairs(*((in_room, end) for end in (near_band, core, far_band, other)))
    found = {rule: occluded(two_rooms(), *ways, rule) for rule in ("skip", "free")}
    assert found["skip"].tolist() == [False, False, False, True]
    assert found["free"].tolist() == [False, True, True, True]


@BOTH
def test_a_camera_inside_comes_out_first(occluded):
    field = make_field(
        lambda x, y, z: np.minimum(abs(x - 0.4), abs(x - 1.0)) - 0.1, (36, 5, 5)
    )
    ends = [(x, 0.1, 0.1) for x in (0.45, 0.7, 1.0, 1.3)]
    found = occluded(field, *pairs(*(((0.4, 0.06, 0.1), end) for end in ends)))
    assert found.tolist() == [False, False, False, True]


@BOTH
def test_space_outside_the_grid_has_no_sign_unless_it_is_free(occluded):
    # Solid up to the left edge of the grid, which begins at x = 1, free on its right.
    left = make_field(lambda x, y, z: x - 1.3, (20, 9, 9), (1.0, 0, 0))
    right = make_field(lambda x, y, z: 1.3 - x, (20, 9, 9), (1.0, 0, 0))
    before, inside, behind = ((x, 0.15, 0.15) for x in (0.2, 1.5, 3.0))
    through = pairs((before, inside), (inside, behind), (before, behind))
    assert occluded(left, *through).tolist() == [False, False, False]
    assert occluded(left, *through, "free").tolist() == [True, False, True]
    into = pairs((before, inside), (before, behind), (behind, inside))
    assert occluded(right, *into).tolist() == [False, False, False]
    assert occluded(right, *into, "free").tolist() == [False, True, False]


@BOTH
@RULES
def test_a_way_that_never_meets_the_grid_is_free(occluded, unobserved):
    field = make_field(lambda x, y, z: -1 + 0 * x, (6, 6, 6))
    ways = pairs(
        ((-1, 0.1, 0.1), (-2, 0.1, 0.1)),
        ((-1, 0.3, 0.1), (2, 0.3, 0.1)),
        ((-0.3, 0.1, 0.1), (0.1, -0.3, 0.1)),
    )
    assert not occluded(field, *ways, unobserved).any()


@BOTH
def test_zero_has_no_sign(occluded):
    layers = {
        "+0-0+": [1, 1, 0, 0, -1, -1, 0, 0, 1, 1],
        "+0+": [1, 1, 0, 0, 0, 0, 0, 0, 1, 1],
        "0-0+": [0, 0, 0, 0, -1, -1, 0, 0, 1, 1],
        "+0-0": [1, 1, 0, 0, -1, -1, 0, 0, 0, 0],
    }
    found = {}
    for name, values in layers.items():
        tsdf = np.broadcast_to(np.float32(values)[:, None, None], (10, 5, 5))
        field = of_values(tsdf, np.ones(tsdf.shape, bool))
        way = pairs(((0.01, 0.1, 0.07), (0.35, 0.05, 0.1)))
        found[name] = occluded(field, *way).item()
    assert found == {"+0-0+": True, "+0+": False, "0-0+": False, "+0-0": False}


@RULES
@TWINS
@pytest.mark.parametrize("share_unobserved", [0.0, 0.02, 0.15])
def test_both_agree_with_a_march_that_is_fine_enough(
    occluded, unobserved, share_unobserved
):
    hidden = 0
    for seed in range(3):
        field = random_field(seed, share_unobserved=share_unobserved)
        ways = random_pairs(field, 1000, seed)
        ours = occluded(field, *ways, unobserved)
        differ = torch.arange(len(ours))
        for steps in (8, 1 << 10, 1 << 16):  # a sign may last no longer than the last
            some = [end[differ] for end in ways]
            marched = occluded_truth(field, *some, steps, unobserved)
            differ = differ[marched != ours[differ]]
            assert len(differ) < 50
        assert len(differ) == 0
        hidden += ours.sum()
    assert 100 < hidden < 2700


@RULES
def test_the_twins_say_the_same_of_rough_fields_and_odd_ways(unobserved):
    for seed in range(4):
        field = random_field(seed, share_unobserved=0.03, is_smooth=seed % 2 == 0)
        origins, points = random_pairs(field, 3000, seed, beyond_m=0.3)
        points[::7, seed % 3] = origins[::7, seed % 3]  # along a plane
        points[::11] = origins[::11]  # nowhere at all
        found = exact(field, origins, points, unobserved)
        assert 0.1 < found.float().mean() < 0.9
        assert torch.equal(found, in_torch(field, origins, points, unobserved))


@TWINS
@pytest.mark.parametrize("way", [(1, 0, 0), (0, -1, 0), (-1, 1, 0), (1, -1, 1)])
def test_ways_along_the_lattice_are_as_good_as_any(way, occluded):
    field = random_field(5, (9, 9, 9))
    start = torch.cartesian_prod(*[torch.arange(9)] * 3)
    end = start + 5 * torch.tensor(way)
    origins, points = (
        field.origin_world + VOXEL_M * of.double() for of in (start, end)
    )
    # Beyond the last voxels rounding decides, on which side of them a way is.
    inside = ((end >= 0) & (end < 8) & (start < 8)).all(1)
    ours, theirs = occluded(field, origins, points), march(field, origins, points)
    assert 0.2 < ours[inside].float().mean() < 0.9
    assert (ours != theirs)[inside].float().mean() < 0.02


def values_at(field, ijk):
    """Interpolate by the weights of the voxels of a cell, one point at a time."""
    first = np.floor(ijk).astype(int)
    value = 0.0
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(corner, ijk - first, 1 - (ijk - first)))
        value += weight * float(field.tsdf[tuple(first + corner)])
    return value


def signs_by_roots(field, start, end):
    """Return the signs along a way in voxels, from the roots of its polynomials."""
    way = end - start
    crossings = [(n - a) / w for a, w in zip(start, way, strict=True) for n in range(9)]
    cuts = sorted({0.0, 1.0, *(t for t in crossings if 0 < t < 1)})
    signs = []
    for low, high in zip(cuts[:-1], cuts[1:], strict=True):
        shares = low + (high - low) * np.array([0.1, 0.4, 0.6, 0.9])
        values = [values_at(field, start + t * way) for t in shares]
        cubic = np.polyfit(shares - low, values, 3)
        roots = [np.roots(cubic - [0, 0, 0, level]) for level in (NO_SIGN, -NO_SIGN)]
        roots = np.concatenate(roots)
        roots = roots.real[abs(roots.imag) < 1e-9]
        inner = np.sort(roots[(roots > 0) & (roots < high - low)])
        parts = np.array([0, *inner, high - low])
        for middle in (parts[1:] + parts[:-1]) / 2:
            value = np.polyval(cubic, middle)
            signs.append((value > NO_SIGN) - int(value < -NO_SIGN))
    return signs


def test_the_roots_of_the_polynomials_along_a_way_say_the_same():
    field = random_field(7, (7, 6, 7), is_smooth=False)
    rng = np.random.default_rng(7)
    ends = rng.uniform(0, (6, 5, 6), (2, 200, 3))
    expected = []
    for start, end in zip(*ends, strict=True):
        signs = [sign for sign in signs_by_roots(field, start, end) if sign]
        runs = [
            signs[n] for n in range(len(signs)) if n == 0 or signs[n - 1] != signs[n]
        ]
        expected.append(len(runs) - (runs[:1] == [-1]) >= 3)
    assert 30 < sum(expected) < 170
    points = (field.origin_world + VOXEL_M * torch.from_numpy(of) for of in ends)
    assert exact(field, *points).tolist() == expected


@RULES
def test_what_is_hidden_stays_hidden_further_on(unobserved):
    field = random_field(11, (20, 20, 20), share_unobserved=0.01)
    origins, points = random_pairs(field, 500, 11)
    shares = torch.linspace(0, 1, 41, dtype=torch.float64)[:, None, None]
    along = origins + shares * (points - origins)
    occluders = Occluders(field, unobserved)
    found = torch.stack([occluders.occluded(origins, to) for to in along]).int()
    assert (found.diff(dim=0) >= 0).all()
    assert found[0].sum() == 0 and found[-1].sum() > 100


@BOTH
def test_each_pair_is_told_the_same_in_any_company(occluded):
    field = random_field(3, share_unobserved=0.05)
    ways = random_pairs(field, 800, 3)
    together = occluded(field, *ways)
    order = torch.randperm(800, generator=torch.Generator().manual_seed(0))
    assert torch.equal(occluded(field, *(of[order] for of in ways)), together[order])
    alone = [occluded(field, *(of[n, None] for of in ways)).item() for n in range(20)]
    assert alone == together[:20].tolist()


def test_the_number_of_threads_does_not_matter():
    field = random_field(4)
    ways = random_pairs(field, 5000, 4)
    cells = visibility_numba.classify(field, "skip")
    found = [visibility_numba.occluded(field, cells, *ways, n) for n in (1, 2, 3)]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_leaps_go_as_far_as_the_nearest_marked_cell():
    marked = np.random.default_rng(0).random((7, 12, 9)) < 0.01
    every, some = np.argwhere(np.ones_like(marked)), np.argwhere(marked)
    nearest = abs(every[:, None] - some).max(-1).min(1).reshape(marked.shape)
    np.testing.assert_array_equal(visibility_numba._cells_to(marked), nearest)
    assert (visibility_numba._cells_to(np.zeros_like(marked)) > 100).all()


@BOTH
def test_nothing_is_hidden_where_there_is_nothing(occluded):
    field = random_field(0)
    ways = random_pairs(field, 50, 0)
    assert occluded(field, ways[0][:0], ways[1][:0]).shape == (0,)
    assert not occluded(field, ways[0], ways[0]).any()
    flat = of_values(-np.ones((1, 5, 5), np.float32), np.ones((1, 5, 5), bool))
    assert not occluded(flat, *ways).any()


@BOTH
def test_a_point_that_is_nowhere_is_refused(occluded):
    field = random_field(0)
    origins, points = random_pairs(field, 5, 0)
    points[3, 1] = np.nan
    with pytest.raises(AssertionError):
        occluded(field, origins, points)


def test_without_numba_answers_are_the_same(monkeypatch):
    field = random_field(6)
    ways = random_pairs(field, 1000, 6)
    ours = exact(field, *ways)
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setattr(visibility_numba, "occluded", None)
    assert torch.equal(ours, exact(field, *ways))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@RULES
def test_a_gpu_says_what_a_cpu_says(unobserved):
    field = random_field(8, share_unobserved=0.02)
    ways = random_pairs(field, 5000, 8)
    there = field._replace(
        tsdf=field.tsdf.cuda(),
        observed=field.observed.cuda(),
        origin_world=field.origin_world.cuda(),
    )
    found = exact(there, *(of.cuda() for of in ways), unobserved)
    expected = exact(field, *ways, unobserved)
    assert (found.cpu() != expected).float().mean() < 1e-3
