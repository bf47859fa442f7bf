"""Samples by number: the same in every process, and true to the frames they show."""

import dataclasses
import itertools
import logging
import pickle

import numpy as np
import pytest
import torch

from gnesf_core.data import store
from gnesf_core.data.keyframes import fragments_of
from gnesf_core.data.provenance import provenance
from gnesf_core.errors import BadInput
from gnesf_core.fields.samples import FieldSamples, ScenePaths
from gnesf_core.labels import IGNORE
from gnesf_core.rendering import frame_samples as module
from tests import field_scenes, tiny_room
from tests.field_scenes import DATA, ENCODER, SETTINGS, TRAINING, same

SIZE = (64, 48)
FEW = 12  # samples that a test looks at


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Three rooms of ever more frames; the last is not labelled."""
    folder = tmp_path_factory.mktemp("rooms")
    return [
        field_scenes.write_scene(folder, "a", 8, logits=True),
        field_scenes.write_scene(folder, "b", 10),
        field_scenes.write_scene(folder, "unlabelled", 6, labelled=False),
        field_scenes.write_scene(folder, "c", 12),
    ]


def samples_of(paths, settings=SETTINGS, training=TRAINING, **data):
    about = dataclasses.replace(DATA, **data)
    return FieldSamples(paths, ENCODER, settings, about, training)


def settings(**changes):
    return dataclasses.replace(SETTINGS, **changes)


def scene_and_frame(name):
    scene, _, frame = name.split()
    return scene, int(frame)


def files_of(scenes, name):
    """Return the frames that a sample says it shows, and its place among them."""
    scene, frame = scene_and_frame(name)
    frames = store.Frames(next(s.frames for s in scenes if s.frames.stem == scene))
    return frames, frames.index.tolist().index(frame)


def positions_of(frames, sources):
    """Return which frames source views are, by where their cameras are."""
    centres = frames.world_from_camera[:, None, :3, 3]
    apart = np.abs(centres - sources.centres_world.numpy()).max(2)
    assert (apart.min(0) < 1e-12).all()
    return apart.argmin(0).tolist()


def test_a_number_names_the_same_sample_every_time_and_everywhere(scenes):
    samples = samples_of(scenes)
    first = [samples[number] for number in range(4)]
    again = samples_of(scenes)  # as another process makes it, asked in another order
    moved = pickle.loads(pickle.dumps(samples))  # noqa: S301 (our own)
    for number in (3, 1, 0, 2):
        for other in (again, moved, samples):
            sample = other[number]
            assert sample["name"] == first[number]["name"]
            assert same(sample["sample"], first[number]["sample"])
    rays = {float(own["sample"].rays.directions_world[0, 0]) for own in first}
    assert len(rays) == 4


def test_another_seed_shows_other_samples(scenes):
    other = dataclasses.replace(TRAINING, seed=2)
    one, two = samples_of(scenes), samples_of(scenes, training=other)
    names = [[own[number]["name"] for number in range(FEW)] for own in (one, two)]
    assert names[0] != names[1]


def test_scenes_that_are_closed_to_spare_memory_are_opened_again(scenes, monkeypatch):
    samples = samples_of(scenes)
    expected = [samples[number] for number in range(5)]
    monkeypatch.setattr(module, "_MOST_BYTES", 0)
    samples = samples_of(scenes)
    assert len({scene_and_frame(own["name"])[0] for own in expected}) > 1
    for number, own in enumerate(expected):
        assert same(samples[number]["sample"], own["sample"])


def test_a_pickle_has_no_open_files(scenes):
    samples = samples_of(scenes)
    before = len(pickle.dumps(samples))
    samples[0]
    assert len(pickle.dumps(samples)) == before < 20_000


@pytest.mark.parametrize("excluded", [True, False])
def test_whether_the_target_votes_is_a_matter_of_the_recipe(scenes, excluded):
    """Rays start in key frames alone, and key frames vote: the target is nearest."""
    samples = samples_of(scenes, frames="keys", exclude_target=excluded)
    for number in range(FEW):
        own = samples[number]
        frames, target = files_of(scenes, own["name"])
        with frames:
            voters = positions_of(frames, own["sample"].sources)
        assert target not in voters if excluded else voters[0] == target


def test_voters_are_the_nearest_key_frames_from_near_to_far(scenes):
    """With no demands on what they see, against sorting by distance."""
    kind = settings(view_overlap=0.0, views=3)
    samples = samples_of(scenes, kind, frames="views")
    for number in range(FEW):
        own = samples[number]
        frames, target = files_of(scenes, own["name"])
        with frames:
            assert frames.is_view[target]
            centres = frames.world_from_camera[:, :3, 3]
            apart = np.round(np.linalg.norm(centres - centres[target], axis=1), 9)
            keys = [n for n in range(len(frames)) if frames.is_key[n]]
            wanted = sorted(apart[keys])[:3]
            found = positions_of(frames, own["sample"].sources)
            assert [apart[n] for n in found] == wanted
            assert frames.is_key[found].all() and len(set(found)) == 3


def test_sources_show_the_pictures_and_maps_of_their_frames(scenes):
    own = samples_of(scenes)[0]
    sources = own["sample"].sources
    frames, _ = files_of(scenes, own["name"])
    path = frames.path.with_suffix(".prior.h5")
    assert sources.pictures.shape[1:] == (3, *SIZE[::-1])
    with frames, store.PriorMaps(path, frames) as prior:
        for view, position in enumerate(positions_of(frames, sources)):
            np.testing.assert_array_equal(
                sources.maps[view], prior.probabilities(position)
            )
            means = frames.color(position).reshape(-1, 3).mean(0)
            found = sources.pictures[view].float().mean((1, 2))
            np.testing.assert_allclose(found, means, atol=2)


def test_labels_and_colours_are_those_of_the_pixels_that_rays_go_through(scenes):
    samples = samples_of(scenes)
    for number in range(FEW):
        own = samples[number]
        _, _, rays, truth = own["sample"]
        frames, target = files_of(scenes, own["name"])
        with frames:
            points = rays.at(torch.full((len(truth.labels), 1), 1.7).double())[:, 0]
            pose = frames.world_from_camera[target]
            inside = np.linalg.solve(pose[:3, :3], (points.numpy() - pose[:3, 3]).T)
            uvw = frames.color_intrinsics @ inside
            uv = (uvw[:2] / uvw[2]).T
            columns, rows = np.rint(uv).astype(int).T
            np.testing.assert_allclose(uv, np.rint(uv), atol=1e-6)
            labels, color = frames.labels(target), frames.color(target)
        assert uvw[2].min() > 0
        np.testing.assert_array_equal(truth.labels, labels[rows, columns])
        np.testing.assert_allclose(255 * truth.color, color[rows, columns], rtol=1e-6)
        assert len({*zip(columns, rows, strict=True)}) == DATA.rays


def test_rays_meet_what_their_labels_say(scenes):
    """Where a ray leaves the room, or enters the block, says the room's closed form."""
    samples = samples_of(scenes)
    rays_and_truth = [samples[number]["sample"][2:] for number in range(FEW)]
    agree = []
    for rays, truth in rays_and_truth:
        eye, way = rays.origins_world.numpy(), rays.directions_world.numpy()
        np.testing.assert_allclose(np.linalg.norm(way, axis=1), 1)
        to_walls = np.where(way > 0, tiny_room.HIGH - eye, tiny_room.LOW - eye) / way
        axis, wall_m = to_walls.argmin(1), to_walls.min(1)
        sides = tiny_room.BLOCK_LOW, tiny_room.BLOCK_HIGH
        ways = [(side - eye) / way for side in sides]
        entry_m, exit_m = np.min(ways, 0).max(1), np.max(ways, 0).min(1)
        block = (entry_m < exit_m) & (entry_m > 0) & (entry_m < wall_m)
        surface = np.where(axis < 2, 0, np.where(way[:, 2] > 0, IGNORE, 1))
        agree.append(np.where(block, 4, surface) == truth.labels.numpy())
    labels = torch.cat([truth.labels for _, truth in rays_and_truth])
    assert set(labels.tolist()) == {0, 1, 4, IGNORE}
    assert np.mean(agree) == 1


