"""Picturing what a field makes of its prior, in a room that is known exactly."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image

from gnesf_core.data.scannet import write_mesh_labels
from gnesf_core.errors import BadInput
from gnesf_core.fields.gnesf import GnesfNetwork
from gnesf_core.geometry.camera import pixel_rays, transform
from gnesf_core.training.weights import write_weights
from stages import extract_mesh, plot_field
from tests import room_files, tiny_room

FRAMES = 24
WALL, BED = room_files.CLASS[tiny_room.WALL], 3
FIRST_SHOWN = 6  # middle of the first half of the frames
DPI = 64
POSTER = np.array([4.0, 2.1, 1.3])  # middle of a square on a wall
NOTHING = np.zeros((0, 3), np.int32)
BLUE, VERMILLION = (0, 114, 178), (213, 94, 0)


def blind_in_one_frame(frames, position):
    """Say bed of everything in one of the frames that are shown, else the truth."""
    labels = frames.labels(position)
    return room_files.one_hot(
        np.full_like(labels, BED) if position == FIRST_SHOWN else labels
    )


def split_on_a_poster(frames, position):
    """Say in every frame that something else hangs on a wall."""
    pose, size = frames.world_from_camera[position], tiny_room.COLOR_SIZE
    labels, depth_m = room_files.true_classes(pose, size)
    rays = pixel_rays(tiny_room.intrinsics(size), *size)
    points = transform(pose, depth_m[..., None] * rays)
    labels[(np.abs(points - POSTER) < 0.3).all(-1)] = hung(position)
    return room_files.one_hot(labels)


def hung(position):
    return 1 + position % 19


PRIORS = {
    "good": lambda frames, position: None,
    "blind": blind_in_one_frame,
    "split": split_on_a_poster,
}


@pytest.fixture(scope="module", autouse=True)
def in_small():
    """Draw two frames rather than four, and coarsely."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plot_field, "ROWS", 2)
        patch.setattr(plot_field, "DPI", DPI)
        patch.setattr(plot_field, "MOST_POINTS", 300)
        yield


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Write a room with three priors, and each one's mesh by equal votes."""
    folder = tmp_path_factory.mktemp("scene")
    roles = [True] * FRAMES, [False] * FRAMES
    frames = room_files.write_frames(folder / "frames.h5", *roles)
    room_files.write_volume(folder / "volume.h5", frames, room_files.distances())
    points, nyu40 = tiny_room.truth_vertices(0.05)
    write_mesh_labels(folder / "truth.ply", points, NOTHING, nyu40)
    for name, scores in PRIORS.items():
        room_files.write_prior(folder / f"{name}.h5", frames, scores)
        make_mesh(folder, name)
    return folder


def recipe(**changes):
    return json.dumps(asdict(replace(room_files.FIELD, **changes)))


def given(folder, prior):
    return folder / "frames.h5", folder / "volume.h5", folder / f"{prior}.h5"


def make_mesh(folder, prior, mesh=None, module="gnesf", text=None, **others):
    mesh = folder / f"{mesh or prior}.ply"
    others = {"encoder": room_files.ENCODER} | others
    text = recipe() if text is None else text
    extract_mesh.main(*given(folder, prior), mesh, module, text, **others)


def draw(folder, out, prior, mesh=None, module="gnesf", text=None, **others):
    mesh, text = folder / f"{mesh or prior}.ply", recipe() if text is None else text
    others = {"encoder": room_files.ENCODER} | others
    where = mesh, folder / "truth.ply", out, "votes", module, text
    plot_field.main(*given(folder, prior), *where, **others)
    return np.asarray(Image.open(out).convert("RGB"))


def pixels_of(picture, color):
    close = np.abs(picture.astype(int) - color) <= 1
    return close.all(axis=-1).sum()


@pytest.fixture(scope="module")
def pictures(scene):
    """Draw each prior's field, and remember the points whose votes are shown."""
    shown = {}
    draw_votes = plot_field._draw_votes
    with pytest.MonkeyPatch.context() as patch:
        for name in PRIORS:

            def remember(part, kept, disputed, name=name):
                shown[name] = disputed
                return draw_votes(part, kept, disputed)

            patch.setattr(plot_field, "_draw_votes", remember)
            shown[name, "picture"] = draw(scene, scene / f"{name}.png", name)
    return shown


