"""The sensor's own depth as a geometry: the paper's rows with ground-truth mesh."""

from pathlib import Path

from gnesf_core.config import FusedDepthConfig
from gnesf_core.data.store import Frames, SceneVolume, Targets
from gnesf_core.errors import BadInput
from gnesf_core.geometries.interface import Geometry
from gnesf_core.geometries.measured import without_encoding

Settings = FusedDepthConfig
PACKAGES: tuple[str, ...] = ()


def open_geometry(
    settings: FusedDepthConfig, weights: Path | None, device: str
) -> Geometry:
    """Return the geometry; it has no weights and needs no device."""
    return FusedDepth(settings)


class FusedDepth:
    """One level of a scene's training targets, as it is."""

    needs_targets = True

    def __init__(self, settings: FusedDepthConfig) -> None:
        self._level = settings.level

    def inputs(self) -> dict[str, str]:
        """Return nothing: the targets are named by whoever passes them."""
        return {}

    def reconstruct(self, frames: Frames, targets: Targets | None) -> SceneVolume:
        """Return the level; a surface is near wherever one was measured."""
        if targets is None:
            raise ValueError("fused depth needs the scene's targets")
        targets.expect_input("frames", frames.fingerprint)
        if self._level >= targets.levels:
            raise BadInput(
                targets.path,
                "levels",
                expected=f"level {self._level}, counted from 0",
                found=f"{targets.levels} levels",
                remedy="raise targets.levels, or lower `level` in the recipe",
            )
        return without_encoding(targets.level(self._level))
