"""Turn one scene's field into a labelled mesh."""

import importlib
from dataclasses import asdict
from pathlib import Path

from gnesf_core.data import meshes, store
from gnesf_core.data.provenance import provenance
from gnesf_core.fields.interface import SceneInputs
from gnesf_core.geometry.mesh import extract_surface
from gnesf_core.geometry.tsdf import Grid
from stages.cli import run, settings


def main(
    frames: Path, volume: Path, prior: Path, out: Path, module: str, recipe: str
) -> None:
    """Label the surface of `volume` by the field in `gnesf_core.fields`."""
    field = importlib.import_module(f"gnesf_core.fields.{module}")
    config = settings(field.Settings, recipe, "--recipe")
    with (
        store.Frames(frames) as kept,
        store.VolumeFile(volume, kept) as geometry,
        store.PriorMaps(prior, kept) as maps,
    ):
        surface = geometry.volume().surface
        grid = Grid(surface.origin_world, surface.voxel_size_m, surface.tsdf.shape)
        vertices, faces = extract_surface(surface.tsdf, surface.weight, grid)
        labels = field.label_points(vertices, SceneInputs(kept, maps, surface), config)
        mesh = meshes.LabelledMesh(vertices, faces, *labels)
        inputs = {
            "frames": kept.fingerprint,
            "volume": geometry.fingerprint,
            "prior": maps.fingerprint,
        }
        about = {"module": module} | asdict(config)
        made_by = provenance("extract_mesh", about, inputs)
        meshes.write_mesh(out, kept.scene, mesh, made_by)


if __name__ == "__main__":
    run(main)