def test_more_rays_than_pixels_are_all_pixels_once(scenes):
    samples = samples_of(scenes, rays=10**6)
    sample = samples[0]["sample"]
    width, height = tiny_room.COLOR_SIZE
    assert len(sample.rays.directions_world) == width * height
    frames, target = files_of(scenes, samples[0]["name"])
    with frames:
        np.testing.assert_array_equal(
            sample.truth.labels.reshape(height, width), frames.labels(target)
        )


def test_geometry_is_the_surface_and_the_encoding_each_of_its_own_file(
    scenes, tmp_path
):
    other = field_scenes.room_volume(seed=5)
    path = field_scenes.write_volume(tmp_path / "f.h5", scenes[0].frames, other)
    mixed = [scenes[0]._replace(features=path), scenes[1]]
    samples = samples_of(mixed, held_out_scenes=1)
    shown = samples[0]
    if scene_and_frame(shown["name"])[0] != "a":
        samples = samples_of(mixed[::-1], held_out_scenes=1)
        shown = samples[0]
    field, encoding, _ = shown["sample"].scene
    expected = other.encoding.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(encoding.features, expected)
    with store.Frames(scenes[0].frames) as frames:
        with store.VolumeFile(path, frames) as file:
            assert samples.fingerprints["features a"] == file.fingerprint
        with store.VolumeFile(scenes[0].surface, frames) as file:
            assert samples.fingerprints["surface a"] == file.fingerprint
            np.testing.assert_array_equal(field.tsdf, file.volume().surface.tsdf)


