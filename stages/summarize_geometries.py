"""Average the scores of geometries on a split into the tables that one would quote."""

from pathlib import Path

import pandas as pd

from gnesf_core.data.publish import read_json, write_text
from gnesf_core.evaluation import geometry_summary, tables
from stages.cli import run


def main(
    scores: list[Path],
    dataset: str,
    split: str,
    geometries: Path,
    scenes: Path,
    markdown: Path,
    html: Path,
) -> None:
    """Read every scene's scores; write a table by geometry, one by scene, one page."""
    rows = [read_json(path) for path in scores]
    lines = {
        geometries: geometry_summary.per_geometry(rows),
        scenes: geometry_summary.per_scene(rows),
    }
    for path, table in lines.items():
        write_text(path, pd.DataFrame(table).to_csv(index=False))
    title = f"Geometries on {dataset}, {split} split"
    blocks = geometry_summary.blocks(rows)
    write_text(markdown, tables.markdown(title, blocks))
    write_text(html, tables.html_page(title, blocks))


if __name__ == "__main__":
    run(main)
