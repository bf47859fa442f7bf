"""Stereo between key frames as a geometry: no depth sensor, and nothing learned.

Every key frame gets a depth map by comparing its picture with those of well-placed
other key frames; depth that another map confirms is fused as a sensor's would be.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gnesf_core.config import PlaneSweepConfig, TargetsConfig
from gnesf_core.data.store import DistanceGrid, Frames, SceneVolume, Targets
from gnesf_core.errors import BadInput
from gnesf_core.geometries.interface import Geometry
from gnesf_core.geometries.measured import without_encoding
from gnesf_core.geometry import camera, stereo, tsdf
from gnesf_core.geometry.grid import Grid
from gnesf_core.geometry.stereo import PosedPictures
from gnesf_core.progress import Progress
from gnesf_core.shapes import Float32, Float64

Settings = PlaneSweepConfig
PACKAGES: tuple[str, ...] = ()

# Correlation that a pixel gives up to agree with the pixels around it on a depth.
_JUMP_PENALTY = 1.0
_AGREEMENT = 0.05  # share of a depth within which another map confirms it
_LUMA = (0.299, 0.587, 0.114)
# Of the points along each axis, this percentage may lie outside the volume at either
# end: a few wild depths would make it many times as large.
_OUTLIERS_PERCENT = 0.5
_BOUNDS_STEP = 4  # every n-th pixel of a row and of a column counts for the bounds


def open_geometry(
    settings: PlaneSweepConfig, weights: Path | None, device: str
) -> Geometry:
    """Return the geometry; it has no weights."""
    _check(settings)
    return PlaneSweep(settings, torch.device(device))


def _check(settings: PlaneSweepConfig) -> None:
    """Refuse settings with which no depth could be found."""
    shorter = min(settings.image_width, settings.image_height)
    for name, value, most, what in (
        ("near_m", settings.near_m, settings.far_m, "far_m"),
        ("patch", settings.patch, shorter, "the pictures' shorter side"),
    ):
        if value >= most:
            raise BadInput(
                "recipe",
                name,
                expected=f"less than {what}, {most}",
                found=value,
                remedy="correct the recipe",
            )


class PlaneSweep:
    """What the pictures of a scene's key frames say about its surfaces."""

    needs_targets = False

    def __init__(self, settings: PlaneSweepConfig, device: torch.device) -> None:
        self._settings = settings
        self._device = device

    def inputs(self) -> dict[str, str]:
        """Return nothing: the pictures are part of the frames."""
        return {}

    @torch.inference_mode()
    def reconstruct(self, frames: Frames, targets: Targets | None) -> SceneVolume:
        """Estimate the depth of every key frame and fuse it."""
        settings = self._settings
        pictures = key_pictures(frames, settings, self._device)
        neighbours = stereo.choose_neighbours(
            pictures,
            settings.neighbours,
            settings.baseline_m,
            (settings.near_m * settings.far_m) ** 0.5,
        )
        if not any(neighbours):
            raise BadInput(
                frames.path,
                "kept/world_from_camera",
                expected=f"key frames about {settings.baseline_m} m apart that see "
                "the same things",
                found=f"{len(neighbours)} key frames without any such pair",
                remedy="look at the scan's poses, or take the scene out of its list",
            )
        depth_m = estimate_depth(pictures, neighbours, settings)
        known = stereo.confirmed(pictures, depth_m, neighbours, _AGREEMENT)
        depth_m = torch.where(known, depth_m, 0).cpu().numpy()
        if not depth_m.any():
            raise BadInput(
                frames.path,
                "color",
                expected="pictures with enough texture to be compared",
                found="no depth that two key frames agree on",
                remedy="lower min_score in the recipe, or take the scene out of its "
                "list",
            )
        return without_encoding(self._fused(frames, pictures, depth_m))

    def _fused(
        self,
        frames: Frames,
        pictures: PosedPictures,
        depth_m: Float32[np.ndarray, "n h w"],
    ) -> DistanceGrid:
        settings = self._settings
        grid = _grid(frames, *_bounds(pictures, depth_m), settings)
        truncation_m = settings.truncation_voxels * settings.voxel_size_m
        volume = tsdf.TsdfVolume.empty(grid, truncation_m, self._device)
        tsdf.fuse(
            [volume],
            depth_m,
            pictures.intrinsics,
            pictures.world_from_camera,
            settings.far_m,
        )
        fused, weight = volume.arrays()
        return DistanceGrid(
            grid.origin_world,
            grid.voxel_size_m,
            truncation_m,
            fused,
            weight.astype(np.uint16),
        )


