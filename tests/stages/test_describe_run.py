"""What a run cost, added up from Snakemake's own measurements."""

import csv
import re

import numpy as np

from gnesf_core.data.publish import write_json
from gnesf_core.evaluation.semantics import scannet_scores
from stages import describe_run
from tests.scored_scenes import ROWS

NAMES = "s h:m:s max_rss max_vms max_uss max_pss io_in io_out mean_load cpu_time"
HEAD = "\t".join(NAMES.split()) + "\n"


def line(seconds, memory, processor):
    return f"{seconds}\t0:00:01\t{memory}\t1\t1\t1\t0\t0\t50\t{processor}\n"


CONFIG = {
    "dataset": "<script>",
    "device": "cpu",
    "headline": ["vote", "mean"],
    "headline_views": [],
    "priors": {"maps": {"training": {"seed": 5}}, "folds": {"training": {"seed": 4}}},
    "geometries": {
        "depth": {},
        "net": {"training": {"seed": 6}},
        "given": {"training": {"seed": 9}, "weights": "x.safetensors"},
    },
    "fields": {
        "vote": {
            "module": "gnesf", "prior": "maps", "geometry": "depth",
            "features": "net", "trained_as": "gnesf",
            "settings": {"vote": "learned"}, "training": {"seed": 1},
        },
        "gnesf": {
            "training_prior": "folds", "training_geometry": "given",
            "features": "net", "trained_as": "", "training": {"seed": 7},
        },
        "mean": {
            "module": "gnesf", "prior": "maps", "geometry": "given",
            "features": "net", "settings": {"vote": "mean"}, "training": {"seed": 8},
        },
    },
}  # fmt: skip


def described(tmp_path, rows=(), views=()):
    results = tmp_path / "results"
    jobs = results / "benchmarks/extract_mesh/gnesf"
    jobs.mkdir(parents=True)
    # One job ran twice: both were paid for.
    (jobs / "a.tsv").write_text(HEAD + line(60, 100, 30) + line(20, 90, 10))
    (jobs / "b.tsv").write_text(HEAD + line(40, 300, 40))
    short = results / "benchmarks/make_lists.tsv"
    short.write_text(HEAD + line(0.2, "NA", "NA"))
    (results / "frames").mkdir()
    (results / "frames/a.h5").write_bytes(bytes(3 * 2**20))
    names = ("costs.csv", "run.md", "run.html", "front.html")
    outputs = [tmp_path / name for name in names]
    for row in rows:
        write_json(results / "fields" / row["field"] / f"{row['scene']}.json", row)
    for row in views:
        write_json(results / "views" / row["field"] / f"{row['scene']}.json", row)
    config = CONFIG | {"headline_views": list({row["field"] for row in views})}
    judged = {"val": sorted({row["scene"] for row in rows})} if rows else {}
    scenes = {"train": 3, "val": 4, "test": 0}
    describe_run.main(results, config, scenes, judged, *outputs)
    return outputs


def cells(page):
    """Return the lines of all tables of a page."""
    lines = re.findall("<tr>(.*?)</tr>", page.read_text())
    return [re.findall("<t[dh]>(.*?)</t[dh]>", line) for line in lines]


def test_the_first_page_says_what_was_run_by_which_seeds(tmp_path):
    *_, front = described(tmp_path)
    lines = cells(front)
    assert ["data set", "&lt;script&gt;"] in lines
    assert ["scenes", "3 train, 4 val"] in lines
    seeds = "maps 5, net 6, folds 4, gnesf 7"  # of what it was trained as
    assert ["vote", "gnesf, learned", "maps", "depth", seeds] in lines
    # What votes by a rule, or comes with weights, was not trained here.
    assert ["mean", "gnesf, mean", "maps", "given", "maps 5"] in lines
    assert "could be judged by" in front.read_text()
    assert "mIoU" not in front.read_text()


def test_the_first_page_has_the_table_one_would_quote_with_its_protocol(tmp_path):
    *_, front = described(tmp_path, ROWS)
    text = front.read_text()
    assert text.index("mIoU") < text.index("What was run")
    assert "within 0.05 m" in text and "mean over 4 scenes" in text
    assert "could be judged by" not in text and "<html" not in text
    # 14 of 20 walls, 9 of 17 floors and none of 5 beds, all scenes added.
    true_walls, floors, beds = 14 / (16 + 11), 9 / (15 + 2), 0
    miou = f"{100 * (true_walls + floors + beds) / 3:.1f}"
    assert ["vote", miou] == cells(front)[1][:2]
    assert cells(front)[1][-1] == "0.875"


def test_the_first_page_quotes_novel_views_too(tmp_path):
    scenes = sorted({row["scene"] for row in ROWS})
    frame = {"miou": 0.25, "mean_accuracy": 0.5, "accuracy": 0.5, "pixels": 9,
             "rays": 4, "rays_rendered": 4, "psnr_db": 20.0, "full_psnr_db": 20.0,
             "ssim": 0.5, "lpips": None}  # fmt: skip
    said = {"views": "held-out", "views_words": "Some", "image_quality": "gnesf"}
    confusion = np.eye(21, dtype=int)
    views = [
        {"field": "seer", "scene": scene, "frames": [frame], "frames_without_truth": 0,
         "confusion": confusion.tolist(), "protocol": said, "rays": 4,
         "rays_rendered": 4, "semantics": scannet_scores(confusion)}
        for scene in scenes
    ]  # fmt: skip
    *_, front = described(tmp_path, ROWS, views)
    assert ["seer", "25.0", "100.0", "100.0", "100.0", "20.00", "0.500"] in cells(front)
    assert "views: held-out; colours: gnesf" in front.read_text()


def test_what_jobs_took_is_added_by_rule(tmp_path):
    costs, *_ = described(tmp_path)
    with costs.open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["rule"], first["jobs"]) == ("extract_mesh", "3")
    assert float(first["wall_s"]) == 120 and float(first["processor_s"]) == 80
    assert float(first["median_s"]) == 40 and float(first["memory_mib"]) == 300
    assert second["rule"] == "make_lists" and float(second["memory_mib"]) == 0


def test_the_page_tells_disk_versions_and_seeds_and_runs_nothing(tmp_path):
    _, markdown, html, _ = described(tmp_path)
    text = markdown.read_text()
    assert "| frames | 1 | 3.0 |" in text
    assert "| fields: gnesf: training: seed | 7 |" in text
    assert "| torch | " in text
    assert "<script>" not in html.read_text()
