"""Losses and validation of geometry against a floor that is known everywhere."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from gnesf_core.config import FragmentDataConfig
from gnesf_core.geometries.coarse_to_fine import LevelResult, make_memories
from gnesf_core.geometries.fragments import LEVELS, FragmentSamples
from gnesf_core.geometries.targets import TargetBox
from gnesf_core.geometries.training import (
    GeometryTask,
    Truth,
    _level_losses,
    _seen_so_far,
)
from gnesf_core.sparse.sites import Sites
from tests.core.test_coarse_to_fine import SETTINGS, fragment, network

DATA = FragmentDataConfig(
    scenes=0, held_out_scenes=1,
    rotation_deg=0.0, shift_m=0.0, color_jitter=0.0, min_weight=2,
    max_voxels=10**6, sequence_from_step=0, sequence_fragments=1,
)  # fmt: skip
FLOOR_M = 0.13  # between voxel centres of every level
FAR_M = 50.0


def floor_box(level):
    """Return the distances of the floor, as `fuse_targets` would make them."""
    size_m = SETTINGS.voxel_size_m * 2**level
    shape = (120 // 2**level, 120 // 2**level, 40 // 2**level)
    lower = np.array([-3.0, -6.0, -1.0])
    z = lower[2] + size_m * torch.arange(shape[2])
    tsdf = ((z - FLOOR_M) / (SETTINGS.truncation_m * 2**level)).clamp(-1, 1).float()
    index_from_world = torch.eye(4, dtype=torch.float64) / size_m
    index_from_world[:3, 3] = -torch.from_numpy(lower) / size_m
    index_from_world[3, 3] = 1
    weight = torch.full(shape, 9, dtype=torch.uint8)
    return TargetBox(tsdf.expand(shape).contiguous(), weight, index_from_world)


def sample(inputs, depth_m=FAR_M):
    """Return a fragment whose views measure the same depth everywhere."""
    views = len(inputs.pictures)
    return {
        "inputs": inputs,
        "depth_m": torch.full((views, 48, 64), depth_m),
        "depth_from_world": inputs.pixel_from_world,
        "targets": [floor_box(level) for level in range(LEVELS)],
    }


class Shown(FragmentSamples):
    """Fragments from here instead of from files."""

    def __init__(self, scenes, memory):
        self.seed, self._scenes, self._memory = 1, scenes, memory

    def has_memory(self, number):
        return self._memory

    def held_out(self):
        for scene in self._scenes:
            yield (
                torch.stack([own["inputs"].origin_voxel for own in scene]),
                iter(scene),
            )


def task(made, held_out=(), memory=False, data=DATA):
    return GeometryTask(made, Shown(held_out, memory), data)


def batch(*samples):
    return {"samples": list(samples), "number": list(range(len(samples)))}


def truths(made, one):
    own = task(made)
    with torch.no_grad():
        return own._run(made, [one], [(1, 0, 0)], None)


def test_what_is_near_the_floor_is_occupied_and_knows_its_distance():
    made, inputs = network(), fragment(1, views=1)
    for result, truth in truths(made, sample(inputs)):
        reach_m = SETTINGS.truncation_m * 2**result.level
        points = result.points_world([inputs], SETTINGS.voxel_size_m)
        expected = ((points[:, 2] - FLOOR_M) / reach_m).clamp(-1, 1)
        uvz = points.double() @ inputs.pixel_from_world[0, :, :3].T
        uvz += inputs.pixel_from_world[0, :, 3]
        u, v = uvz[:, :2].T / uvz[:, 2]
        near = (expected.abs() < 0.99) & (u < 63.4) & (v < 47.4)
        assert near.any() and truth.occupied[near].all()
        torch.testing.assert_close(truth.tsdf[near], expected[near], atol=1e-4, rtol=0)
        assert not truth.occupied[expected.abs() == 1].any()


def test_surfaces_behind_what_the_views_see_are_not_asked_for():
    made, inputs = network(), fragment(1, views=1)
    depth_m = 1.5
    matrix = inputs.pixel_from_world[0]
    for result, truth in truths(made, sample(inputs, depth_m)):
        points = result.points_world([inputs], SETTINGS.voxel_size_m)
        reach_m = SETTINGS.truncation_m * 2**result.level
        z = points.double() @ matrix[2, :3] + matrix[2, 3]
        assert not truth.occupied[z > depth_m + reach_m + 1e-6].any()
        near = (points[:, 2] - FLOOR_M).abs() < 0.9 * reach_m
        assert truth.occupied[near & (z < depth_m + reach_m - 1e-6)].any()


def test_finer_levels_see_all_of_the_surface_while_they_learn():
    made, inputs = network(), fragment(1, views=1)
    with torch.no_grad():
        for level in made.levels:
            level.occupancy.bias -= 1e4  # it believes in nothing
    told = truths(made, sample(inputs))
    assert [result.level for result, _ in told] == [2, 1, 0]
    assert all(truth.occupied.any() for _, truth in told)


def test_too_many_voxels_are_left_out_by_the_number_of_the_sample_alone():
    made, inputs = network(), fragment(1, views=1)
    own = task(made, data=replace(DATA, max_voxels=512))

    def voxels(seeds, fragments, place):
        with torch.no_grad():
            told = own._run(made, fragments, seeds, None)
        finest = told[-1][0].sites.batch_xyz
        return set(map(tuple, finest[finest[:, 0] == place, 1:].tolist()))

    one, other = sample(inputs), sample(fragment(2))
    alone = voxels([(1, 7, 0)], [one], 0)
    assert 0 < len(alone) <= 512
    assert alone == voxels([(1, 3, 0), (1, 7, 0)], [other, one], 1)
    assert alone != voxels([(1, 8, 0)], [one], 0)


def told(tsdf, occupancy, true, occupied):
    count = len(tsdf)
    batch_xyz = torch.zeros(count, 4, dtype=torch.int64)
    batch_xyz[:, 3] = torch.arange(count)
    result = LevelResult(
        0, Sites(batch_xyz), torch.zeros(count, 1), torch.tensor(tsdf),
        torch.tensor(occupancy), torch.ones(count, dtype=torch.int64),
    )  # fmt: skip
    return result, Truth(torch.tensor(true), torch.tensor(occupied, dtype=torch.bool))


def test_losses_are_those_of_neuralrecon():
    # One voxel of four is occupied: its weight is 1.5 * 3.
    pair = told(
        [0.5, 9.0, 9.0, 9.0], [2.0, -1.0, 0.0, 3.0], [-0.5, 1.0, 1.0, 1.0],
        [True, False, False, False],
    )  # fmt: skip
    occupancy, distance = _level_losses([pair], 1.5)
    soft = [math.log1p(math.exp(x)) for x in (-2.0, -1.0, 0.0, 3.0)]
    assert float(occupancy) == pytest.approx((4.5 * soft[0] + sum(soft[1:])) / 4)
    assert float(distance) == pytest.approx(2 * math.log(1.5))


def test_nothing_occupied_is_a_loss_and_no_nan():
    pair = told([0.5], [2.0], [1.0], [False])
    occupancy, distance = _level_losses([pair], 1.5)
    assert float(distance) == 0 and math.isfinite(float(occupancy))
    nothing = told([], [], [], [])
    assert [float(loss) for loss in _level_losses([nothing], 1.5)] == [0, 0]


def test_coarser_levels_count_more():
    made = network()
    one = sample(fragment(1))
    own = task(made)
    with torch.no_grad():
        pairs = [[pair] for pair in reversed(own._run(made, [one], [(0,)], None))]
        losses = own.losses(made, batch([one]))
    by_level = [_level_losses(own_pairs, 1.5) for own_pairs in pairs]
    for part, name in enumerate(("occupancy", "distance")):
        expected = sum(
            w * float(by_level[n][part]) for n, w in enumerate((0.64, 0.8, 1))
        )
        assert float(losses[name]) == pytest.approx(expected, rel=1e-5)


def test_validation_is_the_mean_error_near_what_is_or_is_believed_to_be_a_surface():
    made, inputs = network(), fragment(1, views=1)
    own = task(made, held_out=[[sample(inputs)]])
    own._remembers = False
    own._settings = replace(SETTINGS, fusion="none")
    with torch.no_grad():
        found = own.validate(made)
        finest = made([inputs])[-1]
    believed = {
        tuple(xyz): float(tsdf.clamp(-1, 1))
        for xyz, tsdf, near in zip(
            finest.sites.batch_xyz[:, 1:].tolist(), finest.tsdf,
            made.above_threshold(finest), strict=True,
        )
        if near
    }  # fmt: skip
    errors = []
    rows = inputs.pixel_from_world[0].numpy()
    for xyz in np.ndindex(24, 24, 16):
        point = (np.array(xyz) + inputs.origin_voxel.numpy()) * SETTINGS.voxel_size_m
        u, v, z = rows @ [*point, 1]
        inside = z > 0 and -0.5 <= u / z < 63.5 and -0.5 <= v / z < 47.5
        true = (point[2] - FLOOR_M) / SETTINGS.truncation_m
        occupied = inside and abs(true) < 0.999
        if occupied or xyz in believed:
            errors.append(abs(believed.get(xyz, 1.0) - (true if occupied else 1.0)))
    assert found == pytest.approx(np.mean(errors), rel=1e-3)


def test_weights_whose_memory_has_not_learned_yet_are_no_result():
    made = network()
    own = task(made, held_out=[[sample(fragment(1))]])
    with torch.no_grad():
        own.losses(made, batch([sample(fragment(1))]))
        assert math.isnan(own.validate(made))
        own = task(made, held_out=[[sample(fragment(1))]], memory=True)
        own.losses(made, batch([sample(fragment(1))]))
        assert math.isfinite(own.validate(made))


def test_what_an_earlier_fragment_saw_stays_true_out_of_sight():
    """The second fragment looks away: its truth is that of the first one's views."""
    made = network(remembering=True)
    first, away = fragment(1), fragment(2, eye=(50.0, 0.0, 1.0))
    memories = [make_memories(made, first.origin_voxel[None])]
    run = [sample(first), sample(away)]
    own = task(made)
    with torch.no_grad():
        own._run(made, run[:1], [(1, 0, 0)], memories)
        recalled = own._run(made, [_seen_so_far(run)], [(1, 0, 1)], memories)
        forgotten = own._run(made, run[1:], [(1, 0, 1)], memories)
    result, truth = recalled[-1]
    assert len(result.sites) and not result.count.any()
    z = result.points_world([away], SETTINGS.voxel_size_m)[:, 2]
    near = (z - FLOOR_M).abs() < 0.9 * SETTINGS.truncation_m
    assert truth.occupied[near].float().mean() > 0.9
    assert not forgotten[-1][1].occupied.any()


