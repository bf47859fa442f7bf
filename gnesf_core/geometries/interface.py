"""What the pipeline asks of a geometry: where the surfaces of a scene are.

A geometry's module in this folder has `Settings` (a dataclass), `open_geometry` as
below, and `PACKAGES`, the libraries whose versions its results should name. Modules of
geometries that are trained also have `build(settings, device) -> nn.Module` and
`sources(settings)`, the files that training starts from. A recipe names its module;
nothing imports them all.

    def open_geometry(settings, weights: Path | None, device: str) -> Geometry

`device` is a name, such as cpu: only geometries that compute with torch wait for it.
"""

from typing import Protocol, runtime_checkable

from gnesf_core.data.store import Frames, SceneVolume, Targets


@runtime_checkable
class Geometry(Protocol):
    """Estimates, or knows, the surfaces of a scene."""

    needs_targets: bool  # whether `reconstruct` asks for the fused depth

    def inputs(self) -> dict[str, str]:
        """Return fingerprints of what else the volume is made of, such as weights."""
        ...

    def reconstruct(self, frames: Frames, targets: Targets | None) -> SceneVolume:
        """Return the geometry of a scene, on a grid whose origin is a whole voxel."""
        ...
