"""Write one scene as the ScanNet benchmark wants it: an nyu40 id per mesh vertex."""

from pathlib import Path

from gnesf_core.data.meshes import read_mesh
from gnesf_core.data.ply import read_ply
from gnesf_core.data.publish import publish
from gnesf_core.data.scannet import write_evaluation_ids
from gnesf_core.evaluation.semantics import transfer_labels
from gnesf_core.labels import nyu40_from_train_ids
from stages.cli import run


def main(mesh: Path, target: Path, out: Path) -> None:
    """Give each vertex of ScanNet's `target` mesh its nearest predicted label."""
    predicted, _ = read_mesh(mesh)
    vertices = read_ply(target).vertices
    labels = transfer_labels(vertices, predicted.vertices_world, predicted.label)
    with publish(out) as temporary:
        write_evaluation_ids(temporary, nyu40_from_train_ids(labels))


if __name__ == "__main__":
    run(main)
