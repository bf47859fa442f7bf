"""Tell what was run and what came of it, what it took, and what it was made with."""

import csv
import json
import os
import platform
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from gnesf_core.data.publish import read_json, write_text
from gnesf_core.evaluation import novel_view_summary, summary, tables
from gnesf_core.evaluation.tables import Block
from stages.cli import run
from stages.published_tables import publish_tables

PACKAGES = ("torch", "numpy", "h5py", "numba", "snakemake", "open3d-cpu", "open3d",
            "mmsegmentation", "transformers")  # fmt: skip
MIB = 2**20
# What a field learns from, beside its own training, and the section that describes it.
LEARNED_FROM = (
    ("features", "geometries"),
    ("training_prior", "priors"),
    ("training_geometry", "geometries"),
)


def main(
    results: Path,
    config: dict[str, Any],
    scenes: dict[str, int],
    judged: dict[str, list[str]],
    costs: Path,
    markdown: Path,
    html: Path,
    front: Path,
) -> None:
    """Read what Snakemake measured of every job, `results/benchmarks`, and add it up.

    `config` is the whole configuration, `scenes` the number in each split, `judged` the
    names of those of splits that have scores. Costs are those of the jobs whose
    measurements are there: what was not made again is counted by its last run. `front`
    is a part of the report's first page.
    """
    said = [*_quoted(results, config, judged)]
    said += _about(config, scenes, bool(judged))
    write_text(front, tables.html_part(said))
    lines = sorted(_costs(results / "benchmarks"), key=lambda line: -line["wall_s"])
    blocks = [
        Block(
            "Where time and memory went",
            "Jobs of each rule, as Snakemake measured them: wall clock, start-up "
            "included, added over jobs that may have run side by side; processor time; "
            "the largest resident memory of any job.",
            ["rule", "jobs", "minutes", "processor minutes", "median s", "longest s",
             "memory, MiB"],
            [
                [line["rule"], line["jobs"], f"{line['wall_s'] / 60:.1f}",
                 f"{line['processor_s'] / 60:.1f}", f"{line['median_s']:.0f}",
                 f"{line['longest_s']:.0f}", f"{line['memory_mib']:.0f}"]
                for line in lines
            ],
        ),
        Block(
            "Where disk went",
            "Files below each folder of the results.",
            ["folder", "files", "MiB"],
            [[*line[:2], f"{line[2] / MIB:.1f}"] for line in _disk(results)],
        ),
        Block("Versions", "", ["what", "version"], list(_versions())),
        Block(
            "Configuration",
            "All that was set, seeds among it. Recipes are written out: `extends` has "
            "been resolved.",
            ["key", "value"],
            [[key, json.dumps(value)] for key, value in _flat("", config)],
        ),
    ]  # fmt: skip
    publish_tables(
        {costs: lines}, f"How {results.name} was made", blocks, markdown, html
    )


def _quoted(
    results: Path, config: dict[str, Any], judged: Mapping[str, Sequence[str]]
) -> Iterator[Block]:
    """Yield the tables that one would quote of each split: of meshes, and of views."""
    told = (
        ("fields", config["headline"], summary.headline_block),
        ("views", config["headline_views"], novel_view_summary.headline_block),
    )
    for split, scenes in judged.items():
        for folder, names, block in told:
            files = (results / folder / name for name in names)
            rows = [read_json(f / f"{scene}.json") for f in files for scene in scenes]
            if rows:
                yield block(rows, split)


def _about(
    config: dict[str, Any], scenes: Mapping[str, int], judged: bool
) -> Iterator[Block]:
    """Yield what was run, and by which fields."""
    counts = [f"{count} {name}" for name, count in scenes.items() if count]
    yield Block(
        "What was run",
        "" if judged else "No scene has labels that its fields could be judged by.",
        ["what", "which"],
        [
            ["data set", config["dataset"]],
            ["scenes", ", ".join(counts)],
            ["device", config["device"]],
        ],
    )
    fields = {name: config["fields"][name] for name in config["headline"]}
    yield Block(
        "Its fields",
        "A field brings what a prior says of pictures to the surface of a geometry. "
        "Seeds are those of the trainings that it rests on.",
        ["field", "by", "prior", "geometry", "seeds"],
        [
            [name, _means(recipe), recipe["prior"], recipe["geometry"],
             _seeds(name, config)]
            for name, recipe in fields.items()
        ],
    )  # fmt: skip


def _means(recipe: Mapping[str, Any]) -> str:
    """Say how a field comes by its classes."""
    settings = recipe["settings"]
    rule = settings.get("vote", settings.get("rule"))
    return f"{recipe['module']}, {rule}" if rule else recipe["module"]


def _seeds(name: str, config: Mapping[str, Any]) -> str:
    """List the seeds of the trainings that a field rests on."""
    recipe = config["fields"][name]
    parts = [("priors", recipe["prior"]), ("geometries", recipe["geometry"])]
    if recipe["settings"].get("vote") in ("learned", "direct"):
        while other := config["fields"][name].get("trained_as"):
            name = other
        own = config["fields"][name]
        parts += [(section, own[part]) for part, section in LEARNED_FROM if part in own]
        parts.append(("fields", name))
    trained = [(part, config[section][part]) for section, part in dict.fromkeys(parts)]
    found = [
        f"{part} {own['training']['seed']}"
        for part, own in trained
        if "training" in own and "weights" not in own
    ]
    return ", ".join(found) or "-"


def _costs(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield a line for each rule, whose files lie in its folder or bear its name."""
    runs = defaultdict(list)
    for path in folder.rglob("*.tsv"):
        rule = path.relative_to(folder).parts[0].removesuffix(".tsv")
        with path.open(newline="") as file:
            runs[rule].extend(csv.DictReader(file, delimiter="\t"))
    for rule, rows in runs.items():
        if not rows:
            continue
        seconds = [_number(row["s"]) for row in rows]
        yield {
            "rule": rule,
            "jobs": len(rows),
            "wall_s": sum(seconds),
            "processor_s": sum(_number(row["cpu_time"]) for row in rows),
            "median_s": median(seconds),
            "longest_s": max(seconds),
            "memory_mib": max(_number(row["max_rss"]) for row in rows),
        }


def _number(text: str) -> float:
    """Return what was measured; Snakemake writes NA or - for jobs too short for it."""
    try:
        return float(text)
    except ValueError:
        return 0.0


def _disk(results: Path) -> list[tuple[str, int, int]]:
    """Return name, number of files and bytes of the folders, the largest first."""
    found = []
    for folder in results.iterdir():
        if folder.is_dir():
            sizes = list(_sizes(folder))
            found.append((folder.name, len(sizes), sum(sizes)))
    return sorted(found, key=lambda line: -line[2])


def _sizes(folder: Path) -> Iterator[int]:
    for where, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # others may be at work
                yield os.lstat(Path(where) / name).st_size


def _versions() -> Iterator[tuple[str, str]]:
    yield "Python", platform.python_version()
    yield "system", platform.platform()
    for package in PACKAGES:
        try:
            yield package, metadata.version(package)
        except metadata.PackageNotFoundError:
            continue


def _flat(prefix: str, values: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Yield every value with the path of keys that leads to it."""
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _flat(f"{path}: ", value)
        else:
            yield path, value


if __name__ == "__main__":
    run(main)
