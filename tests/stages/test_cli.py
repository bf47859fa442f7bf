"""A stage's signature is its command line; trouble with data is one line."""

import json
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
