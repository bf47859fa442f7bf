"""A segmenter from frames to cached maps, by either library, also when it is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gnesf_core.config import SegmentationDataConfig, TrainingConfig
from gnesf_core.data.publish import read_json
from gnesf_core.data.store import Frames, PriorMaps
from gnesf_core.errors import BadInput
from gnesf_core.labels import IGNORE
from stages import cache_prior, evaluate_prior, train_prior
from tests.made_up import write_frames_file

ROOT = Path(__file__).parents[2]
BACKENDS = ("mask2former_mmseg", "mask2former_transformers")
SETTINGS = {
    "model": "", "start_from": "", "image_width": 64, "image_height": 64,
    "backbone": "resnet", "backbone_width": 8, "backbone_depths": [1, 1, 1, 1],
    "backbone_heads": [1, 2, 4, 8], "window": 4, "drop_path": 0.0, "hidden": 32,
    "mask_channels": 16, "heads": 2, "feedforward": 32, "encoder_layers": 1,
    "decoder_layers": 1, "queries": 20, "points": 32, "matching": "class",
    "class_weight": 2.0, "mask_weight": 5.0, "dice_weight": 5.0,
    "no_object_weight": 0.1, "pixel_weight": 1.0, "batch": 2, "logits": False,
}  # fmt: skip
DATA = SegmentationDataConfig("kept", 0.5, 0.8, 1.5, 0.5, 0.2)
TRAINING = TrainingConfig(
    seed=1, steps=4, batch=2, learning_rate=1e-3, backbone_rate=1.0, weight_decay=0.05,
    schedule="cosine", warmup_steps=1, clip_norm=1.0, precision="bf16", workers=0,
    report_steps=2, state_steps=2, validate_steps=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Two scenes of odd sizes; the second is void, and most classes occur nowhere."""
    folder = tmp_path_factory.mktemp("frames")
    size = (97, 61)
    halves = np.zeros((61, 97), np.uint8)
    halves[:, 50:] = 4
    void = np.full((61, 97), IGNORE, np.uint8)
    return [
        write_frames_file(folder, "scene0000_00", 3, size, [halves] * 3),
        write_frames_file(folder, "scene0001_00", 2, size, [void] * 2),
    ]


def train(folder, frames, module, settings=SETTINGS, training=TRAINING):
    folder.mkdir(exist_ok=True)
    out = folder / "model.safetensors"
    train_prior.main(
        frames, out, folder / "metrics.jsonl", module, json.dumps(settings), DATA,
        training,
    )  # fmt: skip
    return out


def cache(folder, frames, module, weights, settings=SETTINGS):
    out = folder / f"{frames.stem}.prior.h5"
    cache_prior.main(
        frames, out, folder / "cost.json", "tiny", module, json.dumps(settings), weights
    )
    return out


@pytest.fixture(scope="module", params=BACKENDS)
def trained(request, frames, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, train(folder, frames, request.param)


@pytest.mark.slow
def test_both_libraries_keep_the_same_contract(trained, frames):
    module, folder, weights = trained
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4]
    assert {"loss", "class", "mask", "dice", "pixel"} <= set(json.loads(lines[0]))
    assert not list((folder / "training").glob("state*"))
    for path in frames:
        maps = cache(folder, path, module, weights)
        with Frames(path) as kept, PriorMaps(maps, kept) as prior:
            assert prior.map_size == (16, 16)
            assert len(prior) == len(kept)
            sums = prior.probabilities(0).sum(axis=0, dtype=int)
            assert np.abs(sums - 255).max() <= 10  # 20 roundings
            versions = prior.provenance["versions"]
            library = "transformers" if "transf" in module else "mmsegmentation"
            assert library in versions
        evaluate_prior.main(maps, path, folder / "scores.json", "tiny")
        assert read_json(folder / "scores.json")["prior"] == "tiny"
    bill = read_json(folder / "cost.json")
    assert bill["frames"] == bill["frames_timed"] == 2 and bill["stored_bytes"] > 0


@pytest.mark.slow
def test_a_prior_says_which_weights_made_it(trained, frames):
    module, folder, weights = trained
    from gnesf_core.data.publish import sha256_of

    maps = cache(folder, frames[0], module, weights)
    with Frames(frames[0]) as kept, PriorMaps(maps, kept) as prior:
        assert prior.provenance["inputs"]["weights"] == sha256_of(weights)


@pytest.mark.slow
def test_weights_of_another_size_are_refused(trained, frames, tmp_path):
    module, _, weights = trained
    other = SETTINGS | {"hidden": 64}
    with pytest.raises(BadInput, match=r"model\.safetensors: names: .*misshapen"):
        cache(tmp_path, frames[0], module, weights, other)
    assert not list(tmp_path.glob("*.h5"))


@pytest.mark.slow
def test_logits_are_kept_if_the_recipe_asks(trained, frames, tmp_path):
    module, _, weights = trained
    settings = SETTINGS | {"logits": True}
    maps = cache(tmp_path, frames[0], module, weights, settings)
    with Frames(frames[0]) as kept, PriorMaps(maps, kept) as prior:
        logits = prior.logits(1).astype(np.float64)
        shares = np.exp(logits) / np.exp(logits).sum(axis=0)
        assert np.abs(shares - prior.probabilities(1) / 255).max() < 0.005


@pytest.mark.slow
def test_training_told_to_stop_goes_on_to_the_same_weights(frames, tmp_path):
    """SIGTERM as a cluster sends it: exit 75, then the same command ends the work."""
    from dataclasses import asdict, replace

    training = replace(TRAINING, steps=60, report_steps=1, state_steps=1000)
    folder = tmp_path / "stopped"
    command = [
        sys.executable, "-m", "stages.train_prior", "--frames", *map(str, frames),
        "--out", str(folder / "model.safetensors"),
        "--metrics", str(folder / "metrics.jsonl"), "--module", BACKENDS[0],
        "--recipe", json.dumps(SETTINGS), "--data", json.dumps(asdict(DATA)),
        "--training", json.dumps(asdict(training)),
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE)
    log = folder / "training/metrics.jsonl"
    deadline = time.monotonic() + 240
    while not (log.exists() and log.read_text().count("\n") > 3):
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)
    errors = run.communicate(timeout=120)[1].decode()
    assert run.returncode == 75, errors
    assert "goes on from there" in errors and "Traceback" not in errors
    assert not (folder / "model.safetensors").exists()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert b"training from step " in done.stderr
    assert b"training from step 0 " not in done.stderr
    whole = train(tmp_path / "whole", frames, BACKENDS[0], training=training)
    again = folder / "model.safetensors"
    assert whole.read_bytes() == again.read_bytes()


def test_a_gpu_that_is_not_there_is_said_in_one_line(frames, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(BadInput, match="--device: expected a CUDA device"):
        cache_prior.main(
            frames[0], tmp_path / "p.h5", tmp_path / "c.json", "x", "labels",
            '{"map_width": 16, "map_height": 16}', device="cuda",
        )  # fmt: skip
