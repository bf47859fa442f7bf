"""Write what a summary found: each table as CSV, and all of them as a page."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from gnesf_core.data.publish import write_text
from gnesf_core.evaluation import tables


def publish_tables(
    lines: Mapping[Path, Iterable[Mapping[str, Any]]],
    title: str,
    blocks: Sequence[tables.Block],
    markdown: Path,
    html: Path,
) -> None:
    """Write lines into the CSV files that they are keyed by, and blocks into pages."""
    for path, own in lines.items():
        write_text(path, pd.DataFrame(list(own)).to_csv(index=False))
    write_text(markdown, tables.markdown(title, blocks))
    write_text(html, tables.html_page(title, blocks))
