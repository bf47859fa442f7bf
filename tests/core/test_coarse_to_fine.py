import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from gnesf_core.config import NeuconConfig
from gnesf_core.geometries.coarse_to_fine import (
    Neucon,
    make_memories,
    normalized_depth,
)
from gnesf_core.geometries.fragments import LEVELS, FragmentInputs
from gnesf_core.geometries.neucon import SceneFusion
from gnesf_core.geometry.camera import invert_rigid, look_at
from gnesf_core.sparse.engine import engine

SETTINGS = NeuconConfig(
    image_width=64, image_height=48, encoder_width=0.25, encoder_weights="",
    channels=6, voxel_size_m=0.1, truncation_m=0.3, volume_x=24, volume_y=24,
    volume_z=16, volume_bottom_m=-0.4, view_range_m=3.0, statistics="mean-variance",
    fusion="gru", occupancy_threshold=0.5, positive_weight=1.5, coarser_weight=0.8,
    sparse_engine="gather",
)  # fmt: skip
INTRINSICS = np.array([[50.0, 0, 31.5], [0, 50, 23.5], [0, 0, 1]])


def network(seed=0, remembering=False, **changes):
    """Make an untrained network for which half of the voxels are near surfaces."""
    torch.manual_seed(seed)
    settings = replace(SETTINGS, **changes)
    made = Neucon(settings, engine("gather", torch.device("cpu"))).eval()
    for level in made.levels:
        torch.nn.init.normal_(level.occupancy.weight, std=3)
    one = fragment(1)
    memories = [make_memories(made, one.origin_voxel[None])] if remembering else None

    def even_out(result):
        ordered = result.occupancy.sort().values
        middle = len(ordered) // 2
        # Between two voxels: none is so close to even that rounding decides.
        even = (ordered[middle] + ordered[middle - 1]) / 2
        made.levels[result.level].occupancy.bias -= even
        return result.occupancy > even

    with torch.no_grad():
        even_out(made([one], memories, even_out)[-1])
    return made


def fragment(seed, eye=(0.0, 0.0, 1.0), views=2, origin=(0, -12, -4)):
    generator = torch.Generator().manual_seed(seed)
    size = (views, 3, SETTINGS.image_height, SETTINGS.image_width)
    pictures = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
    eyes = [(eye[0], eye[1] + 0.2 * n, eye[2]) for n in range(views)]
    poses = np.stack([look_at(own, (eye[0] + 2, 0, 0.5)) for own in eyes])
    matrices = INTRINSICS @ invert_rigid(poses)[:, :3]
    return FragmentInputs(pictures, torch.from_numpy(matrices), torch.tensor(origin))


@torch.no_grad()
def run(made, fragments, memories=None):
    return made(fragments, memories)


def by_voxel(result, values, fragment=0):
    own = result.sites.batch_xyz[:, 0] == fragment
    keys = result.sites.batch_xyz[own, 1:].tolist()
    return dict(zip(map(tuple, keys), values[own].tolist(), strict=True))


def test_levels_refine_children_of_the_voxels_before():
    results = run(network(), [fragment(1)])
    assert [result.level for result in results] == [2, 1, 0]
    made = network()
    for coarse, fine in itertools.pairwise(results):
        kept = made.above_threshold(coarse)
        parents = set(map(tuple, coarse.sites.batch_xyz[kept].tolist()))
        halves = fine.sites.batch_xyz.clone()
        halves[:, 1:] //= 2
        assert len(fine.sites) > 0
        assert set(map(tuple, halves.tolist())) <= parents
        assert (fine.count > 0).all()


def test_a_voxel_of_a_level_is_a_voxel_of_every_finer_one():
    one = fragment(1)
    for result in run(network(), [one]):
        points = result.points_world([one], SETTINGS.voxel_size_m)
        expected = one.origin_voxel + result.sites.batch_xyz[:, 1:] * 2**result.level
        torch.testing.assert_close(points, expected * 0.1, check_dtype=False)


