"""Rendered views are what the room's closed form says, and scored by hand."""

import json
import math
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from gnesf_core.data import store
from gnesf_core.data.rendered import View
from gnesf_core.errors import BadInput
from gnesf_core.evaluation import novel_view_summary
from gnesf_core.evaluation.novel_views import classes_of, psnr_db, score_views
from gnesf_core.evaluation.tables import Block
from gnesf_core.fields.gnesf import GnesfNetwork, scene_for
from gnesf_core.fields.interface import SceneInputs
from gnesf_core.geometry.camera import pixel_rays, scale_intrinsics
from gnesf_core.labels import IGNORE
from gnesf_core.rendering.rays import rays_through
from gnesf_core.spread import spread
from gnesf_core.views import rendering
from gnesf_core.views.choice import HELD_OUT, targets
from gnesf_core.views.rendering import Renderer
from gnesf_core.views.surface_field import SurfaceField, sources_of
from tests import room_files, tiny_room

COUNT = 16
TARGET = 5
ROLES = np.arange(COUNT) % 4 != 1, np.arange(COUNT) % 2 == 1  # keys, views
SIZE = (24, 18)
FLOOR, BED, CHAIR = 1, 3, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("room")
    frames = room_files.write_frames(path / "frames.h5", *ROLES)
    room_files.write_prior(path / "prior.h5", frames)
    return path


@contextmanager
def renderer(folder, size=SIZE, prior="prior.h5", surface=None, **changes):
    surface = room_files.distances() if surface is None else surface
    network = GnesfNetwork(replace(room_files.FIELD, **changes), room_files.ENCODER)
    with (
        store.Frames(folder / "frames.h5") as frames,
        store.PriorMaps(folder / prior, frames) as maps,
    ):
        inputs = SceneInputs(frames, maps, surface)
        cpu = torch.device("cpu")
        method = SurfaceField(network.eval(), scene_for(network, inputs, cpu))
        sources = sources_of(network.settings, network.picture_size)
        made = Renderer(method, frames, maps, sources, cpu)
        yield partial(made.render_frame, size=size), frames


@pytest.fixture(scope="module")
def rendered(folder):
    with renderer(folder) as (made, _):
        return made(TARGET)


def truth(size=SIZE):
    pose = tiny_room.camera_path(COUNT)[TARGET]
    labels, depth_m = room_files.true_classes(pose, size)
    return labels, depth_m


def inner(labels):
    """Tell which pixels have one class around them: edges are anybody's guess."""
    padded = np.pad(labels, 1, mode="edge")
    around = [np.roll(padded, s, (0, 1))[1:-1, 1:-1] == labels for s in
              ((0, 1), (1, 0), (0, -1), (-1, 0))]  # fmt: skip
    return np.all(around, axis=0)


# What is rendered.


def test_rays_go_through_pixel_centres_of_a_picture_that_covers_the_whole():
    pose, (width, height) = tiny_room.camera_path(COUNT)[TARGET], tiny_room.COLOR_SIZE
    whole = tiny_room.intrinsics((width, height))
    small = scale_intrinsics(whole, (width, height), (5, 6))

    uv = np.stack(np.meshgrid(np.arange(5), np.arange(6)), -1).reshape(-1, 2)
    rays = rays_through(small, pose, uv)

    directions = rays.directions_world.numpy()
    assert np.linalg.norm(directions, axis=1) == pytest.approx(1)
    assert (rays.origins_world.numpy() == pose[:3, 3]).all()
    x, y, z = (directions @ pose[:3, :3]).T
    u, v = whole[0, 0] * x / z + whole[0, 2], whole[1, 1] * y / z + whole[1, 2]
    # 96 x 72 pixels in 5 x 6 equal parts: their middles, in the large one's pixels.
    columns, rows = 19.2 * (np.arange(5) + 0.5) - 0.5, 12 * (np.arange(6) + 0.5) - 0.5
    np.testing.assert_allclose(u, np.tile(columns, 6))
    np.testing.assert_allclose(v, np.repeat(rows, 5))


