"""Turn one scene's field into a labelled mesh."""

import logging
import time
from dataclasses import asdict
from pathlib import Path

from gnesf_core.config import NeuconConfig
from gnesf_core.data import meshes
from gnesf_core.data.provenance import provenance
from gnesf_core.geometry.grid import Grid
from gnesf_core.geometry.mesh import extract_surface
from stages.cli import device_named, run
from stages.scene_inputs import open_field, scene_inputs

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
    where = device_named(device)
    field, config, packages = open_field(module, recipe, encoder, weights, where)
    with scene_inputs(frames, volume, prior, features) as (scene, inputs):
        surface, name = scene.surface, scene.frames.scene
        grid = Grid(surface.origin_world, surface.voxel_size_m, surface.tsdf.shape)
        vertices, faces = extract_surface(surface.tsdf, surface.weight, grid)
        started = time.monotonic()
        labels = field.label_points(vertices, scene)
        seconds = time.monotonic() - started
        log.info("%s: %d vertices labelled, %.1f s", name, len(vertices), seconds)
        mesh = meshes.LabelledMesh(vertices, faces, *labels)
        about, inputs = {"module": module} | asdict(config), inputs | field.inputs()
        made_by = provenance("extract_mesh", about, inputs, packages=packages)
        meshes.write_mesh(out, name, mesh, made_by)


if __name__ == "__main__":
    run(main)
