"""Score a prior's maps of one scene against its 2D labels."""

from pathlib import Path

from gnesf_core.data import store
from gnesf_core.data.provenance import provenance
from gnesf_core.data.publish import write_json
from gnesf_core.evaluation.prior import score_prior
from stages.cli import run


def main(prior_file: Path, frames: Path, out: Path, prior: str) -> None:
    """Write every frame's scores, integer confusions and calibration."""
    with store.Frames(frames) as kept, store.PriorMaps(prior_file, kept) as maps:
        scores = score_prior(maps, kept)
        inputs = {"prior": maps.fingerprint, "frames": kept.fingerprint}
        names = {"scene": kept.scene, "prior": prior}
    names["provenance"] = provenance("evaluate_prior", {}, inputs)
    write_json(out, names | scores)


if __name__ == "__main__":
    run(main)
