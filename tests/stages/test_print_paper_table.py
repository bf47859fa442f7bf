"""A table of the paper from the scores of scenes, as a command."""

import csv
import json
import sys

import numpy as np
import pytest

from gnesf_core.data.publish import verify, write_json
from gnesf_core.errors import BadInput
from gnesf_core.evaluation.semantics import scannet_scores
from stages import cli, print_paper_table


def write_scores(path, field, scene, right, wrong, frames=None):
    """Write what a scene scored: walls found, and walls taken for floor."""
    confusion = np.zeros((21, 21), int)
    confusion[0, :2] = right, wrong
    scores = {"field": field, "scene": scene, "confusion": confusion.tolist()}
    said = {
        "views": "held-out", "views_words": "Frames that are spread",
        "image_quality": "gnesf", "image_words": "PSNR of all.",
    }  # fmt: skip
    views = {"frames": frames, "protocol": said, "frames_without_truth": 0,
             "semantics": scannet_scores(confusion)}  # fmt: skip
    write_json(path, scores | (views if frames else {}))
    return path


@pytest.fixture
def scores(tmp_path):
    return [
        write_scores(tmp_path / f"{field}_{scene}.json", field, scene, right, 10)
        for field, right in (("one", 30), ("two", 90))
        for scene in ("a", "b")
    ]


@pytest.fixture
def out(tmp_path):
    return {kind: tmp_path / f"table.{kind}" for kind in ("markdown", "html", "csv")}


def test_the_command_prints_and_writes_the_table(scores, out, monkeypatch, caplog):
    options = {
        "table": "table4", "dataset": "rooms", "split": "val", "comparable": "",
        "rows": json.dumps({"one": "Logit", "two": "Prob."}),
    } | out  # fmt: skip
    words = [part for name, value in options.items() for part in (f"--{name}", value)]
    command = ["print_paper_table", "--scores", *scores, *words]
    monkeypatch.setattr(sys, "argv", [str(word) for word in command])
    with caplog.at_level("INFO", logger="stages"):
        cli.run(print_paper_table.main)

    printed = caplog.text.splitlines()
    logit, in_detail = [line for line in printed if line.startswith("Logit")]
    # Wall: 60 of 80; floor was only imagined: IoU 0.
    assert logit.split() == ["Logit", "57.3", "70.9", "37.5", "75.0"]
    assert in_detail.split() == ["Logit", "one", "2", "2", "37.5", "75.0"]
    page = out["markdown"].read_text()
    assert "| Logit | 57.3 | 70.9 | 37.5 | 75.0 |" in page
    assert "ours, rooms val, 2 scenes, another data set: 3D mIoU" in page
    assert "<td>57.3</td><td>70.9</td><td>37.5</td>" in out["html"].read_text()
    with out["csv"].open() as stream:
        lines = list(csv.DictReader(stream))
    own = [line for line in lines if line["origin"] == "ours"]
    assert [line["figure"] for line in own] == ["37.5", "75.0", "45.0", "90.0"]
    assert {line["unit"] for line in lines} == {"percent"}
    assert {line["scenes"] for line in lines} == {"2", "312"}
    assert {line["dataset"] for line in own} == {"rooms"}
    assert all(verify(path) is None for path in out.values())


def test_novel_views_are_scored_with_or_without_meshes(scores, out, tmp_path):
    frames = [{"miou": 1.0, "mean_accuracy": 1.0, "accuracy": 1.0, "pixels": 40}]
    views = [
        write_scores(tmp_path / f"{scene}_views.json", "one", scene, 40, 0, frames)
        for scene in ("a", "b")
    ]
    for given in (scores, []):
        print_paper_table.main(
            "views", "rooms", "val", given, {"one": 5}, **out, views=views
        )
        page = out["markdown"].read_text()
        own = "| 37.5 | 75.0 | 100.0 | 100.0 |" if given else "| 100.0 | 100.0 |"
        assert f"| 5 | 85.4 | 91.2 | 69.7 | 80.3 {own}" in page
        assert ("3D: each true vertex" in " ".join(page.split())) == bool(given)


def test_colours_are_asked_of_the_same_files(out, tmp_path):
    frames = [{"full_psnr_db": 20.5, "ssim": 0.75, "lpips": None, "pixels": 40}]
    view = write_scores(tmp_path / "a.json", "one", "a", 40, 0, frames)
    print_paper_table.main(
        "supplement1", "rooms", "val", [], {"one": "Ours"}, **out, views=[view]
    )
    page = out["markdown"].read_text()
    assert "| GNeSF | 22.01 | 0.765 | 0.330 | 20.50 | 0.750 | - |" in page
    assert "| GNeSF | one | 1 | 1 | 20.50 | 0.750 | - |" in page
    assert "mIoU" not in page


def test_times_are_read_from_what_snakemake_noted(out, tmp_path):
    frames = [{"miou": 1.0, "mean_accuracy": 1.0, "accuracy": 1.0, "pixels": 40}]
    views = [
        write_scores(tmp_path / f"{scene}.json", "one", scene, 40, 0, frames)
        for scene in ("a", "b")
    ]
    for scene, seconds in (("a", 60), ("b", 180), ("once", 30)):
        text = f"s\th:m:s\tmax_rss\tcpu_time\n{seconds}.0\t0:01:00\tNA\t-\n"
        (tmp_path / f"{scene}.tsv").write_text(text)
    pattern, once = str(tmp_path / "{scene}.tsv"), str(tmp_path / "once.tsv")
    print_paper_table.main(
        "supplement4", "rooms", "val", [], {"one": "M2F + Opt."}, **out, views=views,
        costs={"one": {"training": once, "rendering": pattern}},
    )  # fmt: skip
    page = out["markdown"].read_text()
    assert "| M2F + Opt. | one | 0.5 | - | 2.0 | 2.0 |" in page


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"table": "table9"}, "--table.*'table4'.*found 'table9'"),
        ({"comparable": "Scannet"}, "--comparable.*'ScanNet'.*found 'Scannet'"),
        ({"scores": []}, "--scores"),
        ({"rows": {}}, "--rows"),
        ({"rows": {"three": "Logit"}}, "three: expected scores"),
    ],
)
def test_wrong_settings_are_named(change, place, scores, out):
    options = {
        "table": "table4", "dataset": "rooms", "split": "val", "scores": scores,
        "rows": {"one": "Logit"}, "comparable": "",
    } | out | change  # fmt: skip
    with pytest.raises(BadInput, match=place):
        print_paper_table.main(**options)
    assert not any(path.exists() for path in out.values())
