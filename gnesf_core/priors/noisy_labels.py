"""Ground-truth labels spoilt as segmenters do: for tests, and for studies of a prior.

Three faults, each of its own strength: regions take the class of a look-alike, and not
the same in every view; outlines wander; probability goes to other classes. What a
frame gets depends on the seed, the scene's name and the raw frame number alone.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gnesf_core.config import NoisyLabelsConfig
from gnesf_core.data.store import Frames
from gnesf_core.labels import CLASS_NAMES
from gnesf_core.priors.interface import Prior
from gnesf_core.priors.labels import class_shares, label_images
from gnesf_core.shapes import Float32, Float64, UInt8

Settings = NoisyLabelsConfig
PACKAGES: tuple[str, ...] = ()

# What is taken for what, in both directions, and how readily.
LOOK_ALIKES = {
    ("wall", "floor"): 0.1,
    ("wall", "door"): 1.0,
    ("wall", "window"): 1.0,
    ("floor", "otherfurniture"): 0.5,
    ("cabinet", "bookshelf"): 1.0,
    ("cabinet", "counter"): 1.0,
    ("cabinet", "refrigerator"): 1.0,
    ("cabinet", "otherfurniture"): 1.0,
    ("bed", "sofa"): 1.0,
    ("chair", "sofa"): 1.0,
    ("table", "desk"): 1.0,
    ("table", "counter"): 0.5,
    ("door", "window"): 0.5,
    ("window", "picture"): 1.0,
    ("window", "curtain"): 0.5,
    ("curtain", "shower curtain"): 1.0,
    ("sink", "bathtub"): 1.0,
    ("sink", "toilet"): 1.0,
}

_CLASSES = len(CLASS_NAMES)
_TO_LOOK_ALIKES = 0.5  # of the doubt; the rest goes to all other classes alike
_WAVES = 8  # of which a displacement is the sum; it is never over 4 boundary_px
_SHORTEST_WAVE, _LONGEST_WAVE = 10.0, 40.0  # wavelengths in boundary_px


def open_prior(settings: NoisyLabelsConfig, weights: Path | None, device: str) -> Prior:
    """Return the prior; it has no weights and needs no device."""
    return NoisyLabelsPrior(settings)


class NoisyLabelsPrior:
    """Ground truth with the faults of a segmenter."""

    def __init__(self, settings: NoisyLabelsConfig) -> None:
        self._settings = settings
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
        """Yield what a segmenter with these faults would say; void stays empty."""
        settings = self._settings
        for index, labels in label_images(frames, start):
            rng = _generator(settings.seed, frames.scene, index)
            seen = confuse_regions(labels, settings.confusion, rng)
            seen = displace(seen, settings.boundary_px, rng)
            yield spread(class_shares(seen, *self._size), settings.doubt)


def look_alike_probabilities() -> Float64[np.ndarray, "20 20"]:
    """Return with which probability a confused class (row) is taken for another."""
    likeness = np.zeros((_CLASSES, _CLASSES))
    for (one, other), weight in LOOK_ALIKES.items():
        i, j = CLASS_NAMES.index(one), CLASS_NAMES.index(other)
        likeness[i, j] = likeness[j, i] = weight
    return likeness / likeness.sum(axis=1, keepdims=True)


def confuse_regions(
    labels: UInt8[np.ndarray, "h w"], probability: float, rng: np.random.Generator
) -> UInt8[np.ndarray, "h w"]:
    """Give regions of one class a look-alike's class, each with this probability.

    A region is connected by edges. As many numbers are drawn at any probability, so a
    higher one adds errors to those of a lower one.
    """
    from scipy import ndimage

    confused = labels.copy()
    look_alikes = look_alike_probabilities()
    boxes = ndimage.find_objects(labels.astype(np.int32) + 1, _CLASSES)
    for class_id, box in enumerate(boxes):
        if box is None:
            continue
        regions, count = ndimage.label(labels[box] == class_id)
        hit = rng.random(count) < probability
        taken_for = rng.choice(_CLASSES, count, p=look_alikes[class_id])
        becomes = np.where(hit, taken_for, class_id).astype(np.uint8)
        inside = regions > 0
        confused[box][inside] = becomes[regions[inside] - 1]
    return confused


def displace(
    labels: UInt8[np.ndarray, "h w"], rms_px: float, rng: np.random.Generator
) -> UInt8[np.ndarray, "h w"]:
    """Look every label up a little elsewhere, by a smooth flow of this RMS length."""
    height, width = labels.shape
    rows = np.arange(height)[:, None] + _waves(height, width, rms_px, rng)
    columns = np.arange(width) + _waves(height, width, rms_px, rng)
    rows = np.clip(np.rint(rows).astype(np.intp), 0, height - 1)
    columns = np.clip(np.rint(columns).astype(np.intp), 0, width - 1)
    return labels[rows, columns]


def _waves(
    height: int, width: int, rms_px: float, rng: np.random.Generator
) -> Float32[np.ndarray, "height width"]:
    """Return one component of the flow: plane waves of random direction and phase.

    cos(a + b) = cos a cos b - sin a sin b makes their sum a product of two matrices.
    """
    length = rng.uniform(_SHORTEST_WAVE, _LONGEST_WAVE, _WAVES) * max(rms_px, 1.0)
    direction, phase = rng.uniform(0, 2 * np.pi, (2, _WAVES))
    along_v = np.outer(np.arange(height), 2 * np.pi / length * np.sin(direction))
    along_u = np.outer(np.arange(width), 2 * np.pi / length * np.cos(direction))
    down = np.concatenate([np.cos(along_v), -np.sin(along_v)], axis=1)
    across = np.concatenate([np.cos(along_u + phase), np.sin(along_u + phase)], axis=1)
    amplitude = rms_px / np.sqrt(_WAVES)
    return (amplitude * down).astype(np.float32) @ across.astype(np.float32).T


def spread(
    shares: Float32[np.ndarray, "classes h w"], doubt: float
) -> Float32[np.ndarray, "classes h w"]:
    """Move this share of every class's score to the others, look-alikes first."""
    uniform = (1 - np.eye(_CLASSES)) / (_CLASSES - 1)
    others = (
        _TO_LOOK_ALIKES * look_alike_probabilities() + (1 - _TO_LOOK_ALIKES) * uniform
    )
    kept_or_moved = (1 - doubt) * np.eye(_CLASSES) + doubt * others
    moved = kept_or_moved.T.astype(np.float32) @ shares.reshape(_CLASSES, -1)
    return moved.reshape(shares.shape)


def _generator(seed: int, scene: str, index: int) -> np.random.Generator:
    """Return a frame's own source of randomness."""
    key = hashlib.sha256(f"{seed} {scene} {index}".encode()).digest()
    return np.random.default_rng(int.from_bytes(key, "little"))
