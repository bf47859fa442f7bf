"""Copy the frames worth keeping of one raw scan into one file."""

import logging
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from gnesf_core.config import CaptureConfig, FramesConfig
from gnesf_core.data.capture_world import find_world
from gnesf_core.data.captures import open_labels, open_scan
from gnesf_core.data.extraction import extract
from gnesf_core.data.posed_images import PosedImages
from gnesf_core.data.provenance import provenance
from gnesf_core.data.publish import sha256_of
from gnesf_core.labels import LabelMap
from stages.cli import run

log = logging.getLogger("stages")

ANY_CAPTURE = CaptureConfig(up="auto", metres_per_unit=0.0, floor_m=None)


def main(
    scan: Path,
    out: Path,
    scene: str,
    format: str,
    config: FramesConfig,
    labels: Path | None = None,
    label_map: Path | None = None,
    label_map_sha256: list[str] | None = None,
    capture: CaptureConfig = ANY_CAPTURE,
    intrinsics: str = "true",
) -> None:
    """Decide which frames of `scan` are usable, key frames or views, and store them.

    A capture, whose world may lie anyhow, is set upright first. `intrinsics` are true,
    or released: those that published systems read Replica with.
    """
    with ExitStack() as stack:
        source = open_scan(format, scan, intrinsics == "released")
        stack.callback(source.close)
        inputs = {"scan": source.sha256()}
        for warning in source.warnings:
            log.warning("%s", warning)
        label_source = None
        if labels is not None and label_map is not None:
            classes = LabelMap.read(label_map, tuple(label_map_sha256 or ()))
            inputs["label_map"] = sha256_of(label_map)
            label_source = stack.enter_context(open_labels(labels, classes, source))
            inputs["labels"] = label_source.fingerprint()
        world, recipe = None, asdict(config)
        if isinstance(source, PosedImages):
            world = find_world(source, capture)
            source.move(world)
            recipe["capture"] = asdict(capture)
        if intrinsics != "true":
            recipe["intrinsics"] = intrinsics
        made_by = provenance("extract_frames", recipe, inputs)
        extract(out, source, scene, label_source, config, made_by, world)


if __name__ == "__main__":
    run(main)
