"""What every result says about its own making.

`inputs` maps a role ("frames", "scan") to the fingerprint of the very thing that was
read, so that a reader can tell a result from one that was made of something else.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import h5py
import numpy as np

VERSION = "0.1.0"


def provenance(
    stage: str,
    recipe: Any,
    inputs: Mapping[str, str],
    seed: int | None = None,
    packages: Sequence[str] = (),
) -> dict[str, Any]:
    """Describe a result: who made it, by which recipe, of what, with what.

    `packages` are further distributions to name the versions of, where installed.
    """
    further = {}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            further[name] = metadata.version(name)
    return {
        "stage": stage,
        "recipe": recipe_values(recipe),
        "recipe_sha256": recipe_digest(recipe),
        "inputs": dict(inputs),
        "seed": seed,
        "threads": _threads(),
        "versions": {
            "gnesf": VERSION,
            "python": platform.python_version(),
            "torch": metadata.version("torch"),
            "numpy": np.__version__,
            "h5py": h5py.__version__,
        }
        | further,
    }


def recipe_values(recipe: Any) -> Any:
    """Return the settings as plain JSON values."""
    if dataclasses.is_dataclass(recipe) and not isinstance(recipe, type):
        return dataclasses.asdict(recipe)
    return recipe


def recipe_digest(recipe: Any) -> str:
    """Hash settings by value, whatever the order of their names."""
    text = json.dumps(recipe_values(recipe), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _threads() -> int:
    """Return how many threads compute; torch is asked only by those who use it."""
    if torch := sys.modules.get("torch"):
        return torch.get_num_threads()
    return int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0))))
