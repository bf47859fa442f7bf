"""Put our figures beside a table of the paper, and print it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from gnesf_core.data.publish import read_json, write_text
from gnesf_core.errors import BadInput
from gnesf_core.evaluation import paper_tables, tables
from gnesf_core.evaluation.paper_tables import Seconds
from gnesf_core.evaluation.published import DATASETS, TABLES
from gnesf_core.evaluation.tables import mean_of_known
from stages.cli import log, run


def main(
    table: str,
    dataset: str,
    split: str,
    scores: list[Path],
    rows: dict[str, str],
    markdown: Path,
    html: Path,
    csv: Path,
    comparable: str = "",
    views: list[Path] | None = None,
    costs: dict[str, Any] | None = None,
) -> None:
    """Write the page, every figure as a line of CSV, and the table into the log.

    `rows` names each field's row; `comparable` is ScanNet or Replica if the data set
    is that one, and empty for any other. `costs` names, by field and what was timed
    (training, fitting, rendering), the files of Snakemake's benchmarks, `{scene}` in
    them being any scene's.
    """
    _check("--table", table, tuple(TABLES))
    _check("--comparable", comparable, ("", *DATASETS))
    if not (scores or views):
        raise _wrong("--scores", "scores of at least one scene", "none")
    if not isinstance(rows, dict) or not rows:
        raise _wrong("--rows", "each field with its row in the table", rows)
    published = TABLES[table]
    seen = [read_json(path) for path in views or []]
    ours = paper_tables.measure(
        dataset,
        split,
        {field: str(label) for field, label in rows.items()},
        {
            "3D": [read_json(path) for path in scores],
            "colours" if published.of_colors else "2D": seen,
        },
        comparable,
    )
    blocks = paper_tables.blocks(published, ours)
    if costs:
        scenes = dict.fromkeys(row["scene"] for row in seen)
        seconds = {field: _seconds(files, scenes) for field, files in costs.items()}
        blocks.append(paper_tables.cost_block(published, ours, seconds))
    for block in blocks:
        log.info("\n%s\n", paper_tables.plain_text(block))
    title = f"{published.source}, and ours on {dataset}, {split} split"
    lines = pd.DataFrame(paper_tables.figure_lines(table, published, ours))
    counts = {"scenes": "Int64", "fields": "Int64"}  # whole, where some are missing
    write_text(csv, lines.astype(counts).to_csv(index=False))
    write_text(markdown, tables.markdown(title, blocks))
    write_text(html, tables.html_page(title, blocks))


def _seconds(files: Mapping[str, str], scenes: Iterable[str]) -> Seconds:
    """Read how long a field's jobs took: the mean over files."""
    means = {}
    for what, pattern in files.items():
        paths = dict.fromkeys(pattern.replace("{scene}", scene) for scene in scenes)
        jobs = [pd.read_csv(path, sep="\t") for path in paths]
        means[what] = mean_of_known([float(job["s"].iloc[-1]) for job in jobs])
    return Seconds(**means)


def _check(place: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        names = ", ".join(repr(each) for each in known)
        raise _wrong(place, f"one of {names}", repr(name))


def _wrong(place: str, expected: str, found: Any) -> BadInput:
    remedy = "correct config/config.yaml"
    return BadInput(
        "command line", place, expected=expected, found=found, remedy=remedy
    )


if __name__ == "__main__":
    run(main)
