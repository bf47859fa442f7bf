"""Make a page of a split's scenes, worst first, with scores and pictures."""

import io
from pathlib import Path

from gnesf_core.data.publish import read_json, write_text
from gnesf_core.evaluation import scene_ranking, tables
from stages.cli import run
from stages.plot_style import JPEG

MOST_PIXELS_WIDE = 1400  # of a picture on the page


def main(
    scores: list[Path],
    pictures: list[Path],
    dataset: str,
    split: str,
    field: str,
    plain: list[str],
    out: Path,
) -> None:
    """Order the scenes by what `field` scores in them.

    `pictures` are named after their scenes; `plain` fields show what the prior alone
    gives.
    """
    rows = [read_json(path) for path in scores]
    jpegs = {path.stem: _small_jpeg(path) for path in pictures}
    blocks = scene_ranking.blocks(rows, field, plain, jpegs)
    title = f"Scenes of {dataset}, {split} split, worst first"
    write_text(out, tables.html_page(title, blocks))


def _small_jpeg(path: Path) -> bytes:
    from PIL import Image

    with Image.open(path) as picture:
        picture.thumbnail((MOST_PIXELS_WIDE, picture.height))
        stream = io.BytesIO()
        picture.save(stream, "JPEG", **JPEG)
    return stream.getvalue()


if __name__ == "__main__":
    run(main)
