"""Score one scene's geometry against its true surface and its depth."""

from pathlib import Path

from gnesf_core.config import EvaluationConfig
from gnesf_core.data import store
from gnesf_core.data.provenance import provenance
from gnesf_core.data.publish import sha256_of, write_json
from gnesf_core.evaluation.volume import read_truth, score_volume
from stages.cli import run


def main(
    volume: Path,
    frames: Path,
    targets: Path,
    truth: Path,
    out: Path,
    geometry: str,
    config: EvaluationConfig,
) -> None:
    """Write scores of the surface, of its depth and of signed distances."""
    true_surface = read_truth(truth)
    with (
        store.Frames(frames) as kept,
        store.VolumeFile(volume, kept) as estimate,
        store.Targets(targets, kept.scene) as fused,
    ):
        fused.expect_input("frames", kept.fingerprint)
        scores = score_volume(
            estimate.volume(), fused.level(0), true_surface, kept, config
        )
        inputs = {
            "volume": estimate.fingerprint,
            "frames": kept.fingerprint,
            "targets": fused.fingerprint,
            "truth": sha256_of(truth),
        }
        names = {"scene": kept.scene, "geometry": geometry}
    names["provenance"] = provenance("evaluate_geometry", config, inputs)
    names["volume_bytes"] = volume.stat().st_size
    write_json(out, names | scores)


if __name__ == "__main__":
    run(main)
