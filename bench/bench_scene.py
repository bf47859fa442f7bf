"""What one new scene takes, from its frames to a labelled mesh and its scores.

    python -m bench.bench_scene [--results results/synthrooms] [--field gnesf-mesh]

Reads what Snakemake noted of every job of a finished run: whole processes, start-up
included. Networks are trained and, where `cached` says so, the prior's maps are there.
"""

import argparse
import statistics
from pathlib import Path

import pandas as pd
import yaml

ROOT = Path(__file__).parent.parent
# What is made of a scene's frames, one after the other.
STAGES = {
    "cache_prior": "{prior}",
    "fuse_targets": "",
    "fuse_features": "{geometry}",
    "extract_mesh": "{field}",
    "evaluate_scene": "{field}",
}


def main() -> None:
    """Print seconds of every stage, for each scene that has been scored."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=Path("results/synthrooms"))
    parser.add_argument("--field", default="gnesf-mesh")
    arguments = parser.parse_args()
    names = {"field": arguments.field} | _builds_on(arguments.field)
    folder = arguments.results / "benchmarks"
    scored = sorted((folder / "evaluate_scene" / arguments.field).glob("*.tsv"))
    if not scored:
        parser.error(f"{folder}: no scene was scored by {arguments.field}")
    totals = []
    print(f"{'scene':<14}" + "".join(f"{stage:>16}" for stage in STAGES) + "  cached")
    for path in scored:
        taken = [
            _seconds(folder / stage / where.format(**names) / path.name)
            for stage, where in STAGES.items()
        ]
        totals.append(sum(taken[1:]))
        cells = "".join(f"{seconds:16.1f}" for seconds in taken)
        print(f"{path.stem:<14}{cells}{totals[-1]:8.1f}")
    print(f"median with cached maps: {statistics.median(totals):.1f} s per scene")


def _builds_on(field: str) -> dict[str, str]:
    """Name a field's prior and geometry, as the configuration has them."""
    recipes = yaml.safe_load((ROOT / "config/config.yaml").read_text())["fields"]
    found: dict[str, str] = {}
    name: str | None = field
    while name:
        found = {k: recipes[name][k] for k in ("prior", "geometry")
                 if k in recipes[name]} | found  # fmt: skip
        name = recipes[name].get("extends")
    return found


def _seconds(path: Path) -> float:
    return float(pd.read_csv(path, sep="\t")["s"].iloc[-1])


if __name__ == "__main__":
    main()