def test_distances_end_on_the_rooms_planes(rendered):
    labels, depth_m = truth()
    inside = inner(labels)
    pose = tiny_room.camera_path(COUNT)[TARGET]
    rays = pixel_rays(tiny_room.intrinsics(SIZE), *SIZE) @ pose[:3, :3].T
    ends = pose[:3, 3] + rendered.depth_m[..., None] * rays
    # Eq. 8 counts more before a slanted surface than behind it.
    assert np.abs(room_files.signed_distance(ends))[inside].max() < 0.02
    assert np.abs(rendered.depth_m - depth_m)[inside].mean() < 0.03


def test_classes_are_what_the_key_frames_were_labelled_as(rendered):
    labels, _ = truth()
    found = rendered.probabilities.argmax(0)
    judged = inner(labels) & (labels != IGNORE) & rendered.known
    assert judged.mean() > 0.6 and CHAIR in labels[judged]
    assert (found == labels)[judged].mean() > 0.98


def test_what_no_prior_knows_has_no_class_but_a_distance(folder):
    def silent_about_floor(frames, position):
        pose = frames.world_from_camera[position]
        labels, _ = room_files.true_classes(pose, tiny_room.COLOR_SIZE)
        return room_files.one_hot(labels) * (labels != FLOOR)

    room_files.write_prior(
        folder / "silent.h5", folder / "frames.h5", silent_about_floor
    )
    with renderer(folder, prior="silent.h5") as (made, _):
        view = made(TARGET)
    labels, _ = truth()
    floor = inner(labels) & (labels == FLOOR)
    assert floor.sum() > 10 and view.depth_m[floor].all()
    assert not view.known[floor].any() and not view.probabilities[:, floor].any()
    assert view.known[inner(labels) & (labels == CHAIR)].all()


def test_colours_are_those_of_the_pictures(rendered):
    labels, _ = truth()
    shades = np.stack(np.vectorize(room_files.SHADE.get)(labels), -1)
    error = np.abs(rendered.color - shades).max(-1)
    assert np.quantile(error[inner(labels) & rendered.known], 0.95) <= 3


@pytest.mark.parametrize("kind", ["keys", "views", "kept"])
def test_a_frame_never_votes_on_its_own_view(folder, kind):
    with renderer(folder, (4, 3), source_frames=kind, views=COUNT) as (made, frames):
        roles = {"keys": frames.is_key, "views": frames.is_view}
        chosen = roles.get(kind, np.ones(COUNT, bool))
        for target in targets(frames, HELD_OUT, 2):
            sources = made(target).sources
            assert target not in sources and chosen[list(sources)].all()


def test_what_its_own_prior_says_changes_nothing(folder, rendered):
    def liar(frames, position):
        bed = np.full(tiny_room.COLOR_SIZE[::-1], BED, np.uint8)
        return room_files.one_hot(bed) if position == TARGET else None

    room_files.write_prior(folder / "liar.h5", folder / "frames.h5", liar)
    with renderer(folder, source_frames="kept", prior="liar.h5") as (made, _):
        view = made(TARGET)
    assert not view.probabilities[BED].any() and view.known.mean() > 0.6


def test_pictures_do_not_depend_on_how_many_rays_are_rendered_at_once(
    folder, rendered, monkeypatch
):
    monkeypatch.setitem(rendering._CHUNKS, "cpu", 77)
    with renderer(folder) as (made, _):
        view = made(TARGET)
    for ours, theirs in zip(view[:-1], rendered[:-1], strict=True):
        np.testing.assert_allclose(ours.astype(float), theirs, atol=1e-5)


