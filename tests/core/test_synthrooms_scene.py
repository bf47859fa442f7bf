"""Whole scenes as files, and the pictures in them."""

import dataclasses
import hashlib
import itertools
import json

import numpy as np
import pytest
import torch

from gnesf_core.config import SynthRoomsConfig, SynthRoomsCounts
from gnesf_core.data.ply import read_ply
from gnesf_core.data.scannet import (
    LabelZip,
    SceneFiles,
    nyu40_from_aggregation,
    read_aggregation,
    read_mesh_labels,
    read_meta,
    read_scene_list,
    read_segments,
    write_label_map,
)
from gnesf_core.data.sens import SensReader
from gnesf_core.geometry.camera import (
    invert_rigid,
    look_at,
    pixel_rays,
    project,
    transform,
)
from gnesf_core.geometry.raycast import make_caster
from gnesf_core.labels import LabelMap
from gnesf_core.synthrooms import scene as scene_module
from gnesf_core.synthrooms.categories import label_rows
from gnesf_core.synthrooms.lighting import Light
from gnesf_core.synthrooms.looks import choose
from gnesf_core.synthrooms.path import camera_path, lose_tracking
from gnesf_core.synthrooms.plan import Plan, Wall
from gnesf_core.synthrooms.render import Camera, Renderer
from gnesf_core.synthrooms.rooms import Room
from gnesf_core.synthrooms.scene import scene_names, set_up, write_lists, write_scene
from gnesf_core.synthrooms.sensor import ColorSensor, DepthSensor, draw_cameras
from gnesf_core.synthrooms.shapes import box
from gnesf_core.synthrooms.shell import shell_things
from gnesf_core.synthrooms.surfaces import gather
from gnesf_core.synthrooms.things import Thing
from gnesf_core.synthrooms.truth import cut, is_in_sight, seen_by, subdivide

TINY = SynthRoomsConfig(
    seed=0,
    frames=24,
    color_width=162,
    color_height=121,
    depth_width=80,
    depth_height=60,
    mesh_edge_m=0.1,
    depth_range_m=5.0,
    jpeg_quality=90,
)
COUNTS = SynthRoomsCounts(scenes_train=2, scenes_val=1, scenes_test=1)
SHORT = dataclasses.replace(TINY, frames=9)
CAMERA = Camera(80, 60, np.array([[70.0, 0, 39.5], [0, 70.0, 29.5], [0, 0, 1]]))


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """One kitchen with annotations and one office of the test split."""
    root = tmp_path_factory.mktemp("scans")
    for scene in ("scene0001_00", "scene0003_00"):
        (root / scene).mkdir()
        write_scene(root / scene, scene, scene == "scene0001_00", TINY)
    write_lists(root, COUNTS)
    write_label_map(root / "scannetv2-labels.combined.tsv", label_rows())
    return root


@pytest.fixture(scope="module")
def film():
    return set_up("scene0001_00", TINY, "cpu")


def _empty_room(extra=()):
    """A room of 4 x 3 x 2.5 m with nothing in it but `extra`."""
    corners = np.array([[0.0, 0], [4, 0], [4, 3], [0, 3]])
    ends = np.roll(corners, -1, 0)
    walls = [Wall(a, b) for a, b in zip(corners, ends, strict=True)]
    plan = Plan(corners, 2.5, walls)
    rng = np.random.default_rng(0)
    things = (*shell_things(plan, "floor_wood", "wall", rng), *extra)
    roles = [{p.material: choose(p.material, rng) for p in t.parts} for t in things]
    return Room("office", plan, things, tuple(roles))


def _renderer(room, engine="auto", lights=()):
    surfaces = gather(room)
    lights = list(lights)
    return Renderer(surfaces, room.plan, lights, (0.3, 0.3, 0.3), "cpu", engine)


