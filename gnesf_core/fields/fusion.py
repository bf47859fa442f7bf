"""Fusion without learning: a prior's maps voted onto points by a fixed rule.

A view sees a point that is at most `max_depth_m` in front of it, lies in its depth
image at the depth that was measured there, and in its colour image. Its vote is the
prior's probabilities where the point falls on the map, interpolated between pixels and
then scaled to a sum of 1. Where the prior says nothing (all zeros) it casts none.

mean             the mean of all votes for a point
nearest          the vote of the camera whose centre is closest to the point
running-average  voxels of the fused surface collect votes; points interpolate voxels
"""

import itertools
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from gnesf_core.config import FusionConfig, NeuconConfig
from gnesf_core.data.store import DistanceGrid, Frames
from gnesf_core.errors import BadInput
from gnesf_core.fields.interface import UNSEEN_COLOR, Field, PointLabels, SceneInputs
from gnesf_core.geometry import camera
from gnesf_core.geometry.sampling import sample_image
from gnesf_core.labels import CLASS_NAMES, IGNORE
from gnesf_core.shapes import Float, Float32, Float64, Int64, Shaped, UInt8

Settings = FusionConfig
PACKAGES: tuple[str, ...] = ()


def open_field(
    settings: FusionConfig,
    encoder: NeuconConfig | None,
    weights: Path | None,
    device: torch.device,
) -> Field:
    """Return the rule as a field; it has no weights and needs no device."""
    return Fusion(settings)


@dataclass(frozen=True)
class Fusion:
    """A rule, as a field."""

    settings: FusionConfig

    def inputs(self) -> dict[str, str]:
        """Return nothing: a rule is made of its settings."""
        return {}

    def label_points(
        self, points_world: Float[np.ndarray, "n 3"], scene: SceneInputs
    ) -> PointLabels:
        """Return class, confidence and colour of points from all kept frames."""
        return label_points(points_world, scene, self.settings)


def label_points(
    points_world: Float[np.ndarray, "n 3"], scene: SceneInputs, settings: FusionConfig
) -> PointLabels:
    """Return class, confidence and colour of points from all kept frames.

    The class is the one of highest probability, or the lowest of several; points
    without a vote get `IGNORE`. Colours are means over the views that see a point,
    whatever the rule.
    """
    points = torch.tensor(points_world, dtype=torch.float64)
    if settings.rule == "mean":
        fused = _mean(points, scene, settings)
    elif settings.rule == "nearest":
        fused = _nearest(points, scene, settings)
    elif settings.rule == "running-average":
        fused = _running_average(points, scene, settings)
    else:
        raise BadInput(
            "recipe",
            "rule",
            expected="mean, nearest or running-average",
            found=settings.rule,
            remedy="correct config/config.yaml",
        )
    class_id = fused.numpy().argmax(1).astype(np.uint8)
    confidence = fused.amax(1).numpy()
    class_id[confidence == 0] = IGNORE
    return PointLabels(
        class_id, confidence, _mean_color(points, scene.frames, settings)
    )


def renormalize(
    probabilities: Float[Tensor, "*points classes"],
) -> Float[Tensor, "*points classes"]:
    """Scale probabilities to a sum of 1; all zeros, where nothing is known, stay."""
    total = probabilities.sum(-1, keepdim=True)
    return probabilities / torch.where(total > 0, total, 1)


def _mean(
    points_world: Float64[Tensor, "n 3"],
    scene: SceneInputs,
    settings: FusionConfig,
    max_weight: float = math.inf,
) -> Float32[Tensor, "n classes"]:
    """Average the votes for each point; zeros where there are none.

    A finite `max_weight` W makes it the running average of TSDF fusion: w = 0 at first,
    then p <- (w p + vote) / (w + 1) and w <- min(w + 1, W) for each vote, in the order
    of the frames. The n-th vote enters with weight 1 / min(n, W + 1). What is stored is
    w p rather than p, so that equal numbers of equal votes tie exactly.
    """
    total = torch.zeros(len(points_world), len(CLASS_NAMES))
    weight = torch.zeros(len(points_world), 1)
    for position in range(len(scene.frames)):
        index, votes = _votes(points_world, scene, position, settings)
        count = weight[index] + 1
        kept = (max_weight / count).clamp(max=1)
        total[index] = (total[index] + votes) * kept
        weight[index] = count * kept
    return total / torch.where(weight > 0, weight, 1)


def _nearest(
    points_world: Float64[Tensor, "n 3"], scene: SceneInputs, settings: FusionConfig
) -> Float32[Tensor, "n classes"]:
    """Take the vote of the closest camera, or the first of several at one distance."""
    vote = torch.zeros(len(points_world), len(CLASS_NAMES))
    distance_m = torch.full((len(points_world),), math.inf, dtype=torch.float64)
    for position, pose in enumerate(scene.frames.world_from_camera):
        index, votes = _votes(points_world, scene, position, settings)
        offsets = points_world[index] - torch.from_numpy(pose[:3, 3])
        candidate_m = offsets.norm(dim=1)
        closer = candidate_m < distance_m[index]
        vote[index[closer]] = votes[closer]
        distance_m[index[closer]] = candidate_m[closer]
    return vote


