"""Source views of a scene, and what they show of points: the input of every vote.

A view may vote on a point if the point lies in front of its camera, in its picture and
not too far away, if nothing hides it, and if the prior says anything there. All that is
known about such pairs of point and view is kept as a list of pairs, in which a point
that many views see comes often, and one that none sees never.
"""

import math
from collections.abc import Callable, Collection, Sequence
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, grid_sample

from gnesf_core.data.store import SMALLEST_SCORE, Frames, PriorMaps
from gnesf_core.errors import BadInput
from gnesf_core.geometry import camera
from gnesf_core.geometry.sampling import four_pixels
from gnesf_core.nets.pictures import frame_picture
from gnesf_core.shapes import Bool, Float, Float32, Float64, Int64, Shaped, UInt8


class Sources(NamedTuple):
    """Views of one scene: what they show, and from where."""

    pictures: UInt8[Tensor, "views 3 h w"]  # RGB
    # Of the prior, covering the picture; without a prior there are no classes.
    maps: Shaped[Tensor, "views classes mh mw"]
    pixel_from_world: Float64[Tensor, "views 3 4"]  # pixels of `pictures`
    centres_world: Float64[Tensor, "views 3"]
    # At the pixels of `pictures`; for methods that need them, else None.
    depth_m: Float32[Tensor, "views h w"] | None = None  # 0 where none was measured
    labels: UInt8[Tensor, "views h w"] | None = None
    # Views with equal numbers vote among themselves, ascending; None: all together.
    group: Int64[Tensor, " views"] | None = None


class Projected(NamedTuple):
    """Where every view has every point."""

    uv: Float[Tensor, "n views 2"]  # pixels of the view's picture; 0 behind it
    depth_m: Float[Tensor, "n views"]  # -1 behind the view, or too far from it
    inside: Bool[Tensor, "n views"]  # the picture


class Pairs(NamedTuple):
    """Which view may vote on which point, point by point, in the order of the views."""

    view: Int64[Tensor, " pairs"]
    point: Int64[Tensor, " pairs"]
    uv: Float[Tensor, "pairs 2"]  # pixels of the view's picture
    depth_m: Float[Tensor, " pairs"]

    def only(self, kept: Bool[Tensor, " pairs"]) -> "Pairs":
        """Return some of the pairs, in their order."""
        rows = kept.nonzero()[:, 0]
        return Pairs(*(values.index_select(0, rows) for values in self))


def read_sources(
    frames: Frames,
    prior: PriorMaps | None,
    positions: Sequence[int],
    size: tuple[int, int],
    payload: str = "probabilities",
    needs: Collection[str] = (),
) -> Sources:
    """Read views of a scene; `payload` says what of the prior they will vote with.

    Of `needs`, `depth` and `labels` are read as well.
    """
    if not positions:
        return _no_sources(size)
    intrinsics = camera.scale_intrinsics(
        frames.color_intrinsics, frames.color_size, size
    )
    poses = frames.world_from_camera[list(positions)]
    maps = [
        _NO_MAP if prior is None else _map(frames, prior, position, payload)
        for position in positions
    ]
    pictures = [frame_picture(frames, position, size) for position in positions]
    together = {"memory_format": torch.channels_last}  # as `sample_maps` reads them
    return Sources(
        torch.stack(pictures).contiguous(**together),
        torch.from_numpy(np.stack(maps)).contiguous(**together),
        torch.from_numpy(camera.pixel_from_world(intrinsics, poses)),
        torch.from_numpy(poses[:, :3, 3].copy()),
        _every(_depth_m, frames, positions, size) if "depth" in needs else None,
        _every(_labels, frames, positions, size) if "labels" in needs else None,
    )


def _every(
    read: Callable[..., np.ndarray],
    frames: Frames,
    positions: Sequence[int],
    size: tuple[int, int],
) -> Shaped[Tensor, "views h w"]:
    own = [read(frames, position, size) for position in positions]
    return torch.from_numpy(np.stack(own))


