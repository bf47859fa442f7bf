"""Rays of labelled frames, with the source views that they are rendered from."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gnesf_core.config import SourceViewsConfig, TrainingConfig, ViewDataConfig
from gnesf_core.data.store import Frames, PriorMaps
from gnesf_core.evaluation.prior import decide
from gnesf_core.rendering.frame_samples import FrameSamples, Truth
from gnesf_core.rendering.rays import Rays, depth_rays
from gnesf_core.rendering.sources import Sources, read_sources
from gnesf_core.shapes import Float64, Int64, UInt8
from gnesf_core.views.choice import (
    HELD_OUT,
    fitting_frames,
    nearest_sources,
    training_frames,
)
from gnesf_core.views.interface import Camera, Method


class ViewPaths(NamedTuple):
    """The files of a scene that a method is trained on."""

    frames: Path
    prior: Path | None


class ViewSample(NamedTuple):
    """A target frame's rays, and what they are rendered from."""

    sources: Sources
    camera: Camera
    rays: Rays
    truth: Truth


class _OpenScene(NamedTuple):
    frames: Frames
    prior: PriorMaps | None

    @property
    def nbytes(self) -> int:
        """Return next to nothing: nothing is kept but open files."""
        return 1 << 20

    def close(self) -> None:
        """Close the files."""
        self.frames.close()
        if self.prior is not None:
            self.prior.close()


class ViewSamples(FrameSamples):
    """Rays to learn from, and those of scenes that only judge."""

    def __init__(
        self,
        paths: Sequence[ViewPaths],
        method: Method,
        sources: SourceViewsConfig,
        data: ViewDataConfig,
        training: TrainingConfig,
        judged_by: str = HELD_OUT,
        fitted: bool = False,
    ) -> None:
        """Take a method's scenes, or the one that it is `fitted` to.

        What the view protocol judges of them is neither learned from nor looked at.
        """
        self._frames_of = partial(
            fitting_frames if fitted else training_frames, protocol=judged_by
        )
        self._paths = list(paths)
        self._sources = sources
        self._looks, self._range_m = not method.of_one_scene, method.range_m
        self._needs, self._payload = method.needs, method.payload
        self._pseudo = data.labels == "prior"
        frames = [own.frames for own in self._paths]
        super().__init__(frames, data, sources.frames, training.seed)

    def frames_to_learn_from(self, frames: Frames) -> Int64[np.ndarray, " n"]:
        """Return the frames of a scene that rays may start in."""
        return np.array(self._frames_of(frames, self._data.frames), np.int64)

    def candidates(
        self, frames: Frames, target: int
    ) -> Int64[np.ndarray, " candidates"]:
        """Return the frames that may be source views of a target."""
        candidates = super().candidates(frames, target)
        return np.intersect1d(candidates, self._frames_of(frames, self._source_frames))

    def note_files(self, number: int, frames: Frames) -> dict[str, str]:
        """Return the fingerprint of a scene's maps, if they are used."""
        path = self._paths[number].prior
        if path is None:
            return {}
        with PriorMaps(path, frames) as prior:
            return {"prior": prior.fingerprint}

    def open_scene(self, number: int) -> _OpenScene:
        """Open a scene's files."""
        paths = self._paths[number]
        frames = Frames(paths.frames)
        prior = None if paths.prior is None else PriorMaps(paths.prior, frames)
        return _OpenScene(frames, prior)

    def sample(self, scene: int, target: int, rng: np.random.Generator) -> ViewSample:
        """Return some rays of a frame, and its source views."""
        frames, prior = self.files(scene)
        views = []
        if self._looks:
            candidates = self.candidates(frames, target)
            views = nearest_sources(
                frames, target, candidates, self._sources, self._range_m
            )
        size = self._sources.image_width, self._sources.image_height
        maps = prior if "prior" in self._needs else None
        how = self._payload, self._needs
        sources = read_sources(frames, maps, views, size, *how)
        uv, truth = self.pixels(scene, target, rng)
        pose = frames.world_from_camera[target]
        rays = depth_rays(frames.color_intrinsics, pose, uv)
        camera = camera_of(frames.color_intrinsics, pose, frames.color_size)
        return ViewSample(sources, camera, rays, truth)

    def held_out(self) -> Iterator[ViewSample]:
        """Yield what judges, without what is there to learn from alone."""
        for sample in super().held_out():
            yield sample._replace(sources=sample.sources._replace(labels=None))

    def has_truth(self, frames: Frames) -> bool:
        """Tell whether there are classes to learn; a prior has them of every scene."""
        return self._pseudo or super().has_truth(frames)

    def can_look(self, frames: Frames) -> bool:
        """Tell whether a frame has others to be rendered from, if they are needed."""
        kind = self._source_frames
        return not self._looks or len(self._frames_of(frames, kind)) > 1

    def labels(self, scene: int, target: int) -> UInt8[np.ndarray, "h w"]:
        """Return the true classes, or those that a prior says."""
        if not self._pseudo:
            return super().labels(scene, target)
        frames, prior = self.files(scene)
        return decide(prior.probabilities(target), frames.color_size)[0]

    def centres_world(self) -> Float64[Tensor, "cameras 3"]:
        """Return where the cameras of all frames to learn from are."""
        centres = []
        for scene, targets in self._targets.items():
            poses = self.files(scene).frames.world_from_camera
            centres.append(torch.from_numpy(poses[targets, :3, 3]))
        return torch.cat(centres)


def camera_of(
    intrinsics: Float64[np.ndarray, "3 3"],
    world_from_camera: Float64[np.ndarray, "4 4"],
    size: tuple[int, int],
) -> Camera:
    """Return a camera that renders pictures of a size."""
    return Camera(torch.tensor(intrinsics), torch.tensor(world_from_camera), size)