def test_depth_of_an_empty_room_is_that_of_its_planes():
    renderer = _renderer(_empty_room())
    pose = look_at((1.0, 1.2, 1.4), (4.0, 2.0, 0.9), roll=0.05)
    _, depth = renderer.trace(pose, CAMERA)
    rays = pixel_rays(CAMERA.intrinsics, 80, 60) @ pose[:3, :3].T
    with np.errstate(divide="ignore"):
        ends = np.stack([(np.zeros(3) - pose[:3, 3]) / rays,
                         (np.array([4, 3, 2.5]) - pose[:3, 3]) / rays])  # fmt: skip
    expected = ends.max(0).min(-1)
    # Skirting boards stand a centimetre before the walls.
    points = pose[:3, 3] + expected[..., None] * rays
    clear = (points[..., 2] > 0.12) | (points[..., 2] < 1e-6)
    inner = (points[..., :2] > 0.05).all(-1)
    inner &= (points[..., :2] < np.array([3.95, 2.95])).all(-1)
    clear &= (points[..., 2] > 0.12) | inner
    assert clear.mean() > 0.8
    np.testing.assert_allclose(depth.numpy()[clear], expected[clear], rtol=1e-9)


def test_a_table_casts_a_shadow_below_a_lamp_and_nowhere_else():
    block = Thing("dining table", (box((1.5, 1, 0.8), (2.5, 2, 0.85), "table"),))
    lamp = Light((2.0, 1.5, 2.2), (3.0, 3.0, 3.0))
    light = _renderer(_empty_room((block,)), lights=[lamp]).lights[0]
    x, y = np.meshgrid(np.linspace(0.2, 3.8, 60), np.linspace(0.2, 2.8, 60))
    floor = np.stack([x, y, np.full_like(x, 0.0)], -1).reshape(-1, 3)
    visible = light.visible(torch.from_numpy(floor).to(torch.float32)).numpy()
    # The shadow is the table's top, enlarged from the lamp: by 2.2 / (2.2 - 0.85).
    half = 0.5 * 2.2 / (2.2 - 0.85)
    reach = np.abs(floor[:, :2] - (2.0, 1.5)).max(1)
    assert (visible[reach < half - 0.06] == 0).all()
    assert (visible[reach > half + 0.06] == 1).all()


def test_engines_paint_the_same_picture(film):
    pictures = []
    for engine in ("open3d", "torch"):
        renderer = Renderer(
            film.surfaces, film.room.plan, [], (0.5, 0.5, 0.5), "cpu", engine
        )
        color, triangle = renderer.picture(film.room_from_camera[3], film.color_camera)
        pictures.append((color.numpy(), film.surfaces.thing[triangle.numpy()]))
    differs = np.abs(pictures[0][0] - pictures[1][0]).max(-1) > 1e-5
    assert differs.mean() < 1e-3
    assert (pictures[0][1] != pictures[1][1]).mean() < 1e-3


def test_labels_agree_with_projected_mesh_vertices(scans):
    """Vertices that a frame's own depth confirms carry the label of their pixel."""
    files = SceneFiles(scans, "scene0001_00")
    vertices, _, labels = read_mesh_labels(files.mesh_labels)
    label_map = LabelMap.read(scans / "scannetv2-labels.combined.tsv", None)
    right = counted = 0
    with SensReader(files.sens) as sens, LabelZip(files.labels_2d) as zipped:
        for index in (0, 7, 14, 21):
            pose = sens.world_from_camera[index]
            if not np.isfinite(pose).all():
                continue
            points = transform(invert_rigid(pose.astype(np.float64)), vertices)
            uv, z = project(points, sens.info.color_intrinsics)
            at, _ = project(points, sens.info.depth_intrinsics)
            u, v = np.rint(uv).astype(int).T
            column, row = np.rint(at).astype(int).T
            inside = (u >= 0) & (u < 162) & (v >= 0) & (v < 121)
            inside &= (column >= 0) & (column < 80) & (row >= 0) & (row < 60)
            depth = sens.decode_depth(index) / 1000
            inside[inside] = (
                np.abs(depth[row[inside], column[inside]] - z[inside]) < 0.03
            )
            image = zipped.read(index)
            found = label_map.nyu40_from_id[image[v[inside], u[inside]]]
            right += (found == labels[inside]).sum()
            counted += inside.sum()
    assert counted > 3000
    assert right / counted > 0.93


