"""Open a field and what it is asked about, for the stages that ask one."""

import importlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gnesf_core.config import NeuconConfig
from gnesf_core.data import store
from gnesf_core.fields.interface import Field, SceneInputs
from stages.cli import settings


class OpenField(NamedTuple):
    """A field that can be asked, and what its results say of it."""

    field: Field
    config: Any  # of the module's own kind
    packages: tuple[str, ...]  # that it needs


def open_field(
    module: str,
    recipe: str,
    encoder: NeuconConfig | None,
    weights: Path | None,
    device: torch.device,
) -> OpenField:
    """Open the field in `gnesf_core.fields` with its recipe and weights."""
    kind = importlib.import_module(f"gnesf_core.fields.{module}")
    config = settings(kind.Settings, recipe, "--recipe")
    field = kind.open_field(config, encoder, weights, device)
    return OpenField(field, config, kind.PACKAGES)


@contextmanager
def scene_inputs(
    frames: Path,
    volume: Path,
    prior: Path,
    features: Path | None = None,
    scene: str | None = None,
) -> Iterator[tuple[SceneInputs, dict[str, str]]]:
    """Yield a scene's inputs and their fingerprints by role; they belong together."""
    with ExitStack() as stack:
        kept = stack.enter_context(store.Frames(frames, scene))
        geometry = stack.enter_context(store.VolumeFile(volume, kept))
        maps = stack.enter_context(store.PriorMaps(prior, kept))
        files = {"frames": kept, "volume": geometry, "prior": maps}
        encoded, made_by = None, None
        if features is not None:
            files["features"] = stack.enter_context(store.VolumeFile(features, kept))
            encoded = files["features"].volume()
            made_by = files["features"].provenance["inputs"].get("weights")
        fingerprints = {role: file.fingerprint for role, file in files.items()}
        surface = geometry.volume().surface
        inputs = SceneInputs(kept, maps, surface, encoded, features, made_by)
        yield inputs, fingerprints
