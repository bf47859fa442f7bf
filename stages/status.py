"""Say which scenes of a data set have come how far, also while the workflow runs.

    python -m stages.status --results results/synthrooms

Looks at the names of files, and into the logs of jobs that have not ended well.
"""

import os
import re
import shutil
import sys
import textwrap
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gnesf_core.errors import BadInput
from stages.cli import run
from stages.job_log import claimed, name_of

# What each stage leaves, of each scene or, for those that learn, of each recipe.
OUTPUTS = {
    "extract_frames": "frames/{scene}.h5",
    "fuse_targets": "targets/{scene}.h5",
    "train_prior": "priors/{recipe}/model.safetensors",
    "cache_prior": "priors/{recipe}/{scene}.h5",
    "evaluate_prior": "priors/{recipe}/{scene}.json",
    "train_sdf": "geometry/{recipe}/model.safetensors",
    "fuse_features": "geometry/{recipe}/{scene}.h5",
    "evaluate_geometry": "geometry/{recipe}/{scene}.json",
    "train_semantics": "fields/{recipe}/model.safetensors",
    "extract_mesh": "fields/{recipe}/{scene}.ply",
    "evaluate_scene": "fields/{recipe}/{scene}.json",
    "train_views": "methods/{recipe}/model.safetensors",
    "render_views": "views/{recipe}/{scene}.h5",  # or render_field
    "evaluate_views": "views/{recipe}/{scene}.json",
    "export_labels": "fields/{recipe}/submission/{scene}.txt",
}
_NAME = "[A-Za-z0-9][A-Za-z0-9_-]*"
_NAMES = {"scene": f"(?P<scene>{_NAME})", "recipe": f"(?P<recipe>{_NAME})"}
# What trains a recipe for each fold, or each scene, has a folder for each in its own.
_LEARNERS = {"recipe": f"(?P<recipe>{_NAME}(/{_NAME})?)"}
_HEADING = re.compile(r"\d\d:\d\d:\d\d (INFO|WARNING|ERROR) ")
_TAIL_BYTES = 1 << 16
_INDENT = "    "
_MOST = 20  # jobs of a kind that are told one by one


class Job(NamedTuple):
    """One run of a stage, as its log is named."""

    stage: str
    recipe: str = ""
    scene: str = ""


class Unfinished(NamedTuple):
    """A job that has begun and left no result, or not yet."""

    job: Job
    log: Path
    word: str  # the last of one at work, what went wrong with another


def main(results: Path = Path("results/synthrooms")) -> None:
    """Print what is done, what is at work and how far, and what has failed."""
    if not results.is_dir():
        raise BadInput(
            results,
            "folder",
            expected="the results of a data set",
            found="no such folder",
            remedy="name one by --results, or run snakemake first",
        )
    done = set(_finished(results))
    logs = dict(_logs(results / "logs"))
    at_work, failed = _unfinished(logs, done)
    begun = {unfinished.job for unfinished in at_work + failed}
    scenes = {j.scene for j in done | logs.keys() if j.stage == "extract_frames"}
    heading = f"{results}: {len(scenes)} scenes (not every stage is for all of them)"
    lines = [heading, ""]
    lines += _table(done, begun, len(scenes))
    lines += _told("At work", at_work) + _told("Failed or stopped", failed)
    lines += [] if at_work or failed else ["", "Nothing is at work, nothing has failed"]
    sys.stdout.write("\n".join(lines) + "\n")


def _finished(results: Path) -> Iterator[Job]:
    """Find the jobs whose result is there."""
    for stage, output in OUTPUTS.items():
        names = _NAMES if "{scene}" in output else _LEARNERS
        pattern = re.compile(output.replace(".", r"\.").format(**names))
        for recipe in ("*", "*/*") if "{recipe}" in output else ("",):
            for path in results.glob(output.format(recipe=recipe, scene="*")):
                match = pattern.fullmatch(path.relative_to(results).as_posix())
                if match:
                    yield Job(stage, **match.groupdict())


def _logs(folder: Path) -> Iterator[tuple[Job, Path]]:
    for path in folder.rglob("*.log"):
        stage, *names = name_of(path).split(" ")
        scene = names.pop() if "{scene}" in OUTPUTS.get(stage, "") else ""
        yield Job(stage, "/".join(names), scene), path


def _unfinished(
    logs: dict[Job, Path], done: set[Job]
) -> tuple[list[Unfinished], list[Unfinished]]:
    """Return the jobs at work, and those that failed or were stopped."""
    at_work, failed = [], []
    for job, path in sorted(logs.items()):
        if job in done:
            continue
        lines = _tail(path)
        if claimed(path):
            ago = max(0, time.time() - path.stat().st_mtime)
            at_work.append(Unfinished(job, path, f"{_said(lines)} ({ago:.0f} s ago)"))
        elif not re.search(r": done in [\d.]+ s$", lines[-1]):
            failed.append(Unfinished(job, path, _trouble(lines)))
    return at_work, failed


def _tail(path: Path) -> list[str]:
    """Return the last lines of a log, fit for a terminal; an empty one if it is."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        text = file.read().decode(errors="replace")
    lines = [
        "".join(c if c.isprintable() else "?" for c in x) for x in text.split("\n")
    ]
    return [line for line in lines if line.strip()] or [""]


def _said(lines: list[str]) -> str:
    """Return the last line without time and level."""
    return _HEADING.sub("", lines[-1])


def _trouble(lines: list[str]) -> str:
    """Return the line that says best why a job has not ended well."""
    for line in lines:
        heading = _HEADING.match(line)
        if heading and heading[1] == "ERROR":
            return _said([line])
    heading = _HEADING.match(lines[-1])
    if (heading and heading[1] == "INFO") or not lines[-1]:
        return f"ended without a word (killed?) after: {_said(lines) or 'nothing'}"
    return _said(lines)  # of a traceback, the error; of a training, where it stopped


def _table(done: set[Job], begun: set[Job], scenes: int) -> list[str]:
    """Say for each stage and recipe how many jobs are done."""
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for job in begun:
        counts[job[:2]] += 0
    for job in done:
        counts[job[:2]] += 1
    order = list(OUTPUTS)
    known = [key for key in counts if key[0] in OUTPUTS]
    lines = []
    for stage, recipe in sorted(known, key=lambda key: (order.index(key[0]), key[1])):
        total = scenes if "{scene}" in OUTPUTS[stage] else 1
        lines.append(f"{stage:<18} {recipe:<34} {counts[stage, recipe]:5} of {total}")
    return lines


def _told(heading: str, jobs: list[Unfinished]) -> list[str]:
    """List jobs under a heading."""
    lines = ["", f"{heading}: {len(jobs)}"] if jobs else []
    width = max(40, shutil.get_terminal_size().columns)
    for job in jobs[:_MOST]:
        lines.append(f"  {job.log}")
        lines += textwrap.wrap(
            job.word, width, initial_indent=_INDENT, subsequent_indent=_INDENT
        )
    return lines + ([f"  and {len(jobs) - _MOST} more"] if len(jobs) > _MOST else [])


if __name__ == "__main__":
    run(main)
