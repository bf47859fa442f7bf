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
