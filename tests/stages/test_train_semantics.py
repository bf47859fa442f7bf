"""A field from files to a labelled mesh: trained, killed, stopped, shared, refused."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gnesf_core.data import store
from gnesf_core.data.meshes import read_mesh
from gnesf_core.data.publish import sha256_of
from gnesf_core.errors import BadInput
from gnesf_core.fields import gnesf
from gnesf_core.labels import IGNORE
from gnesf_core.training.weights import read_weights, write_weights
from stages import extract_mesh, train_semantics
from stages.cli import EXIT_BAD_DATA, EXIT_STOPPED
from tests import field_scenes, room_files, tiny_room
from tests.field_scenes import DATA, ENCODER, SETTINGS, TRAINING
from tests.stages.test_train_sdf import ENVIRONMENT, run_pair

ROOT = Path(__file__).parents[2]
LONGER = replace(TRAINING, steps=20, state_steps=5, validate_steps=8)
NO_COLOR = (127, 127, 127)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums are to be those of the commands below."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    """Return a folder with two rooms that teach, one that judges, and an encoder."""
    folder = tmp_path_factory.mktemp("rooms")
    for name in "abc":
        field_scenes.write_scene(folder, name)
    field_scenes.write_start(folder / "start.safetensors")
    return folder


def arguments(rooms, folder, training=TRAINING, settings=SETTINGS):
    scenes = field_scenes.scenes_in(rooms)
    names = ("model.safetensors", "last.safetensors", "metrics.jsonl")
    return (
        *map(list, zip(*scenes, strict=True)), rooms / "start.safetensors",
        *(folder / name for name in names), "gnesf", json.dumps(asdict(settings)),
        ENCODER, DATA, training,
    )  # fmt: skip


def train(rooms, folder, training=TRAINING, settings=SETTINGS):
    train_semantics.main(*arguments(rooms, folder, training, settings))
    return folder / "model.safetensors"


def command(rooms, folder, training=TRAINING):
    names = (
        "frames", "priors", "surfaces", "features", "start", "out", "last", "metrics",
        "module", "recipe", "encoder", "data", "training",
    )  # fmt: skip
    words = [sys.executable, "-m", "stages.train_semantics"]
    for name, value in zip(names, arguments(rooms, folder, training), strict=True):
        if hasattr(value, "__dataclass_fields__"):
            value = json.dumps(asdict(value))
        values = value if isinstance(value, list) else [value]
        words += [f"--{name}", *map(str, values)]
    return words


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(rooms, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return train(rooms, folder, LONGER)


def test_training_ends_in_best_and_last_weights_and_curves(rooms, trained):
    lines = lines_of(trained.parent / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, LONGER.steps + 1))
    assert {"semantic", "color", "loss"} <= set(lines[0])
    best, about = read_weights(trained)
    last, about_last = read_weights(trained.parent / "last.safetensors")
    assert best.keys() == last.keys() and about_last["step"] == str(LONGER.steps)
    validated = {line["step"]: line["validation"] for line in lines
                 if line.get("validation") is not None}  # fmt: skip
    assert set(validated) == {8, 16, 20}
    assert int(about["step"]) == min(validated, key=validated.get)
    assert not list((trained.parent / "training").glob("state*"))


def test_weights_say_what_they_were_made_of(rooms, trained):
    made_by = json.loads(read_weights(trained)[1]["provenance"])
    assert made_by["stage"] == "train_semantics" and made_by["seed"] == TRAINING.seed
    recipe, inputs = made_by["recipe"], made_by["inputs"]
    assert recipe["settings"] == asdict(SETTINGS) and recipe["data"] == asdict(DATA)
    assert recipe["encoder"] == asdict(ENCODER) and recipe["module"] == "gnesf"
    assert inputs["start"] == sha256_of(rooms / "start.safetensors")
    roles = {f"{role} {name}" for name in "abc"
             for role in ("frames", "prior", "surface", "features")}  # fmt: skip
    assert set(inputs) == roles | {"start"}
    with store.Frames(rooms / "b.h5") as frames:
        assert inputs["frames b"] == frames.fingerprint


def wait_for_progress(run, folder, known=0):
    """Wait until the training has told more than is known."""
    log = folder / "training/metrics.jsonl"
    deadline = time.monotonic() + 240
    while run.poll() is None and not (log.exists() and log.stat().st_size > known):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return log.stat().st_size if log.exists() else 0


@pytest.mark.slow
def test_training_stopped_and_then_killed_ends_with_the_same_weights(
    rooms, trained, tmp_path
):
    """Told to stop, then killed at some moment, then left alone."""
    rng = np.random.default_rng(os.getpid())  # a failure may take several runs to see

    def start():
        own = command(rooms, tmp_path, LONGER)
        return subprocess.Popen(own, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE)

    run = start()
    told = wait_for_progress(run, tmp_path)
    run.send_signal(signal.SIGTERM)
    errors = run.communicate(timeout=240)[1].decode()
    assert run.returncode == EXIT_STOPPED, errors
    assert "Traceback" not in errors and "goes on from there" in errors
    assert not (tmp_path / "model.safetensors").exists()
    run = start()
    wait_for_progress(run, tmp_path, told)
    time.sleep(rng.uniform(0, 0.5))
    run.send_signal(signal.SIGKILL)
    run.communicate(timeout=240)
    run = start()
    errors = run.communicate(timeout=240)[1].decode()
    assert run.returncode == 0, errors
    for name in ("model.safetensors", "last.safetensors"):
        assert (tmp_path / name).read_bytes() == (trained.parent / name).read_bytes()
    losses = [
        [line["loss"] for line in lines_of(folder / "metrics.jsonl")]
        for folder in (tmp_path, trained.parent)
    ]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_a_prior_for_other_frames_ends_the_command_with_one_line(rooms, tmp_path):
    scenes = field_scenes.scenes_in(rooms)
    own = command(rooms, tmp_path)
    own[own.index(str(scenes[0].prior))] = str(scenes[1].prior)
    run = subprocess.run(own, cwd=ROOT, env=ENVIRONMENT, capture_output=True)
    told = run.stderr.decode().splitlines()
    assert run.returncode == EXIT_BAD_DATA, told
    wrong = [line for line in told if "INFO" not in line]
    assert len(wrong) == 1 and str(scenes[1].prior) in wrong[0]
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one(rooms, tmp_path):
    """Each has one frame of the batch, and not as many rays of use in it."""
    one, two = tmp_path / "one.pt", tmp_path / "two.pt"
    own = [sys.executable, "-m", "tests.one_gradient", str(rooms), "2"]
    done = subprocess.run(
        [*own, str(one), "field"], cwd=ROOT, env=ENVIRONMENT, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    run_pair([*own, str(two), "field"])
    alone = torch.load(one, weights_only=True)
    shared = torch.load(two, weights_only=True)
    assert alone.keys() == shared.keys() and any("features" in name for name in alone)
    largest = max(float(value.abs().max()) for value in alone.values())
    for name, value in alone.items():
        torch.testing.assert_close(
            shared[name], value, rtol=1e-3, atol=1e-5 * largest, msg=name
        )


def test_an_encoder_of_another_width_is_refused(rooms):
    encoder = replace(ENCODER, encoder_width=0.5)
    with pytest.raises(BadInput, match=r"start\.safetensors: encoder: .*size mismatch"):
        gnesf.build(SETTINGS, encoder, rooms / "start.safetensors")


def test_weights_without_an_encoder_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    write_weights(path, {"head": torch.zeros(3)}, {})
    with pytest.raises(BadInput, match=r"other\.safetensors: encoder: "):
        gnesf.build(SETTINGS, ENCODER, path)


# Labelled meshes.


def extract(rooms, out, weights, settings=SETTINGS, scene=0, **changes):
    """Label a room by the learned field; return the mesh and what it says of itself."""
    paths = field_scenes.scenes_in(rooms)[scene]
    inputs = {"features": paths.features, "encoder": ENCODER, "weights": weights}
    recipe = json.dumps(asdict(settings))
    extract_mesh.main(
        paths.frames, paths.surface, paths.prior, out, "gnesf", recipe,
        **inputs | changes,
    )  # fmt: skip
    return read_mesh(out)


@pytest.fixture(scope="module")
def mesh(rooms, trained):
    out = trained.parent / "a.ply"
    return out, *extract(rooms, out, trained, replace(SETTINGS, visibility="sdf"))


def test_a_learned_field_labels_the_room(mesh):
    """Away from edges, everything that anybody votes on has its true class."""
    _, own, _ = mesh
    points = own.vertices_world.astype(float)
    walls_m = np.minimum(points - tiny_room.LOW, tiny_room.HIGH - points)
    truth = np.where(walls_m.argmin(1) < 2, 0, np.where(points[:, 2] < 1, 1, IGNORE))
    beyond = np.maximum(tiny_room.BLOCK_LOW - points, points - tiny_room.BLOCK_HIGH)
    truth[beyond.max(1) < 0.05] = 4
    sorted_m = np.sort(np.abs(walls_m), axis=1)
    clear = (sorted_m[:, 1] > 0.3) & ((beyond.max(1) > 0.3) | (beyond.max(1) < 0.05))
    seen = own.label != IGNORE
    assert (seen & clear).sum() > 500
    right = own.label[seen & clear] == truth[seen & clear]
    assert right.mean() > 0.97
    assert set(np.unique(own.label[seen])) == {0, 1, 4}
    on_floor = seen & clear & (truth == 1)
    shade = np.median(own.color[on_floor], axis=0)
    np.testing.assert_allclose(shade, room_files.SHADE[1], atol=6)


def test_points_nobody_votes_on_have_no_class_no_confidence_and_are_grey(mesh, rooms):
    """The ceiling is void, and nobody's frustum holds all of the room."""
    _, own, _ = mesh
    unseen = own.label == IGNORE
    assert 0.05 < unseen.mean() < 0.9
    assert (own.confidence[unseen] == 0).all()
    assert (own.color[unseen] == NO_COLOR).all()
    assert (own.confidence[~unseen] > 0).all() and own.confidence.max() < 1 + 1e-5
    ceiling = own.vertices_world[:, 2] > tiny_room.HIGH[2] - 0.05
    middle = np.abs(own.vertices_world[:, :2] - [2.25, 2.1]).max(1) < 1
    assert (ceiling & middle).any() and unseen[ceiling & middle].all()
    with store.Frames(rooms / "a.h5") as frames:
        keys = frames.world_from_camera[frames.is_key]
        intrinsics, (width, height) = frames.color_intrinsics, frames.color_size
    outside = np.ones(len(own.label), bool)
    for pose in keys:
        inside = np.linalg.solve(pose[:3, :3], (own.vertices_world - pose[:3, 3]).T)
        u, v = (intrinsics @ inside)[:2] / inside[2]
        held = (inside[2] > 0) & (abs(u - width / 2) < width / 2 + 1)
        outside &= ~(held & (abs(v - height / 2) < height / 2 + 1))
    assert outside.any() and unseen[outside].all()


