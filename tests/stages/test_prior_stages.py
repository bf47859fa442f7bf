"""Judging a prior, from its maps to JSON, tables, pictures and curves."""

import csv
import json
import math
import xml.etree.ElementTree as ElementTree
from dataclasses import fields

import numpy as np
import pytest
import torch
from PIL import Image

from gnesf_core.config import TrainingConfig
from gnesf_core.data import store
from gnesf_core.data.provenance import provenance
from gnesf_core.data.publish import read_json, write_json, write_text
from gnesf_core.errors import BadInput
from gnesf_core.labels import IGNORE, PALETTE
from gnesf_core.training import report
from gnesf_core.training.distributed import Team
from stages import evaluate_prior, plot_prior, plot_training, summarize_priors
from tests.made_up import write_frames_file

SIZE = (96, 64)
WRONG = (213, 94, 0)


def write_maps(path, frames_path, maps, map_size=SIZE):
    """Write a prior whose scores of a frame are given by its position."""
    with store.Frames(frames_path) as frames:
        made_by = provenance("test", {}, {"frames": frames.fingerprint})
        with store.write_prior(path, frames, map_size, False, made_by) as writer:
            for position in range(len(frames)):
                writer.add(maps(frames, position).astype(np.float32))


def sure_of_truth(frames, position):
    return np.arange(20)[:, None, None] == frames.labels(position)


