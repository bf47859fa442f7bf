"""Make a web page that shows a scene's labelled mesh from all sides, and a GLB."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gnesf_core.data.glb import glb_bytes
from gnesf_core.data.meshes import LabelledMesh, read_mesh
from gnesf_core.data.publish import write_bytes, write_text
from gnesf_core.data.scannet import read_mesh_labels
from gnesf_core.evaluation.geometry import nearest_points
from gnesf_core.labels import CLASS_NAMES, IGNORE, train_ids_from_nyu40
from gnesf_core.shapes import UInt8
from gnesf_core.viz.picture import UNLABELLED, class_colors
from gnesf_core.viz.scene_page import scene_page
from stages.cli import run
from stages.plot_style import plt

MOST_FACES = 300_000  # of a page: more make it slow on a phone
TRUTH_WITHIN_M = 0.05  # of a vertex, else it has no true class
HOW = (
    "Drag to turn, scroll or pinch to zoom,"
    " drag with the right button or two fingers to move."
)
# Blue and vermillion are told apart by people with any colour vision.
VERDICTS = {
    "right": (0, 114, 178),
    "wrong": (213, 94, 0),
    "not judged": UNLABELLED,
}


def main(
    mesh: Path,
    out: Path,
    glb: Path,
    field: str,
    truth: Path | None = None,
) -> None:
    """Write the page, and the whole mesh in binary glTF.

    `mesh` is the field's, `truth` the raw labelled mesh; without it the page has no
    views that need it.
    """
    labelled, about = read_mesh(mesh)
    write_bytes(glb, _glb(labelled))
    shown, notes = labelled, [HOW]
    if len(labelled.faces) > MOST_FACES:
        shown = _simplified(labelled)
        counts = f"{len(shown.faces):,} of {len(labelled.faces):,} triangles"
        notes.append(f"Shown with {counts}; the files beside this page have them all.")
    classes = None
    if truth is not None:
        classes = _true_classes(shown, truth)
        within = f"{100 * TRUTH_WITHIN_M:.0f} cm"
        notes.append(f"The truth is that of the nearest true vertex within {within}.")
    title = f"{about['scene']}, {field}"
    write_text(out, scene_page(title, _about(" ".join(notes)), shown, classes))


def _glb(mesh: LabelledMesh) -> bytes:
    photo = np.full((len(mesh.color), 4), 255, np.uint8)
    photo[:, :3] = mesh.color
    vertex = {
        # As floats: an attribute takes four bytes a vertex in any case.
        "class": mesh.label.astype(np.float32),
        "confidence": mesh.confidence,
        "photo": photo,
    }
    colors = class_colors(mesh.label)
    return glb_bytes(mesh.vertices_world, mesh.faces, colors, vertex=vertex)


def _simplified(mesh: LabelledMesh) -> LabelledMesh:
    """Return fewer faces; each vertex keeps what its nearest one was before."""
    import open3d

    vertices = open3d.utility.Vector3dVector(mesh.vertices_world.astype(np.float64))
    faces = open3d.utility.Vector3iVector(mesh.faces)
    fine = open3d.geometry.TriangleMesh(vertices, faces)
    coarse = fine.simplify_quadric_decimation(MOST_FACES)
    points = np.asarray(coarse.vertices).astype(np.float32)
    nearest, _ = nearest_points(mesh.vertices_world, points)
    return LabelledMesh(
        points,
        np.asarray(coarse.triangles).astype(np.int32),
        mesh.label[nearest],
        mesh.confidence[nearest],
        mesh.color[nearest],
    )


def _true_classes(mesh: LabelledMesh, truth: Path) -> UInt8[np.ndarray, " n"]:
    """Return the class of the nearest true vertex, `IGNORE` where none is near."""
    points, _, nyu40 = read_mesh_labels(truth)
    if min(len(points), len(mesh.vertices_world)) == 0:
        return np.full(len(mesh.vertices_world), IGNORE, np.uint8)
    nearest, distance_m = nearest_points(points, mesh.vertices_world)
    labels = train_ids_from_nyu40(nyu40)[nearest]
    return np.where(distance_m <= TRUTH_WITHIN_M, labels, np.uint8(IGNORE))


def _about(note: str) -> dict[str, object]:
    """Return what the page says, in the colours of the figures."""
    labels = np.array([*range(len(CLASS_NAMES)), IGNORE], np.uint8)
    names = [*CLASS_NAMES, "no class"]
    classes = dict(zip(names, class_colors(labels).tolist(), strict=True))
    scale = plt.get_cmap("viridis")(np.linspace(0, 1, 64), bytes=True)[:, :3]
    return {
        "note": note,
        "classes": _entries(classes),
        "verdicts": _entries(VERDICTS),
        "confidence": scale.tolist(),
    }


def _entries(colors: Mapping[str, Sequence[int]]) -> list[dict[str, object]]:
    return [{"name": name, "color": color} for name, color in colors.items()]


if __name__ == "__main__":
    run(main)
