"""What one new scene takes, from its frames to a labelled mesh and its scores.

    python -m bench.bench_scene [--results results/synthrooms] [--field gnesf-mesh]

Reads what Snakemake noted of every job of a finished run by `config/config.yaml`: whole
processes, start-up included. Networks are trained. `all` starts from the frames,
`cached` has the prior's maps.
"""

import argparse
import statistics
from pathlib import Path

import pandas as pd
import yaml

from workflow.recipes import resolve

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Print seconds of every job, for each scene that has been scored."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=Path("results/synthrooms"))
    parser.add_argument("--field", default="gnesf-mesh")
    arguments = parser.parse_args()
    folder = arguments.results / "benchmarks"
    scored = sorted((folder / "evaluate_scene" / arguments.field).glob("*.tsv"))
    if not scored:
        parser.error(f"{folder}: no scene was scored by {arguments.field}")
    jobs = jobs_of(arguments.field)
    width = max(map(len, jobs)) + 2
    print(f"{'':{width}}" + "".join(f"{path.stem:>14}" for path in scored))
    taken = {
        job: [_seconds(folder / job / path.name) for path in scored] for job in jobs
    }
    for job, seconds in taken.items():
        print(f"{job:{width}}" + "".join(f"{own:14.1f}" for own in seconds))
    every = list(map(sum, zip(*taken.values(), strict=True)))
    cached = [own - maps for own, maps in zip(every, taken[jobs[0]], strict=True)]
    for name, seconds in (("all", every), ("cached", cached)):
        line = "".join(f"{own:14.1f}" for own in seconds)
        print(f"{name:{width}}{line}  median {statistics.median(seconds):.1f} s")


def jobs_of(field: str) -> list[str]:
    """Return the jobs of a scene, the one that caches maps first."""
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    recipe = resolve("fields", config["fields"])[field]
    surfaces = dict.fromkeys([recipe["geometry"], recipe.get("features")])
    return [
        f"cache_prior/{recipe['prior']}",
        "fuse_targets",
        *(f"fuse_features/{name}" for name in surfaces if name),
        f"extract_mesh/{field}",
        f"evaluate_scene/{field}",
    ]


def _seconds(path: Path) -> float:
    return float(pd.read_csv(path, sep="\t")["s"].iloc[-1])


if __name__ == "__main__":
    main()
