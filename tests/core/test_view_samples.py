"""Samples of views by number: the same everywhere, and true to what frames show."""

import dataclasses
import pickle

import numpy as np
import pytest
import torch

from gnesf_core.data import store
from gnesf_core.labels import IGNORE
from gnesf_core.views.samples import ViewPaths, ViewSamples
from tests import tiny_room, view_scenes
from tests.field_scenes import SIZE, same
from tests.view_scenes import DATA, SOURCES, TRAINING, method_of

FEW = 12  # samples that a test looks at


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Three rooms of ever more frames, with logits beside probabilities."""
    folder = tmp_path_factory.mktemp("rooms")
    counts = {"a": 8, "b": 10, "c": 12}
    return [
        view_scenes.write_scene(folder, *own, logits=True) for own in counts.items()
    ]


def samples_of(paths, method="ibrnet", sources=SOURCES, training=TRAINING, **data):
    method = method_of(method) if isinstance(method, str) else method
    about = dataclasses.replace(DATA, **data)
    return ViewSamples(paths, method, sources, about, training)


def scene_of(name):
    return name.split()[0]


def files_of(scenes, name):
    """Return the frames that a sample says it shows, and its place among them."""
    scene, _, frame = name.split()
    frames = store.Frames(
        next(own.frames for own in scenes if own.frames.stem == scene)
    )
    return frames, frames.index.tolist().index(int(frame))


def positions_of(frames, sources):
    """Return which frames source views are, by where their cameras are."""
    centres = frames.world_from_camera[:, None, :3, 3]
    apart = np.abs(centres - sources.centres_world.numpy()).max(2)
    assert (apart.min(0) < 1e-12).all()
    return apart.argmin(0).tolist()


@pytest.mark.parametrize("method", view_scenes.KINDS)
def test_a_number_names_the_same_sample_every_time_and_everywhere(scenes, method):
    samples = samples_of(scenes, method)
    first = [samples[number] for number in range(4)]
    again = samples_of(scenes, method)  # another process, asked in another order
    copied = pickle.loads(pickle.dumps(samples))  # noqa: S301 (our own)
    for number in (3, 1, 0, 2):
        for other in (again, copied, samples):
            own = other[number]
            assert own["name"] == first[number]["name"]
            assert same(own["sample"], first[number]["sample"])
    assert len({float(own["sample"].rays.directions_world[0, 0]) for own in first}) == 4


def test_another_seed_shows_other_samples(scenes):
    other = dataclasses.replace(TRAINING, seed=2)
    one, two = samples_of(scenes), samples_of(scenes, training=other)
    names = [[own[number]["name"] for number in range(FEW)] for own in (one, two)]
    assert names[0] != names[1]


@pytest.mark.parametrize("excluded", [True, False])
def test_whether_the_target_is_a_source_is_a_matter_of_the_recipe(scenes, excluded):
    """Rays start in key frames alone, and key frames are looked at."""
    samples = samples_of(scenes, frames="keys", exclude_target=excluded)
    for number in range(FEW):
        own = samples[number]
        frames, target = files_of(scenes, own["name"])
        with frames:
            views = positions_of(frames, own["sample"].sources)
            assert frames.is_key[[target, *views]].all()
        assert target not in views if excluded else views[0] == target


def test_held_out_scenes_are_never_shown_and_alone_judge(scenes):
    samples = samples_of(scenes, held_out_scenes=1)
    shown = {scene_of(samples[number]["name"]) for number in range(40)}
    assert len(shown) == 2
    (kept,) = {"a", "b", "c"} - shown
    judged, again = list(samples.held_out()), list(samples.held_out())
    assert len(judged) == 4 and same(judged, again)
    with store.Frames(
        next(own.frames for own in scenes if own.frames.stem == kept)
    ) as f:
        centres = f.world_from_camera[:, :3, 3]
    found = set()
    for own in judged:
        origins = own.rays.origins_world.numpy()
        centre = own.camera.world_from_camera[:3, 3].numpy()
        (place,) = np.flatnonzero((centres == centre).all(1))
        np.testing.assert_array_equal(origins, np.tile(centre, (len(origins), 1)))
        found.add(place)
    assert len(found) == 4


def test_scenes_are_not_held_out_from_methods_that_learn_one(scenes):
    samples = samples_of(scenes[:1], "semantic_nerf", held_out_scenes=0)
    assert not list(samples.held_out())
    assert {scene_of(samples[number]["name"]) for number in range(5)} == {"a"}


def test_labels_and_colours_are_those_of_the_pixels_that_rays_go_through(scenes):
    samples = samples_of(scenes)
    for number in range(FEW):
        own = samples[number]
        camera, rays, truth = own["sample"][1:]
        frames, target = files_of(scenes, own["name"])
        with frames:
            labels, color = frames.labels(target), frames.color(target)
            pose, intrinsics = frames.world_from_camera[target], frames.color_intrinsics
        depths_m = torch.full((len(truth.labels), 1), 1.7).double()
        points = rays.at(depths_m)[:, 0].numpy()
        inside = np.linalg.solve(pose[:3, :3], (points - pose[:3, 3]).T)
        np.testing.assert_allclose(inside[2], 1.7)  # rays are by depth
        uv = (intrinsics @ inside / 1.7)[:2].T
        np.testing.assert_allclose(uv, np.rint(uv), atol=1e-6)
        columns, rows = np.rint(uv).astype(int).T
        np.testing.assert_array_equal(truth.labels, labels[rows, columns])
        np.testing.assert_allclose(255 * truth.color, color[rows, columns], rtol=1e-6)
        assert len({*zip(columns, rows, strict=True)}) == DATA.rays
        np.testing.assert_array_equal(camera.world_from_camera, pose)
        np.testing.assert_array_equal(camera.intrinsics, intrinsics)
        assert camera.size == SIZE


def test_what_a_ray_meets_looks_the_same_to_its_sources(scenes):
    """Where the room's closed form says that a ray ends, sources show its colour."""
    sources = dataclasses.replace(SOURCES, frames="kept")
    samples, right, judged = samples_of(scenes, sources=sources), 0, 0
    for number in range(6 * FEW):
        sources, camera, rays, truth = samples[number]["sample"]
        pose = camera.world_from_camera.numpy()
        own = np.linalg.solve(pose[:3, :3], rays.directions_world.numpy().T).T
        depth_m, _ = tiny_room.cast_rays(pose, own)
        points = rays.at(torch.from_numpy(depth_m)[:, None])[:, 0]
        for picture, matrix in zip(
            sources.pictures, sources.pixel_from_world, strict=True
        ):
            u, v, z = (points @ matrix[:, :3].T + matrix[:, 3]).T
            columns, rows = (u / z).round().long(), (v / z).round().long()
            height, width = picture.shape[1:]
            within = (z > 0) & (columns >= 0) & (columns < width)
            within &= (rows >= 0) & (rows < height)
            shown = picture[:, rows[within], columns[within]].T / 255
            apart = (shown - truth.color[within]).abs().amax(1)
            right, judged = right + int((apart < 0.02).sum()), judged + len(apart)
    # The others are hidden by the block, or at the edges between classes.
    assert judged > 500 and right > 0.9 * judged


