"""A stage's signature is its command line; trouble with data is one line."""

import json
import os
import resource
import subprocess
import sys

import pytest

from gnesf_core.config import TargetsConfig
from stages.cli import settings
from tests import tiny_room

GOOD = {"voxel_size_m": 0.04, "levels": 3, "truncation_voxels": 3.0, "max_depth_m": 3.0}


def run_stage(name, *options, **settings):
    return subprocess.run(
        [sys.executable, "-m", f"stages.{name}", *map(str, options)],
        capture_output=True, text=True, **settings,
    )  # fmt: skip


def test_settings_are_read_from_json():
    assert settings(TargetsConfig, json.dumps(GOOD), "--config").levels == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({k: v for k, v in GOOD.items() if k != "levels"}, "levels"),
        (GOOD | {"voxle": 1}, "voxle"),
        ([1], "TargetsConfig"),
    ],
)
def test_a_missing_or_misspelt_setting_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        settings(TargetsConfig, json.dumps(values), "--config")


def test_missing_data_is_one_line_without_a_traceback(tmp_path):
    done = run_stage(
        "fuse_targets", "--scan", tmp_path / "none.sens", "--frames",
        tmp_path / "none.h5", "--out", tmp_path / "out.h5", "--format", "scannet",
        "--config", json.dumps(GOOD),
    )  # fmt: skip
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert "none.h5" in done.stderr and "remedy" in done.stderr


def test_help_shows_what_the_stage_does():
    done = run_stage("verify", "--help")
    assert done.returncode == 0
    assert "--results" in done.stdout


def test_a_wrong_option_is_named_with_those_that_there_are():
    done = run_stage("verify", "--results", "x", "--reslts", "x")
    assert done.returncode == 2
    assert "unrecognized arguments: --reslts" in done.stderr
    assert "usage: python -m stages.verify [-h] --results RESULTS" in done.stderr


def test_verify_names_the_damaged_file(tmp_path):
    from gnesf_core.data.publish import write_text

    write_text(tmp_path / "deep" / "a.txt", "good")
    write_text(tmp_path / "deep" / "b.txt", "good")
    assert run_stage("verify", "--results", tmp_path).returncode == 0
    (tmp_path / "deep" / "b.txt").write_text("Good")
    done = run_stage("verify", "--results", tmp_path)
    assert done.returncode == 3
    assert "b.txt" in done.stderr and "a.txt:" not in done.stderr


@pytest.mark.parametrize("limit_bytes", [0, 4096, 20_000])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, limit_bytes):
    room = tiny_room.write_room(tmp_path, frames=12)
    out = tmp_path / "results" / "frames.h5"
    config = {
        "key_angle_deg": 15, "key_distance_m": 0.1, "fragment_views": 9,
        "released_fragments": False, "view_stride": 2, "view_offset": 0,
    }  # fmt: skip
    done = run_stage(
        "extract_frames", "--scan", room.sens, "--out", out, "--scene", room.scene,
        "--format", "scannet", "--config", json.dumps(config),
        # A limit on file size fails writes as a full disk does.
        preexec_fn=lambda: resource.setrlimit(
            resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes)
        ),
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert f"{out}: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(out.parent.iterdir()) == []


# A stage that tells what it finds, on a machine where nvidia-smi speaks of one GPU.
TELL = """
import os, sys
from pathlib import Path
from gnesf_core.data.provenance import provenance
from stages import cli, gpus
gpus.FOLDER = Path(sys.argv.pop(1))
def main(device: str = "cpu") -> None:
    made_by = provenance("tell", {}, {})
    print(os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("NUMBA_NUM_THREADS"),
          made_by["threads"], made_by["versions"]["torch"], "torch" in sys.modules)
    if device == "cuda":
        cli.device_named(device)
cli.run(main)
"""


@pytest.fixture
def tell(tmp_path):
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\necho 'GPU 0: Any (UUID: GPU-made-up)'\n")
    command.chmod(0o755)

    def tell(*options, before="", **variables):
        own = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "OMP_NUM_THREADS": "3"}
        environment = {
            name: value for name, value in os.environ.items()
            if name not in ("CUDA_VISIBLE_DEVICES", "NUMBA_NUM_THREADS")
        }  # fmt: skip
        words = [sys.executable, "-c", before + TELL, tmp_path / "gpus", *options]
        done = subprocess.run(
            words, env=environment | own | variables, capture_output=True, text=True
        )
        return done.stdout.split(), done

    return tell


def test_a_stage_that_does_not_compute_with_torch_does_not_import_it(tell):
    import torch

    told, done = tell()
    assert done.returncode == 0, done.stderr
    assert told == ["None", "3", "3", torch.__version__, "False"]


def test_one_that_does_follows_the_threads_of_the_scheduler_too(tell):
    told, _ = tell(before="import torch\ntorch.set_num_threads(1)\n")
    assert told[1:3] == ["3", "3"] and told[4] == "True"


def test_a_stage_on_a_gpu_sees_the_one_that_it_has_got(tell):
    told, done = tell("--device", "cuda")
    assert told[0] == "GPU-made-up" and "has the GPU GPU-made-up" in done.stderr
    assert done.returncode == 3  # torch finds no such GPU
    assert "expected a CUDA device, found none that torch can use" in done.stderr
    assert "Traceback" not in done.stderr


def test_one_of_several_processes_takes_no_gpu_of_its_own(tell):
    told, done = tell("--device", "cuda", WORLD_SIZE="2", RANK="1")
    assert told[0] == "None"
    assert "INFO" not in done.stderr and "ERROR" in done.stderr
