"""Pack the label files of a split into the flat archive that ScanNet's server takes."""

from pathlib import Path

from gnesf_core.data.publish import publish
from gnesf_core.data.scannet import write_submission_zip
from stages.cli import run


def main(texts: list[Path], out: Path) -> None:
    """Put every text into `out` under its scene's name."""
    with publish(out) as temporary:
        write_submission_zip(temporary, {text.stem: text for text in texts})


if __name__ == "__main__":
    run(main)
