"""The rooms themselves, before anything is rendered."""

import itertools
from functools import cache

import numpy as np
import pytest

from gnesf_core.config import SynthRoomsCounts
from gnesf_core.errors import BadInput
from gnesf_core.labels import NYU40_IDS, train_ids_from_nyu40
from gnesf_core.synthrooms.categories import (
    CATEGORIES,
    ID_FROM_CATEGORY,
    NYU40_FROM_CATEGORY,
    label_rows,
)
from gnesf_core.synthrooms.plan import overlap, rectangle
from gnesf_core.synthrooms.rooms import KINDS, build_room, streams, walkable
from gnesf_core.synthrooms.scene import scene_kind, scene_names, scene_number
from gnesf_core.synthrooms.shapes import box, cushion, cylinder, drape, loft, place
from gnesf_core.synthrooms.surfaces import gather

DEMO = SynthRoomsCounts(scenes_train=12, scenes_val=4, scenes_test=2)


@cache
def _room(kind, scene, seed=0):
    return build_room(kind, streams(seed, scene))


def _demo_rooms(split):
    return [
        _room(scene_kind(scene), scene_number(scene))
        for scene in scene_names(DEMO)[split]
    ]


def _classes(rooms):
    nyu40 = {NYU40_FROM_CATEGORY.get(t.category, 0) for r in rooms for t in r.things}
    return nyu40 & set(NYU40_IDS)


@pytest.mark.parametrize("split", ["train", "val"])
def test_all_classes_of_the_benchmark_occur(split):
    assert _classes(_demo_rooms(split)) == set(NYU40_IDS)


def test_void_and_unannotated_things_occur():
    things = [thing for room in _demo_rooms("train") for thing in room.things]
    void = {t.category for t in things} - {""}
    void = {c for c in void if NYU40_FROM_CATEGORY[c] not in NYU40_IDS}
    assert len(void) >= 10
    assert any(thing.category == "" for thing in things)


def test_scenes_are_numbered_through_the_splits():
    names = scene_names(DEMO)
    assert names["train"][0] == "scene0000_00"
    assert names["val"] == tuple(f"scene{i:04d}_00" for i in range(12, 16))
    assert names["test"] == ("scene0016_00", "scene0017_00")
    assert {scene_kind(scene) for scene in names["val"]} == set(KINDS)
    with pytest.raises(BadInput):
        scene_number("../../x")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 5])
def test_nothing_sticks_out_of_the_room(kind, seed):
    room = _room(kind, 7, seed)
    for thing in room.things:
        points = np.concatenate([part.vertices for part in thing.parts])
        # Doors and windows lie in the walls, up to 13 cm deep, and trim around them.
        deep = 0.14 if thing.category in ("door", "window") else 1e-6
        outside = ~room.plan.contains(points[:, :2])
        far = room.plan.wall_distance(points[outside, :2])
        assert far.max(initial=0) <= deep, thing.category
        assert points[:, 2].min() >= (-1e-9 if deep < 0.1 else -0.021), thing.category
        assert points[:, 2].max() <= room.plan.height + 1e-9, thing.category


@pytest.mark.parametrize("kind", KINDS)
def test_furniture_does_not_stand_in_furniture(kind):
    chairs = {"chair", "office chair"}
    for scene in range(4):
        room = _room(kind, scene)
        outlines = []
        for thing in room.things:
            points = np.concatenate([part.vertices for part in thing.parts])
            on_floor = points[:, 2].min() < 0.01 and points[:, 2].max() > 0.2
            if on_floor and thing.category not in ("wall", "door", "window", "curtain"):
                outlines.append((thing.category, points))
        for (a, p), (b, q) in itertools.combinations(outlines, 2):
            if {a, b} & chairs or {a, b} <= {"bathtub", "shower curtain"}:
                continue  # chairs are pushed under tables
            assert _separated(p[:, :2], q[:, :2]), (a, b, scene)


def _separated(p, q):
    """Tell whether some direction separates two point sets of the plane."""
    for angle in np.linspace(0, np.pi, 180, endpoint=False):
        axis = np.array([np.cos(angle), np.sin(angle)])
        a, b = p @ axis, q @ axis
        if a.max() < b.min() or b.max() < a.min():
            return True
    return False


def test_rooms_leave_floor_to_walk_on_away_from_furniture():
    for kind in KINDS:
        room = _room(kind, 7)
        points = walkable(room.plan, clearance=0.3)
        assert len(points) > 100
        for footprint in room.plan.footprints:
            edges = np.linspace(footprint, np.roll(footprint, -1, 0), 30).reshape(-1, 2)
            gaps = np.linalg.norm(points[:, None] - edges, axis=2)
            assert gaps.min() > 0.3 - 1e-9


