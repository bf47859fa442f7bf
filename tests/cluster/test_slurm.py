"""The tiny data set through profiles/slurm, on a real Slurm: `make test-cluster`."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.slurm import Slurm
from tests.workflow.conftest import copy_tree

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "GNESF_CLUSTER" not in os.environ,
        reason="make test-cluster starts a Slurm of its own",
    ),
]
# Faster at asking than one would be at a cluster that others use too.
PROFILE = (
    "--workflow-profile", "profiles/slurm", "--cores", "2",
    "--slurm-no-account", "--slurm-init-seconds-before-status-checks", "2",
    "--seconds-between-status-checks", "2", "--latency-wait", "10",
    "--configfile", "tests/tiny/config.yaml", "cluster.yaml",
)  # fmt: skip
# These ask for a GPU, although they then run on the CPU.
GPU_RULES = ("train_prior", "train_sdf", "train_semantics", "cache_prior")
SETTINGS = {
    "synthrooms": {"scenes_train": 2, "scenes_val": 2, "scenes_test": 0},
    "chunks": {"scenes": 2},
    "headline": ["gnesf-mesh", "mask2former-mean"],
    # Long enough to die in the middle of.
    "geometries": {"neucon": {"training": {"steps": 24, "state_steps": 4}}},
}
TABLE = "results/synthrooms/tables/val.csv"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with Slurm(tmp_path_factory.mktemp("slurm") / "daemons") as cluster:
        yield cluster


@pytest.fixture
def tree(tmp_path):
    tree = copy_tree(tmp_path / "tree")
    (tree.root / "cluster.yaml").write_text(json.dumps(SETTINGS))
    return tree


def start(tree, *options):
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    }
    with (tree.root / "run.log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "snakemake", *map(str, options)],
            cwd=tree.root, env=environment, stdout=log, stderr=log,
        )  # fmt: skip


def test_one_bad_scan_of_a_chunk_leaves_the_others_finished(slurm, tree):
    names = [f"scene000{n}_00" for n in range(4)]
    scans = [f"resources/synthrooms/scans/{name}/{name}.sens" for name in names]
    tree.snakemake("--cores", 2, *scans, *PROFILE[-3:])
    damaged = tree.root / scans[1]
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    run = start(tree, "frames", *PROFILE, "--retries", 0)
    assert run.wait(300) != 0
    frames = tree.root / "results/synthrooms/frames"
    assert sorted(path.stem for path in frames.glob("*.h5")) == [
        "scene0000_00", "scene0002_00", "scene0003_00"
    ]  # fmt: skip
    damaged.write_bytes(whole)
    assert tree.planned("frames", *PROFILE[-3:])["extract_frames"] == 1


def test_a_node_dies_and_the_numbers_are_those_of_a_local_run(slurm, tree):
    local = copy_tree(tree.root.with_name("local"))
    (local.root / "cluster.yaml").write_text(json.dumps(SETTINGS))
    local.snakemake("--cores", 2, TABLE, *PROFILE[-3:])

    gpus = [f"{rule}:gpu=1" for rule in GPU_RULES]
    run = start(tree, TABLE, *PROFILE, "--set-resources", *gpus)
    states = tree.root / "results/synthrooms/geometry/neucon/training"
    wait_for(lambda: list(states.glob("state-*")), run, tree)
    dying = job_of("rule_train_sdf", slurm)["nodelist"]
    slurm.kill_node(dying)
    assert run.wait(900) == 0, (tree.root / "run.log").read_text()

    assert (tree.root / TABLE).read_bytes() == (local.root / TABLE).read_bytes()
    trained = job_of("rule_train_sdf", slurm)
    assert trained["restartcnt"] == "1" and trained["nodelist"] != dying
    assert trained["tres-per-job"] == "gres:gpu:1"
    log = tree.root / "results/synthrooms/logs/train_sdf/neucon.log"
    assert "training from step 0 " not in log.read_text()
    # Two scenes of a split are one job, so four are two jobs.
    fused = [job for job in slurm.jobs() if "fuse_targets" in job["comment"]]
    assert len(fused) == 2


def test_scenes_go_as_an_array_where_that_is_asked_for(slurm, tree):
    (tree.root / "cluster.yaml").write_text(
        json.dumps(SETTINGS | {"chunks": {"scenes": 1}})
    )
    before = {job["arrayjobid"] for job in slurm.jobs()}
    run = start(tree, "frames", *PROFILE, "--slurm-array-jobs", "extract_frames")
    assert run.wait(400) == 0, (tree.root / "run.log").read_text()
    new = [job for job in slurm.jobs() if job["arrayjobid"] not in before]
    jobs = [job for job in new if "extract_frames" in job["comment"]]
    # Those that were ready at the same time: the plugin does not wait for the last.
    assert len(jobs) == 4 and len({job["arrayjobid"] for job in jobs}) < 4


def wait_for(condition, run, tree, seconds=600):
    deadline = time.monotonic() + seconds
    while not condition():
        assert run.poll() is None and time.monotonic() < deadline, (
            tree.root / "run.log"
        ).read_text()
        time.sleep(0.1)


def job_of(rule, slurm):
    (job,) = (job for job in slurm.jobs() if job["comment"].startswith(rule))
    return job