def test_annotations_agree_with_the_labels_of_the_mesh(scans):
    files = SceneFiles(scans, "scene0001_00")
    _, _, labels = read_mesh_labels(files.mesh_labels)
    label_map = LabelMap.read(scans / "scannetv2-labels.combined.tsv", None)
    segments = read_segments(files.segments, len(labels))
    groups = read_aggregation(files.aggregation)
    nyu40, _ = nyu40_from_aggregation(segments, groups, label_map)
    np.testing.assert_array_equal(nyu40, labels)
    assert (labels == 0).any()
    assert len(np.unique(segments)) > 3 * len(groups)


def test_instances_of_images_are_objects_of_the_mesh(scans):
    files = SceneFiles(scans, "scene0001_00")
    objects = {group.object_id for group in read_aggregation(files.aggregation)}
    with LabelZip(files.instances_2d, "instance-filt", np.uint8) as zipped:
        image = zipped.read(0)
    found = set(np.unique(image).tolist()) - {0}
    assert len(found) >= 4
    assert {number - 1 for number in found} <= objects


def test_scenes_have_scannets_files_and_test_scenes_no_labels(scans):
    labelled = SceneFiles(scans, "scene0001_00")
    bare = SceneFiles(scans, "scene0003_00")
    names = ("sens", "meta", "mesh", "mesh_labels", "segments", "aggregation")
    names += ("labels_2d", "instances_2d")
    assert {getattr(labelled, n) for n in names} == set(labelled.sens.parent.iterdir())
    assert set(bare.sens.parent.iterdir()) == {bare.sens, bare.meta, bare.mesh}
    assert "axisAlignment" in read_meta(labelled.meta)
    assert "axisAlignment" not in read_meta(bare.meta)
    for split, scenes in scene_names(COUNTS).items():
        assert read_scene_list(scans / f"scannetv2_{split}.txt") == scenes
    payload = json.loads(labelled.aggregation.read_text())
    assert payload["segmentsFile"].endswith("_vh_clean_2.0.010000.segs.json")


def test_meta_aligns_walls_with_the_axes_and_names_the_cameras(scans):
    files = SceneFiles(scans, "scene0001_00")
    meta = read_meta(files.meta)
    aligned = np.array(meta["axisAlignment"].split(), float).reshape(4, 4)
    vertices, faces, labels = read_mesh_labels(files.mesh_labels)
    corners = transform(aligned, vertices)[faces[(labels[faces] == 1).all(1)]]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    assert (np.abs(normal).max(1) > 0.999).mean() > 0.99
    with SensReader(files.sens) as sens:
        assert float(meta["fx_color"]) == pytest.approx(
            sens.info.color_intrinsics[0, 0], abs=1e-3
        )
        assert int(meta["numDepthFrames"]) == sens.info.frame_count == TINY.frames


def test_some_poses_are_lost_and_the_rest_look_down_and_never_level(scans):
    with SensReader(SceneFiles(scans, "scene0001_00").sens) as sens:
        poses = np.asarray(sens.world_from_camera, np.float64)
    lost = ~np.isfinite(poses).all((1, 2))
    assert 1 <= lost.sum() <= 4
    assert np.isneginf(poses[lost]).all()
    down = np.degrees(np.arcsin(-poses[~lost][:, 2, 2]))
    assert down.min() >= 4.9 and down.max() <= 35.1
    assert (np.abs(poses[~lost][:, 2, 0]) > 1e-6).all()
    mesh = read_ply(SceneFiles(scans, "scene0001_00").mesh)
    low, high = mesh.vertices.min(0), mesh.vertices.max(0)
    eyes = poses[~lost][:, :3, 3]
    assert (eyes > low).all() and (eyes < high).all()
    assert (eyes[:, 2] - low[2]).min() > 1.1 and (eyes[:, 2] - low[2]).max() < 1.8


def test_cameras_stay_inside_and_clear_of_what_they_look_at(film):
    eyes = film.room_from_camera[:, :3, 3]
    assert film.room.plan.contains(eyes[:, :2]).all()
    assert film.room.plan.wall_distance(eyes[:, :2]).min() > 0.25
    for pose in film.room_from_camera:
        _, depth = film.renderer.trace(pose, film.depth_camera)
        assert depth.min() > 0.25


