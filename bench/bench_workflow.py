"""Time `snakemake -n` on all of ScanNet's size with everything up to date.

    python -m bench.bench_workflow [--scenes 1613]

Snakemake says which files a finished run has; they are laid out empty, of one age. What
is timed is Snakemake, our rules, and the code digest. Goal: under 20 s.
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


def make_up(folder: Path, scenes: int) -> Path:
    """Lay out empty scans as ScanNet has them; return the config."""
    names = [f"scene{i:04d}_00" for i in range(scenes)]
    train, val = round(scenes * 1201 / 1613), round(scenes * 312 / 1613)
    splits = {
        "train": names[:train],
        "val": names[train : train + val],
        "test": names[train + val :],
    }
    touch(folder / "raw/labels.tsv")
    for split, members in splits.items():
        (folder / f"{split}.txt").write_text("\n".join(members) + "\n")
        scans = folder / "raw" / ("scans_test" if split == "test" else "scans")
        for name in members:
            for suffix in (".sens", "_vh_clean_2.labels.ply", "_2d-label-filt.zip"):
                touch(scans / name / f"{name}{suffix}")
    config = folder / "made_up.yaml"
    config.write_text(
        "dataset: made_up\ndatasets:\n  made_up:\n    format: scannet\n    root: raw\n"
        "    scans_test: scans_test\n    label_map: raw/labels.tsv\n"
        "    splits: {train: train.txt, val: val.txt, test: test.txt}\n"
    )
    return config


def touch(path: Path) -> None:
    """Make an empty file; all are equally old."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (1e9, 1e9))


def main() -> None:
    """Measure three dry runs and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=1613)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        config = make_up(folder, options.scenes)
        command = [
            sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile",
            "--directory", folder, "--configfile", config, "--cores", "1",
        ]  # fmt: skip
        listed = subprocess.run(
            [*command, "--summary"], check=True, capture_output=True, text=True
        )
        made = [line.split("\t")[0] for line in listed.stdout.splitlines()[1:]]
        for name in made:
            touch(folder / name)
        seconds = []
        for _ in range(options.runs):
            started = time.perf_counter()
            done = subprocess.run(
                [*command, "-n"], check=True, capture_output=True, text=True
            )
            seconds.append(time.perf_counter() - started)
            assert "Nothing to be done" in done.stdout + done.stderr, done.stdout
        print(
            f"{options.scenes} scenes, {len(made)} files, up to date: "
            f"snakemake -n takes {statistics.median(seconds):.1f} s "
            f"(runs: {', '.join(f'{s:.1f}' for s in seconds)} s)"
        )


if __name__ == "__main__":
    main()