def undecided(frames, position):
    """Find all classes alike, so that the first one, wall, wins everywhere."""
    return np.ones((20, *SIZE[::-1]))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Write a labelled scene with a perfect and a poor prior."""
    folder = tmp_path_factory.mktemp("scene")
    frames = write_frames_file(folder, "scene0000_00", 6, SIZE)
    write_maps(folder / "good.h5", frames, sure_of_truth)
    write_maps(folder / "poor.h5", frames, undecided)
    return folder


@pytest.fixture(scope="module")
def pictures(scene):
    """Draw both priors."""
    for prior in ("good", "poor"):
        out = scene / f"{prior}.png"
        plot_prior.main(scene / f"{prior}.h5", scene / "scene0000_00.h5", out, prior)
    return pixels_of(scene / "good.png"), pixels_of(scene / "poor.png")


def pixels_of(path):
    return np.asarray(Image.open(path).convert("RGB"))


def share_of(picture, color):
    close = np.abs(picture.astype(int) - color) <= 1
    return close.all(axis=-1).mean()


def test_scores_name_their_prior_and_can_be_traced(scene, tmp_path):
    out = tmp_path / "good.json"
    frames_file, maps_file = scene / "scene0000_00.h5", scene / "good.h5"
    evaluate_prior.main(maps_file, frames_file, out, "good")

    scores = read_json(out)
    assert (scores["scene"], scores["prior"]) == ("scene0000_00", "good")
    assert [frame["miou"] for frame in scores["frames"]] == [1.0] * 6
    with store.Frames(frames_file) as frames:
        assert scores["provenance"]["inputs"]["frames"] == frames.fingerprint
        with store.PriorMaps(maps_file, frames) as maps:
            assert scores["provenance"]["inputs"]["prior"] == maps.fingerprint
            assert scores["storage"]["stored_bytes"] == maps.stored_bytes


def test_the_prior_of_another_scene_is_refused(scene, tmp_path):
    other = write_frames_file(tmp_path, "scene0001_00", 6, SIZE)
    out = tmp_path / "s.json"

    for stage in (evaluate_prior, plot_prior):
        with pytest.raises(BadInput, match=r"good\.h5: attribute scene"):
            stage.main(scene / "good.h5", other, out, "good")
    assert not out.exists()


def test_tables_name_every_pooling_and_add_up_costs(scene, tmp_path):
    scores, costs = [], []
    for prior in ("good", "poor"):
        scores.append(tmp_path / f"{prior}.json")
        maps_file, frames_file = scene / f"{prior}.h5", scene / "scene0000_00.h5"
        evaluate_prior.main(maps_file, frames_file, scores[-1], prior)
    costs.append(tmp_path / "cost.json")
    bill = {
        "prior": "good",
        "scene": "scene0000_00",
        "frames": 6,
        "frames_timed": 6,
        "seconds": 1.5,
    }
    bill |= {"device": "cpu", "threads": 2, "stored_bytes": 12_000}
    write_json(costs[0], bill)
    names = ("priors", "classes", "frames", "markdown", "html")
    out = {name: tmp_path / f"table.{name}" for name in names}

    summarize_priors.main(scores, costs, "tiny", "val", **out)

    page = " ".join(out["markdown"].read_text().split())
    for words in (
        "mIoU, per image", "mIoU, per scene", "mIoU, data set", "mAcc, data set",
        "Acc, per image", "interpolated bilinearly", "void", "ECE",
    ):  # fmt: skip
        assert words in page and words in out["html"].read_text()
    assert "| good | 6 | 1 | 20 |" + 9 * " 100.0 |" + " 0.0 | 0.0 |" in page
    assert "| good | 1 | 6 | 96x64 | 4.0 | cpu, 2 threads | 2.0 | 0.01 |" in page
    assert "| poor | 0 | 0 | 96x64 | - | - | - | - |" in page
    with out["priors"].open() as file:
        good, poor = csv.DictReader(file)
    assert float(good["per_scene_miou"]) == 1.0 > float(poor["per_scene_miou"])
    assert float(good["bytes_per_frame"]) == 2000 and poor["bytes_per_frame"] == ""
    with out["frames"].open() as file:
        assert len(list(csv.DictReader(file))) == 12


def test_pictures_mark_errors_where_there_are_any(pictures):
    for picture in pictures:
        assert 1350 < picture.shape[1] < 1450 and 500 < picture.shape[0] < 1400
    good, poor = (share_of(picture, WRONG) for picture in pictures)
    assert good == 0 < 0.1 < poor


def test_pictures_show_the_classes_of_the_prior(pictures):
    good, poor = (share_of(picture, PALETTE[0]) for picture in pictures)
    assert poor > good + 0.1  # its column is wall from top to bottom


def test_doubt_is_dark_where_the_prior_is_sure_and_bright_where_it_is_not(pictures):
    darkest, brightest = (0, 0, 3), (252, 254, 164)  # ends of the colour map
    (good_dark, good_bright), (poor_dark, poor_bright) = (
        [share_of(picture, color) for color in (darkest, brightest)]
        for picture in pictures
    )
    assert good_dark > 0.1 > 0.01 > good_bright
    assert poor_bright > 0.1 > 0.01 > poor_dark


@pytest.mark.parametrize("case", ["unlabelled", "void", "one frame", "tall"])
def test_every_scene_gets_a_picture(tmp_path, case):
    width, height = size = SIZE[::-1] if case == "tall" else SIZE
    count = 1 if case == "one frame" else 3
    void = [np.full((height, width), IGNORE, np.uint8)] * count
    frames = write_frames_file(
        tmp_path, "scene0000_00", count, size,
        void if case == "void" else None, case != "unlabelled",
    )  # fmt: skip
    scores = np.random.default_rng(0).random((20, 8, 12))
    write_maps(tmp_path / "p.h5", frames, lambda *_: scores, (12, 8))

    plot_prior.main(tmp_path / "p.h5", frames, tmp_path / "p.png", "p")

    picture = pixels_of(tmp_path / "p.png")
    assert 1350 < picture.shape[1] < 1450 and picture.shape[0] > 250
    if case in ("unlabelled", "void"):
        assert share_of(picture, WRONG) == 0


def metrics_text(lines=50, **more):
    return "".join(
        json.dumps(
            {"step": 10 * n, "seconds": n / 2, "learning_rate": 1e-4 / n,
             "loss": 100.0 / n**2, "mask": 60.0 / n**2, "dice": 40.0 / n**2,
             "gradient_norm": 1.0 + n % 2, "items_per_second": 50.0} | more
        ) + "\n"
        for n in range(1, lines + 1)
    )  # fmt: skip


def words_of(path):
    """Return the texts of a figure, which stand in comments beside their outlines."""
    builder = ElementTree.TreeBuilder(insert_comments=True)
    tree = ElementTree.parse(path, ElementTree.XMLParser(target=builder))
    comments = tree.iter(ElementTree.Comment)
    return tree.getroot(), " ".join(comment.text for comment in comments)


def draw(tmp_path, text, name="net"):
    metrics, out = tmp_path / "metrics.jsonl", tmp_path / "training.svg"
    write_text(metrics, text)
    plot_training.main(metrics, out, name)
    return out


def test_training_curves_name_all_losses_and_fit_a_phone(tmp_path):
    out = draw(tmp_path, metrics_text(precision="bf16", flags=[1, 2]))

    root, words = words_of(out)
    width, height = (float(root.get(side)[:-2]) for side in ("width", "height"))
    assert 300 < width < 400 and 300 < height < 600  # points
    for word in ("net", "500 steps", "0.4 min", "50.0 items/s", "loss", "mask", "dice",
                 "learning rate", "norm of the gradient", "step"):  # fmt: skip
        assert word in words
    assert "precision" not in words and "flags" not in words
    assert "10^{" in words  # losses span decades
    first = out.read_bytes()
    assert draw(tmp_path, metrics_text(precision="bf16", flags=[1, 2])) == out
    assert out.read_bytes() == first


@pytest.mark.parametrize(
    "text",
    [
        metrics_text(1),
        '{"step": 1, "loss": 2.0}\n',
        metrics_text(3, loss=float("nan")),
        metrics_text(20, loss=-1.0),
        metrics_text(5, **{f"loss {n}": n for n in range(30)}),
        metrics_text(8) + metrics_text(4),
    ],
    ids=["one line", "loss alone", "nan", "negative", "many losses", "steps again"],
)
def test_unusual_metrics_are_drawn_all_the_same(tmp_path, text):
    root, words = words_of(draw(tmp_path, text))
    assert root.tag.endswith("svg") and "loss" in words


def test_what_only_some_lines_tell_is_drawn_from_one_to_the_next(tmp_path):
    lines = [json.loads(line) for line in metrics_text(60).splitlines()]
    for line, value in zip(lines[9::10], [3, 2, math.nan, 1, 2, 2], strict=True):
        line["validation"] = value
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    _, words = words_of(draw(tmp_path, text))
    assert "validation" in words
    table = plot_training.read_metrics(tmp_path / "metrics.jsonl")
    figure, cell = plot_training.plt.subplots()
    plot_training._draw_noisy(cell, table[["loss", "validation"]])
    (curve,) = [line for line in cell.lines if line.get_label() == "validation"]
    assert curve.get_xdata().tolist() == [100, 200, 400, 500, 600]
    assert curve.get_ydata().tolist() == [3, 2, 1, 2, 2]
    plot_training.plt.close(figure)


def test_the_last_line_about_a_step_counts(tmp_path):
    write_text(tmp_path / "m", '{"step": 2, "a": 1}\n{"step": 1, "a": 5}\n'
                               '{"step": 2, "a": 7, "b": 3}\n')  # fmt: skip
    table = plot_training.read_metrics(tmp_path / "m")
    assert table.index.tolist() == [1, 2]
    assert table["a"].tolist() == [5, 7]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (metrics_text(2) + '{"step": 3, "lo', "line 3: expected JSON"),
        (metrics_text(2) + "[1]\n", "line 3: expected an object with a number `step`"),
        ('{"step": null}\n', "line 1: expected an object"),
        ('{"loss": 1}\n', "line 1: expected an object"),
        ("", "content: expected a line per reported step"),
    ],
)
def test_metrics_that_cannot_be_read_are_refused_by_line(tmp_path, text, message):
    with pytest.raises(BadInput, match=f"metrics.jsonl: {message}"):
        draw(tmp_path, text)
    assert not (tmp_path / "training.svg").exists()


def test_what_the_training_loop_reports_besides_losses_is_not_drawn_as_one(
    tmp_path, monkeypatch
):
    config = TrainingConfig(**{f.name: f.type(1) for f in fields(TrainingConfig)})
    monkeypatch.setattr(report, "_tensorboard", lambda *_: None)
    told = report.Report(tmp_path / "work", config, Team(0, 1, torch.device("cpu")))
    told.start(0, None)
    parts = {"mask": torch.tensor(2.0), "dice": torch.tensor(3.0)}
    told.add(["a"], parts, torch.tensor(0.5))
    told.collect(1)
    told.tell(1, 0.1)
    told.close()

    names = set(json.loads(told.metrics))

    assert names == {"loss", "mask", "dice", *plot_training.NOT_LOSSES}


def test_metrics_that_changed_are_refused(tmp_path):
    write_text(tmp_path / "metrics.jsonl", metrics_text())
    (tmp_path / "metrics.jsonl").write_text(metrics_text(3))
    with pytest.raises(BadInput, match="expected the bytes that were published"):
        plot_training.main(tmp_path / "metrics.jsonl", tmp_path / "t.svg", "net")
