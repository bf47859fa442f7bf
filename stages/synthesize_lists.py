"""Write SynthRooms' lists of scenes: train, val and test."""

from pathlib import Path

from gnesf_core.config import SynthRoomsCounts
from gnesf_core.data.publish import publish_files
from gnesf_core.synthrooms.scene import write_lists
from stages.cli import run


def main(out: Path, config: SynthRoomsCounts) -> None:
    """Write one list per split into the folder `out`."""
    with publish_files(out) as folder:
        write_lists(folder, config)


if __name__ == "__main__":
    run(main)
