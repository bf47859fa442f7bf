"""Picture a scene's predicted classes beside the true ones, from above and inside."""

from pathlib import Path

import numpy as np

from gnesf_core.data.meshes import read_mesh
from gnesf_core.data.scannet import read_mesh_labels
from gnesf_core.labels import train_ids_from_nyu40
from gnesf_core.viz import picture
from stages.cli import run
from stages.plot_style import class_legend, plt, write_figure

SIZE = (400, 300)  # hardly more than is shown
WIDTH_INCHES, DPI = 4.2, 88  # of a picture
# Points: read on pages that are narrower than the figure by half.
TITLE, LEGEND = 20, 18


def main(meshes: list[Path], truth: Path, out: Path, fields: list[str]) -> None:
    """Draw each field's mesh, and the truth at the right, above and inside the room."""
    predictions = [read_mesh(mesh)[0] for mesh in meshes]
    vertices, faces, nyu40 = read_mesh_labels(truth)
    true_labels = train_ids_from_nyu40(nyu40)
    surfaces = [(mesh.vertices_world, mesh.faces, mesh.label) for mesh in predictions]
    surfaces.append((vertices, faces, true_labels))
    viewpoints = [
        picture.top_viewpoint(vertices, *SIZE),
        picture.inside_viewpoint(vertices, faces, *SIZE),
    ]
    columns = len(surfaces)
    figure, axes = plt.subplots(2, columns, figsize=(WIDTH_INCHES * columns, 7.8))
    for row, viewpoint in zip(axes, viewpoints, strict=True):
        for cell, (points, triangles, labels) in zip(row, surfaces, strict=True):
            colors = picture.class_colors(labels)
            cell.imshow(picture.render_mesh(points, triangles, colors, viewpoint))
            cell.axis("off")
    for cell, name in zip(axes[0], [*fields, "ground truth"], strict=True):
        cell.set_title(name, fontsize=TITLE)
    present = np.unique(np.concatenate([labels for _, _, labels in surfaces]))
    legend = class_legend(present)
    figure.legend(
        handles=legend,
        loc="outside lower center",
        ncols=2 * columns,
        fontsize=LEGEND,
        frameon=False,
        handlelength=1.2,
        columnspacing=1.2,
    )
    write_figure(figure, out, DPI)


if __name__ == "__main__":
    run(main)