def test_autocast_does_not_touch_the_truth():
    made, one = network(), sample(fragment(1))
    turned = torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=torch.float64)
    boxes = []
    for box in one["targets"]:
        index_from_world = box.index_from_world.clone()
        index_from_world[:2, :2] = index_from_world[:2, :2] @ turned
        boxes.append(box._replace(index_from_world=index_from_world))
    one["targets"] = boxes
    own = task(made)
    with torch.no_grad():
        result = own._run(made, [one], [(0,)], None)[-1][0]
        plain = own._truth(result, [one])
        with torch.autocast("cpu", torch.bfloat16):
            under = own._truth(result, [one])
    assert torch.equal(plain.occupied, under.occupied)
    assert torch.equal(plain.tsdf, under.tsdf)


def test_switching_the_memory_on_hardly_changes_what_is_said():
    made, one = network().train(), sample(fragment(1))
    own, shown = task(made), batch([one])
    optimizer = torch.optim.Adam(made.parameters(), 5e-3)
    for _ in range(8):
        optimizer.zero_grad()
        sum(own.losses(made, shown).values()).backward()
        optimizer.step()
    with torch.no_grad():
        before = own.losses(made, shown)
        after = task(made, memory=True).losses(made, shown)
    for name, loss in before.items():
        assert float(after[name]) < 1.25 * float(loss)


@pytest.mark.slow
def test_a_network_learns_the_floor_it_is_shown():
    made = network().train()
    own = task(made)
    optimizer = torch.optim.Adam(made.parameters(), 5e-3)
    shown = batch([sample(fragment(1))], [sample(fragment(2, views=3))])
    first = last = None
    for _ in range(40):
        optimizer.zero_grad()
        last = sum(own.losses(made, shown).values())
        last.backward()
        optimizer.step()
        first = float(last) if first is None else first
    assert float(last) < 0.4 * first