# Fragments.


@pytest.fixture(scope="module")
def in_fragments(tmp_path_factory):
    """Three rooms of 6, 4 and 7 key frames: the last fragments may overlap others."""
    folder = tmp_path_factory.mktemp("fragments")
    return [
        field_scenes.write_scene(folder, name, count, fragment_views=3)
        for name, count in (("a", 12), ("b", 8), ("c", 14))
    ]


def fragments_shown(paths, samples, count):
    """Return the scene, fragment, target and voters of samples, by number."""
    shown = []
    for number in range(count):
        own = samples[number]
        frames, target = files_of(paths, own["name"])
        with frames:
            found = positions_of(frames, own["sample"].sources)
            groups = [list(own) for own in fragments_of(frames)]
        # Nobody votes in two: the last of 4 or 7 key frames is on its own.
        for group, after in itertools.pairwise(groups):
            after[:] = [view for view in after if view not in group]
        (place,) = (n for n, group in enumerate(groups) if target in group)
        shown.append((frames.scene, place, target, groups[place], found))
    return shown


@pytest.mark.parametrize("excluded", [True, False])
def test_a_fragment_votes_on_the_frames_that_are_in_it(in_fragments, excluded):
    samples = samples_of(
        in_fragments, settings(voters="fragments"), exclude_target=excluded
    )
    for _, _, target, group, found in fragments_shown(in_fragments, samples, FEW):
        assert found == [view for view in group if view != target or not excluded]
    for sample in samples.held_out():
        count = len(sample.sources.pictures)
        assert count == 2 if excluded else count in (1, 3)


def test_fragments_come_in_turn_scene_by_scene(in_fragments):
    samples = samples_of(in_fragments, order="fragments", held_out_scenes=1)
    shown = fragments_shown(in_fragments, samples, 12)
    turns = [("a", 0), ("a", 1), ("c", 0), ("c", 1)]
    assert [own[:2] for own in shown] == [turns[n % 4] for n in range(12)]
    samples = samples_of(
        in_fragments, order="fragments", held_out_scenes=1, exclude_target=False
    )
    shown = fragments_shown(in_fragments, samples, 15)
    turns = [*turns, ("c", 2)]  # which is one frame, that nobody else votes on
    assert [own[:2] for own in shown] == [turns[n % 5] for n in range(15)]
    # Which of its frames is up to chance.
    assert len({own[2] for own in shown if own[:2] == ("a", 1)}) > 1
    moved = pickle.loads(pickle.dumps(samples))  # noqa: S301 (our own)
    assert same(moved[7]["sample"], samples[7]["sample"])


def test_scenes_without_fragments_are_left_out(in_fragments, tmp_path, caplog):
    plain = [field_scenes.write_scene(tmp_path, name, 8) for name in ("d", "e")]
    kind = settings(voters="fragments")
    with caplog.at_level(logging.WARNING):
        samples_of([*plain, *in_fragments], kind)
    assert "d has too few" in caplog.text and "e has too few" in caplog.text
    with pytest.raises(BadInput, match="held_out_scenes"):
        samples_of(plain, kind)
    with pytest.raises(BadInput, match="held_out_scenes"):
        samples_of(plain, order="fragments")


# Which scenes are shown.


def test_held_out_scenes_are_never_shown_and_always_judge_alike(scenes):
    samples = samples_of(scenes, held_out_scenes=1)
    shown = {scene_and_frame(samples[n]["name"])[0] for n in range(25)}
    assert len(shown) == 2
    held_out = list(samples.held_out())
    assert len(held_out) == 4
    again = list(samples_of(scenes, held_out_scenes=1).held_out())
    assert same(held_out, again)
    # Whatever scene they are of, it is not one of those shown.
    (kept,) = {"a", "b", "c"} - shown
    path = next(own.frames for own in scenes if own.frames.stem == kept)
    with store.Frames(path) as frames:
        centres = frames.world_from_camera[:, :3, 3]
    origins = [own.rays.origins_world[0].numpy() for own in held_out]
    for origin in origins:
        assert np.abs(centres - origin).max(1).min() < 1e-12
    assert len({tuple(origin) for origin in origins}) == 4


