"""Time `snakemake -n` on all of ScanNet's size with everything up to date.

    python -m bench.bench_workflow [--scenes 1613]

The files are empty and the metadata are those that a real run would leave: what is
timed is Snakemake, our rules, and the code digest. Goal: under 20 s.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
PRIORS = ("mask2former", "labels", "noisy-labels")
FIELDS = (
    "oracle",
    *(f"mask2former-{r}" for r in ("mean", "nearest", "running-average")),
)
# What a finished run has, oldest first.
OF_EVERY_SCENE = ("frames/{}.h5", "targets/{}.h5")
TRAINED = ("priors/mask2former/model.safetensors", "priors/mask2former/metrics.jsonl")
OF_JUDGED_SCENES = (
    *(f"priors/{p}/{{}}{kind}" for p in PRIORS for kind in (".h5", ".cost.json")),
    *(f"priors/{p}/{{}}.json" for p in PRIORS),
    *(f"figures/priors/{p}/{{}}.png" for p in PRIORS),
    *(f"fields/{f}/{{}}.ply" for f in FIELDS),
    *(f"fields/{f}/{{}}.json" for f in FIELDS),
    "figures/scenes/{}.png",
)
TABLES = (
    "figures/priors/mask2former/training.svg",
    *(f"tables/{table}val.{kind}" for table in ("", "priors_")
      for kind in ("md", "html", "csv")),
    *(f"tables/{name}.csv" for name in ("val_classes", "val_scenes",
                                        "priors_val_classes", "priors_val_frames")),
    "figures/val_classes.svg",
)  # fmt: skip


def make_up(folder: Path, scenes: int) -> Path:
    """Lay out empty files as a finished run on ScanNet would; return the config."""
    names = [f"scene{i:04d}_00" for i in range(scenes)]
    train, val = round(scenes * 1201 / 1613), round(scenes * 312 / 1613)
    splits = {
        "train": names[:train],
        "val": names[train : train + val],
        "test": names[train + val :],
    }
    for split, members in splits.items():
        (folder / f"{split}.txt").write_text("\n".join(members) + "\n")
    old = time.time() - 1000

    def touch(path: Path, age: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (old - age, old - age))

    results = folder / "results/made_up"
    touch(folder / "raw/labels.tsv", 100)
    for split, members in splits.items():
        scans = folder / "raw" / ("scans_test" if split == "test" else "scans")
        for name in members:
            for suffix in (".sens", "_vh_clean_2.labels.ply", "_2d-label-filt.zip"):
                touch(scans / name / f"{name}{suffix}", 100)
            for age, pattern in enumerate(OF_EVERY_SCENE):
                touch(results / pattern.format(name), 90 - age)
    for name in TRAINED:
        touch(results / name, 85)
    for name in splits["val"]:
        for age, pattern in enumerate(OF_JUDGED_SCENES):
            touch(results / pattern.format(name), 80 - age)
    for age, name in enumerate(TABLES):
        touch(results / name, 40 - age)
    config = folder / "made_up.yaml"
    config.write_text(
        "dataset: made_up\ndatasets:\n  made_up:\n    format: scannet\n    root: raw\n"
        "    scans_test: scans_test\n    label_map: raw/labels.tsv\n"
        "    splits: {train: train.txt, val: val.txt, test: test.txt}\n"
    )
    return config


def main() -> None:
    """Measure three dry runs and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=1613)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = make_up(folder, options.scenes)
        command = [
            sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile",
            "--directory", folder, "--configfile", config, "--cores", "1",
        ]  # fmt: skip
        subprocess.run([*command, "--touch", "--quiet", "all"], check=True)
        seconds = []
        for _ in range(options.runs):
            started = time.perf_counter()
            done = subprocess.run(
                [*command, "-n"], check=True, capture_output=True, text=True
            )
            seconds.append(time.perf_counter() - started)
            assert "Nothing to be done" in done.stdout + done.stderr, done.stdout
        print(
            f"{options.scenes} scenes, up to date: snakemake -n takes "
            f"{statistics.median(seconds):.1f} s "
            f"(runs: {', '.join(f'{s:.1f}' for s in seconds)} s)"
        )


if __name__ == "__main__":
    main()
