"""The environment's `snakemake` does what Snakemake's own help says of --cores."""

import importlib.util

import pytest

from tests.workflow.conftest import ROOT

SPEC = importlib.util.spec_from_file_location(
    "snakemake_command", ROOT / "envs/snakemake_command.py"
)
COMMAND = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(COMMAND)


@pytest.mark.parametrize(
    ("given", "run"),
    [
        ("", ""),
        ("--cores", "--cores all"),
        ("--cores frames", "--cores all frames"),
        ("--cores -n", "--cores all -n"),
        ("-c", "-c all"),
        ("--cores 4 frames", "--cores 4 frames"),
        ("--cores all", "--cores all"),
        ("-n frames", "-n frames"),
        ("--configfile x --cores", "--configfile x --cores all"),
    ],
)
def test_an_omitted_number_means_all_cores(given, run):
    assert COMMAND.with_core_count(given.split()) == run.split()
