"""Depth from pictures and their poses alone: plane sweeps.

Every hypothesis is a plane that faces the reference camera. Seen through it, another
picture shows what the reference picture shows wherever the depth is right; normalized
cross-correlation of small windows tells how alike the two are, whatever their exposure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gnesf_core.geometry import camera
from gnesf_core.shapes import Bool, Float32, Float64, Int64

UNSEEN = -1.0  # score where no neighbour sees a hypothesis; correlations are above

_MID_GREY = 128.0  # subtracted first: variances of small numbers survive float32
# Variance of grey levels below which a window counts as blank: its score fades to 0.
# Rounding to whole levels makes 1/12 alone.
_LEAST_VARIANCE = 0.25
# How quickly a baseline that is longer or shorter than asked for loses its worth, as
# the standard deviation of the logarithm of the two lengths' ratio.
_BASELINE_SPREAD = 0.5
_LEAST_GAIN = 0.02  # of a view: a neighbour that adds less is not worth its time
_GRID_PIXELS = 16  # pixels across a picture at which its overlap is measured
_CHUNK_ELEMENTS = 1 << 17  # hypotheses at once: half a megabyte stays in cache


@dataclass(frozen=True)
class PosedPictures:
    """Grey pictures of one camera, which moves."""

    grey: Float32[Tensor, "n h w"]  # 0..255
    intrinsics: Float64[np.ndarray, "3 3"]
    world_from_camera: Float64[np.ndarray, "n 4 4"]


def inverse_depths(near_m: float, far_m: float, count: int) -> Float32[Tensor, " d"]:
    """Return hypotheses in 1/m, evenly spaced, farthest first."""
    return torch.linspace(1 / far_m, 1 / near_m, count)


def choose_neighbours(
    pictures: PosedPictures, count: int, baseline_m: float, depth_m: float
) -> list[list[int]]:
    """Return up to `count` other pictures for each: well placed, and seeing all of it.

    Each next neighbour is the one that adds most: the share of the picture that it sees
    too at `depth_m`, where what others see already counts less, times the worth of its
    baseline.
    """
    centres = pictures.world_from_camera[:, :3, 3]
    camera_from_world = camera.invert_rigid(pictures.world_from_camera)
    chosen = []
    for reference in range(len(centres)):
        distance = np.linalg.norm(centres - centres[reference], axis=1)
        ratio = np.log(np.maximum(distance, 1e-6) / baseline_m)
        worth = np.exp(-0.5 * (ratio / _BASELINE_SPREAD) ** 2)
        near = np.flatnonzero(worth > _LEAST_GAIN)
        shared = _shared_view(pictures, reference, camera_from_world[near], depth_m)
        picked = _cover(shared, worth[near], count)
        chosen.append(near[picked].tolist())
    return chosen


def _shared_view(
    pictures: PosedPictures,
    reference: int,
    camera_from_world: Float64[np.ndarray, "m 4 4"],
    depth_m: float,
) -> Bool[np.ndarray, "m points"]:
    """Tell which points of a picture, at one depth, other cameras see."""
    height, width = pictures.grey.shape[1:]
    step = max(1, width // _GRID_PIXELS)
    rays = camera.pixel_rays(pictures.intrinsics, width, height)
    points = rays[step // 2 :: step, step // 2 :: step].reshape(-1, 3) * depth_m
    other_from_reference = camera_from_world @ pictures.world_from_camera[reference]
    others = np.broadcast_to(points, (len(camera_from_world), *points.shape))
    uv, _ = camera.project(
        camera.transform(other_from_reference, others),
        np.broadcast_to(pictures.intrinsics, (len(others), 3, 3)),
    )
    return camera.in_image(uv, width, height)


def _cover(
    shared: Bool[np.ndarray, "m points"], worth: Float64[np.ndarray, " m"], count: int
) -> list[int]:
    """Choose rows that cover the points, greedily."""
    worth, picked = worth.copy(), []
    seen = np.zeros(shared.shape[1])
    for _ in range(min(count, len(worth))):
        gain = worth * (shared / (1 + seen) ** 2).mean(1)
        best = int(gain.argmax())
        if gain[best] < _LEAST_GAIN:
            break
        picked.append(best)
        seen += shared[best]
        worth[best] = 0
    return picked


def sweep(
    pictures: PosedPictures,
    reference: int,
    neighbours: Sequence[int],
    inverse_depth: Float32[Tensor, " d"],
    patch: int,
) -> Float32[Tensor, "d h w"]:
    """Return how well each hypothesis explains the neighbours, at most 1.

    It is the mean correlation over the better half of the neighbours, because whatever
    is hidden from some is mostly seen by others; over fewer where fewer see it at all.
    """
    own, *others = pictures.grey[[reference, *neighbours]] - _MID_GREY
    window = _Window(own, patch)
    maps = [_maps_to(pictures, reference, other, own.device) for other in neighbours]
    chunk = max(1, _CHUNK_ELEMENTS // own.numel())
    scores = []
    for part in inverse_depth.to(own.device).split(chunk):
        shape = len(part), *(side - patch + 1 for side in own.shape)
        best = [
            torch.full(shape, UNSEEN, device=own.device)
            for _ in range((len(neighbours) + 1) // 2)
        ]
        for other, (at_infinity, per_inverse_depth) in zip(others, maps, strict=True):
            planes = part[:, None, None] * per_inverse_depth[:, None, None, None]
            score = window.correlate(other, at_infinity[:, None] + planes)
            for rank, least in enumerate(best):  # keep the best, pass the lesser on
                best[rank] = torch.maximum(least, score)
                score = torch.minimum(least, score)
        scores.append(_mean_of_seen(best))
    # Windows end at the edge; the pixels there take the score of the nearest one.
    edge = (patch // 2,) * 4
    return functional.pad(torch.cat(scores)[None], edge, mode="replicate")[0]


def _maps_to(
    pictures: PosedPictures, reference: int, other: int, device: torch.device
) -> tuple[Float32[Tensor, "3 h w"], Float32[Tensor, " 3"]]:
    """Return A and b: pixel p at inverse depth r is seen by `other` at A(p) + r b.

    Results are homogeneous, and such that the picture's outermost pixel centres are at
    -1 and 1, as `grid_sample` has it.
    """
    height, width = pictures.grey.shape[1:]
    from_pixels = np.diag([2 / (width - 1), 2 / (height - 1), 1.0])
    from_pixels[:2, 2] = -1
    poses = pictures.world_from_camera
    other_from_reference = camera.invert_rigid(poses[other]) @ poses[reference]
    projection = from_pixels @ pictures.intrinsics @ other_from_reference[:3]
    rays = camera.pixel_rays(pictures.intrinsics, width, height)
    at_infinity = torch.from_numpy((rays @ projection[:, :3].T).transpose(2, 0, 1))
    per_inverse_depth = torch.from_numpy(projection[:, 3])
    return at_infinity.float().to(device), per_inverse_depth.float().to(device)


class _Window:
    """The windows around all pixels of a reference picture, to compare others with."""

    def __init__(self, grey: Float32[Tensor, "h w"], patch: int) -> None:
        self._grey = grey
        self._patch = patch
        self._mean = _box_mean(grey, patch)
        variance = _box_mean(grey * grey, patch) - self._mean**2
        self._variance = variance.clamp(min=_LEAST_VARIANCE)

    def correlate(
        self, other: Float32[Tensor, "h w"], places: Float32[Tensor, "3 d h w"]
    ) -> Float32[Tensor, "d inner_h inner_w"]:
        """Return the correlation with `other` seen at homogeneous `places`."""
        depths, height, width = places.shape[1:]
        in_front = places[2] > 1e-6
        xy = places[:2] / places[2].clamp(min=1e-6)
        inside = in_front & (xy[0].abs() <= 1) & (xy[1].abs() <= 1)
        seen = functional.grid_sample(
            other[None, None],
            xy.view(2, depths * height, width).permute(1, 2, 0)[None],
            padding_mode="border",
            align_corners=True,
        ).view(depths, height, width)
        mean = _box_mean(seen, self._patch)
        variance = _box_mean(seen * seen, self._patch).addcmul_(mean, mean, value=-1)
        covariance = _box_mean(seen * self._grey, self._patch)
        covariance.addcmul_(mean, self._mean, value=-1)
        score = covariance * (
            variance.clamp_(min=_LEAST_VARIANCE).mul_(self._variance).rsqrt_()
        )
        edge = self._patch // 2
        inner = inside[:, edge : height - edge, edge : width - edge]
        return torch.where(inner, score.clamp_(UNSEEN + 1e-3, 1), UNSEEN)


def _box_mean(
    values: Float32[Tensor, "*batch h w"], patch: int
) -> Float32[Tensor, "*batch inner_h inner_w"]:
    """Average over all square windows that lie inside.

    Adding shifted copies is four times as fast on a CPU as `avg_pool2d`.
    """
    for axis in (-1, -2):
        length = values.shape[axis] - patch + 1
        total = values.narrow(axis, 0, length).clone()
        for shift in range(1, patch):
            total += values.narrow(axis, shift, length)
        values = total
    return values.mul_(1 / patch**2)


def _mean_of_seen(
    best: Sequence[Float32[Tensor, "d h w"]],
) -> Float32[Tensor, "d h w"]:
    """Average scores, best first, leaving out `UNSEEN` but where there is no other."""
    total, count = best[0].clone(), torch.ones_like(best[0])
    for score in best[1:]:
        seen = score > UNSEEN
        total += torch.where(seen, score, 0)
        count += seen
    return total / count


def smooth(scores: Float32[Tensor, "d h w"], penalty: float) -> Int64[Tensor, "h w"]:
    """Choose a hypothesis per pixel that also suits the pixels around (semi-global).

    Along four directions a path collects the scores of its hypotheses and pays a fifth
    of `penalty` for a change by one step, and all of it for a larger change.
    """
    cost = (-scores).permute(1, 2, 0).contiguous()
    along_v = _both_ways(cost, penalty)
    along_u = _both_ways(cost.transpose(0, 1).contiguous(), penalty)
    return (along_v + along_u.transpose(0, 1)).argmin(-1)


def _both_ways(
    cost: Float32[Tensor, "steps m d"], penalty: float
) -> Float32[Tensor, "steps m d"]:
    """Sum the least costs of paths that come from both ends of the first axis."""
    paths = torch.cat([cost, cost.flip(0)], 1)
    last = paths[0]
    for step in range(1, len(paths)):
        least = last.amin(-1, keepdim=True)
        onward = torch.minimum(last, least + penalty)
        nearby = last + penalty / 5
        torch.minimum(onward[:, 1:], nearby[:, :-1], out=onward[:, 1:])
        torch.minimum(onward[:, :-1], nearby[:, 1:], out=onward[:, :-1])
        last = paths[step].add_(onward).sub_(least)
    there, back = paths.chunk(2, 1)
    return there + back.flip(0)


def depth_of(
    scores: Float32[Tensor, "d h w"],
    chosen: Int64[Tensor, "h w"],
    inverse_depth: Float32[Tensor, " d"],
    min_score: float,
) -> Float32[Tensor, "h w"]:
    """Return depth in metres, 0 where the chosen hypothesis is not good enough.

    Between hypotheses, the peak of the parabola through three scores is taken. The
    first and the last hypothesis stand for all that is further away or nearer.
    """
    last = len(inverse_depth) - 1
    middle = chosen.clamp(1, last - 1)
    before, here, after = (
        scores.gather(0, (middle + step)[None])[0] for step in (-1, 0, 1)
    )
    curvature = (before - 2 * here + after).clamp(max=-1e-6)
    offset = (0.5 * (before - after) / curvature).clamp(-0.5, 0.5)
    spacing = inverse_depth[1] - inverse_depth[0]
    inverse = inverse_depth[0] + (middle + offset) * spacing
    good = (chosen == middle) & (here > min_score)
    return torch.where(good, 1 / inverse, 0)


def confirmed(
    pictures: PosedPictures,
    depth_m: Float32[Tensor, "n h w"],
    neighbours: Sequence[Sequence[int]],
    tolerance: float,
) -> Bool[Tensor, "n h w"]:
    """Tell which depths agree, within a share of them, with a neighbour's depth."""
    height, width = depth_m.shape[1:]
    poses, device = pictures.world_from_camera, depth_m.device
    rays = torch.from_numpy(camera.pixel_rays(pictures.intrinsics, width, height))
    rays = rays.float().to(device).flatten(0, 1)
    agree = torch.zeros_like(depth_m, dtype=torch.bool)
    for reference, others in enumerate(neighbours):
        points = rays * depth_m[reference].reshape(-1, 1)
        for other in others:
            motion = camera.invert_rigid(poses[other]) @ poses[reference]
            uv, z = camera.project(
                camera.transform(motion, points), pictures.intrinsics
            )
            inside = camera.in_image(uv, width, height)
            u, v = (uv + 0.5).floor().long().unbind(-1)
            nearest = torch.where(inside, v * width + u, 0)
            theirs = depth_m[other].flatten()[nearest]
            close = inside & ((theirs - z).abs() < tolerance * z)
            agree[reference] |= close.view(height, width)
    return agree & (depth_m > 0)
