"""Sum the 2D scores of priors on a split into the tables that a reader would quote."""

from pathlib import Path

from gnesf_core.data.publish import read_json
from gnesf_core.evaluation import prior_summary
from stages.cli import run
from stages.published_tables import publish_tables


def main(
    scores: list[Path],
    costs: list[Path],
    dataset: str,
    split: str,
    priors: Path,
    classes: Path,
    frames: Path,
    markdown: Path,
    html: Path,
) -> None:
    """Read every scene's scores and costs; write one table per question, one page."""
    rows = [read_json(path) for path in scores]
    bills = [read_json(path) for path in costs]
    lines = {
        priors: prior_summary.per_prior(rows, bills),
        classes: prior_summary.per_class(rows),
        frames: prior_summary.per_frame(rows),
    }
    title = f"Priors on {dataset}, {split} split"
    blocks = prior_summary.blocks(rows, bills)
    publish_tables(lines, title, blocks, markdown, html)


if __name__ == "__main__":
    run(main)
