"""Whole pictures by a method, in parts that fit into memory."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gnesf_core.config import NovelViewsConfig, SourceViewsConfig
from gnesf_core.data.rendered import View, write_views
from gnesf_core.data.store import Frames, PriorMaps, quantize_probabilities
from gnesf_core.fields.interface import UNSEEN_COLOR
from gnesf_core.geometry import camera
from gnesf_core.labels import CLASS_NAMES
from gnesf_core.progress import Progress
from gnesf_core.rendering.rays import Rays, depth_rays
from gnesf_core.rendering.sources import read_sources
from gnesf_core.shapes import Float64
from gnesf_core.training.loop import moved
from gnesf_core.views.choice import (
    HELD_OUT,
    sources_of_frame,
    sources_of_pose,
    targets,
    words,
)
from gnesf_core.views.interface import Method, Rendered, joined, probabilities
from gnesf_core.views.samples import camera_of

log = logging.getLogger(__name__)

# Rays that are rendered at once: what they need stays in a processor's caches, or
# fills a GPU.
_CHUNKS = {"cpu": 1 << 9, "cuda": 1 << 12}


class Renderer:
    """Renders cameras of one scene by a method, which is on `device` already."""

    def __init__(
        self,
        method: Method,
        frames: Frames,
        prior: PriorMaps | None,
        sources: SourceViewsConfig,
        device: torch.device,
        protocol: str = HELD_OUT,
    ) -> None:
        self._method, self.frames, self._prior = method, frames, prior
        self.sources, self._device = sources, device
        self.protocol = protocol

    def render_frame(self, target: int, size: tuple[int, int]) -> View:
        """Return what a frame's camera sees.

        Its own pixels take no part, unless the protocol is of a system that lets them.
        """
        views = []
        if not self._method.of_one_scene:
            views = sources_of_frame(
                self.frames, target, self.protocol, self.sources, self._method.range_m
            )
        return self._render(self.frames.world_from_camera[target], size, views)

    def render_pose(
        self, world_from_camera: Float64[np.ndarray, "4 4"], size: tuple[int, int]
    ) -> View:
        """Return what a camera sees that no frame has, anywhere in the scene."""
        views = []
        if not self._method.of_one_scene:
            views = sources_of_pose(
                self.frames, world_from_camera, self.sources, self._method.range_m
            )
        return self._render(world_from_camera, size, views)

    @torch.inference_mode()
    def _render(
        self,
        world_from_camera: Float64[np.ndarray, "4 4"],
        size: tuple[int, int],
        views: list[int],
    ) -> View:
        frames, (width, height) = self.frames, size
        intrinsics = camera.scale_intrinsics(
            frames.color_intrinsics, frames.color_size, size
        )
        who = camera_of(intrinsics, world_from_camera, size)
        prior = self._prior if "prior" in self._method.needs else None
        picture_size = self.sources.image_width, self.sources.image_height
        needs = self._method.needs - {"labels"}  # which are there to learn from alone
        how = self._method.payload, needs
        sources = read_sources(frames, prior, views, picture_size, *how)
        context = self._method.encode(
            moved(sources, self._device), moved(who, self._device)
        )
        uv = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)
        rays = depth_rays(intrinsics, world_from_camera, uv.reshape(-1, 2))
        chunk = _CHUNKS[self._device.type]
        parts = [
            self._method.render(context, moved(Rays(*part), self._device))[-1]
            for part in zip(*(values.split(chunk) for values in rays), strict=True)
        ]
        whole = self._method.finish(context, joined(parts))
        return self._view(whole, size, views)

    def _view(self, whole: Rendered, size: tuple[int, int], views: list[int]) -> View:
        rows = size[::-1]
        known = whole.usable.cpu()
        semantic = probabilities(whole, self._method.says).float().cpu()
        if semantic.shape[1] == 0:
            semantic = torch.zeros(len(known), len(CLASS_NAMES))
        semantic = torch.where(known[:, None], semantic, 0.0)
        color = (whole.color.cpu() * 255).round().clamp(0, 255).to(torch.uint8)
        color = torch.where(known[:, None], color, UNSEEN_COLOR)
        return View(
            quantize_probabilities(semantic.T.reshape(-1, *rows).numpy()),
            color.reshape(*rows, 3).numpy(),
            whole.depth_m.float().cpu().reshape(rows).numpy(),
            known.reshape(rows).numpy(),
            tuple(views),
        )


def write_held_out(
    renderer: Renderer,
    views: NovelViewsConfig,
    out: Path,
    made_by: Mapping[str, Any],
    geometry: str,
) -> None:
    """Render held-out frames into a `views` file, with what tables say of them."""
    frames, size = renderer.frames, (views.width, views.height)
    positions = targets(frames, views.protocol, views.frames)
    about = {
        "views": views.protocol,
        "views_words": words(views.protocol),
        "geometry": geometry,
        "frames_per_scene": views.frames,
        "size": f"{views.width}x{views.height}",
        "source_frames": renderer.sources.frames,
        "source_views": renderer.sources.views,
    }
    progress = Progress("frames", len(positions))
    with write_views(out, frames, positions, size, made_by, about) as writer:
        for done, position in enumerate(positions, 1):
            writer.add(renderer.render_frame(position, size))
            progress.tell(done)
    told = frames.scene, len(positions), progress.seconds
    log.info("%s: %d frames rendered, %.1f s", *told)


def flight_along(frames: Frames, count: int) -> list[Float64[np.ndarray, "4 4"]]:
    """Return cameras on a smooth way through the key frames, evenly timed."""
    from scipy.interpolate import CubicSpline
    from scipy.spatial.transform import Rotation, Slerp

    poses = frames.world_from_camera[frames.is_key]
    if len(poses) == 1:
        return [poses[0].copy()] * count
    times = np.arange(len(poses), dtype=np.float64)
    when = np.linspace(0, len(poses) - 1, count)
    turns = Slerp(times, Rotation.from_matrix(poses[:, :3, :3]))(when).as_matrix()
    places = CubicSpline(times, poses[:, :3, 3])(when)
    way = np.tile(np.eye(4), (count, 1, 1))
    way[:, :3, :3], way[:, :3, 3] = turns, places
    return list(way)


def unwound(pictures: Sequence[Any]) -> list[Any]:
    """Return pictures there and back again, so that a film of them has no cut."""
    return [*pictures, *pictures[-2:0:-1]]
