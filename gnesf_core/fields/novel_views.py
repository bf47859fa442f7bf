"""What cameras see that no field was shown: classes, colours and distances, rendered.

A held-out frame is one that was kept for view synthesis and is no key frame. Its own
pixels never vote, whichever frames are source views.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from gnesf_core.data.store import Frames, quantize_probabilities
from gnesf_core.errors import BadInput
from gnesf_core.fields.choice import frames_of_kind, nearest_useful
from gnesf_core.fields.gnesf import scene_for
from gnesf_core.fields.interface import UNSEEN_COLOR, SceneInputs
from gnesf_core.fields.network import GnesfNetwork, Rendered
from gnesf_core.fields.rays import Rays, rays_through
from gnesf_core.fields.sources import read_sources
from gnesf_core.geometry import camera
from gnesf_core.shapes import Bool, Float32, UInt8
from gnesf_core.spread import spread
from gnesf_core.training.loop import moved

_CHUNK = 1 << 12  # rays that are rendered at once


class View(NamedTuple):
    """What is seen through the pixel centres of a picture."""

    probabilities: UInt8[np.ndarray, "classes h w"]  # in 1/255, as a prior's; 0 = none
    color: UInt8[np.ndarray, "h w 3"]
    distance_m: Float32[np.ndarray, "h w"]  # along the ray; 0 = it hits nothing
    known: Bool[np.ndarray, "h w"]  # rays that hit what some source view sees
    sources: tuple[int, ...]  # positions of the frames that were asked


def held_out_frames(frames: Frames, most: int) -> list[int]:
    """Return the positions of views that are no key frames, evenly spread."""
    held_out = np.flatnonzero(frames.is_view & ~frames.is_key)
    if len(held_out) == 0:
        raise BadInput(
            frames.path,
            "frames",
            expected="views that are no key frames, to be rendered",
            found=f"none among {len(frames)}",
            remedy="set `view_stride` in `frames`, or leave the scene out of the split",
        )
    return held_out[spread(len(held_out), most)].tolist()


class ViewRenderer:
    """Renders frames of one scene by a network, which is on `device` already."""

    def __init__(
        self,
        network: GnesfNetwork,
        inputs: SceneInputs,
        size: tuple[int, int],
        device: torch.device,
    ) -> None:
        self._network, self._inputs = network, inputs
        self._scene = scene_for(network, inputs, device)
        self._size, self._device = size, device

    @torch.inference_mode()
    def render(self, target: int) -> View:
        """Return what a frame's camera sees, at the renderer's size."""
        s, frames = self._network.settings, self._inputs.frames
        views = self._views(target)
        size = self._network.picture_size
        sources = read_sources(frames, self._inputs.prior, views, size, s.payload)
        evidence = self._network.look(self._scene, moved(sources, self._device))
        intrinsics = camera.scale_intrinsics(
            frames.color_intrinsics, frames.color_size, self._size
        )
        width, height = self._size
        uv = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)
        pose = frames.world_from_camera[target]
        rays = rays_through(intrinsics, pose, uv.reshape(-1, 2))
        chunks = zip(*(values.split(_CHUNK) for values in rays), strict=True)
        parts = [
            self._network.render(evidence, moved(Rays(*chunk), self._device))
            for chunk in chunks
        ]
        return _view(parts, self._size, views)

    def _views(self, target: int) -> list[int]:
        """Return the source views of a frame, which is none of them itself."""
        s, frames = self._network.settings, self._inputs.frames
        candidates = frames_of_kind(frames, s.source_frames)
        candidates = candidates[candidates != target]
        if len(candidates) == 0:
            raise BadInput(
                frames.path,
                "frames",
                expected=f"source views (`source_frames: {s.source_frames}`)",
                found="none beside the frame that is rendered",
                remedy="choose other source frames in the field's recipe",
            )
        return nearest_useful(
            frames, target, candidates, s.views, s.view_overlap, s.far_m
        )


def _view(
    parts: Sequence[Rendered], size: tuple[int, int], sources: Sequence[int]
) -> View:
    rows = size[::-1]
    semantic, color, distance_m, known = (
        torch.cat(own).cpu() for own in zip(*parts, strict=True)
    )
    color = (color * 255).round().clamp(0, 255).to(torch.uint8)
    color = torch.where(known[:, None], color, UNSEEN_COLOR)
    return View(
        quantize_probabilities(semantic.float().T.reshape(-1, *rows).numpy()),
        color.reshape(*rows, 3).numpy(),
        distance_m.float().reshape(rows).numpy(),
        known.reshape(rows).numpy(),
        tuple(sources),
    )