@pytest.mark.parametrize("vote_at", ["samples", "voxels"])
def test_where_nothing_is_known_nothing_is_seen(folder, vote_at):
    known = room_files.distances()
    nothing = replace(known, weight=np.zeros_like(known.weight))
    with renderer(folder, surface=nothing, vote_at=vote_at) as (made, frames):
        view = made(TARGET)
        scores = score_views({TARGET: view}, frames)
    assert not view.known.any() and not view.probabilities.any()
    assert not view.depth_m.any() and (view.color == view.color[0, 0]).all()
    assert scores["rays_rendered"] == 0 < scores["rays"]
    assert scores["semantics"]["overall_accuracy"] == 0.0
    (line,) = scores["frames"]
    assert (line["miou"], line["psnr_db"]) == (0.0, None)
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_a_surface_that_no_source_view_sees_has_no_class(folder):
    with renderer(folder, far_m=0.5) as (made, _):
        view = made(TARGET)
    assert not view.known.any() and not view.probabilities.any()


def test_without_other_source_views_there_is_nothing_to_render_from(tmp_path):
    only = np.arange(3) == 1
    path = room_files.write_frames(tmp_path / "frames.h5", ~only, only)
    room_files.write_prior(tmp_path / "prior.h5", path)
    with (
        renderer(tmp_path, source_frames="views") as (made, _),
        pytest.raises(BadInput, match="expected source views .*views.*, found"),
    ):
        made(1)


# Which frames.


def test_held_out_frames_are_views_and_no_key_frames(folder):
    with store.Frames(folder / "frames.h5") as frames:
        every = [n for n in range(COUNT) if ROLES[1][n] and not ROLES[0][n]]
        assert targets(frames, HELD_OUT, 100) == every == [1, 5, 9, 13]
        assert targets(frames, HELD_OUT, 2) == [5, 13]
        assert targets(frames, HELD_OUT, 1) == [9]


@pytest.mark.parametrize("count", [1, 2, 5, 9, 100])
@pytest.mark.parametrize("most", [1, 2, 4, 7])
def test_places_are_spread_evenly(count, most):
    places = spread(count, most)
    assert len(set(places)) == len(places) == min(count, most)
    edges = [-1, *places, count]
    inner = np.diff(places)
    assert inner.size == 0 or np.ptp(inner) <= 1
    # Neither end is preferred: gaps there are half of those between, up to rounding.
    assert abs((edges[1] - edges[0]) - (edges[-1] - edges[-2])) <= 1


# What it scores.


def view_of(labels, color, known=None):
    known = np.ones(labels.shape, bool) if known is None else known
    shares = (255 * room_files.one_hot(labels) * known).astype(np.uint8)
    return View(shares, color, known.astype(np.float32), known, (0,))


def test_a_perfect_view_scores_one_and_is_as_close_as_bytes_can_be(folder):
    with store.Frames(folder / "frames.h5") as frames:
        view = view_of(frames.labels(TARGET), frames.color(TARGET))
        scores = score_views({TARGET: view}, frames)
    (line,) = scores["frames"]
    assert line["miou"] == line["mean_accuracy"] == line["accuracy"] == 1.0
    assert line["psnr_db"] == pytest.approx(10 * math.log10(255**2 * 12))
    assert (line["index"], line["sources"]) == (TARGET, [0])


def test_unrendered_pixels_count_against_their_class_and_not_in_colours(folder):
    with store.Frames(folder / "frames.h5") as frames:
        labels, color = frames.labels(TARGET), frames.color(TARGET).astype(int)
        known = np.arange(labels.shape[1]) % 2 == np.zeros((len(labels), 1))
        wrong = np.where(known[..., None], np.where(color < 128, 10, -10), 99)
        view = view_of(labels, (color + wrong).astype(np.uint8), known)
        scores = score_views({TARGET: view}, frames)
    (line,) = scores["frames"]
    judged = labels != IGNORE
    assert line["accuracy"] == pytest.approx(known[judged].mean())
    assert line["psnr_db"] == pytest.approx(20 * math.log10(255 / 10))
    assert scores["rays_rendered"] == line["rays_rendered"] == known.sum()
    void = scores["semantics"]["points_void_prediction"]
    assert void == (judged & ~known).sum()


