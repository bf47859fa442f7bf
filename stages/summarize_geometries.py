"""Average the scores of geometries on a split into the tables that one would quote."""

from pathlib import Path

from gnesf_core.data.publish import read_json
from gnesf_core.evaluation import geometry_summary
from stages.cli import run
from stages.published_tables import publish_tables


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
    title = f"Geometries on {dataset}, {split} split"
    blocks = geometry_summary.blocks(rows)
    publish_tables(lines, title, blocks, markdown, html)


if __name__ == "__main__":
    run(main)
