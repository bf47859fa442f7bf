"""Training pictures for a segmenter: frames of many scenes, cropped and varied.

A sample is a function of its number alone: what is drawn for it (frame, crop, colours)
comes from a generator seeded by seed and number, so that a resumed training sees what
an uninterrupted one would, whoever loads it.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gnesf_core.config import SegmentationDataConfig
from gnesf_core.data.store import Frames
from gnesf_core.errors import BadInput
from gnesf_core.labels import CLASS_NAMES, IGNORE
from gnesf_core.nets.pictures import MEAN_RGB, jitter, resize_picture
from gnesf_core.shapes import Bool, Float64, UInt8

log = logging.getLogger(__name__)

_OPEN_FILES = 256
_PRESENT_SHARE = 1e-3  # of the pixels, from which on a frame counts as showing a class


class Crops:
    """Pictures [3, h, w] and labels [h, w] of frames drawn at random, by number."""

    def __init__(
        self,
        paths: Sequence[Path],
        config: SegmentationDataConfig,
        size: tuple[int, int],
        seed: int,
    ) -> None:
        if config.scale_min > config.scale_max:
            raise BadInput(
                "settings",
                "scale_min",
                expected=f"at most scale_max, {config.scale_max}",
                found=config.scale_min,
                remedy="exchange the two in the recipe",
            )
        self._paths = list(paths)
        self._config = config
        self._size = size
        self._seed = seed
        self._open: dict[int, Frames] = {}
        self.fingerprints: dict[str, str] = {}  # by scene
        self._choices: list[tuple[int, int]] = []  # (scene, position in it)
        present = [self._survey(scene) for scene in range(len(self._paths))]
        if not self._choices:
            raise BadInput(
                self._paths[0] if self._paths else "training split",
                "frames",
                expected="labelled frames to train on",
                found=f"none of the kind {config.frames!r} in {len(self._paths)} files",
                remedy="check `frames` of the recipe and the labels of the scans",
            )
        shares = frame_shares(np.concatenate(present), config.balance)
        self._shares_up_to = np.cumsum(shares)

    def _survey(self, scene: int) -> Bool[np.ndarray, "frames classes"]:
        """List a scene's frames, and which classes each shows if that matters."""
        frames = self._frames(scene)
        self.fingerprints[frames.scene] = frames.fingerprint
        kind = self._config.frames
        kept = np.ones(len(frames), bool)
        chosen = {"keys": frames.is_key, "views": frames.is_view, "kept": kept}[kind]
        positions = np.flatnonzero(chosen) if frames.has_labels else []
        if not frames.has_labels:
            log.warning("%s has no labels and is not trained on", frames.scene)
        self._choices.extend((scene, int(position)) for position in positions)
        present = np.zeros((len(positions), len(CLASS_NAMES)), bool)
        if self._config.balance > 0:
            for row, position in zip(present, positions, strict=True):
                labels = frames.labels(int(position))[::2, ::2]
                counts = np.bincount(labels.ravel(), minlength=256)[: len(CLASS_NAMES)]
                row[:] = counts > _PRESENT_SHARE * labels.size
        return present

    def __getitem__(self, number: int) -> dict[str, Tensor | str]:
        rng = np.random.default_rng((self._seed, number))
        drawn = np.searchsorted(self._shares_up_to, rng.random(), side="right")
        scene, position = self._choices[min(drawn, len(self._choices) - 1)]
        frames = self._frames(scene)
        picture, labels = crop(
            frames.color(position),
            frames.labels(position),
            self._size,
            np.exp(
                rng.uniform(*np.log([self._config.scale_min, self._config.scale_max]))
            ),
            rng.random(2),
        )
        if rng.random() < self._config.flip:
            picture, labels = picture.flip(2), labels.flip(1)
        picture = jitter(picture, 1 + self._config.color_jitter * rng.uniform(-1, 1, 3))
        name = f"{frames.scene} frame {frames.index[position]}"
        return {"picture": picture, "labels": labels, "name": name}

    def _frames(self, scene: int) -> Frames:
        """Open a file, or return it if it is open; files do not survive a pickle."""
        if scene not in self._open:
            if len(self._open) == _OPEN_FILES:
                self._open.pop(next(iter(self._open))).close()
            self._open[scene] = Frames(self._paths[scene])
        return self._open[scene]

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_open": {}}


def frame_shares(
    present: Bool[np.ndarray, "frames classes"], balance: float
) -> Float64[np.ndarray, " frames"]:
    """Return how often each frame is drawn: by its rarest class, to a power.

    With `balance` 1, a frame that shows a class which one frame in ten shows is drawn
    ten times as often as one that shows only what is everywhere.
    """
    frequency = present.mean(axis=0)
    rarity = np.where(present, 1 / np.maximum(frequency, 1e-9), 1.0).max(axis=1)
    weights = rarity**balance
    return weights / weights.sum()


def crop(
    rgb: UInt8[np.ndarray, "h w 3"],
    labels: UInt8[np.ndarray, "h w"],
    size: tuple[int, int],
    scale: float,
    place: Float64[np.ndarray, " 2"],
) -> tuple[UInt8[Tensor, "3 height width"], UInt8[Tensor, "height width"]]:
    """Cut a window of `size` out of a frame that is resized to `scale` times `size`.

    `place` in [0, 1) says where along x and y. Where the window is larger than the
    frame, the rest is the mean colour, and no label.
    """
    spans = [
        _span(length, target, scale, at)
        for length, target, at in zip(labels.shape[::-1], size, place, strict=True)
    ]
    (x, x_to), (y, y_to) = spans
    width, height = size
    picture = torch.tensor(MEAN_RGB).round().byte()[:, None, None]
    picture = picture.repeat(1, height, width)
    target = torch.full((height, width), IGNORE, dtype=torch.uint8)
    shape = x_to.stop - x_to.start, y_to.stop - y_to.start
    picture[:, y_to, x_to] = resize_picture(rgb[y, x], *shape)
    target[y_to, x_to] = torch.from_numpy(_nearest(labels[y, x], *shape))
    return picture, target


def _span(length: int, target: int, scale: float, place: float) -> tuple[slice, slice]:
    """Return the part of an axis that is shown, and where in the window it lands."""
    shown = max(1, min(length, round(length / scale)))
    start = int(place * (length - shown + 1))
    landed = max(1, min(target, round(target * scale)))
    offset = int(place * (target - landed + 1))
    return slice(start, start + shown), slice(offset, offset + landed)


def _nearest(
    labels: UInt8[np.ndarray, "h w"], width: int, height: int
) -> UInt8[np.ndarray, "height width"]:
    rows = ((np.arange(height) + 0.5) * labels.shape[0] / height).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * labels.shape[1] / width).astype(np.int64)
    return labels[rows[:, None], columns]