def test_only_what_the_field_corrects_is_blue(pictures):
    legend = pixels_of(pictures["good", "picture"], BLUE)
    corrected = pixels_of(pictures["blind", "picture"], BLUE)
    frame = (plot_field.WIDTH_INCHES * DPI / 6) ** 2 * 0.75
    # But for the ceiling, which has no class, and the borders of classes.
    assert corrected - legend > 0.5 * frame
    spoilt = pixels_of(pictures["good", "picture"], VERMILLION)
    assert spoilt < 0.1 * frame
    assert pictures["good", "picture"].shape[1] == 11 * DPI


def test_the_votes_shown_are_those_on_the_point_that_views_are_split_on(pictures):
    disputed = pictures["split"]
    assert disputed.truth == WALL
    assert len(disputed.votes) >= plot_field.LEAST_VIEWS
    said = [vote.probabilities.argmax() for vote in disputed.votes]
    assert said == [hung(vote.position) for vote in disputed.votes]
    assert disputed.label in said
    weights = [vote.weight for vote in disputed.votes]
    np.testing.assert_allclose(weights, 1 / len(weights), rtol=1e-6)


def test_the_rings_in_all_crops_are_around_one_point_of_the_poster(pictures):
    size, shown = tiny_room.COLOR_SIZE, []
    for vote in pictures["split"].votes:
        pose = tiny_room.camera_path(FRAMES)[vote.position]
        u, v = np.floor(np.add(vote.uv, 0.5)).astype(int)
        depth_m = room_files.true_classes(pose, size)[1][v, u]
        ray = pixel_rays(tiny_room.intrinsics(size), *size)[v, u]
        shown.append(transform(pose, depth_m * ray[None])[0])
    assert np.abs(shown - POSTER).max() < 0.35
    assert np.ptp(shown, axis=0).max() < 0.1  # a few pixels


def test_equal_inputs_give_equal_files(scene, pictures, tmp_path):
    draw(scene, tmp_path / "again.png", "split")
    again = (tmp_path / "again.png").read_bytes()
    assert again == (scene / "split.png").read_bytes()


def fusion(folder):
    settings = {"rule": "mean", "depth_tolerance_m": 0.1, "max_depth_m": 6.0}
    return {"module": "fusion", "text": json.dumps(settings | {"max_weight": 64.0})}


def nearest(folder):
    """Let one view vote on each point: they cannot disagree."""
    return {"text": recipe(vote="nearest")}


def direct(folder):
    torch.manual_seed(0)
    encoder = replace(room_files.ENCODER, image_width=64, image_height=48)
    network = GnesfNetwork(replace(room_files.FIELD, vote="direct"), encoder)
    weights = folder / "direct.safetensors"
    write_weights(weights, network.state_dict(), {})
    others = {"weights": weights, "features": folder / "volume.h5"}
    return {"text": recipe(vote="direct"), "encoder": encoder} | others


@pytest.mark.parametrize("kind", [fusion, nearest, direct])
def test_a_field_without_votes_is_drawn_without_them(kind, scene, pictures, tmp_path):
    how = kind(scene)
    make_mesh(scene, "good", kind.__name__, **how)
    picture = draw(scene, tmp_path / "out.png", "good", kind.__name__, **how)
    assert len(picture) < len(pictures["good", "picture"]) - 2 * DPI
    assert picture.shape[1] == 11 * DPI


def test_frames_without_labels_are_drawn_unjudged(scene, tmp_path):
    roles = [True] * 6, [False] * 6
    frames = room_files.write_frames(tmp_path / "frames.h5", *roles, labelled=False)
    room_files.write_volume(tmp_path / "volume.h5", frames, room_files.distances())
    room_files.write_prior(tmp_path / "good.h5", frames)
    (tmp_path / "truth.ply").write_bytes((scene / "truth.ply").read_bytes())
    make_mesh(tmp_path, "good")
    picture = draw(tmp_path, tmp_path / "out.png", "good")
    # The legend's patches are all there is of these.
    assert pixels_of(picture, BLUE) < 1000 and pixels_of(picture, VERMILLION) < 1000


def test_a_mesh_made_from_another_prior_is_refused(scene, tmp_path):
    with pytest.raises(BadInput, match="input prior"):
        draw(scene, tmp_path / "out.png", "split", "good")
    assert not (tmp_path / "out.png").exists()
