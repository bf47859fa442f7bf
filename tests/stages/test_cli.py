"""A stage's signature is its command line; trouble with data is one line."""

import json
import subprocess
import sys

import pytest

from gnesf_core.config import TargetsConfig
from stages.cli import settings

GOOD = {"voxel_size_m": 0.04, "levels": 3, "truncation_voxels": 3.0, "max_depth_m": 3.0}


def run_stage(name, *options):
    return subprocess.run(
        [sys.executable, "-m", f"stages.{name}", *map(str, options)],
        capture_output=True, text=True,
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