def test_a_fragment_does_not_notice_the_others_of_its_batch():
    made = network()
    fragments = [fragment(1), fragment(2, eye=(0.3, 0.1, 1.2), views=3)]
    together = run(made, fragments)
    for number, own in enumerate(fragments):
        for whole, alone in zip(together, run(made, [own]), strict=True):
            found = by_voxel(whole, whole.tsdf, number)
            expected = by_voxel(alone, alone.tsdf)
            assert found.keys() == expected.keys()
            assert found == pytest.approx(expected, abs=1e-4)


def test_with_mean_and_depth_the_levels_are_those_of_neuralrecon():
    """NeuralRecon's released levels have so many parameters, counted there."""
    settings = replace(
        SETTINGS, encoder_width=1.0, channels=24, statistics="mean-depth"
    )
    made = Neucon(settings, engine("gather", torch.device("cpu")))
    count = sum(p.numel() for level in made.levels for p in level.parameters())
    assert count == 8_018_494


def test_depth_of_voxels_is_told_apart_from_their_mean():
    depth = torch.tensor([1.0, 0, 3.0, 2.0, 0, 4.0])
    found = normalized_depth(depth)
    expected = torch.tensor([-1.5, 0, 0.5, -0.5, 0, 1.5]) / 5**0.5
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert not normalized_depth(torch.zeros(3)).any()
    assert len(normalized_depth(torch.zeros(0))) == 0


def test_with_mean_and_depth_variance_is_not_looked_at():
    """Voxels are told the mean of the views' features, and one number for depth."""
    made, one = network(statistics="mean-depth"), fragment(1)
    told = []
    first = made.levels[2].aggregate
    first.register_forward_pre_hook(lambda _, given: told.append(given))
    results = run(made, [one])
    (inputs, sites), channels = told[0], made.encoder.channels[2]
    assert inputs.shape[1] == channels + 1
    assert len(results[-1].sites) > 0
    plain, same = network(), []
    plain.encoder.load_state_dict(made.encoder.state_dict())
    plain.levels[2].aggregate.register_forward_pre_hook(
        lambda _, given: same.append(given)
    )
    run(plain, [one])
    torch.testing.assert_close(inputs[:, :channels], same[0][0][:, :channels])
    # Voxels further along the camera's way are deeper.
    points = results[0].points_world([one], SETTINGS.voxel_size_m)
    matrix = one.pixel_from_world.float()
    deep = (points @ matrix[:, 2, :3].T + matrix[:, 2, 3]).mean(1)
    both = torch.stack([inputs[:, channels], deep])[:, results[0].count == 2]
    assert float(torch.corrcoef(both)[0, 1]) > 0.999
    assert len(sites) == len(points)


def test_one_view_is_enough():
    results = run(network(), [fragment(3, views=1)])
    assert all(torch.isfinite(result.tsdf).all() for result in results)
    assert results[0].count.max() == 1


def test_a_fragment_that_sees_nothing_of_its_volume_finds_nothing():
    blind = fragment(1, origin=(400, 400, 400))
    for result in run(network(), [blind]):
        assert len(result.sites) == len(result.tsdf) == 0


def test_only_voxels_near_surfaces_are_remembered():
    made, one = network(), fragment(1)
    memories = make_memories(made, one.origin_voxel[None])
    results = run(made, [one], [memories])
    for result in results:
        level = result.level
        kept = made.above_threshold(result)
        xyz, values = memories[level].read(
            one.origin_voxel // 2**level, made.shape(level)
        )
        assert len(xyz) == len(memories[level]) == int(kept.sum())
        found = dict(zip(map(tuple, xyz.tolist()), values[:, 0].tolist(), strict=True))
        features = by_voxel(result, result.features[:, 0])
        assert all(found[key] == features[key] for key in found)


