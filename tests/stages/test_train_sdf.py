"""Geometry from a scan to a volume: trained, killed, on two processes, refused."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gnesf_core.config import (
    FragmentDataConfig,
    FramesConfig,
    TargetsConfig,
    TrainingConfig,
)
from gnesf_core.data.store import Frames, VolumeFile
from gnesf_core.errors import BadInput
from gnesf_core.training.weights import read_weights
from stages import extract_frames, fuse_features, fuse_targets, train_sdf
from tests import tiny_room

ROOT = Path(__file__).parents[2]
FRAMES = FramesConfig(15.0, 0.1, 4, False, 4, 0)
TARGETS = TargetsConfig(0.08, 3, 3.0, 5.0)
SETTINGS = {
    "image_width": 64, "image_height": 48, "encoder_width": 0.25, "encoder_weights": "",
    "channels": 6, "voxel_size_m": 0.16, "truncation_m": 0.24, "volume_x": 24,
    "volume_y": 24, "volume_z": 20, "volume_bottom_m": -0.32, "view_range_m": 3.0,
    "statistics": "mean-variance",
    "fusion": "gru", "occupancy_threshold": 0.5, "positive_weight": 1.5,
    "coarser_weight": 0.8, "sparse_engine": "gather",
}  # fmt: skip
DATA = FragmentDataConfig(
    scenes=0, held_out_scenes=1,
    rotation_deg=180.0, shift_m=0.1, color_jitter=0.1, min_weight=2,
    max_voxels=4096, sequence_from_step=3, sequence_fragments=2,
)  # fmt: skip
TRAINING = TrainingConfig(
    seed=1, steps=6, batch=2, learning_rate=2e-3, backbone_rate=1.0, weight_decay=0.0,
    schedule="constant", warmup_steps=1, clip_norm=1.0, precision="float32", workers=0,
    report_steps=1, state_steps=2, validate_steps=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Frames and targets of a room filmed twice; the second film is short."""
    folder = tmp_path_factory.mktemp("scans")
    made = []
    for number, frames in enumerate((30, 12, 20)):
        room = tiny_room.write_room(
            folder, f"scene000{number}_00", frames=frames, bad_poses=(), empty_depth=()
        )
        paths = folder / f"{number}.frames.h5", folder / f"{number}.targets.h5"
        extract_frames.main(room.sens, paths[0], room.scene, "scannet", FRAMES)
        fuse_targets.main(room.sens, *paths, "scannet", TARGETS)
        made.append(paths)
    return list(zip(*made, strict=True))


def arguments(folder, scans, training=TRAINING, settings=SETTINGS, data=DATA):
    frames, targets = map(list, scans)
    names = ("model.safetensors", "last.safetensors", "metrics.jsonl")
    return (
        frames, targets, *(folder / name for name in names), "neucon",
        json.dumps(settings), data, training,
    )  # fmt: skip


def train(folder, scans, **changes):
    train_sdf.main(*arguments(folder, scans, **changes))
    return folder / "model.safetensors"


def command(folder, scans, training=TRAINING):
    frames, targets, out, last, metrics, module, recipe, data, training = arguments(
        folder, scans, training
    )
    return [
        sys.executable, "-m", "stages.train_sdf",
        "--frames", *map(str, frames), "--targets", *map(str, targets),
        "--out", str(out), "--last", str(last), "--metrics", str(metrics),
        "--module", module, "--recipe", recipe, "--data", json.dumps(asdict(data)),
        "--training", json.dumps(asdict(training)),
    ]  # fmt: skip