def test_more_frames_walk_the_same_way_in_finer_steps(film):
    def path(frames):
        return camera_path(
            film.room.plan,
            film.renderer.caster,
            film.depth_camera,
            frames,
            np.random.default_rng(4),
        )[:, :3, 3]

    coarse, fine = path(21), path(201)
    np.testing.assert_allclose(coarse, fine[::10], atol=0.06)
    steps = [np.linalg.norm(np.diff(p, axis=0), axis=1).mean() for p in (coarse, fine)]
    assert steps[1] < steps[0] / 5


def test_paths_revisit_and_pause(film):
    eyes = camera_path(
        film.room.plan,
        film.renderer.caster,
        film.depth_camera,
        64,
        np.random.default_rng(4),
    )[:, :3, 3]
    gaps = np.linalg.norm(eyes[:, None, :2] - eyes[None, :, :2], axis=-1)
    later = np.triu(np.ones((64, 64), bool), 30)
    assert (gaps[later] < 0.25).sum() >= 5
    assert (np.linalg.norm(np.diff(eyes, axis=0), axis=1) < 0.05).sum() >= 2


def test_the_first_frame_is_never_lost_and_very_short_films_lose_none():
    for seed in range(20):
        lost = lose_tracking(24, np.random.default_rng(seed))
        assert len(lost) and lost.min() > 0 and lost.max() < 24
    assert len(lose_tracking(7, np.random.default_rng(0))) == 0


def test_the_two_cameras_have_scannets_shape_at_any_size():
    color, depth = draw_cameras(TINY, np.random.default_rng(0))
    assert color.intrinsics[0, 0] / 162 == pytest.approx(1170 / 1296, rel=0.011)
    assert depth.intrinsics[0, 0] / 80 == pytest.approx(577.5 / 640, rel=0.011)
    assert not np.allclose(color.intrinsics[0, 2] / 162, depth.intrinsics[0, 2] / 80)
    again = draw_cameras(
        dataclasses.replace(TINY, color_width=1296, color_height=968),
        np.random.default_rng(0),
    )[0]
    for axis, scale in ((0, 162 / 1296), (1, 121 / 968)):
        centre = (again.intrinsics[axis, 2] + 0.5) * scale - 0.5
        assert color.intrinsics[axis, 2] == pytest.approx(centre)


def test_depth_noise_grows_with_range_and_nothing_lies_beyond_it():
    sensor = DepthSensor(np.random.default_rng(0), 4.0)
    spread = []
    for true in (1.0, 3.0):
        measured = sensor.measure(
            np.full((120, 160), true), np.zeros((120, 160), np.float32)
        )
        assert measured.dtype == np.uint16
        held = (measured > 0) & (measured < 65535)
        assert 0.9 < held.mean() < 1
        errors = measured[held] / 1000 - true
        assert abs(errors.mean()) < 0.003
        spread.append(errors.std())
    assert spread[0] < 0.005 < spread[1] < 0.03
    far = sensor.measure(np.full((60, 80), 4.5), np.zeros((60, 80), np.float32))
    assert set(np.unique(far).tolist()) <= {0, 65535}


def test_depth_fails_where_surfaces_do_and_at_edges():
    depth = np.full((120, 160), 1.0)
    depth[:, 80:] = 2.5
    failing = np.zeros((120, 160), np.float32)
    failing[60:] = 0.9
    measured = DepthSensor(np.random.default_rng(1), 5.0).measure(depth, failing)
    assert (measured[60:] == 0).mean() > 0.75
    assert (measured[:60, :70] == 0).mean() < 0.1
    assert (measured[:60, 79:81] == 0).mean() > 0.4


def test_exposure_evens_out_dark_and_bright_scenes():
    rng = np.random.default_rng(0)
    scene = rng.uniform(0.05, 0.3, (60, 80, 3)).astype(np.float32)
    levels = [
        ColorSensor(np.random.default_rng(3)).expose(scene * np.float32(gain)).mean()
        for gain in (0.25, 1.0, 4.0)
    ]
    assert levels[0] < levels[1] < levels[2]
    assert levels[0] > 70 and levels[2] < 200


