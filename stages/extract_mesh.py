"""Turn one scene's field into a labelled mesh."""

import importlib
import logging
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from gnesf_core.config import NeuconConfig
from gnesf_core.data import meshes, store
from gnesf_core.data.provenance import provenance
from gnesf_core.fields.interface import SceneInputs
from gnesf_core.geometry.mesh import extract_surface
from gnesf_core.geometry.tsdf import Grid
from stages.cli import device_named, run, settings

log = logging.getLogger("stages")


def main(
    frames: Path,
    volume: Path,
    prior: Path,
    out: Path,
    module: str,
    recipe: str,
    features: Path | None = None,
    encoder: NeuconConfig | None = None,
    weights: Path | None = None,
    device: str = "cpu",
) -> None:
    """Label the surface of `volume` by the field in `gnesf_core.fields`.

    Fields that look at pictures are told by which `encoder`, and learned ones are given
    their weights and a volume whose encoding they use, `features`.
    """
    kind = importlib.import_module(f"gnesf_core.fields.{module}")
    config = settings(kind.Settings, recipe, "--recipe")
    field = kind.open_field(config, encoder, weights, device_named(device))
    with ExitStack() as stack:
        kept = stack.enter_context(store.Frames(frames))
        geometry = stack.enter_context(store.VolumeFile(volume, kept))
        maps = stack.enter_context(store.PriorMaps(prior, kept))
        inputs = {
            "frames": kept.fingerprint,
            "volume": geometry.fingerprint,
            "prior": maps.fingerprint,
        } | field.inputs()
        encoded = None
        if features is not None:
            other = stack.enter_context(store.VolumeFile(features, kept))
            inputs["features"] = other.fingerprint
            encoded = other.volume()
        surface = geometry.volume().surface
        grid = Grid(surface.origin_world, surface.voxel_size_m, surface.tsdf.shape)
        vertices, faces = extract_surface(surface.tsdf, surface.weight, grid)
        started = time.monotonic()
        scene = SceneInputs(kept, maps, surface, encoded, features)
        labels = field.label_points(vertices, scene)
        seconds = time.monotonic() - started
        log.info("%s: %d vertices labelled, %.1f s", kept.scene, len(vertices), seconds)
        mesh = meshes.LabelledMesh(vertices, faces, *labels)
        about = {"module": module} | asdict(config)
        made_by = provenance("extract_mesh", about, inputs, packages=kind.PACKAGES)
        meshes.write_mesh(out, kept.scene, mesh, made_by)


if __name__ == "__main__":
    run(main)
