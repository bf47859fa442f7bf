"""Sum the scores of novel views of a split into the tables that one would quote."""

from pathlib import Path

from gnesf_core.data.publish import read_json
from gnesf_core.errors import BadInput
from gnesf_core.evaluation import novel_view_summary
from stages.cli import run
from stages.published_tables import publish_tables


def main(
    scores: list[Path],
    dataset: str,
    split: str,
    fields: Path,
    classes: Path,
    frames: Path,
    markdown: Path,
    html: Path,
) -> None:
    """Read every scene's scores; write one table per question, and one page."""
    if not scores:
        raise BadInput(
            "command line",
            "--scores",
            expected="scores of fields that render views",
            found="none",
            remedy="name a field by the module gnesf in the config's headline, or a "
            "method in its table1",
        )
    rows = [read_json(path) for path in scores]
    lines = {
        fields: novel_view_summary.per_field(rows),
        classes: novel_view_summary.per_class(rows),
        frames: novel_view_summary.per_frame(rows),
    }
    title = f"Novel views of {dataset}, {split} split"
    blocks = novel_view_summary.blocks(rows, split)
    publish_tables(lines, title, blocks, markdown, html)


if __name__ == "__main__":
    run(main)