def key_pictures(
    frames: Frames, settings: PlaneSweepConfig, device: torch.device
) -> PosedPictures:
    """Return the key frames in grey at the size at which they are compared."""
    size = settings.image_width, settings.image_height
    keys = np.flatnonzero(frames.is_key)
    grey = torch.empty((len(keys), *size[::-1]))
    luma = torch.tensor(_LUMA)
    for place, position in enumerate(keys.tolist()):
        picture = torch.from_numpy(frames.color(position)).float() @ luma
        grey[place] = functional.interpolate(
            picture[None, None], size[::-1], mode="bilinear", antialias=True
        )[0, 0]
    return PosedPictures(
        grey.to(device),
        camera.scale_intrinsics(frames.color_intrinsics, frames.color_size, size),
        frames.world_from_camera[keys],
    )


def estimate_depth(
    pictures: PosedPictures,
    neighbours: Sequence[Sequence[int]],
    settings: PlaneSweepConfig,
) -> Float32[Tensor, "n h w"]:
    """Return the depth of every picture in metres, 0 where it is not known."""
    inverse_depth = stereo.inverse_depths(
        settings.near_m, settings.far_m, settings.depths
    ).to(pictures.grey.device)
    depth_m = torch.zeros_like(pictures.grey)
    progress = Progress("key frames", len(neighbours))
    for reference, others in enumerate(neighbours):
        if others:
            scores = stereo.sweep(
                pictures, reference, others, inverse_depth, settings.patch
            )
            chosen = stereo.smooth(scores, _JUMP_PENALTY)
            depth_m[reference] = stereo.depth_of(
                scores, chosen, inverse_depth, settings.min_score
            )
        progress.tell(reference + 1)
    return depth_m


def _bounds(
    pictures: PosedPictures, depth_m: Float32[np.ndarray, "n h w"]
) -> tuple[Float64[np.ndarray, " 3"], Float64[np.ndarray, " 3"]]:
    """Return the corners of a world box around nearly all points."""
    height, width = depth_m.shape[1:]
    thinned = slice(None, None, _BOUNDS_STEP), slice(None, None, _BOUNDS_STEP)
    rays = camera.pixel_rays(pictures.intrinsics, width, height)[thinned]
    points = []
    for depth, pose in zip(depth_m, pictures.world_from_camera, strict=True):
        depth = depth[thinned]
        known = depth > 0
        points.append(camera.transform(pose, rays[known] * depth[known][:, None]))
    percent = [_OUTLIERS_PERCENT, 100 - _OUTLIERS_PERCENT]
    lower, upper = np.percentile(np.concatenate(points), percent, axis=0)
    return lower, upper


def _grid(
    frames: Frames,
    lower_world: Float64[np.ndarray, " 3"],
    upper_world: Float64[np.ndarray, " 3"],
    settings: PlaneSweepConfig,
) -> Grid:
    only_level = TargetsConfig(
        settings.voxel_size_m, 1, settings.truncation_voxels, settings.far_m
    )
    try:
        return tsdf.pyramid_grids(lower_world, upper_world, only_level)[0]
    except ValueError as error:
        raise BadInput(
            frames.path,
            "kept/world_from_camera",
            expected="a scene that fits into memory",
            found=error,
            remedy="look for stray poses, or raise voxel_size_m in the recipe",
        ) from None
