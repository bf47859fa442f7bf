"""Ground-truth labels as a prior: the upper bound of every segmenter.

A map pixel's score of a class is the share of its area that has this class.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gnesf_core.config import LabelsPriorConfig
from gnesf_core.data.store import Frames
from gnesf_core.labels import CLASS_NAMES, IGNORE
from gnesf_core.priors.interface import Prior
from gnesf_core.shapes import Float32, Int64, UInt8

Settings = LabelsPriorConfig
PACKAGES: tuple[str, ...] = ()

log = logging.getLogger(__name__)

_CLASSES = len(CLASS_NAMES)


def open_prior(settings: LabelsPriorConfig, weights: Path | None, device: str) -> Prior:
    """Return the prior; it has no weights and needs no device."""
    return LabelsPrior(settings)


class LabelsPrior:
    """What is known where somebody has labelled the frames."""

    def __init__(self, settings: LabelsPriorConfig) -> None:
        self._size = settings.map_width, settings.map_height

    def map_size(self, frames: Frames) -> tuple[int, int]:
        """Return width and height of the maps."""
        return self._size

    def inputs(self, frames: Frames) -> dict[str, str]:
        """Return nothing: the labels are part of the frames."""
        return {}

    def scores(
        self, frames: Frames, start: int
    ) -> Iterator[Float32[np.ndarray, "classes h w"]]:
        """Yield the share of each class in each pixel; void leaves the rest empty."""
        for _, labels in label_images(frames, start):
            yield class_shares(labels, *self._size)


def label_images(
    frames: Frames, start: int
) -> Iterator[tuple[int, UInt8[np.ndarray, "h w"]]]:
    """Yield raw number and labels of the kept frames from position `start` on.

    Scenes of a test split have no labels; theirs are void, with a warning.
    """
    if not frames.has_labels:
        log.warning("%s has no labels: its prior says nothing", frames.scene)
    nothing = np.full(frames.color_size[::-1], IGNORE, np.uint8)
    for position in range(start, len(frames)):
        labels = frames.labels(position) if frames.has_labels else nothing
        yield int(frames.index[position]), labels


def class_shares(
    labels: UInt8[np.ndarray, "h w"], map_width: int, map_height: int
) -> Float32[np.ndarray, "classes map_height map_width"]:
    """Return the share of each map pixel's area that each class has.

    Image and map cover the same area. Every image pixel is cut along the edges of the
    map's pixels and each piece counted where it lies, in integers: exact at any ratio.
    """
    height, width = labels.shape
    rows, map_rows, heights = _pieces(height, map_height)
    columns, map_columns, widths = _pieces(width, map_width)
    # A label's share of the bins; void has one past the last class.
    first_bin = np.minimum(np.arange(256), _CLASSES) * (map_height * map_width)
    bins = first_bin[labels[rows[:, None], columns]]
    bins += (map_rows * map_width)[:, None] + map_columns
    areas = np.multiply.outer(heights.astype(float), widths)
    count = (_CLASSES + 1) * map_height * map_width
    total = np.bincount(bins.ravel(), areas.ravel(), count)
    shares = total.reshape(-1, map_height, map_width)[:_CLASSES] / (height * width)
    return shares.astype(np.float32)


def _pieces(
    length: int, map_length: int
) -> tuple[
    Int64[np.ndarray, " pieces"],
    Int64[np.ndarray, " pieces"],
    Int64[np.ndarray, " pieces"],
]:
    """Cut an axis at the edges of both grids; return pixel, map pixel and length.

    The unit of length is 1 / map_length of a pixel, or 1 / length of a map pixel.
    """
    edges = np.union1d(
        np.arange(length + 1) * map_length, np.arange(map_length + 1) * length
    )
    return edges[:-1] // map_length, edges[:-1] // length, np.diff(edges)
