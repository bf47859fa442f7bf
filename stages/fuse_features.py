"""Make one scene's volume: signed distances and encoding, by any geometry."""

import importlib
import logging
from dataclasses import asdict
from pathlib import Path

import numpy as np

from gnesf_core.data import store
from gnesf_core.data.provenance import provenance
from stages.cli import device_named, run, settings

log = logging.getLogger(__name__)


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
    where = device_named(device)
    geometry = kind.open_geometry(config, weights, where)
    with store.Frames(frames) as kept:
        inputs = {"frames": kept.fingerprint} | geometry.inputs()
        fused = None
        if targets is not None:
            fused = store.Targets(targets, kept.scene)
            inputs["targets"] = fused.fingerprint
        volume = geometry.reconstruct(kept, fused)
        about = {"module": module, "device": where.type} | asdict(config)
        made_by = provenance("fuse_features", about, inputs, packages=kind.PACKAGES)
        store.write_volume(out, kept, volume, made_by)
    near = np.count_nonzero(np.abs(volume.surface.tsdf) < 1)
    log.info("%s: %d voxels near surfaces", kept.scene, near)


if __name__ == "__main__":
    run(main)