def test_trimesh_reads_label_confidence_and_colour(mesh):
    trimesh = pytest.importorskip("trimesh")
    path, own, _ = mesh
    theirs = trimesh.load(path, process=False)
    raw = theirs.metadata["_ply_raw"]["vertex"]["data"]
    np.testing.assert_array_equal(theirs.vertices, own.vertices_world)
    np.testing.assert_array_equal(theirs.faces, own.faces)
    np.testing.assert_array_equal(raw["label"].ravel(), own.label)
    np.testing.assert_array_equal(raw["confidence"].ravel(), own.confidence)
    np.testing.assert_array_equal(theirs.visual.vertex_colors[:, :3], own.color)


OPEN3D = """
import sys, numpy, open3d
mesh = open3d.io.read_triangle_mesh(sys.argv[1])
cloud = open3d.t.io.read_point_cloud(sys.argv[1])
numpy.savez(
    sys.argv[2], faces=mesh.triangles, color=mesh.vertex_colors,
    confidence=cloud.point["confidence"].numpy(),
)
"""


@pytest.mark.slow
def test_open3d_reads_confidence_and_colour(mesh, tmp_path):
    """In a process of its own: what it cannot read, it dies of."""
    pytest.importorskip("open3d")
    path, own, _ = mesh
    words = [sys.executable, "-c", OPEN3D, str(path), str(tmp_path / "open3d.npz")]
    subprocess.run(words, check=True, capture_output=True)
    theirs = np.load(tmp_path / "open3d.npz")
    np.testing.assert_array_equal(theirs["faces"], own.faces)
    np.testing.assert_array_equal(np.rint(255 * theirs["color"]), own.color)
    np.testing.assert_array_equal(theirs["confidence"].ravel(), own.confidence)