def test_with_nothing_held_out_every_labelled_scene_is_shown(scenes):
    samples = samples_of(scenes, held_out_scenes=0)
    shown = {scene_and_frame(samples[n]["name"])[0] for n in range(25)}
    assert shown == {"a", "b", "c"}
    assert list(samples.held_out()) == []


def test_scenes_without_labels_are_left_out_with_a_warning(scenes, caplog):
    with caplog.at_level(logging.WARNING):
        samples = samples_of(scenes, held_out_scenes=0)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1 and told[0].startswith("unlabelled ")
    # They were looked at: a training must not be resumed after they got labels.
    assert "frames unlabelled" in samples.fingerprints


def test_scenes_with_a_single_source_are_left_out(tmp_path, scenes, caplog):
    poses = tiny_room.camera_path(4)
    pictures, labels = field_scenes.filmed(poses)
    path = tmp_path / "lonely.h5"
    keys = [True, False, False, False]
    field_scenes.write_frames(path, "lonely", poses, pictures, labels, keys=keys)
    prior = field_scenes.write_prior(tmp_path / "p.h5", path)
    volume = field_scenes.write_volume(tmp_path / "v.h5", path)
    lonely = ScenePaths(path, prior, volume, volume)
    with caplog.at_level(logging.WARNING):
        samples_of([*scenes[:2], lonely])
    assert "lonely has too few" in caplog.text
    with pytest.raises(BadInput, match="more than 1 scenes"):
        samples_of([scenes[0], lonely])


def test_as_many_scenes_as_wanted_are_used_from_all_over_the_list(scenes):
    labelled = [scenes[0], scenes[1], scenes[3]]
    samples = samples_of(labelled, scenes=1, held_out_scenes=0)
    assert {name.split()[1] for name in samples.fingerprints} == {"b"}
    samples = samples_of(labelled, scenes=2, held_out_scenes=0)
    assert {name.split()[1] for name in samples.fingerprints} == {"a", "c"}


@pytest.mark.parametrize("wanted", [3, 4])
def test_holding_out_every_scene_is_refused(scenes, wanted):
    with pytest.raises(BadInput, match=rf"more than {wanted} scenes"):
        samples_of(scenes, held_out_scenes=wanted)


def test_no_scenes_at_all_are_refused():
    with pytest.raises(BadInput, match="training split"):
        samples_of([])


# Files that do not belong together.


@pytest.mark.parametrize("role", ["prior", "surface", "features"])
def test_files_of_another_scene_are_refused(scenes, role):
    mixed = scenes[0]._replace(**{role: getattr(scenes[1], role)})
    with pytest.raises(BadInput, match=getattr(scenes[1], role).name):
        samples_of([mixed, scenes[1]])


@pytest.mark.parametrize("role", ["prior", "surface", "features"])
def test_files_made_for_other_frames_of_the_scene_are_refused(scenes, tmp_path, role):
    other = field_scenes.write_scene(tmp_path, "a", 9)
    mixed = scenes[0]._replace(**{role: getattr(other, role)})
    with pytest.raises(BadInput, match=r"input frames: .*fingerprint"):
        samples_of([mixed, scenes[1]])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_refused(scenes, tmp_path, value):
    path = tmp_path / "odd.h5"
    with store.Frames(scenes[0].frames) as frames:
        made_by = provenance("test", {}, {"frames": frames.fingerprint})
        with store.write_prior(path, frames, (8, 6), True, made_by) as writer:
            for _ in range(len(frames)):
                record = writer.record(np.ones((20, 6, 8), np.float32))
                record["logits"][3, 2, 1] = value
                writer.put(record)
    mixed = [scenes[0]._replace(prior=path), scenes[0]]
    samples = samples_of(mixed, settings(payload="logits"), held_out_scenes=0)
    with pytest.raises(BadInput, match=r"odd\.h5: logits of frame \d+: expected num"):
        for number in range(20):
            samples[number]


def test_logits_of_pixels_that_know_nothing_are_welcome(scenes):
    """The ceiling is void: there every logit is -inf in the file."""
    samples = samples_of(
        [scenes[0], scenes[0]], settings(payload="logits"), held_out_scenes=0
    )
    maps = [samples[number]["sample"].sources.maps for number in range(3)]
    assert any((own < -1e29).any() for own in maps)
    assert all(own.isfinite().all() for own in maps)


def test_a_batch_keeps_samples_apart(scenes):
    samples = samples_of(scenes)
    both = [samples[0], samples[1]]
    batch = samples.collate(both)
    assert batch["name"] == [own["name"] for own in both]
    for own, one in zip(batch["sample"], both, strict=True):
        assert own is one["sample"]
    assert len(list(itertools.chain(*batch.values()))) == 4
