"""Furnish one room and film it, in ScanNet's own file formats."""

from pathlib import Path

from gnesf_core.config import SynthRoomsConfig
from gnesf_core.data.publish import publish_files
from gnesf_core.synthrooms.scene import write_scene
from stages.cli import run


def main(
    out: Path, scene: str, labelled: int, config: SynthRoomsConfig, device: str = "cpu"
) -> None:
    """Write the scan's files into the folder `out`; labels only if `labelled`.

    Large scenes pay on a GPU: run this by hand on a GPU node with `--device cuda`.
    """
    with publish_files(out) as folder:
        write_scene(folder, scene, bool(labelled), config, device)


if __name__ == "__main__":
    run(main)