def test_what_is_remembered_comes_back_where_nothing_is_seen():
    made = network()
    first, second = fragment(1), fragment(1, eye=(50.0, 0.0, 1.0))
    memories = make_memories(made, first.origin_voxel[None])
    run(made, [first], [memories])
    before = [set(map(tuple, m.read(m.lower, m.shape)[0].tolist())) for m in memories]
    results = run(made, [second], [memories])
    for result in results:
        found = set(map(tuple, result.sites.batch_xyz[:, 1:].tolist()))
        assert before[result.level] == found
        assert not result.count.any()


def test_memories_of_a_batch_are_not_mixed():
    made = network()
    pairs = [(fragment(1), fragment(2)), (fragment(3), fragment(4, views=1))]
    origins = torch.stack([pair[0].origin_voxel for pair in pairs])
    shared = [make_memories(made, origins[:1]) for _ in pairs]
    for place in range(2):
        together = run(made, [pair[place] for pair in pairs], shared)[-1]
    for number, pair in enumerate(pairs):
        own = make_memories(made, origins[:1])
        for one in pair:
            alone = run(made, [one], [own])[-1]
        expected = by_voxel(alone, alone.tsdf)
        found = by_voxel(together, together.tsdf, number)
        assert found == pytest.approx(expected, abs=1e-4)


def test_without_memory_a_scene_is_the_mean_over_fragments_counted_by_views():
    made = network(fusion="none")
    fragments = [fragment(1), fragment(2, views=3), fragment(5, origin=(4, -8, -4))]
    origins = torch.stack([one.origin_voxel for one in fragments])
    scene = SceneFusion(made, origins)
    sums = {}
    for one in fragments:
        scene.add(one)
        finest = run(made, [one])[-1]
        voxels = finest.sites.batch_xyz[:, 1:] + one.origin_voxel
        for voxel, feature, count in zip(
            voxels.tolist(),
            finest.features.double(),
            finest.count.tolist(),
            strict=True,
        ):
            total, weight = sums.get(tuple(voxel), (0, 0))
            sums[tuple(voxel)] = (total + count * feature, weight + count)
    volume = scene.volume()
    lower = torch.tensor([0, -12, -4])
    np.testing.assert_allclose(volume.surface.origin_world, lower * 0.1)
    assert len(volume.encoding_ijk) > 100
    for ijk, feature in zip(volume.encoding_ijk, volume.encoding, strict=True):
        total, weight = sums[tuple((torch.from_numpy(ijk) + lower).tolist())]
        np.testing.assert_allclose(feature, total / weight, atol=1e-4)
    # Linear layers: the mean of features has the mean of the distances.
    head = made.levels[0].tsdf
    with torch.no_grad():
        tsdf = head(torch.from_numpy(volume.encoding))[:, 0].clamp(-1, 1)
    found = volume.surface.tsdf[tuple(volume.encoding_ijk.T)]
    np.testing.assert_allclose(found, tsdf, atol=1e-6)


@pytest.mark.parametrize("fusion", ["gru", "none"])
def test_a_volume_is_free_and_unsure_where_no_surface_was_found(fusion):
    made, one = network(fusion=fusion, remembering=fusion == "gru"), fragment(1)
    scene = SceneFusion(made, one.origin_voxel[None])
    scene.add(one)
    volume = scene.volume()
    near = np.zeros(volume.surface.tsdf.shape, bool)
    near[tuple(volume.encoding_ijk.T)] = True
    assert near.any() and (volume.surface.tsdf[~near] == 1).all()
    assert (volume.confidence[~near] == 0).all()
    assert (volume.confidence[near] > 0.5).all()
    assert (volume.surface.weight[near] > 0).mean() > 0.9
    assert volume.surface.weight.max() == 2  # views of the fragment
    assert len(volume.encoding) == near.sum() and volume.encoding.shape[1] == 6


def test_levels_are_as_many_as_feature_maps():
    made = network()
    assert len(made.encoder.channels) == LEVELS