def test_maps_are_interpolated_to_the_labels_before_anything_is_decided(folder):
    width, height = tiny_room.COLOR_SIZE
    coarse = np.zeros((20, 1, 2), np.uint8)
    coarse[BED, 0, 0], coarse[CHAIR, 0, 1] = 255, 85
    color = np.zeros((1, 2, 3), np.uint8)
    view = View(coarse, color, np.ones((1, 2), np.float32), np.ones((1, 2), bool), ())
    with store.Frames(folder / "frames.h5") as frames:
        labels = classes_of(view, frames)
    # 255 (1 - x) = 85 x at x = 3/4 of the way between the centres of two pixels.
    border = width / 4 + 0.75 * width / 2
    expected = np.where(np.arange(width) + 0.5 < border, BED, CHAIR)
    assert (labels == expected).mean() > 0.98 and labels.shape == (height, width)


def test_confusions_of_frames_add_up(folder):
    with store.Frames(folder / "frames.h5") as frames:
        views = {
            position: view_of(frames.labels(position - 1), frames.color(position))
            for position in (5, 9)
        }
        both = score_views(views, frames)
        single = [score_views({p: view}, frames) for p, view in views.items()]
    assert both["frames"] == [own["frames"][0] for own in single]
    added = np.sum([own["confusion"] for own in single], axis=0)
    np.testing.assert_array_equal(both["confusion"], added)


def test_a_scene_without_labels_is_refused(tmp_path):
    path = room_files.write_frames(tmp_path / "f.h5", *ROLES, labelled=False)
    with store.Frames(path) as frames, pytest.raises(BadInput, match="expected 2D"):
        score_views({}, frames)


def test_noise_is_as_loud_as_its_definition_says():
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 256, (2, 50, 3), dtype=np.uint8)
    squares = [
        (int(a) - int(b)) ** 2 for a, b in zip(one.flat, other.flat, strict=True)
    ]
    expected = 10 * math.log10(255**2 / (sum(squares) / 150))
    assert psnr_db(one, other) == pytest.approx(expected)
    assert psnr_db(one[:0], other[:0]) is None


# Tables.

PROTOCOL = {"geometry": "fused", "frames_per_scene": 4, "size": "8x6",
            "source_frames": "keys", "source_views": 10, "views": "held-out",
            "views_words": "Frames that are spread", "image_quality": "gnesf",
            "image_words": "PSNR of everything."}  # fmt: skip


def row(folder, field, scene, known=None, **protocol):
    with store.Frames(folder / "frames.h5") as frames:
        view = view_of(frames.labels(TARGET), frames.color(TARGET), known)
        scores = score_views({TARGET: view}, frames)
    names = {"field": field, "scene": scene, "protocol": PROTOCOL | protocol}
    return scores | names