@pytest.mark.parametrize("edge_m", [0.3, 0.05])
def test_cutting_keeps_the_area_and_opens_no_cracks(edge_m):
    part = box((0, 0, 0), (1.0, 0.7, 0.02), "cardboard")
    room = _empty_room((Thing("box", (part,)),))
    surfaces = gather(room)
    mesh = cut(surfaces, edge_m)
    corners = mesh.vertices[mesh.faces]
    assert np.linalg.norm(corners - np.roll(corners, 1, 1), axis=2).max() <= edge_m
    ours = mesh.thing[mesh.faces[:, 0]] == len(room.things) - 1
    area = np.cross(
        corners[ours, 1] - corners[ours, 0], corners[ours, 2] - corners[ours, 0]
    )
    assert np.linalg.norm(area, axis=1).sum() / 2 == pytest.approx(2 * 0.7 + 0.068)
    edges = np.sort(
        np.concatenate([mesh.faces[ours][:, [i, (i + 1) % 3]] for i in range(3)]), 1
    )
    _, shared = np.unique(edges, axis=0, return_counts=True)
    assert (shared == 2).all()


def test_short_edges_are_left_alone():
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    faces, source = np.array([[0, 1, 2]]), np.array([5])
    same = subdivide(vertices, faces, source, 2.0)
    np.testing.assert_array_equal(same[1], faces)
    assert len(subdivide(vertices, faces, source, 1.2)[1]) == 2


def test_vertices_are_seen_on_surfaces_and_not_behind_them():
    depth = np.full((60, 80), 2.0)
    pose = np.eye(4)
    points = np.array([[0, 0, 2.0], [0, 0, 2.3], [0, 0, 1.5], [9, 0, 2], [0, 0, -2]])
    seen = seen_by(points, pose, CAMERA, depth)
    np.testing.assert_array_equal(seen, [True, False, False, False, False])


def test_the_wall_behind_a_picture_is_not_in_sight():
    def square(half, z):
        return np.array([[-half, -half, z], [half, -half, z], [half, half, z],
                         [-half, half, z]])  # fmt: skip

    vertices = np.concatenate([square(1.0, 2.0), square(0.3, 1.985)])
    triangles = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    points = np.array([[0.1, 0.05, 2.0], [0.1, 0.05, 1.985], [0.8, 0.1, 2.0]])
    caster = make_caster(vertices, triangles)
    seen = is_in_sight(points, np.eye(4), caster)
    np.testing.assert_array_equal(seen, [False, True, True])


def test_the_mesh_holds_only_what_was_seen(scans):
    mesh = read_ply(SceneFiles(scans, "scene0001_00").mesh)
    whole = cut(set_up("scene0001_00", TINY, "cpu").surfaces, TINY.mesh_edge_m)
    assert 0.2 < len(mesh.vertices) / len(whole.vertices) < 0.95
    corners = mesh.vertices[mesh.faces]
    longest = np.linalg.norm(corners - np.roll(corners, 1, 1), axis=2).max()
    assert longest <= TINY.mesh_edge_m + 1e-5


def _digests(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
    }


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_bytes(tmp_path):
    small = dataclasses.replace(SHORT, color_width=81, color_height=60, mesh_edge_m=0.3)
    found = []
    for name, config in (
        ("a", small),
        ("b", small),
        ("c", dataclasses.replace(small, seed=1)),
    ):
        (tmp_path / name).mkdir()
        write_scene(tmp_path / name, "scene0002_00", True, config)
        found.append(_digests(tmp_path / name))
    assert found[0] == found[1]
    for name, other in itertools.product(found[0], found[2].values()):
        assert found[0][name] != other


@pytest.mark.slow
def test_scenes_are_set_up_without_open3d(monkeypatch):
    monkeypatch.setattr("gnesf_core.geometry.raycast._open3d_works", lambda: False)
    film = set_up("scene0001_00", dataclasses.replace(SHORT, frames=8), "cpu")
    image, thing = scene_module.take_picture(film, film.room_from_camera[0])
    assert image.shape == (121, 162, 3) and (thing >= 0).mean() > 0.999
