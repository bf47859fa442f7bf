"""Write SynthRooms' table of categories, in the columns of ScanNet's."""

from pathlib import Path

from gnesf_core.data.publish import publish
from gnesf_core.data.scannet import write_label_map
from gnesf_core.synthrooms.categories import label_rows
from stages.cli import run


def main(out: Path) -> None:
    """Write the label map."""
    with publish(out) as temporary:
        write_label_map(temporary, label_rows())


if __name__ == "__main__":
    run(main)