def test_fields_are_pooled_by_themselves_and_shares_from_sums(folder):
    half = np.zeros(tiny_room.COLOR_SIZE[::-1], bool)
    half[: len(half) // 2] = True
    rows = [
        row(folder, "a", "s0"),
        row(folder, "b", "s0"),
        row(folder, "a", "s1", half),
    ]
    rows.append(row(folder, "b", "s1", np.zeros_like(half)))
    rows[2]["rays"] *= 3  # a larger picture counts for more
    rows[2]["rays_rendered"] *= 3

    one, other = novel_view_summary.per_field(rows)

    assert (one["field"], one["scenes"], one["images"]) == ("a", 2, 2)
    assert one["rendered"] == pytest.approx((1 + 1.5) / 4)
    assert other["rendered"] == other["per_image_miou"] == 0.5
    assert other["void_prediction"] == 0.5
    # A picture of which nothing was rendered has no colours to be judged by.
    assert other["per_image_psnr_db"] == pytest.approx(10 * math.log10(255**2 * 12))
    frames = novel_view_summary.per_frame(rows)
    assert [line["scene"] for line in frames if line["field"] == "b"] == ["s1", "s0"]


def test_every_table_names_its_protocol(folder):
    rows = [row(folder, "a", "s0"), row(folder, "b", "s0", geometry="learned")]

    blocks = novel_view_summary.blocks(rows, "val")

    assert len(blocks) == 4
    for block in blocks:
        assert isinstance(block, Block)
        for words in ("split (held-out). Frames that are spread.", "fused / learned",
                      "at most 4 frames, from key frames", "At most 10 source views",
                      "Colours (gnesf): PSNR of everything."):  # fmt: skip
            assert words in block.protocol
    scores, protocol = blocks[:2]
    assert all(len(line) == len(scores.columns) for line in scores.rows)
    for words in ("mIoU, per image", "mIoU, per scene", "mIoU, data set",
                  "mAcc, data set", "rendered", "PSNR", "SSIM", "LPIPS"):  # fmt: skip
        assert words in scores.columns
    assert [line[1] for line in protocol.rows] == ["fused", "learned"]


def test_colours_of_all_pixels_and_of_seen_ones_stand_apart(folder):
    rows = [row(folder, "a", "s0"), row(folder, "a", "s1")]
    for own, decibels in zip(rows, (20.0, 30.0), strict=True):
        own["frames"][0] |= {"full_psnr_db": decibels, "ssim": 0.25, "lpips": None}
    block = novel_view_summary.blocks(rows, "val")[0]
    line = dict(zip(block.columns, block.rows[0], strict=True))
    assert [line[n] for n in ("PSNR", "SSIM", "LPIPS")] == ["25.00", "0.250", "-"]
    assert float(line["PSNR, rendered pixels"]) > 50
    (numbers,) = novel_view_summary.per_field(rows)
    assert (numbers["per_image_full_psnr_db"], numbers["per_image_lpips"]) == (25, None)
    assert (numbers["views"], numbers["image_quality"]) == ("held-out", "gnesf")


def test_what_one_quotes_is_few_columns_of_the_same_scores_with_their_protocol(folder):
    rows = [row(folder, "a", "s0"), row(folder, "a", "s1")]
    rows[1]["frames"][0] |= {"miou": 0.5, "full_psnr_db": 20.0, "ssim": 0.25}
    block = novel_view_summary.headline_block(rows, "val")
    assert "views: held-out; colours: gnesf" in block.title
    assert "2 frames of 2 scenes. Frames that are spread." in block.protocol
    line = dict(zip(block.columns, block.rows[0], strict=True))
    assert (line["mIoU per image"], line["data set"]) == ("75.0", "100.0")
    assert len(block.columns) <= 7 and line["renderer"] == "a"


def test_gaps_between_rays_that_saw_something_are_not_filled(folder):
    """A quarter of a picture's pixels is known, no two of them side by side."""
    with store.Frames(folder / "frames.h5") as frames:
        width, height = frames.color_size
        small = (width // 4, height // 4)
        known = np.zeros(small[::-1], bool)
        known[::2, ::2] = True
        labels = np.full(small[::-1], CHAIR, np.uint8)
        color = np.zeros((*small[::-1], 3), np.uint8)
        found = classes_of(view_of(labels, color, known), frames)
    np.testing.assert_array_equal(found == IGNORE, ~known.repeat(4, 0).repeat(4, 1))
    assert set(np.unique(found)) == {CHAIR, IGNORE}


def test_of_nothing_there_are_no_scores(folder):
    empty = row(folder, "a", "s0", np.zeros(tiny_room.COLOR_SIZE[::-1], bool))
    empty |= {"frames": [], "confusion": np.zeros((21, 21), int).tolist()}
    empty |= {"rays": 0, "rays_rendered": 0, "semantics": {"points": 0}}

    (line,) = novel_view_summary.per_field([empty])

    assert line["rendered"] is line["per_image_psnr_db"] is line["per_image_miou"]
    assert line["rendered"] is None