def test_methods_are_shown_what_they_ask_for_and_no_more(scenes):
    votes = samples_of(scenes)[0]["sample"].sources
    assert votes.maps.shape[:2] == (len(votes.pictures), 20) and votes.maps.any()
    blind = samples_of(scenes, method_of("ibrnet", semantics="predicted"))
    without = blind[0]["sample"].sources
    assert without.maps.shape[:2] == (len(votes.pictures), 0)
    assert same(without.pictures, votes.pictures)
    by_heart = samples_of(scenes, "semantic_nerf")[0]["sample"].sources
    assert [len(own) for own in by_heart[:4]] == [0] * 4


def test_methods_learn_from_the_payload_that_they_render_with(scenes):
    method = method_of("ibrnet")
    method.payload = "logits"
    own = samples_of(scenes, method)[2]
    frames, _ = files_of(scenes, own["name"])
    sources = own["sample"].sources
    path = frames.path.with_suffix(".prior.h5")
    with frames, store.PriorMaps(path, frames) as prior:
        for view, position in enumerate(positions_of(frames, sources)):
            logits = prior.logits(position)
            known = np.isfinite(logits)
            np.testing.assert_array_equal(sources.maps[view][known], logits[known])


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """A room whose prior is noise, silent in a corner; maps are as large as frames."""
    folder = tmp_path_factory.mktemp("noisy")

    def scores(position):
        rng = np.random.default_rng(position)
        noise = rng.random((20, *SIZE[::-1]), np.float32) ** 4
        noise[:, :20, :30] = 0
        return noise

    return view_scenes.write_scene(folder, "noisy", 6, scores=scores, size=SIZE)


def test_pseudo_labels_are_what_the_prior_holds_likeliest(noisy):
    width, height = SIZE
    everything = {"rays": width * height, "labels": "prior", "held_out_scenes": 0}
    own = samples_of([noisy], "semantic_nerf", **everything)[0]
    truth = own["sample"].truth
    frames, target = files_of([noisy], own["name"])
    with frames, store.PriorMaps(noisy.prior, frames) as prior:
        shares = prior.probabilities(target).astype(int)
        color, labels = frames.color(target), frames.labels(target)
    expected = shares.argmax(0)
    expected[shares.sum(0) == 0] = IGNORE
    found = truth.labels.reshape(height, width).numpy()
    np.testing.assert_array_equal(found, expected)
    assert (found[:20, :30] == IGNORE).all() and (found[20:, 30:] < 20).all()
    assert (found != labels).mean() > 0.5
    np.testing.assert_allclose(255 * truth.color, color.reshape(-1, 3), rtol=1e-6)


def test_files_that_samples_are_made_of_are_named(scenes):
    named = samples_of(scenes, held_out_scenes=0).fingerprints
    assert set(named) == {
        f"{what} {own}" for what in ("frames", "prior") for own in "abc"
    }
    without = [ViewPaths(own.frames, None) for own in scenes]
    method = method_of("ibrnet", semantics="nothing")
    alone = samples_of(without, method).fingerprints
    assert alone == {name: own for name, own in named.items() if "frames" in name}
    with store.Frames(scenes[1].frames) as frames:
        assert named["frames b"] == frames.fingerprint


def test_a_scene_is_where_the_cameras_to_learn_from_are(scenes):
    samples = samples_of(scenes, "semantic_nerf", frames="keys", held_out_scenes=0)
    centres = []
    for own in scenes:
        with store.Frames(own.frames) as frames:
            centres += frames.world_from_camera[frames.is_key, :3, 3].tolist()
    np.testing.assert_array_equal(
        sorted(samples.centres_world().tolist()), sorted(centres)
    )