def _depth_m(
    frames: Frames, position: int, size: tuple[int, int]
) -> Float32[np.ndarray, "h w"]:
    """Return the depth measured nearest to the rays of a picture's pixels.

    Colour and depth cameras look from the same place, each with its own lens.
    """
    if not frames.has_depth:
        raise _lacking(frames, "depth")
    columns, rows = np.meshgrid(*(np.arange(count) for count in size))
    pixels = np.stack([columns, rows, np.ones_like(rows)], -1)
    picture = camera.scale_intrinsics(frames.color_intrinsics, frames.color_size, size)
    uv = pixels @ (frames.depth_intrinsics @ np.linalg.inv(picture)).T[:, :2]
    width, height = frames.depth_size
    inside = camera.in_image(uv, width, height)
    at = np.where(inside[..., None], np.floor(uv + 0.5), 0).astype(np.int64)
    return np.where(inside, frames.depth_m(position)[at[..., 1], at[..., 0]], 0.0)


def _labels(
    frames: Frames, position: int, size: tuple[int, int]
) -> UInt8[np.ndarray, "h w"]:
    """Return the classes nearest to a picture's pixels."""
    if not frames.has_labels:
        raise _lacking(frames, "labels")
    rows, columns = camera.nearest_pixels(frames.color_size, size)
    return frames.labels(position)[rows[:, None], columns]


def _lacking(frames: Frames, what: str) -> BadInput:
    return BadInput(
        frames.path,
        what,
        expected=f"{what} of source views, which this method needs",
        found="none",
        remedy="choose another method, or scenes that have it",
    )


_NO_MAP = np.zeros((0, 1, 1), np.uint8)


def _no_sources(size: tuple[int, int]) -> Sources:
    """Return no views, for what looks at none."""
    return Sources(
        torch.zeros(0, 3, *size[::-1], dtype=torch.uint8),
        torch.zeros(0, *_NO_MAP.shape, dtype=torch.uint8),
        torch.zeros(0, 3, 4, dtype=torch.float64),
        torch.zeros(0, 3, dtype=torch.float64),
    )


def _map(frames: Frames, prior: PriorMaps, position: int, payload: str) -> np.ndarray:
    if payload == "probabilities":
        return prior.probabilities(position)
    if not prior.has_logits:
        raise BadInput(
            prior.path,
            "logits",
            expected="logits, which this field votes with",
            found="none",
            remedy="set `logits: true` in the prior's recipe",
        )
    logits = prior.logits(position)
    if np.isnan(logits).any() or (logits == np.inf).any():
        raise BadInput(
            prior.path,
            f"logits of frame {frames.index[position]}",
            expected="numbers, or -inf where nothing is known",
            found="others",
            remedy="delete the file and run snakemake again",
        )
    logits = logits.astype(np.float32)
    return np.where(np.isfinite(logits), logits, np.float32(_NOTHING_KNOWN))


def project(
    sources: Sources, points_world: Float64[Tensor, "n 3"], far_m: float
) -> Projected:
    """Return where all views have points in their pictures, hidden or not."""
    height, width = sources.pictures.shape[2:]
    uv, depths = [], []
    for matrix in sources.pixel_from_world:
        projected = points_world @ matrix[:, :3].T + matrix[:, 3]
        depth_m = projected[:, 2]
        in_front = (depth_m > 0) & (depth_m <= far_m)
        divisor = torch.where(in_front, depth_m, torch.inf)
        # Positions are rounded only now: they are small numbers from here on.
        uv.append((projected[:, :2] / divisor[:, None]).float())
        depths.append(torch.where(in_front, depth_m, -1.0).float())
    all_uv, all_depths = torch.stack(uv, 1), torch.stack(depths, 1)
    inside = (all_depths > 0) & camera.in_image(all_uv, width, height)
    return Projected(all_uv, all_depths, inside)


def pairs_in_view(
    sources: Sources, points_world: Float64[Tensor, "n 3"], far_m: float
) -> Pairs:
    """Return which views have which points in their picture, hidden or not."""
    uv, depth_m, inside = project(sources, points_world, far_m)
    point, view = inside.nonzero(as_tuple=True)
    return Pairs(view, point, uv[point, view], depth_m[point, view])


def nearest_pairs(
    pairs: Pairs, distance_m: Float[Tensor, " pairs"], most: int
) -> Pairs:
    """Return each point's nearest views, at most so many; the first of equals."""
    order = distance_m.argsort(stable=True)
    order = order[pairs.point[order].argsort(stable=True)]
    # Sorted by point they are at the places where they were; so are the ranks.
    place = torch.arange(len(order), device=order.device)
    starts = torch.ones_like(order, dtype=torch.bool)
    starts[1:] = pairs.point[1:] != pairs.point[:-1]
    rank = place - torch.where(starts, place, 0).cummax(0).values
    kept = torch.zeros_like(starts)
    kept[order] = rank < most
    return pairs.only(kept)


