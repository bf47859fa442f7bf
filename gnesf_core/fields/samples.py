"""Rays of labelled frames, with the views that vote on what they meet, by number."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gnesf_core.config import (
    GnesfConfig,
    NeuconConfig,
    RayDataConfig,
    TrainingConfig,
)
from gnesf_core.data.store import Frames, PriorMaps, VolumeFile
from gnesf_core.fields.encoding import check_channels, encoding_of
from gnesf_core.fields.network import Scene
from gnesf_core.geometry.distance_field import distance_field
from gnesf_core.rendering.choice import nearest_useful, voting_groups
from gnesf_core.rendering.frame_samples import FrameSamples, Truth
from gnesf_core.rendering.rays import Rays, rays_through
from gnesf_core.rendering.sources import Sources, read_sources
from gnesf_core.shapes import Int64


class ScenePaths(NamedTuple):
    """The files of a scene that a field is trained on."""

    frames: Path
    prior: Path
    surface: Path
    features: Path  # the volume whose encoding is used; may be the same


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

    def close(self) -> None:
        """Close the files."""
        self.frames.close()
        self.prior.close()


class FieldSamples(FrameSamples):
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
        self._settings = settings
        self._channels = encoder.channels
        # A scene that goes to another process is not the same there the next time.
        self._shares_process = training.workers == 0
        self._is_by_fragment = data.order == "fragments"
        frames = [own.frames for own in self._paths]
        super().__init__(frames, data, settings.source_frames, training.seed)
        self._turns = self._in_turn() if self._is_by_fragment else []

    def frames_to_learn_from(self, frames: Frames) -> Int64[np.ndarray, " n"]:
        """Return the frames of a scene that rays may start in."""
        targets = super().frames_to_learn_from(frames)
        if not (self._is_by_fragment or self._settings.voters == "fragments"):
            return targets
        # Nobody votes on a frame that is all of its group.
        least = 2 if self._data.exclude_target else 1
        groups = [group for group in voting_groups(frames) if len(group) >= least]
        grouped = {view for group in groups for view in group}
        return np.array([t for t in targets.tolist() if t in grouped], np.int64)

    def _in_turn(self) -> list[tuple[int, list[int]]]:
        """Return scenes and frames that rays may start in, fragment by fragment."""
        turns = []
        for scene in self.shown():
            with Frames(self._paths[scene].frames) as frames:
                groups = voting_groups(frames)
            starts = set(self._targets[scene].tolist())
            turns += [(scene, [v for v in group if v in starts]) for group in groups]
        return [turn for turn in turns if turn[1]]

    def choose(self, number: int, rng: np.random.Generator) -> tuple[int, int]:
        """Return the scene and the frame that a sample shows."""
        if not self._is_by_fragment:
            return super().choose(number, rng)
        scene, starts = self._turns[number % len(self._turns)]
        return scene, int(rng.choice(starts))

    def note_files(self, number: int, frames: Frames) -> dict[str, str]:
        """Return the fingerprints of a scene's maps and volumes."""
        paths = self._paths[number]
        with PriorMaps(paths.prior, frames) as prior:
            files = {"prior": prior.fingerprint}
        for role in ("surface", "features"):
            with VolumeFile(getattr(paths, role), frames) as volume:
                files[role] = volume.fingerprint
        return files

    def sample(self, scene: int, target: int, rng: np.random.Generator) -> FieldSample:
        """Return some rays of a frame, and the views that vote on them."""
        frames, prior, geometry, _ = self.files(scene)
        s = self._settings
        if s.voters == "fragments":
            (group,) = (own for own in voting_groups(frames) if target in own)
            kept_out = target if self._data.exclude_target else None
            views = [view for view in group if view != kept_out]
        else:
            near = s.views, s.view_overlap, s.far_m
            candidates = self.candidates(frames, target)
            views = nearest_useful(frames, target, candidates, *near)
        sources = read_sources(frames, prior, views, self._picture_size, s.payload)
        uv, truth = self.pixels(scene, target, rng)
        pose = frames.world_from_camera[target]
        rays = rays_through(frames.color_intrinsics, pose, uv)
        return FieldSample(geometry, sources, rays, truth)

    def open_scene(self, number: int) -> _OpenScene:
        """Open a scene, with what is quicker to make once than to make again."""
        opened = open_scene(self._paths[number], self._channels)
        if self._shares_process:
            scene = opened.scene.to_be_asked_often(self._settings)
            opened = opened._replace(scene=scene)
        return opened


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
