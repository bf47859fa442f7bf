"""Sum the scenes of a split into the tables that a reader would quote."""

from pathlib import Path

from gnesf_core.data.publish import read_json
from gnesf_core.evaluation import summary
from stages.cli import run
from stages.published_tables import publish_tables


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
        fields: summary.per_field(rows),
        classes: summary.per_class(rows),
        scenes: summary.per_scene(rows),
    }
    title, blocks = f"{dataset}, {split} split", summary.blocks(rows)
    publish_tables(lines, title, blocks, markdown, html)


if __name__ == "__main__":
    run(main)
