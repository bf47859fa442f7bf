"""Rays of labelled frames, with the views that vote on what they meet, by number.

A sample is one frame of one scene: its rays, and the source views nearest to it. Which
ones is drawn by a generator that seed and number determine, so that a resumed training
sees what an uninterrupted one would.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gnesf_core.config import (
    GnesfConfig,
    NeuconConfig,
    RayDataConfig,
    TrainingConfig,
)
from gnesf_core.data.store import Frames, PriorMaps, VolumeFile
from gnesf_core.errors import BadInput
from gnesf_core.fields.choice import frames_of_kind, nearest_useful
from gnesf_core.fields.encoding import check_channels, encoding_of
from gnesf_core.fields.network import Scene
from gnesf_core.fields.rays import Rays, rays_through
from gnesf_core.fields.sources import Sources, read_sources
from gnesf_core.geometry.distance_field import distance_field
from gnesf_core.shapes import Float32, Int64, UInt8
from gnesf_core.spread import spread

log = logging.getLogger(__name__)

_MOST_BYTES = 512 << 20  # of open scenes' volumes, in each process that loads
_HELD_OUT_FRAMES = 4  # of each held-out scene


class ScenePaths(NamedTuple):
    """The files of a scene that a field is trained on."""

    frames: Path
    prior: Path
    surface: Path
    features: Path  # the volume whose encoding is used; may be the same


class Truth(NamedTuple):
    """What the frame shows where its rays start."""

    labels: UInt8[Tensor, " rays"]
    color: Float32[Tensor, "rays 3"]  # 0..1


class FieldSample(NamedTuple):
    """A target frame's rays, and who votes on them."""

    scene: Scene
    sources: Sources
    rays: Rays
    truth: Truth


class _OpenScene(NamedTuple):
    frames: Frames
    prior: PriorMaps
    scene: Scene
    nbytes: int


class FieldSamples:
    """Rays to learn from, and those of scenes that only judge."""

    def __init__(
        self,
        paths: Sequence[ScenePaths],
        encoder: NeuconConfig,
        settings: GnesfConfig,
        data: RayDataConfig,
        training: TrainingConfig,
    ) -> None:
        self._paths = list(paths)
        self._picture_size = encoder.image_width, encoder.image_height
        self._settings, self._data = settings, data
        self._channels = encoder.channels
        self._seed = training.seed
        # A scene that goes to another process is not the same there the next time.
        self._shares_process = training.workers == 0
        self._open: dict[int, _OpenScene] = {}
        self.fingerprints: dict[str, str] = {}  # by what and scene
        self._targets: dict[int, Int64[np.ndarray, " n"]] = {}  # frames, by scene
        for scene in spread(len(self._paths), data.scenes or len(self._paths)):
            self._survey(scene)
        self._held_out = self._choose_held_out()

    def _survey(self, number: int) -> None:
        """Note a scene's frames that rays may start in."""
        paths = self._paths[number]
        with Frames(paths.frames) as frames, PriorMaps(paths.prior, frames) as prior:
            name = frames.scene
            self.fingerprints[f"frames {name}"] = frames.fingerprint
            self.fingerprints[f"prior {name}"] = prior.fingerprint
            for role in ("surface", "features"):
                with VolumeFile(getattr(paths, role), frames) as volume:
                    self.fingerprints[f"{role} {name}"] = volume.fingerprint
            targets = frames_of_kind(frames, self._data.frames)
            sources = frames_of_kind(frames, self._settings.source_frames)
            if frames.has_labels and len(targets) and len(sources) > 1:
                self._targets[number] = targets
            else:
                log.warning(
                    "%s has too few labelled frames and is not trained on", name
                )

    def _choose_held_out(self) -> list[int]:
        wanted, found = self._data.held_out_scenes, len(self._targets)
        if wanted >= found:
            raise BadInput(
                self._paths[0].frames if self._paths else "training split",
                "frames",
                expected=f"more than {wanted} scenes (held_out_scenes) to train on",
                found=f"{found} with labelled frames",
                remedy="hold fewer out, or look at the labels of the scans",
            )
        scenes = list(self._targets)
        return [scenes[place] for place in spread(found, wanted)]

    def __getitem__(self, number: int) -> dict[str, Any]:
        rng = np.random.default_rng((self._seed, number))
        shown = [scene for scene in self._targets if scene not in self._held_out]
        scene = shown[rng.integers(len(shown))]
        target = int(rng.choice(self._targets[scene]))
        return self._sample(scene, target, rng)

    def _sample(
        self, scene: int, target: int, rng: np.random.Generator
    ) -> dict[str, Any]:
        frames, prior, geometry, _ = self._files(scene)
        s = self._settings
        candidates = frames_of_kind(frames, s.source_frames)
        if self._data.exclude_target:
            candidates = candidates[candidates != target]
        views = nearest_useful(
            frames, target, candidates, s.views, s.view_overlap, s.far_m
        )
        sources = read_sources(frames, prior, views, self._picture_size, s.payload)
        width, height = frames.color_size
        pixels = rng.permutation(width * height)[: self._data.rays]
        rows, columns = np.divmod(np.sort(pixels), width)
        uv = np.stack([columns, rows], 1)
        color = frames.color(target)[rows, columns].astype(np.float32) / 255
        truth = Truth(
            torch.from_numpy(frames.labels(target)[rows, columns]),
            torch.from_numpy(color),
        )
        pose = frames.world_from_camera[target]
        rays = rays_through(frames.color_intrinsics, pose, uv)
        sample = FieldSample(geometry, sources, rays, truth)
        name = f"{frames.scene} frame {frames.index[target]}"
        return {"name": name, "sample": sample}

    def held_out(self) -> Iterator[FieldSample]:
        """Yield frames of the scenes that are never shown, always the same rays."""
        for scene in self._held_out:
            targets = self._targets[scene]
            for place in spread(len(targets), min(_HELD_OUT_FRAMES, len(targets))):
                rng = np.random.default_rng((self._seed, scene, place))
                yield self._sample(scene, int(targets[place]), rng)["sample"]

    @staticmethod
    def collate(samples: list[dict[str, Any]]) -> dict[str, list]:
        """Return a batch: names, and samples that stay apart."""
        return {key: [sample[key] for sample in samples] for key in samples[0]}

    def _files(self, number: int) -> _OpenScene:
        """Open a scene, or return it if it is open; files do not survive a pickle."""
        if number not in self._open:
            while sum(own.nbytes for own in self._open.values()) > _MOST_BYTES:
                oldest = self._open.pop(next(iter(self._open)))
                oldest.frames.close()
                oldest.prior.close()
            opened = open_scene(self._paths[number], self._channels)
            if self._shares_process:
                scene = opened.scene.to_be_asked_often(self._settings)
                opened = opened._replace(scene=scene)
            self._open[number] = opened
        return self._open[number]

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_open": {}}


def open_scene(paths: ScenePaths, channels: int) -> _OpenScene:
    """Open the files of a scene, refusing those that do not belong together."""
    frames = Frames(paths.frames)
    prior = PriorMaps(paths.prior, frames)
    with VolumeFile(paths.features, frames) as file:
        features = surface = file.volume()
    if paths.surface != paths.features:
        with VolumeFile(paths.surface, frames) as file:
            surface = file.volume()
    field, encoding = distance_field(surface.surface), encoding_of(features)
    check_channels(encoding, channels, paths.features)
    tensors = field.tsdf, field.observed, encoding.rows, encoding.features
    nbytes = sum(tensor.nbytes for tensor in tensors)
    return _OpenScene(frames, prior, Scene(field, encoding), nbytes)
