"""Cache a prior's class maps of one scene's kept frames."""

import importlib
from dataclasses import asdict
from pathlib import Path

from gnesf_core.data import store
from gnesf_core.data.provenance import provenance
from gnesf_core.data.publish import write_json
from gnesf_core.priors.caching import cache_prior
from stages.cli import check_device, run, settings


def main(
    frames: Path,
    out: Path,
    cost: Path,
    prior: str,
    module: str,
    recipe: str,
    weights: Path | None = None,
    device: str = "cpu",
    code: str = "",
) -> None:
    """Write the maps by `gnesf_core.priors.<module>`, and what they cost.

    Goes on where a killed run of the same `code` stopped.
    """
    kind = importlib.import_module(f"gnesf_core.priors.{module}")
    config = settings(kind.Settings, recipe, "--recipe")
    check_device(device)
    with store.Frames(frames) as kept:
        source = kind.open_prior(config, weights, device)
        inputs = {"frames": kept.fingerprint} | source.inputs(kept)
        about = {"module": module, "device": device} | asdict(config)
        made_by = provenance("cache_prior", about, inputs, packages=kind.PACKAGES)
        logits = getattr(config, "logits", False)
        seconds, timed = cache_prior(out, kept, source, logits, made_by, code)
        with store.PriorMaps(out, kept) as maps:
            bill = {
                "prior": prior,
                "scene": kept.scene,
                "frames": len(kept),
                "frames_timed": timed,
                "seconds": seconds,
                "device": device,
                "threads": made_by["threads"],
                "stored_bytes": maps.stored_bytes,
            }
    write_json(cost, bill)


if __name__ == "__main__":
    run(main)
