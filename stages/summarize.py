"""Sum the scenes of a split into the tables that a reader would quote."""

from pathlib import Path

import pandas as pd

from gnesf_core.data.publish import read_json, write_text
from gnesf_core.evaluation import summary, tables
from stages.cli import run


def main(
    scores: list[Path],
    dataset: str,
    split: str,
    fields: Path,
    classes: Path,
    scenes: Path,
    markdown: Path,
    html: Path,
) -> None:
    """Read every scene's scores; write one table per question, and one page."""
    rows = [read_json(path) for path in scores]
    lines = {
        fields: pd.DataFrame(summary.per_field(rows)),
        classes: pd.DataFrame(summary.per_class(rows)),
        scenes: pd.DataFrame(summary.per_scene(rows)),
    }
    for path, table in lines.items():
        write_text(path, table.to_csv(index=False))
    title, blocks = f"{dataset}, {split} split", summary.blocks(rows)
    write_text(markdown, tables.markdown(title, blocks))
    write_text(html, tables.html_page(title, blocks))


if __name__ == "__main__":
    run(main)
