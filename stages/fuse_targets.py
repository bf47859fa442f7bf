"""Fuse the depth of all usable frames of one scan into a TSDF pyramid."""

from pathlib import Path

from gnesf_core.config import TargetsConfig
from gnesf_core.data import store
from gnesf_core.data.captures import open_scan
from gnesf_core.data.provenance import provenance
from gnesf_core.geometry.scan_fusion import fuse_scan
from stages.cli import run


def main(
    scan: Path,
    frames: Path,
    out: Path,
    format: str,
    config: TargetsConfig,
    device: str = "cpu",
    intrinsics: str = "true",
) -> None:
    """Read the validity of frames from `frames` and their depth from `scan`.

    `intrinsics` are those of the extraction.
    """
    with store.Frames(frames) as kept:
        source = open_scan(format, scan, intrinsics == "released")
        levels = fuse_scan(source, kept, config, device)
        source.close()
        inputs = {"frames": kept.fingerprint}
        made_by = provenance("fuse_targets", config, inputs)
        store.write_targets(out, kept.scene, levels, made_by)


if __name__ == "__main__":
    run(main)