def sample_maps(
    maps: Shaped[Tensor, "views c mh mw"], pairs: Pairs, uv: Float[Tensor, "pairs 2"]
) -> Float[Tensor, "pairs c"]:
    """Interpolate each view's map at its pairs, `uv` being pixels of the map.

    Maps with channels side by side in memory are read where they are.
    """
    is_whole = not maps.is_floating_point()
    if is_whole and maps.device.type == "cpu" and find_spec("numba") is not None:
        from gnesf_core.ops.map_sampling_numba import sample

        return sample(maps, pairs.view, uv)
    _, channels, height, width = maps.shape
    rows = maps.permute(0, 2, 3, 1).reshape(-1, channels)
    pixels, weights = four_pixels(uv, width, height)
    pixels = pixels + (height * width * pairs.view)[:, None]
    if rows.is_floating_point():
        return embedding_bag(
            pixels, rows, per_sample_weights=weights.to(rows.dtype), mode="sum"
        )
    corners = zip(pixels.unbind(1), weights.float().unbind(1), strict=True)
    parts = [rows.index_select(0, at) * weight[:, None] for at, weight in corners]
    return torch.stack(parts).sum(0)


def sample_views(
    maps: Float[Tensor, "views c h w"], uv: Float[Tensor, "n views 2"]
) -> Float[Tensor, "n views c"]:
    """Interpolate every view's map for all points, `uv` being pixels of the map.

    Beyond its edges a map goes on as it ends: who is inside is told by `project`.
    """
    size = torch.tensor(maps.shape[:1:-1], device=maps.device)
    grid = uv * (2 / (size - 1).clamp(min=1)).to(uv) - 1
    # Far-away places would come out as NaN.
    # Points lie along the grid's width, the axis that kernels go through fastest.
    grid = grid.clamp(-1.1, 1.1).transpose(0, 1)[:, None].to(maps.dtype)
    sampled = grid_sample(maps, grid, padding_mode="border", align_corners=True)
    return sampled[:, :, 0].permute(2, 0, 1)


def spread_out(
    pairs: Pairs, values: Float[Tensor, "pairs c"], count: int, views: int
) -> Float[Tensor, "n views c"]:
    """Lay values of pairs out over all points and views; zeros elsewhere."""
    blank = values.new_zeros(count, views, values.shape[1])
    return blank.index_put((pairs.point, pairs.view), values)


def covering_uv(
    sources: Sources, maps: Shaped[Tensor, "views c mh mw"], pairs: Pairs
) -> Float[Tensor, "pairs 2"]:
    """Return where pairs are on maps that cover the picture at another size."""
    own = torch.tensor(maps.shape[:1:-1], device=maps.device)
    whole = torch.tensor(sources.pictures.shape[:1:-1], device=maps.device)
    return (pairs.uv + 0.5) * (own / whole).to(pairs.uv) - 0.5


def said_by_prior(
    sources: Sources, pairs: Pairs
) -> tuple[Float[Tensor, "pairs classes"], Bool[Tensor, " pairs"]]:
    """Return what the prior says where pairs are, and where it says anything.

    Probabilities are scaled to a sum of 1. Logits are -inf at a pixel of which nothing
    is known, and then say nothing between it and its neighbours.
    """
    uv = covering_uv(sources, sources.maps, pairs)
    if sources.maps.is_floating_point():
        logits = sample_maps(sources.maps, pairs, uv)
        known = logits.amin(1) > _LEAST_LOGIT
        return torch.where(known[:, None], logits, 0.0), known
    shares = sample_maps(sources.maps, pairs, uv)
    total = shares.sum(1, keepdim=True)
    return shares / torch.where(total > 0, total, 1.0), total[:, 0] > 0


_LEAST_LOGIT = 1.01 * math.log(SMALLEST_SCORE)  # prior files have none below
_NOTHING_KNOWN = -1e30  # in place of -inf, which interpolation would spoil


def said_in_color(sources: Sources, pairs: Pairs) -> Float[Tensor, "pairs 3"]:
    """Return the colours that views show where pairs are, 0..1."""
    return sample_maps(sources.pictures, pairs, pairs.uv) / 255