def _running_average(
    points_world: Float64[Tensor, "n 3"], scene: SceneInputs, settings: FusionConfig
) -> Float32[Tensor, "n classes"]:
    """Interpolate trilinearly between the running averages of voxels.

    Voxels have one if the surface was observed there (weight > 0, |tsdf| < 1) and a
    view voted for their centre, which it does within the truncation of its own depth
    rather than `depth_tolerance_m`. Others count nothing: the rest shares the weights.
    Only voxels are averaged that some point lies next to.
    """
    corners, weights = _corners(points_world, scene.surface)
    voxels, row = torch.unique(corners, return_inverse=True)
    shape = scene.surface.tsdf.shape
    ijk = torch.stack(torch.unravel_index(voxels, shape), 1)
    origin_world = torch.from_numpy(scene.surface.origin_world)
    averages = _mean(
        origin_world + scene.surface.voxel_size_m * ijk,
        scene,
        replace(settings, depth_tolerance_m=scene.surface.truncation_m),
        settings.max_weight,
    )
    mixed = embedding_bag(row, averages, per_sample_weights=weights, mode="sum")
    return renormalize(mixed)


def _corners(
    points_world: Float64[Tensor, "n 3"], surface: DistanceGrid
) -> tuple[Int64[Tensor, "n 8"], Float32[Tensor, "n 8"]]:
    """Return flat indices of the voxels around points and trilinear weights.

    Voxels outside the grid or away from the surface get index 0 and weight 0.
    """
    shape = surface.tsdf.shape
    ijk = (points_world.numpy() - surface.origin_world) / surface.voxel_size_m
    indices, weights = [], []
    for step in itertools.product((0, 1), repeat=3):
        corner = np.floor(ijk) + step
        weight = (1 - np.abs(ijk - corner)).prod(1)
        inside = ((corner >= 0) & (corner < shape)).all(1)
        i, j, k = np.where(inside[:, None], corner, 0).astype(np.int64).T
        used = inside & (weight > 0)
        used &= (surface.weight[i, j, k] > 0) & (np.abs(surface.tsdf[i, j, k]) < 1)
        indices.append(np.where(used, (i * shape[1] + j) * shape[2] + k, 0))
        weights.append(np.where(used, weight, 0).astype(np.float32))
    index, weight = np.stack(indices, 1), np.stack(weights, 1)
    return torch.from_numpy(index), torch.from_numpy(weight)


def _votes(
    points_world: Float64[Tensor, "n 3"],
    scene: SceneInputs,
    position: int,
    settings: FusionConfig,
) -> tuple[Int64[Tensor, " voted"], Float32[Tensor, "voted classes"]]:
    """Return for which points a kept frame votes, and what."""
    index, uv = _seen(points_world, scene.frames, position, settings)
    scale = torch.tensor(np.divide(scene.prior.map_size, scene.frames.color_size))
    maps = torch.from_numpy(scene.prior.probabilities(position))
    votes = renormalize(sample_image(maps, (uv + 0.5) * scale - 0.5))
    voted = votes.any(1)
    return index[voted], votes[voted]


def _mean_color(
    points_world: Float64[Tensor, "n 3"], frames: Frames, settings: FusionConfig
) -> UInt8[np.ndarray, "n 3"]:
    """Average the colours of the nearest pixels in all views that see a point."""
    total = torch.zeros(len(points_world), 3, dtype=torch.int64)
    count = torch.zeros(len(points_world), 1, dtype=torch.int64)
    for position in range(len(frames)):
        index, uv = _seen(points_world, frames, position, settings)
        color = torch.from_numpy(frames.color(position))
        total[index] += _nearest_pixel(color, uv)
        count[index] += 1
    divisor = count.clamp(min=1)
    mean = (total + divisor // 2) // divisor
    return torch.where(count > 0, mean, UNSEEN_COLOR).to(torch.uint8).numpy()


def _seen(
    points_world: Float64[Tensor, "n 3"],
    frames: Frames,
    position: int,
    settings: FusionConfig,
) -> tuple[Int64[Tensor, " seen"], Float64[Tensor, "seen 2"]]:
    """Return which points a kept frame sees, and where on its colour image."""
    camera_from_world = camera.invert_rigid(frames.world_from_camera[position])
    points_camera = camera.transform(camera_from_world, points_world)
    index = torch.nonzero(points_camera[:, 2] <= settings.max_depth_m)[:, 0]
    uv, depth_m = camera.project(points_camera[index], frames.depth_intrinsics)
    inside = camera.in_image(uv, *frames.depth_size)
    index, uv, depth_m = index[inside], uv[inside], depth_m[inside]
    measured_m = _nearest_pixel(torch.from_numpy(frames.depth_m(position)), uv)
    met = (measured_m > 0) & ((depth_m - measured_m).abs() < settings.depth_tolerance_m)
    index = index[met]
    uv, _ = camera.project(points_camera[index], frames.color_intrinsics)
    inside = camera.in_image(uv, *frames.color_size)
    return index[inside], uv[inside]


def _nearest_pixel(
    image: Shaped[Tensor, "h w *channels"], uv: Float64[Tensor, "points 2"]
) -> Shaped[Tensor, " points *channels"]:
    """Look up the pixel that each point of the image falls on."""
    column, row = (uv + 0.5).floor().long().unbind(1)
    return image[row, column]
