"""Picture a scene's predicted classes beside the true ones, from above and inside."""

from pathlib import Path

import numpy as np

from gnesf_core.data.images import encode_png
from gnesf_core.data.meshes import read_mesh
from gnesf_core.data.publish import write_bytes
from gnesf_core.data.scannet import read_mesh_labels
from gnesf_core.labels import train_ids_from_nyu40
from gnesf_core.viz import picture
from stages.cli import run

SIZE = (640, 480)


def main(mesh: Path, truth: Path, out: Path) -> None:
    """Draw prediction (left) and truth (right), above (top) and inside (bottom)."""
    predicted, _ = read_mesh(mesh)
    vertices, faces, nyu40 = read_mesh_labels(truth)
    surfaces = [
        (predicted.vertices_world, predicted.faces, predicted.label),
        (vertices, faces, train_ids_from_nyu40(nyu40)),
    ]
    viewpoints = [
        picture.top_viewpoint(vertices, *SIZE),
        picture.inside_viewpoint(vertices, faces, *SIZE),
    ]
    rows = [
        picture.side_by_side(
            [
                picture.render_mesh(v, f, picture.class_colors(labels), viewpoint)
                for v, f, labels in surfaces
            ]
        )
        for viewpoint in viewpoints
    ]
    write_bytes(out, encode_png(np.concatenate(rows)))


if __name__ == "__main__":
    run(main)
