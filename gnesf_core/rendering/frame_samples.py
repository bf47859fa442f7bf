"""Labelled frames of scenes to learn from, by number.

A sample is one frame of one scene. Which one, and which of its pixels, is drawn by a
generator that seed and number determine, so that a resumed training sees what an
uninterrupted one would.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from gnesf_core.data.store import Frames
from gnesf_core.errors import BadInput
from gnesf_core.rendering.choice import frames_of_kind
from gnesf_core.shapes import Float32, Int64, UInt8
from gnesf_core.spread import spread

log = logging.getLogger(__name__)

_MOST_BYTES = 512 << 20  # that open scenes hold, in each process that loads
_HELD_OUT_FRAMES = 4  # of each held-out scene


class Truth(NamedTuple):
    """What the frame shows where its rays start."""

    labels: UInt8[Tensor, " rays"]
    color: Float32[Tensor, "rays 3"]  # 0..1


@runtime_checkable
class DataConfig(Protocol):
    """What is asked of the settings of every such training."""

    scenes: int
    held_out_scenes: int
    frames: str
    rays: int
    exclude_target: bool


@runtime_checkable
class OpenScene(Protocol):
    """A scene whose files are open."""

    frames: Frames

    @property
    def nbytes(self) -> int:
        """Return how much memory it holds."""
        ...

    def close(self) -> None:
        """Close its files."""
        ...


class FrameSamples(ABC):
    """Frames to learn from, and those of scenes that only judge."""

    def __init__(
        self, scenes: list[Path], data: DataConfig, source_frames: str, seed: int
    ) -> None:
        self._scenes, self._data = scenes, data
        self._source_frames, self._seed = source_frames, seed
        self._open: dict[int, OpenScene] = {}
        self.fingerprints: dict[str, str] = {}  # by what and scene
        self._targets: dict[int, Int64[np.ndarray, " n"]] = {}  # frames, by scene
        for scene in spread(len(scenes), data.scenes or len(scenes)):
            self._survey(scene)
        self._held_out = self._choose_held_out()

    @abstractmethod
    def open_scene(self, number: int) -> OpenScene:
        """Open the files of a scene."""

    @abstractmethod
    def note_files(self, number: int, frames: Frames) -> dict[str, str]:
        """Return fingerprints of a scene's files, those of `frames` left out."""

    @abstractmethod
    def sample(self, scene: int, target: int, rng: np.random.Generator) -> tuple:
        """Return a sample of one frame, a named tuple."""

    def frames_to_learn_from(self, frames: Frames) -> Int64[np.ndarray, " n"]:
        """Return the frames of a scene that rays may start in."""
        return frames_of_kind(frames, self._data.frames)

    def has_truth(self, frames: Frames) -> bool:
        """Tell whether there are classes to learn."""
        return frames.has_labels

    def can_look(self, frames: Frames) -> bool:
        """Tell whether a frame has others to be rendered from."""
        return len(frames_of_kind(frames, self._source_frames)) > 1

    def labels(self, scene: int, target: int) -> UInt8[np.ndarray, "h w"]:
        """Return the classes that are learned."""
        return self.files(scene).frames.labels(target)

    def _survey(self, number: int) -> None:
        """Note a scene's frames that rays may start in."""
        with Frames(self._scenes[number]) as frames:
            name = frames.scene
            files = {"frames": frames.fingerprint} | self.note_files(number, frames)
            self.fingerprints |= {f"{what} {name}": own for what, own in files.items()}
            targets = self.frames_to_learn_from(frames)
            if self.has_truth(frames) and len(targets) and self.can_look(frames):
                self._targets[number] = targets
            else:
                log.warning(
                    "%s has too few labelled frames and is not trained on", name
                )

    def _choose_held_out(self) -> list[int]:
        wanted, found = self._data.held_out_scenes, len(self._targets)
        if wanted >= found:
            raise BadInput(
                self._scenes[0] if self._scenes else "training split",
                "frames",
                expected=f"more than {wanted} scenes (held_out_scenes) to train on",
                found=f"{found} with labelled frames",
                remedy="hold fewer out, look at the labels of the scans, or choose "
                "other `frames` to learn from than those that are judged",
            )
        scenes = list(self._targets)
        return [scenes[place] for place in spread(found, wanted)]

    def __getitem__(self, number: int) -> dict[str, Any]:
        rng = np.random.default_rng((self._seed, number))
        scene, target = self.choose(number, rng)
        sample = self.sample(scene, target, rng)
        frames = self.files(scene).frames
        return {
            "name": f"{frames.scene} frame {frames.index[target]}",
            "sample": sample,
        }

    def shown(self) -> list[int]:
        """Return the scenes to learn from."""
        return [scene for scene in self._targets if scene not in self._held_out]

    def choose(self, number: int, rng: np.random.Generator) -> tuple[int, int]:
        """Return the scene and the frame that a sample shows."""
        del number  # the generator is the number's own
        shown = self.shown()
        scene = shown[rng.integers(len(shown))]
        return scene, int(rng.choice(self._targets[scene]))

    def held_out(self) -> Iterator[Any]:
        """Yield frames of the scenes that are never shown, always the same rays."""
        for scene in self._held_out:
            targets = self._targets[scene]
            for place in spread(len(targets), min(_HELD_OUT_FRAMES, len(targets))):
                rng = np.random.default_rng((self._seed, scene, place))
                yield self.sample(scene, int(targets[place]), rng)

    def candidates(
        self, frames: Frames, target: int
    ) -> Int64[np.ndarray, " candidates"]:
        """Return the frames that may be source views of a target."""
        candidates = frames_of_kind(frames, self._source_frames)
        if self._data.exclude_target:
            candidates = candidates[candidates != target]
        return candidates

    def pixels(
        self, scene: int, target: int, rng: np.random.Generator
    ) -> tuple[Int64[np.ndarray, "rays 2"], Truth]:
        """Draw pixels of a frame, uv, and return what they show."""
        frames = self.files(scene).frames
        width, height = frames.color_size
        pixels = rng.permutation(width * height)[: self._data.rays]
        rows, columns = np.divmod(np.sort(pixels), width)
        color = frames.color(target)[rows, columns].astype(np.float32) / 255
        labels = torch.from_numpy(self.labels(scene, target)[rows, columns])
        return np.stack([columns, rows], 1), Truth(labels, torch.from_numpy(color))

    @staticmethod
    def collate(samples: list[dict[str, Any]]) -> dict[str, list]:
        """Return a batch: names, and samples that stay apart."""
        return {key: [sample[key] for sample in samples] for key in samples[0]}

    def files(self, number: int) -> Any:
        """Open a scene, or return it if it is open; files do not survive a pickle."""
        if number not in self._open:
            while sum(own.nbytes for own in self._open.values()) > _MOST_BYTES:
                self._open.pop(next(iter(self._open))).close()
            self._open[number] = self.open_scene(number)
        return self._open[number]

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_open": {}}