def metrics(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def trained(scans, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return folder, train(folder, scans)


@pytest.mark.slow
def test_training_ends_in_best_and_last_weights_and_curves(trained, scans):
    folder, weights = trained
    lines = metrics(folder)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert {"occupancy", "distance"} <= set(lines[0])
    best, about = read_weights(weights)
    last, about_last = read_weights(folder / "last.safetensors")
    assert best.keys() == last.keys() and about_last["step"] == "6"
    # Single fragments teach the memory nothing: their weights are not the result.
    assert int(about["step"]) > DATA.sequence_from_step
    recipe = json.loads(about["provenance"])["recipe"]
    assert recipe["settings"]["volume_x"] == SETTINGS["volume_x"]
    assert not list((folder / "training").glob("state*"))


@pytest.mark.slow
def test_a_trained_geometry_fills_the_volume_of_a_scene(trained, scans, tmp_path):
    out = tmp_path / "volume.h5"
    fuse_features.main(
        scans[0][0], out, "neucon", json.dumps(SETTINGS), None, trained[1]
    )
    with Frames(scans[0][0]) as kept, VolumeFile(out, kept) as file:
        volume = file.volume()
        assert "weights" in file.provenance["inputs"]
    steps = volume.surface.origin_world / SETTINGS["voxel_size_m"]
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-6)
    assert volume.encoding.shape == (len(volume.encoding_ijk), SETTINGS["channels"])
    assert (volume.surface.weight > 0).any()
    assert np.isfinite(volume.encoding).all()


@pytest.mark.slow
def test_training_killed_at_any_moment_ends_with_the_same_weights(
    trained, scans, tmp_path
):
    folder, rng = tmp_path / "killed", np.random.default_rng(3)
    folder.mkdir()
    kills = 0
    while True:
        run = subprocess.Popen(
            command(folder, scans), cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE
        )
        log = folder / "training/metrics.jsonl"
        deadline = time.monotonic() + 240
        while run.poll() is None and not (log.exists() and log.stat().st_size):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        if kills == 3:
            break
        time.sleep(rng.uniform(0, 0.6))
        run.send_signal(signal.SIGKILL)
        run.wait()
        kills += 1
    errors = run.communicate(timeout=240)[1].decode()
    assert run.returncode == 0, errors
    for name in ("model.safetensors", "last.safetensors"):
        assert (folder / name).read_bytes() == (trained[0] / name).read_bytes()


def run_pair(arguments):
    """Run a command on two processes, which find each other."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    team = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            arguments, cwd=ROOT, stderr=subprocess.PIPE,
            env=ENVIRONMENT | team | {"RANK": rank},
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    for process in processes:
        errors = process.communicate(timeout=300)[1].decode()
        assert process.returncode == 0, errors


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 4])
def test_two_processes_have_the_gradient_of_one(scans, tmp_path, step):
    """The same global batch, batch norms and all; at step 4 fragments have a memory."""
    command = [sys.executable, "-m", "tests.one_gradient", str(scans[0][0].parent)]
    one, two = tmp_path / "one.pt", tmp_path / "two.pt"
    done = subprocess.run(
        [*command, str(step), str(one)], cwd=ROOT, env=ENVIRONMENT, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    run_pair([*command, str(step), str(two)])
    alone = torch.load(one, weights_only=True)
    shared = torch.load(two, weights_only=True)
    assert alone.keys() == shared.keys()
    assert any("gru" in name for name in alone) == (step == 4)
    largest = max(float(value.abs().max()) for value in alone.values())
    for name, value in alone.items():
        # The losses themselves are summed in float32.
        torch.testing.assert_close(
            shared[name], value, rtol=1e-5, atol=1e-7 * largest, msg=name
        )


@pytest.mark.slow
def test_two_processes_train_as_one_does(scans, tmp_path):
    """In float32 rounding decides on a voxel now and then, and steps add it up."""
    training = replace(TRAINING, steps=4)
    one, two = tmp_path / "one", tmp_path / "two"
    train(one, scans, training=training)
    two.mkdir()
    run_pair(command(two, scans, training))
    alone, shared = (
        [line["loss"] for line in metrics(folder)] for folder in (one, two)
    )
    assert shared[0] == pytest.approx(alone[0], rel=5e-3)
    assert shared == pytest.approx(alone, rel=0.1)
    assert (two / "last.safetensors").exists()


def test_targets_with_another_truncation_are_refused(scans, tmp_path):
    settings = SETTINGS | {"truncation_m": 0.12}
    with pytest.raises(BadInput, match="truncation"):
        train(tmp_path, scans, settings=settings)


def test_weights_of_another_recipe_are_refused(trained, scans, tmp_path):
    settings = json.dumps(SETTINGS | {"channels": 9})
    with pytest.raises(BadInput, match=r"model\.safetensors: names: .*misshapen"):
        fuse_features.main(
            scans[0][0], tmp_path / "v.h5", "neucon", settings, None, trained[1]
        )
    with pytest.raises(BadInput, match="weights"):
        fuse_features.main(scans[0][0], tmp_path / "v.h5", "neucon", settings)
    assert not list(tmp_path.glob("*.h5"))
