"""Whole pictures by methods: in their order, from others' pictures; and flights."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from gnesf_core.data import store
from gnesf_core.errors import BadInput
from gnesf_core.geometry.camera import look_at
from gnesf_core.labels import IGNORE
from gnesf_core.views import rendering
from gnesf_core.views.choice import sources_of_frame, targets
from gnesf_core.views.interface import Method, Rendered
from gnesf_core.views.rendering import Renderer, flight_along, unwound
from tests import field_scenes, room_files, tiny_room, view_scenes
from tests.view_scenes import SOURCES, method_of

COUNT = 12
TARGET = 5  # a view that is no key frame
SIZE = (16, 12)
CPU = torch.device("cpu")
LOOKING = ("ibrnet", "gnesf_density")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return view_scenes.write_scene(tmp_path_factory.mktemp("room"), "a", COUNT)


@contextmanager
def renderer_of(scene, method, **sources):
    with (
        store.Frames(scene.frames) as frames,
        store.PriorMaps(scene.prior, frames) as prior,
    ):
        about = replace(SOURCES, **sources)
        yield Renderer(method.eval(), frames, prior, about, CPU)


def random_method(module, **changes):
    """Return a method whose every weight counts."""
    torch.manual_seed(3)
    method = method_of(module, **changes)
    for own in method.parameters():
        own.data += 0.1 * torch.randn(own.shape)
    return method


def differ(one, other):
    pairs = zip(one[:4], other[:4], strict=True)
    return any(not np.array_equal(*pair) for pair in pairs)


class ClosedForm(Method):
    """The room as its planes say, by depth; of the void ceiling it knows nothing."""

    of_one_scene = True

    def __init__(self, says="probabilities"):
        super().__init__()
        self.says = says

    def encode(self, sources, camera):
        self.cameras = [*getattr(self, "cameras", []), camera]
        return camera

    def render(self, context, rays):
        pose = context.world_from_camera.numpy()
        own = rays.directions_world.numpy() @ pose[:3, :3]
        depth_m, ids = tiny_room.cast_rays(pose, own)
        labels = np.vectorize(room_files.CLASS.get)(ids)
        color = np.array([room_files.SHADE[n] for n in labels], np.float32) / 255
        void = labels == IGNORE
        color[void] = np.random.default_rng(0).random((void.sum(), 3))
        shares = torch.from_numpy((labels[:, None] == np.arange(20)).astype("f4"))
        semantic = {
            "probabilities": shares, "logits": shares * 2, "nothing": shares[:, :0]
        }[self.says]  # fmt: skip
        one = torch.ones(len(own), 1)
        depth_m = torch.from_numpy(depth_m.astype(np.float32))
        usable = torch.from_numpy(~void)
        answer = Rendered(torch.from_numpy(color), depth_m, semantic, one, usable)
        wrong = answer._replace(color=0 * answer.color, depth_m=0 * depth_m)
        return [wrong, answer]


@pytest.mark.parametrize("size", [SIZE, (7, 30)])
@pytest.mark.parametrize("chunk", [5, 1 << 11])
def test_every_pixel_gets_what_is_seen_along_its_own_ray(
    scene, monkeypatch, size, chunk
):
    monkeypatch.setitem(rendering._CHUNKS, "cpu", chunk)
    method = ClosedForm()
    with renderer_of(scene, method) as renderer:
        view = renderer.render_frame(TARGET, size)
        pose = renderer.frames.world_from_camera[TARGET]
    # The picture of the scene, cut into other pixels: theirs need not be square.
    columns, rows = ((np.arange(n) + 0.5) / n - 0.5 for n in size)
    whole = tiny_room.COLOR_SIZE
    x, y = np.meshgrid(columns / 0.8, rows * whole[1] / (0.8 * whole[0]))
    own = np.stack([x, y, np.ones_like(x)], -1)
    depth_m, ids = tiny_room.cast_rays(pose, own)
    labels = np.vectorize(room_files.CLASS.get)(ids)
    known = labels != IGNORE
    assert 0.2 < known.mean() < 1
    np.testing.assert_array_equal(view.known, known)
    np.testing.assert_allclose(view.depth_m, depth_m, rtol=1e-5)
    np.testing.assert_array_equal(view.probabilities.argmax(0)[known], labels[known])
    assert (view.probabilities.max(0)[known] == 255).all()
    shades = np.array([room_files.SHADE[n] for n in labels.flat]).reshape(*own.shape)
    np.testing.assert_array_equal(view.color[known], shades[known])
    assert view.sources == () and method.cameras[0].size == size


def test_where_a_method_knows_nothing_no_class_and_one_colour_are_shown(scene):
    with renderer_of(scene, ClosedForm()) as renderer:
        view = renderer.render_frame(TARGET, SIZE)
    unknown = ~view.known
    assert unknown.any() and not view.probabilities[:, unknown].any()
    assert len(np.unique(view.color[unknown], axis=0)) == 1


def test_logits_are_shown_as_probabilities_and_silence_as_zeros(scene):
    with renderer_of(scene, ClosedForm("logits")) as renderer:
        view = renderer.render_frame(TARGET, SIZE)
    shares = view.probabilities[:, view.known]
    first = np.exp(2) / (np.exp(2) + 19)
    assert (shares.max(0) == round(255 * first)).all()
    assert (np.sort(shares, axis=0)[:-1] == round(255 * (1 - first) / 19)).all()
    with renderer_of(scene, ClosedForm("nothing")) as renderer:
        silent = renderer.render_frame(TARGET, SIZE)
    assert silent.probabilities.shape == (20, *SIZE[::-1])
    assert not silent.probabilities.any()
    np.testing.assert_array_equal(silent.known, view.known)
    np.testing.assert_array_equal(silent.color, view.color)


@pytest.mark.slow
@pytest.mark.parametrize("module", view_scenes.KINDS)
def test_pictures_do_not_depend_on_how_many_rays_are_rendered_at_once(
    scene, monkeypatch, module
):
    with renderer_of(scene, random_method(module)) as renderer:
        expected = renderer.render_frame(TARGET, SIZE)
        monkeypatch.setitem(rendering._CHUNKS, "cpu", 37)
        view = renderer.render_frame(TARGET, SIZE)
    assert view.sources == expected.sources
    np.testing.assert_array_equal(view.known, expected.known)
    np.testing.assert_allclose(view.depth_m, expected.depth_m, rtol=1e-4)
    for one, other in zip(view[:2], expected[:2], strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1
    assert np.ptp(view.color) > 5 and np.ptp(view.depth_m) > 0.01


def with_frame_changed(folder, position):
    """Write the same room, of which one frame and its prior are quite different."""
    poses = field_scenes.camera_path(COUNT)
    pictures, labels = field_scenes.filmed(poses)
    pictures[position] = 255 - pictures[position][::-1]
    labels[position] = np.full_like(labels[position], 7)
    path = folder / "a.h5"
    field_scenes.write_frames(path, "a", poses, pictures, labels)
    prior = field_scenes.write_prior(folder / "a.prior.h5", path)
    return view_scenes.ViewPaths(path, prior)


@pytest.fixture(scope="module")
def target_changed(tmp_path_factory):
    return with_frame_changed(tmp_path_factory.mktemp("target"), TARGET)


@pytest.mark.parametrize("kind", ["keys", "views", "kept"])
@pytest.mark.parametrize("module", LOOKING)
def test_a_frames_own_picture_and_prior_change_nothing(
    scene, target_changed, module, kind
):
    """Whichever frames are looked at, as many as there are."""
    method = random_method(module)
    everything = {"frames": kind, "views": COUNT, "overlap": 0.0}
    views = []
    for own in (scene, target_changed):
        with renderer_of(own, method, **everything) as renderer:
            views.append(renderer.render_frame(TARGET, SIZE))
            frames = renderer.frames
            roles = {"keys": frames.is_key, "views": frames.is_view}
            wanted = set(np.flatnonzero(roles.get(kind, np.ones(COUNT, bool))))
    assert not differ(*views)
    assert set(views[0].sources) == wanted - {TARGET}
    assert views[0].known.mean() > 0.5


@pytest.mark.parametrize("module", LOOKING)
def test_pictures_of_sources_do_change_what_is_seen(scene, tmp_path_factory, module):
    method = random_method(module)
    with renderer_of(scene, method) as renderer:
        view = renderer.render_frame(TARGET, SIZE)
    folder = tmp_path_factory.mktemp("source")
    changed = with_frame_changed(folder, view.sources[0])
    with renderer_of(changed, method) as renderer:
        assert differ(view, renderer.render_frame(TARGET, SIZE))


def test_what_was_learned_by_heart_is_rendered_from_no_pictures(scene, target_changed):
    method, views = random_method("semantic_nerf"), []
    for own, kind in ((scene, "keys"), (target_changed, "kept")):
        with renderer_of(own, method, frames=kind, views=2) as renderer:
            views += [renderer.render_frame(n, SIZE) for n in (TARGET, TARGET + 1)]
    assert not differ(views[0], views[2]) and not differ(views[1], views[3])
    assert differ(views[0], views[1])
    assert {own.sources for own in views} == {()}


@pytest.mark.parametrize("module", LOOKING)
def test_a_camera_that_is_no_frame_may_look_at_all_of_them(scene, module):
    with renderer_of(scene, random_method(module), frames="kept") as renderer:
        pose = renderer.frames.world_from_camera[TARGET]
        view = renderer.render_pose(pose, SIZE)
        expected = renderer.render_frame(TARGET, SIZE)
    assert view.sources[0] == TARGET and TARGET not in expected.sources
    assert set(view.sources[1:]) <= set(expected.sources)


@pytest.mark.parametrize("module", LOOKING)
def test_without_source_views_nothing_is_rendered(tmp_path, module):
    """All frames are key frames, and views are to be looked at."""
    poses = field_scenes.camera_path(4)
    path = tmp_path / "keys.h5"
    field_scenes.write_frames(
        path, "keys", poses, *field_scenes.filmed(poses), keys=[True] * 4
    )
    prior = field_scenes.write_prior(tmp_path / "keys.prior.h5", path)
    keys = view_scenes.ViewPaths(path, prior)
    with renderer_of(keys, method_of(module), frames="views") as renderer:
        with pytest.raises(BadInput, match=r"keys\.h5: .*source views .*views"):
            renderer.render_frame(0, SIZE)
        with pytest.raises(BadInput, match=r"keys\.h5: .*source views .*views"):
            renderer.render_pose(poses[0], SIZE)


# Protocols of published systems, by the numbers of the scan's frames.


def test_published_views_are_those_of_the_scan_and_are_judged_alone(tmp_path):
    every = [True] * 36
    path = room_files.write_frames(tmp_path / "f.h5", every, every)
    looks = replace(SOURCES, views=36), (0.1, 5.0)
    # Of frames 5, 15, 25 and 35 one is a target; of 2, 72, ... one is there.
    wanted = {"gnesf-released": (5, {15, 25, 35}),
              "sray-clean": (2, {15, 20, 25, 30, 35})}  # fmt: skip
    with store.Frames(path) as frames:
        for protocol, (target, sources) in wanted.items():
            assert targets(frames, protocol, 1000) == [target]
            found = sources_of_frame(frames, target, protocol, *looks)
            assert set(found) == sources and len(found) == len(sources)
            few = replace(SOURCES, views=2), (0.1, 5.0)
            assert set(sources_of_frame(frames, target, protocol, *few)) < sources


def test_scans_that_were_thinned_out_are_not_judged_by_published_rules(scene):
    """Of this room every third frame was kept."""
    with store.Frames(scene.frames) as frames:
        assert frames.index.tolist() == list(range(0, 36, 3))
        with pytest.raises(BadInput, match="1 were not kept, such as frame 5;"):
            targets(frames, "gnesf-released", 1000)
        with pytest.raises(BadInput, match="were not kept, such as"):
            sources_of_frame(frames, 0, "gpnerf-released",
                             replace(SOURCES, views=36), (0.1, 5.0))  # fmt: skip


# Flights.


def some_poses(count, seed=0):
    """Walk at random, always looking at about the middle of the room."""
    rng = np.random.default_rng(seed)
    eyes = np.cumsum(rng.uniform(-0.3, 0.4, (count, 3)), axis=0)
    return [look_at(eye, np.array([4.0, 4, 1]) + rng.random(3)) for eye in eyes]


def turn_deg(one, other):
    cosine = (np.trace(one[:3, :3].T @ other[:3, :3]) - 1) / 2
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


@pytest.fixture
def flight(tmp_path):
    """Return a function that flies along poses of a scene."""

    def fly(poses, count, keys=None):
        keys = [True] * len(poses) if keys is None else keys
        path = field_scenes.write_frames(
            tmp_path / "f.h5", "f", poses, keys=keys, size=(4, 3)
        )
        with store.Frames(path) as frames:
            return flight_along(frames, count)

    return fly


@pytest.mark.parametrize("keys", [2, 3, 4, 9])
def test_a_flight_goes_through_all_key_frames_and_no_others(flight, keys):
    poses = some_poses(2 * keys, seed=keys)
    is_key = np.arange(2 * keys) % 2 == 0
    way = flight(poses, 5 * (keys - 1) + 1, is_key)
    assert len(way) == 5 * (keys - 1) + 1
    np.testing.assert_allclose(way[::5], np.stack(poses)[is_key], atol=1e-9)


def test_cameras_of_a_flight_are_cameras(flight):
    for pose in flight(some_poses(7), 40):
        turn = pose[:3, :3]
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-9)
        assert np.linalg.det(turn) == pytest.approx(1)
        np.testing.assert_array_equal(pose[3], [0, 0, 0, 1])


def test_a_flight_has_no_jumps_and_its_places_no_corners(flight):
    """Ten times as many frames: a tenth of the steps, a tenth of a change of pace."""
    poses = some_poses(7)
    steps_m, bends, turns_deg = [], [], []
    for count in (121, 1201):
        way = np.stack(flight(poses, count))
        places = way[:, :3, 3]
        paces = np.diff(places, axis=0) * (count - 1)
        steps_m.append(np.linalg.norm(np.diff(places, axis=0), axis=1).max())
        bends.append(np.linalg.norm(np.diff(paces, axis=0), axis=1).max())
        turns_deg.append(max(map(turn_deg, way[:-1], way[1:])))
    for coarse, fine in (steps_m, bends, turns_deg):
        assert fine == pytest.approx(coarse / 10, rel=0.2)


def test_a_camera_turns_the_shorter_way_and_evenly(flight):
    poses = some_poses(2, seed=1)
    way = flight(poses, 11)
    whole = turn_deg(*poses)
    for one, other in zip(way[:-1], way[1:], strict=True):
        assert turn_deg(one, other) == pytest.approx(whole / 10, abs=1e-4)


def test_between_two_key_frames_a_flight_is_straight(flight):
    poses = some_poses(2)
    places = np.stack(flight(poses, 5))[:, :3, 3]
    expected = np.linspace(poses[0][:3, 3], poses[1][:3, 3], 5)
    np.testing.assert_allclose(places, expected, atol=1e-12)


def test_where_there_is_one_key_frame_a_flight_stays(flight):
    (pose,) = some_poses(1)
    np.testing.assert_array_equal(flight([pose], 3), [pose] * 3)


@pytest.mark.parametrize("count", range(1, 7))
def test_a_film_goes_there_and_back_without_showing_a_frame_twice_in_a_row(count):
    film = unwound(list(range(count)))
    assert len(film) == max(1, 2 * count - 2)
    around = [*film, film[0]]
    if count > 1:
        assert {abs(a - b) for a, b in zip(around[:-1], around[1:], strict=True)} == {1}
    assert set(film) == set(range(count))