def test_the_same_seed_gives_the_same_room_and_another_seed_another():
    first = gather(_room("office", 3))
    again = gather(build_room("office", streams(0, 3)))
    np.testing.assert_array_equal(first.corners, again.corners)
    assert first.materials == again.materials
    other = gather(_room("office", 3, seed=1))
    assert first.corners.shape != other.corners.shape


def test_no_two_rooms_of_a_kind_are_alike():
    rooms = [_room("bathroom", scene) for scene in range(4)]
    sizes = {tuple(np.round(room.plan.corners.max(0), 3)) for room in rooms}
    tubs = {
        round(float(np.ptp(np.concatenate([p.vertices for p in t.parts])[:, 2])), 4)
        for room in rooms
        for t in room.things
        if t.category == "bathtub"
    }
    assert len(sizes) == 4 and len(tubs) == 4


def test_looks_change_without_moving_the_furniture():
    rngs = streams(0, 3)
    rngs["looks"] = np.random.default_rng(99)
    other = gather(build_room("office", rngs))
    first = gather(_room("office", 3))
    np.testing.assert_array_equal(first.corners, other.corners)
    assert first.materials != other.materials


def test_the_label_map_has_several_names_for_a_class_and_large_ids():
    assert len(set(ID_FROM_CATEGORY.values())) == len(CATEGORIES)
    assert NYU40_FROM_CATEGORY["office chair"] == NYU40_FROM_CATEGORY["chair"] == 5
    assert max(ID_FROM_CATEGORY.values()) > 1000
    assert sum(nyu40 not in NYU40_IDS for _, _, nyu40 in CATEGORIES) >= 10
    train = train_ids_from_nyu40(np.array([nyu40 for _, _, nyu40 in CATEGORIES]))
    assert set(range(20)) <= set(train.tolist())
    assert {row["nyu40id"] for row in label_rows()} >= {str(i) for i in NYU40_IDS}


def _area(part):
    corners = part.vertices[part.triangles]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return np.linalg.norm(cross, axis=1).sum() / 2


def test_areas_of_shapes_are_those_of_the_formulas():
    assert _area(box((0, 0, 0), (1, 2, 3), "plain")) == pytest.approx(22)
    open_box = box((0, 0, 0), (1, 2, 3), "plain", without=("top", "left"))
    assert _area(open_box) == pytest.approx(22 - 2 - 6)
    can = cylinder((0, 0), 0.5, 0, 2, "plain", segments=200)
    assert _area(can) == pytest.approx(2 * np.pi * 0.5 * 2 + 2 * np.pi * 0.25, rel=1e-3)
    rings = [(0, 0, z, r, r) for z, r in ((0, 1), (1, 0.5))]
    cone = loft(rings, "plain", segments=200, cap_low=False, cap_high=False)
    assert _area(cone) == pytest.approx(np.pi * 1.5 * np.hypot(1, 0.5), rel=1e-3)


@pytest.mark.parametrize(
    "part",
    [
        box((-1, -2, -3), (1, 2, 3), "plain"),
        cylinder((0, 0), 0.5, -1, 1, "plain"),
        cushion((-1, -1, -0.5), (1, 1, 0.5), "plain"),
    ],
    ids=["box", "cylinder", "cushion"],
)
def test_normals_point_out_of_closed_shapes(part):
    assert ((part.vertices * part.normals).sum(1) > 0).all()
    np.testing.assert_allclose(np.linalg.norm(part.normals, axis=1), 1, atol=1e-9)


def test_cushions_fill_their_box_and_drapes_their_span():
    part = cushion((0, 0, 0), (2, 1, 0.4), "plain")
    assert part.vertices.min() >= 0
    np.testing.assert_allclose(part.vertices.max(0)[:2], (2, 1), atol=0.03)
    cloth = drape((0, 0), (2, 0), 0.5, 2.0, "plain", waves=8.0, depth=0.05)
    np.testing.assert_allclose(np.ptp(cloth.vertices, axis=0)[[0, 2]], (2, 1.5))
    assert np.abs(cloth.vertices[:, 1]).max() < 0.05 * 1.31


def test_overlap_agrees_with_points_inside_both_rectangles():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        frames = [place(*rng.uniform(-1, 1, 2), 0, rng.uniform(0, 360)) for _ in "ab"]
        a, b = (rectangle(frame, 1.0, 0.0, 0.7) for frame in frames)
        grid = np.stack(
            np.meshgrid(np.linspace(-0.5, 0.5, 60), np.linspace(0, 0.7, 60))
        )
        points = grid.reshape(2, -1).T @ frames[0][:2, :2].T + frames[0][:2, 3]
        local = (points - frames[1][:2, 3]) @ frames[1][:2, :2]
        common = (np.abs(local[:, 0]) < 0.5) & (local[:, 1] > 0) & (local[:, 1] < 0.7)
        assert overlap(a, b) or not common.any()
        found.append((overlap(a, b, gap=-0.02), common.any()))
    assert all(common for overlapping, common in found if overlapping)
    assert 20 < sum(common for _, common in found) < 180
