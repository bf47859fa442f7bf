"""What the pipeline asks of a field: the class of any point of a scene.

A field's module in this folder has `Settings` (a dataclass), `open_field` as below, and
`PACKAGES`, the libraries whose versions its results should name. Modules of fields that
are trained also have `build(settings, encoder, start) -> nn.Module`, with a file of
weights to take the picture encoder from. A recipe names its module; nothing imports
them all.

    def open_field(settings, encoder: NeuconConfig | None, weights: Path | None,
                   device: torch.device) -> Field
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from gnesf_core.data.store import DistanceGrid, Frames, PriorMaps, SceneVolume
from gnesf_core.shapes import Float, Float32, UInt8

UNSEEN_COLOR = 127  # grey level of what no view sees


@dataclass(frozen=True)
class SceneInputs:
    """What is known about a scene before any field."""

    frames: Frames
    prior: PriorMaps  # of the same frames
    surface: DistanceGrid  # signed distances that the points were taken from
    features: SceneVolume | None = None  # its encoding is what learned fields are given
    features_path: Path | None = None  # for errors to name
    features_weights: str | None = None  # digest of the weights that made them


class PointLabels(NamedTuple):
    """What a field says about points."""

    class_id: UInt8[np.ndarray, " n"]  # IGNORE where it knows nothing
    confidence: Float32[np.ndarray, " n"]  # probability of that class; 0 with IGNORE
    color: UInt8[np.ndarray, "n 3"]


@runtime_checkable
class Field(Protocol):
    """Knows the semantics of points."""

    def inputs(self) -> dict[str, str]:
        """Return fingerprints of what else labels are made of, such as weights."""
        ...

    def label_points(
        self, points_world: Float[np.ndarray, "n 3"], scene: SceneInputs
    ) -> PointLabels:
        """Return class, confidence and colour of points."""
        ...
