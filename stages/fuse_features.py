"""Make one scene's volume: signed distances and encoding, by any geometry."""

import importlib
import logging
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import numpy as np

from gnesf_core.data import store
from gnesf_core.data.provenance import provenance
from gnesf_core.errors import BadInput
from stages.cli import check_device, run, settings

log = logging.getLogger("stages")


def main(
    frames: Path,
    out: Path,
    module: str,
    recipe: str,
    targets: Path | None = None,
    weights: Path | None = None,
    device: str = "cpu",
) -> None:
    """Reconstruct the scene by `gnesf_core.geometries.<module>`."""
    kind = importlib.import_module(f"gnesf_core.geometries.{module}")
    config = settings(kind.Settings, recipe, "--recipe")
    check_device(device)
    geometry = kind.open_geometry(config, weights, device)
    with ExitStack() as stack:
        kept = stack.enter_context(store.Frames(frames))
        inputs = {"frames": kept.fingerprint} | geometry.inputs()
        fused = None
        if geometry.needs_targets:
            fused = stack.enter_context(store.Targets(_named(targets), kept.scene))
            inputs["targets"] = fused.fingerprint
        started = time.monotonic()
        volume = geometry.reconstruct(kept, fused)
        seconds = time.monotonic() - started
        about = {"module": module, "device": device} | asdict(config)
        made_by = provenance("fuse_features", about, inputs, packages=kind.PACKAGES)
        store.write_volume(out, kept, volume, made_by)
        surface = volume.surface
        near = np.count_nonzero((surface.weight > 0) & (np.abs(surface.tsdf) < 1))
        log.info("%s: %d voxels near surfaces, %.1f s", kept.scene, near, seconds)


def _named(targets: Path | None) -> Path:
    if targets is None:
        raise BadInput(
            "command line",
            "--targets",
            expected="the targets of the scene, which this geometry is made of",
            found="none",
            remedy="name the file that fuse_targets wrote",
        )
    return targets


if __name__ == "__main__":
    run(main)