def test_a_mesh_names_everything_it_is_made_of(mesh, rooms, trained):
    _, _, about = mesh
    inputs = about["provenance"]["inputs"]
    assert set(inputs) == {"frames", "volume", "prior", "features", "weights"}
    assert inputs["weights"] == sha256_of(trained)
    assert about["scene"] == "a" and about["provenance"]["recipe"]["views"] == 4


def test_the_same_field_labels_alike_twice(mesh, rooms, trained, tmp_path):
    extract(rooms, tmp_path / "a.ply", trained, replace(SETTINGS, visibility="sdf"))
    assert (tmp_path / "a.ply").read_bytes() == mesh[0].read_bytes()


@pytest.mark.parametrize("vote", ["mean", "nearest"])
def test_votes_that_are_not_learned_need_no_weights(rooms, tmp_path, vote):
    settings = replace(SETTINGS, vote=vote, source_frames="kept")
    own, about = extract(rooms, tmp_path / "m.ply", None, settings, features=None)
    assert "weights" not in about["provenance"]["inputs"]
    assert {0, 1, 4} <= set(np.unique(own.label))


def test_weights_of_another_recipe_are_refused(rooms, trained, tmp_path):
    settings = replace(SETTINGS, widths=[8, 12])
    with pytest.raises(BadInput, match=r"model\.safetensors: names: .*misshapen"):
        extract(rooms, tmp_path / "m.ply", trained, settings)
    with pytest.raises(BadInput, match="weights"):
        extract(rooms, tmp_path / "m.ply", None)
    with pytest.raises(BadInput, match="features"):
        extract(rooms, tmp_path / "m.ply", trained, encoder=None)
    assert not list(tmp_path.glob("*.ply"))


def test_a_prior_of_another_scene_is_refused(rooms, trained, tmp_path):
    a, b, _ = field_scenes.scenes_in(rooms)
    recipe = json.dumps(asdict(SETTINGS))
    with pytest.raises(BadInput, match=r"b\.prior\.h5"):
        extract_mesh.main(
            a.frames, a.surface, b.prior, tmp_path / "m.ply", "gnesf", recipe,
            a.features, ENCODER, trained,
        )  # fmt: skip


def test_a_volume_of_another_encoding_is_refused(rooms, trained, tmp_path):
    """As the fused depth writes it: without any channels."""
    other = field_scenes.room_volume(channels=0)
    path = field_scenes.write_volume(tmp_path / "v.h5", rooms / "a.h5", other)
    with pytest.raises(BadInput, match=r"v\.h5"):
        extract(rooms, tmp_path / "m.ply", trained, features=path)


def test_a_learned_field_asks_for_its_encoding(rooms, trained, tmp_path):
    with pytest.raises(BadInput, match="features"):
        extract(rooms, tmp_path / "m.ply", trained, features=None)
