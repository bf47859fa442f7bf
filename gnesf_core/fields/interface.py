"""What the pipeline asks of a field: the class of any point of a scene.

A field's module in this folder has `Settings` (a dataclass) and `label_points` as
below. A recipe names its module; nothing imports them all.

    def label_points(points_world, scene: SceneInputs, settings) -> PointLabels
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gnesf_core.data.store import DistanceGrid, Frames, PriorMaps
from gnesf_core.shapes import Float32, UInt8


@dataclass(frozen=True)
class SceneInputs:
    """What is known about a scene before any field."""

    frames: Frames
    prior: PriorMaps  # of the same frames
    surface: DistanceGrid  # signed distances that the points were taken from


class PointLabels(NamedTuple):
    """What a field says about points."""

    class_id: UInt8[np.ndarray, " n"]  # IGNORE where it knows nothing
    confidence: Float32[np.ndarray, " n"]  # probability of that class; 0 with IGNORE
    color: UInt8[np.ndarray, "n 3"]
