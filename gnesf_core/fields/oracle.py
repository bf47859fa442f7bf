"""The oracle field: ground-truth 2D labels voted onto the surface.

What a field would score if its 2D prior were perfect. A view votes for a point that it
sees: the point lies in both images, and at the depth that was measured there.
"""

import numpy as np

from gnesf_core.config import OracleConfig
from gnesf_core.data.store import Frames
from gnesf_core.geometry import camera
from gnesf_core.labels import CLASS_NAMES, IGNORE
from gnesf_core.shapes import Bool, Float, Float32, Int64, UInt8

Settings = OracleConfig

_NO_COLOR = 127  # of points that no view sees


def label_points(
    points_world: Float[np.ndarray, "n 3"], frames: Frames, config: OracleConfig
) -> tuple[
    UInt8[np.ndarray, " n"], Float32[np.ndarray, " n"], UInt8[np.ndarray, "n 3"]
]:
    """Return class, confidence and colour of surface points from all kept frames.

    A scene without 2D labels gets `IGNORE` everywhere, and its colours.
    """
    votes = SurfaceVotes(points_world)
    nothing = np.full(frames.color_size[::-1], IGNORE, np.uint8)
    for position in range(len(frames)):
        votes.add_view(
            frames.labels(position) if frames.has_labels else nothing,
            frames.color(position),
            frames.color_intrinsics,
            frames.depth_m(position),
            frames.depth_intrinsics,
            frames.world_from_camera[position],
            config,
        )
    return votes.result()


class SurfaceVotes:
    """Counts, for each point of a surface, the labels and colours that views see."""

    def __init__(self, vertices_world: Float[np.ndarray, "n 3"]) -> None:
        count = len(vertices_world)
        self._points = vertices_world
        self._votes = np.zeros((count, len(CLASS_NAMES)), np.uint16)
        self._color_sum = np.zeros((count, 3), np.uint32)
        self._color_count = np.zeros(count, np.uint32)

    def add_view(
        self,
        labels: UInt8[np.ndarray, "h w"],
        color: UInt8[np.ndarray, "h w 3"] | None,
        color_intrinsics: Float[np.ndarray, "3 3"],
        depth_m: Float[np.ndarray, "hd wd"],
        depth_intrinsics: Float[np.ndarray, "3 3"],
        world_from_camera: Float[np.ndarray, "4 4"],
        config: OracleConfig,
    ) -> None:
        """Let one view vote for the points it sees, by the nearest pixel.

        Both cameras share the pose. Pixels of `IGNORE` cast no vote, but give colour.
        """
        camera_from_world = camera.invert_rigid(world_from_camera)
        points_camera = camera.transform(camera_from_world, self._points)
        index = np.flatnonzero(points_camera[:, 2] <= config.max_depth_m)
        points_camera = points_camera[index]
        pixels, depth, inside = _nearest(points_camera, depth_intrinsics, depth_m)
        measured = depth_m[pixels[:, 1], pixels[:, 0]]
        near = np.abs(depth - measured) < config.depth_tolerance_m
        seen = inside & near & (measured > 0)
        index, points_camera = index[seen], points_camera[seen]
        pixels, _, inside = _nearest(points_camera, color_intrinsics, labels)
        index, (u, v) = index[inside], pixels[inside].T
        if color is not None:
            self._color_sum[index] += color[v, u]
            self._color_count[index] += 1
        voted = labels[v, u]
        valid = voted < len(CLASS_NAMES)
        self._votes[index[valid], voted[valid]] += 1

    def result(
        self,
    ) -> tuple[
        UInt8[np.ndarray, " n"], Float32[np.ndarray, " n"], UInt8[np.ndarray, "n 3"]
    ]:
        """Return the class with most votes, its share of the votes, the mean colour.

        Ties go to the lowest class. Points without a vote get `IGNORE` and confidence
        0; points that no colour image sees are grey.
        """
        total = self._votes.sum(1, dtype=np.uint32)
        class_id = self._votes.argmax(1).astype(np.uint8)
        class_id[total == 0] = IGNORE
        confidence = (self._votes.max(1) / np.maximum(total, 1)).astype(np.float32)
        count = np.maximum(self._color_count, 1)[:, None]
        color = ((self._color_sum + count // 2) // count).astype(np.uint8)
        color[self._color_count == 0] = _NO_COLOR
        return class_id, confidence, color


def _nearest(
    points_camera: Float[np.ndarray, "m 3"],
    intrinsics: Float[np.ndarray, "3 3"],
    image: np.ndarray,
) -> tuple[Int64[np.ndarray, "m 2"], Float[np.ndarray, " m"], Bool[np.ndarray, " m"]]:
    """Return each point's nearest pixel, its depth, and whether the image holds it.

    Points outside get pixel (0, 0), so that all can be looked up at once.
    """
    uv, depth = camera.project(points_camera, intrinsics)
    inside = camera.in_image(uv, image.shape[1], image.shape[0])
    pixels = np.floor(uv + 0.5).astype(np.int64)
    pixels[~inside] = 0
    return pixels, depth, inside
