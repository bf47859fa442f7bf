"""A copy of the workflow that tests may run, edit and break."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PARTS = ("Snakefile", "config", "gnesf_core", "profiles", "stages", "workflow",
         "environment.yml", "tests/tiny")  # fmt: skip


@dataclass
class Tree:
    """One checkout of the workflow in a folder of its own."""

    root: Path

    def snakemake(self, *options, check=True, timeout=600):
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        }
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", *map(str, options)],
            cwd=self.root, env=environment, capture_output=True, text=True,
            timeout=timeout,
        )  # fmt: skip
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    def planned(self, *options):
        """Return {rule: jobs} of a dry run."""
        text = self.snakemake("-n", *options).stdout
        table = re.search(r"Job stats:\n(.*?)\ntotal", text, re.S)
        if table is None:
            assert "Nothing to be done" in text, text
            return {}
        rows = [line.split() for line in table.group(1).splitlines()[2:]]
        return {rule: int(count) for rule, count in rows}

    def edit(self, name, old, new):
        path = self.root / name
        text = path.read_text()
        assert old in text, f"{name} no longer has {old!r}"
        path.write_text(text.replace(old, new, 1))


def copy_tree(target):
    for part in PARTS:
        source = ROOT / part
        copy = shutil.copytree if source.is_dir() else shutil.copy
        (target / part).parent.mkdir(parents=True, exist_ok=True)
        copy(source, target / part)
    return Tree(target)


def make_up_scannet(root, train=1, others=()):
    """Lay out what ScanNet's download has, and weights to start from, all empty.

    `others` are scans that stand on none of its lists.
    """
    raw = root / "resources/scannet"
    names = [f"scene{number:04d}_00" for number in range(train + 2)]
    splits = {"train": names[:train], "val": names[train:-1], "test": names[-1:]}
    raw.mkdir(parents=True, exist_ok=True)
    for split, scenes in splits.items():
        (raw / f"scannetv2_{split}.txt").write_text("\n".join(scenes))
    splits["others"] = [name for name in others if name not in names[:-1]]
    for split, scenes in splits.items():
        folder = raw / ("scans_test" if split == "test" else "scans")
        for scene in scenes:
            (folder / scene).mkdir(parents=True)
            for end in (".sens", "_vh_clean_2.ply", "_vh_clean_2.labels.ply",
                        "_2d-label-filt.zip"):  # fmt: skip
                (folder / scene / f"{scene}{end}").touch()
    (raw / "scannetv2-labels.combined.tsv").touch()
    settings = yaml.safe_load((root / "config/scannet.yaml").read_text())
    for start in (
        settings["priors"]["mask2former"]["settings"]["start_from"],
        settings["geometries"]["neucon"]["settings"]["encoder_weights"],
    ):
        (root / start).parent.mkdir(parents=True, exist_ok=True)
        (root / start).touch()


@pytest.fixture
def tree(tmp_path):
    return copy_tree(tmp_path / "tree")


@pytest.fixture(scope="session")
def finished(tmp_path_factory, worker_id):
    """The tiny data set, run once to its tables, by whichever test process is first."""
    base = tmp_path_factory.getbasetemp()
    base = base if worker_id == "master" else base.parent
    with (base / "finished.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tree, done = Tree(base / "finished"), base / "finished.done"
        if not done.exists():
            shutil.rmtree(tree.root, ignore_errors=True)
            copy_tree(tree.root)
            tree.snakemake("--cores", 2, "--configfile", "tests/tiny/config.yaml")
            done.touch()
    return tree
