"""Write what SynthRooms has once per data set: label map and scene lists."""

from pathlib import Path

from gnesf_core.config import SynthRoomsConfig
from gnesf_core.data.publish import publish_files
from gnesf_core.synthrooms.scene import write_index
from stages.cli import run


def main(out: Path, config: SynthRoomsConfig) -> None:
    """Write the label map and the train, val and test lists into `out`."""
    with publish_files(out) as folder:
        write_index(folder, config)


if __name__ == "__main__":
    run(main)
