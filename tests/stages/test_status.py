"""The overview tells what is done, what is at work, and what went wrong."""

import fcntl
import os
import re
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from gnesf_core.errors import BadInput
from stages import status

ERROR = "scan/c.sens: frame 3: expected a JPEG, found 12 zeros; remedy: download again"
DONE = "12:00:00 INFO kept 9 of 9 frames\n12:00:01 INFO extract_frames: done in 1.0 s\n"


def put(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def results(tmp_path):
    """Three scenes, of which one is damaged."""
    results = tmp_path / "results" / "rooms"
    for scene in "ab":
        put(results / f"frames/{scene}.h5")
        put(results / f"frames/.{scene}.h5.sha256")
        put(results / f"logs/extract_frames/{scene}.log", DONE)
    put(
        results / "logs/extract_frames/c.log",
        f"12:00:00 INFO extract_frames: 1 threads\n12:00:01 ERROR {ERROR}\n",
    )
    return results


@pytest.fixture
def told(results, capsys, monkeypatch):
    """Returns what is told of the results, each gap as one blank."""
    monkeypatch.setenv("COLUMNS", "500")

    def told():
        status.main(results)
        return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]

    return told


@contextmanager
def at_work(path):
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_scenes_are_those_that_were_begun(told, results):
    lines = told()
    assert lines[0].startswith(f"{results}: 3 scenes")
    assert "extract_frames 2 of 3" in lines


def test_files_count_and_logs_do_not(told, results):
    """A log may be lost, and a result deleted."""
    (results / "logs/extract_frames/a.log").unlink()
    (results / "frames/b.h5").unlink()
    lines = told()
    assert "extract_frames 1 of 3" in lines
    assert "Failed or stopped: 1" in lines  # b ended well


def test_each_recipe_has_its_line_in_the_order_of_the_work(told, results):
    for name in ("fields/gnesf/a.ply", "fields/gnesf/a.json", "priors/labels/a.h5",
                 "priors/labels/a.cost.json", "priors/labels/a.json",
                 "priors/cross/fold1/model.safetensors", "views/gnesf/a.json",
                 "views/ibrnet/b.h5", "methods/nerf/b/model.safetensors",
                 "fields/gnesf/submission/a.txt", "targets/b.h5",
                 "fields/gnesf/.b.ply.partial",
                 "fields/gnesf/metrics.jsonl"):  # fmt: skip
        put(results / name)
    put(results / "logs/train_sdf/neucon.log", "12:00:00 INFO step 3/9\n")
    lines = told()
    assert lines[2 : lines.index("", 2)] == [
        "extract_frames 2 of 3",
        "fuse_targets 1 of 3",
        "train_prior cross/fold1 1 of 1",
        "cache_prior labels 1 of 3",
        "evaluate_prior labels 1 of 3",
        "train_sdf neucon 0 of 1",
        "extract_mesh gnesf 1 of 3",
        "evaluate_scene gnesf 1 of 3",
        "train_views nerf/b 1 of 1",
        "render_views ibrnet 1 of 3",
        "evaluate_views gnesf 1 of 3",
        "export_labels gnesf 1 of 3",
    ]


def test_the_outputs_are_those_of_the_rules():
    folder = Path(status.__file__).parents[1] / "workflow" / "rules"
    rules = "".join(path.read_text() for path in folder.glob("*.smk"))
    for stage, output in status.OUTPUTS.items():
        rule = re.search(rf"\nrule {stage}:\n(.*?)\n    log:", rules, re.S)[1]
        rule = re.sub(
            r"\{(prior|geometry|field|method|renderer)\}(\{(fold|alone)\})?",
            "{recipe}",
            rule,
        )
        assert f"/{output}" in rule


def test_one_at_work_says_how_far_it_is_and_when_it_said_so(told, results):
    text = "12:00:00 INFO x\n12:00:10 INFO 36 of 53 key frames, 5 s left\n"
    log = put(results / "logs/fuse_features/plane-sweep/a.log", text)
    then = time.time() - 40
    os.utime(log, (then, then))
    with at_work(log):
        lines = told()
    assert "fuse_features plane-sweep 0 of 3" in lines
    told_of = lines[lines.index("At work: 1") :]
    assert told_of[1] == str(log)
    assert re.fullmatch(r"36 of 53 key frames, 5 s left \(4\d s ago\)", told_of[2])
    lines = told()  # now it is dead
    assert "At work: 1" not in lines
    assert (
        "ended without a word (killed?) after: 36 of 53 key frames, 5 s left" in lines
    )


@pytest.mark.parametrize(
    ("log", "word"),
    [
        (f"12:00:01 ERROR {ERROR}\n12:00:02 ERROR the next\n", ERROR),
        ("12:00:00 INFO x\nTraceback (most recent call last):\n  File\nKeyError: 'k'\n",
         "KeyError: 'k'"),
        ("12:00:00 WARNING stopped after step 3 of 9; the same command goes on from "
         "there\n", "stopped after step 3 of 9; the same command goes on from there"),
        ("", "ended without a word (killed?) after: nothing"),
        ("x" * (1 << 17) + "\n12:00:01 ERROR late\n", "late"),
        ("12:00:01 ERROR \x1b[2J\x07bad name\n", "?[2J?bad name"),
        ("python: No module named stages\n", "python: No module named stages"),
        ("12:00:01 ERROR caf\xe9 \udcff\n", "caf\xe9 \ufffd"),
    ],
)  # fmt: skip
def test_what_failed_says_why_and_where_its_log_is(told, results, log, word):
    path = results / "logs/plot_scene/a.log"
    path.parent.mkdir()
    path.write_bytes(log.encode(errors="surrogateescape"))
    lines = told()
    assert "Failed or stopped: 2" in lines
    assert lines[lines.index(str(path)) + 1] == word


def test_all_well_is_said_in_a_line(told, results):
    put(results / "frames/c.h5")
    assert told()[-1] == "Nothing is at work, nothing has failed"


def test_many_failures_do_not_fill_the_screen(told, results):
    for scene in range(100):
        put(results / f"logs/fuse_targets/s{scene:03}.log", "12:00:01 ERROR bad\n")
    lines = told()
    assert "Failed or stopped: 101" in lines and lines[-1] == "and 81 more"


def test_lines_fit_a_narrow_terminal(results, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    status.main(results)
    lines = capsys.readouterr().out.splitlines()
    error = [line for line in lines if line.startswith("    ")]
    assert len(error) > 1 and max(map(len, error)) <= 60
    assert " ".join(" ".join(error).split()) == ERROR


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no such folder"):
        status.main(tmp_path / "none")
