"""Repeat the tables of the paper with several seeds of what learns.

    python -m bench.bench_quality [--seeds 1 2 3] [--tables table4 views scenes]
                                  [--of fields|segmenters] [--directory DIR] [--cores N]

Every field or method of the tables that learns is trained once per seed, on one
segmenter and one geometry; or, of segmenters, those are, and what learns from them with
its own seed as it is. Tables then print mean, lowest and highest of the repetitions.
`snakemake` runs with a configuration laid over the project's own, which stays in the
results; what an ordinary run has made is not made again.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "workflow"))

from recipes import resolve  # noqa: E402 (the workflow's own)

UNLEARNED = ("mean", "nearest")


def main() -> None:
    """Parse the command line, write the overlay, run it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--tables", nargs="+", default=["table4"])
    parser.add_argument("--of", choices=["fields", "segmenters"], default="fields")
    parser.add_argument("--directory", type=Path, default=ROOT)
    parser.add_argument("--cores", default="all")
    arguments = parser.parse_args()
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    repeat = repeated if arguments.of == "fields" else by_segmenter
    overlay = repeat(config, arguments.seeds, arguments.tables)
    path = arguments.directory / "results/repeated.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(overlay, sort_keys=False))
    command = ["snakemake", "--cores", arguments.cores, "--keep-going",
               "--directory", str(arguments.directory), *arguments.tables,
               "--configfile", str(path)]  # fmt: skip
    subprocess.run(command, cwd=ROOT, check=True)
    for table in arguments.tables:
        folder = arguments.directory / f"results/{config['dataset']}/tables/paper"
        print((folder / f"{table}_val.md").read_text())


def repeated(
    config: dict[str, Any], seeds: list[int], tables: list[str]
) -> dict[str, Any]:
    """Return recipes for every further seed, and tables that have them as rows."""
    known = {kind: resolve(kind, config[kind]) for kind in ("fields", "methods")}
    new: dict[str, dict[str, Any]] = {kind: {} for kind in known}
    rows: dict[str, dict[str, str]] = {}
    for table in tables:
        rows[table] = {}
        for name, label in config["tables"][table].items():
            kind = "fields" if name in known["fields"] else "methods"
            recipe = known[kind][name]
            rows[table][name] = label
            if kind == "fields" and recipe["settings"].get("vote") in (
                None,
                *UNLEARNED,
            ):
                continue
            for seed in seeds:
                if seed == recipe["training"]["seed"]:
                    continue
                if kind == "fields":
                    change = {"trained_as": "", "training": {"seed": seed}}
                    new[kind][f"{name}-seed{seed}"] = {"extends": name} | change
                else:
                    _repeat_method(known[kind], new[kind], name, seed)
                rows[table][f"{name}-seed{seed}"] = label
    return new | {"tables": rows}


def by_segmenter(
    config: dict[str, Any], seeds: list[int], tables: list[str]
) -> dict[str, Any]:
    """Return segmenters for every further seed, and fields that are given those."""
    priors = resolve("priors", config["priors"])
    fields = resolve("fields", config["fields"])
    new: dict[str, dict[str, Any]] = {"priors": {}, "fields": {}}
    rows: dict[str, dict[str, str]] = {}
    for table in tables:
        rows[table] = {}
        for name, label in config["tables"][table].items():
            if name not in fields:
                raise SystemExit(
                    f"{table}: expected rows that are fields, found {name!r}; remedy: "
                    "repeat this table --of fields"
                )
            recipe = fields[name]
            rows[table][name] = label
            learned = {
                part: recipe[part]
                for part in ("prior", "training_prior")
                if "training" in priors.get(recipe.get(part), {})
            }
            for seed in seeds:
                change: dict[str, Any] = {}
                for part, prior in learned.items():
                    if seed != priors[prior]["training"]["seed"]:
                        change[part] = f"{prior}-seed{seed}"
                        other = {"extends": prior, "training": {"seed": seed}}
                        new["priors"][change[part]] = other
                if not change:
                    continue
                if "vote" in recipe["settings"]:
                    change["trained_as"] = ""  # the vote learns from this segmenter
                new["fields"][f"{name}-segmenter{seed}"] = {"extends": name} | change
                rows[table][f"{name}-segmenter{seed}"] = label
    return new | {"tables": rows}


def _repeat_method(
    known: dict[str, Any], new: dict[str, Any], name: str, seed: int
) -> None:
    """Add a method's recipe for a seed, and those of whose training it makes use."""
    change: dict[str, Any] = {"extends": name, "training": {"seed": seed}}
    for part in ("trained_as", "start"):
        if other := known[name][part]:
            _repeat_method(known, new, other, seed)
            change[part] = f"{other}-seed{seed}"
    new[f"{name}-seed{seed}"] = change


if __name__ == "__main__":
    main()
