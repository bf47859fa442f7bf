"""Score one scene's labelled mesh against its ground truth."""

from pathlib import Path

from gnesf_core.config import EvaluationConfig
from gnesf_core.data import store
from gnesf_core.data.meshes import expect_input, read_mesh
from gnesf_core.data.provenance import provenance
from gnesf_core.data.publish import sha256_of, write_json
from gnesf_core.data.scannet import read_mesh_labels
from gnesf_core.evaluation.scene import score_scene
from gnesf_core.labels import train_ids_from_nyu40
from stages.cli import run


def main(
    mesh: Path,
    truth: Path,
    frames: Path,
    out: Path,
    field: str,
    config: EvaluationConfig,
) -> None:
    """Write integer confusions, geometry scores and depth scores."""
    predicted, about = read_mesh(mesh)
    vertices, _, nyu40 = read_mesh_labels(truth)
    with store.Frames(frames, about["scene"]) as kept:
        expect_input(mesh, about, "frames", kept.fingerprint)
        scores = score_scene(
            predicted, vertices, train_ids_from_nyu40(nyu40), kept, config
        )
        inputs = {
            "mesh": about["fingerprint"],
            "truth": sha256_of(truth),
            "frames": kept.fingerprint,
        }
    made_by = provenance("evaluate_scene", config, inputs)
    names = {"scene": about["scene"], "field": field, "provenance": made_by}
    write_json(out, names | scores)


if __name__ == "__main__":
    run(main)
