"""Open what a field is asked about, for the stages that ask one."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from gnesf_core.data import store
from gnesf_core.fields.interface import SceneInputs


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
