"""Pinhole cameras: the one place where poses, pixels and points meet.

Cameras are OpenCV's: +x right, +y down, +z forward; `depth` is z, not the length of the
ray. Pixel `uv` has integer coordinates at pixel centres, so an image of width w spans
-0.5 .. w - 0.5. Poses are rigid `world_from_camera` matrices in metres, z up.

`project` and `transform` take NumPy arrays and Torch tensors alike. NumPy promotes to
the wider type of points and matrix; Torch computes in the type and on the device of the
points, wherever the matrix comes from.
"""

from collections.abc import Sequence

import numpy as np

from gnesf_core.shapes import (
    AnyTensor,
    Bool,
    Float,
    Float64,
    Int64,
    Shaped,
    array_library,
)

Vector = np.ndarray | Sequence[float | int]

# Projections are kept this close to the image, in pixels, so that they can be rounded
# to integers; points that are not in front of the camera are put here as well.
FARTHEST_UV = 1e6
# Real poses are written with few digits, so rotations are checked loosely.
_DETERMINANT_TOLERANCE = 5e-2
_ORTHOGONALITY_TOLERANCE = 2e-2
_FARTHEST_TRANSLATION_M = 1e3


def _like(
    matrix: np.ndarray | AnyTensor, points: np.ndarray | AnyTensor
) -> np.ndarray | AnyTensor:
    """Return `matrix` as the kind of array that `points` is."""
    if isinstance(points, AnyTensor):
        import torch

        return torch.as_tensor(matrix, dtype=points.dtype, device=points.device)
    return np.asarray(matrix)


def project(
    points_camera: Float[np.ndarray, "*points 3"] | Float[AnyTensor, "*points 3"],
    intrinsics: Float[np.ndarray, "*batch 3 3"] | Float[AnyTensor, "*batch 3 3"],
) -> tuple[
    Float[np.ndarray, "*points 2"] | Float[AnyTensor, "*points 2"],
    Float[np.ndarray, "*points"] | Float[AnyTensor, "*points"],
]:
    """Return the pixel coordinates `uv` and the depth z of points of the camera frame.

    Points that are not in front of the camera (z <= 0 or not a number) get
    uv = -FARTHEST_UV, outside any image, and others are clipped to FARTHEST_UV: a test
    whether uv lies in the image is enough, and rounding uv to integers is safe.
    Intrinsics have no skew. Differentiable in the points.
    """
    array = array_library(points_camera)
    matrix = _like(intrinsics, points_camera)
    depth = points_camera[..., 2]
    in_front = depth > 0
    divisor = array.where(in_front, depth, 1.0)
    axes = []
    for axis in range(2):
        focal, centre = matrix[..., axis, axis, None], matrix[..., axis, 2, None]
        # Dividing first keeps the quotient exact where a point lies on a pixel's ray.
        pixel = points_camera[..., axis] / divisor * focal + centre
        pixel = pixel.clip(-FARTHEST_UV, FARTHEST_UV)
        axes.append(array.where(in_front, pixel, -FARTHEST_UV))
    return array.stack(axes, -1), depth


def transform(
    target_from_source: Float[np.ndarray, "*batch 4 4"]
    | Float[AnyTensor, "*batch 4 4"],
    points: Float[np.ndarray, "*points 3"] | Float[AnyTensor, "*points 3"],
) -> Float[np.ndarray, "*points 3"] | Float[AnyTensor, "*points 3"]:
    """Return `points` of the source frame in the target frame.

    A batch of matrices moves a batch of point sets.
    """
    matrix = _like(target_from_source, points)
    rotation, translation = matrix[..., :3, :3], matrix[..., :3, 3]
    return points @ rotation.swapaxes(-1, -2) + translation[..., None, :]


def invert_rigid(
    world_from_camera: Float[np.ndarray, "*batch 4 4"] | Float[AnyTensor, "*batch 4 4"],
) -> Float[np.ndarray, "*batch 4 4"] | Float[AnyTensor, "*batch 4 4"]:
    """Return `camera_from_world`, with a last row of exactly (0, 0, 0, 1).

    The rotation is truly inverted rather than transposed, so that there and back again
    is the identity even for the slightly skewed rotations that scans contain.
    """
    array = array_library(world_from_camera)
    rotation = array.linalg.inv(world_from_camera[..., :3, :3])
    translation = world_from_camera[..., :3, 3, None]
    inverse = array.zeros_like(world_from_camera)
    inverse[..., :3, :3] = rotation
    inverse[..., :3, 3] = -(rotation @ translation)[..., 0]
    inverse[..., 3, 3] = 1.0
    return inverse


def is_rigid(matrix: Shaped[np.ndarray, "..."]) -> bool:
    """Tell whether a pose read from a file can be one: finite, a rotation, and near."""
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        return False
    rotation, translation = matrix[:3, :3].astype(np.float64), matrix[:3, 3]
    # Bounding the entries first keeps the determinant from overflowing.
    if (
        np.abs(rotation).max() > 2
        or np.abs(translation).max() > _FARTHEST_TRANSLATION_M
    ):
        return False
    skew = np.abs(rotation @ rotation.T - np.eye(3)).max()
    return bool(
        abs(np.linalg.det(rotation) - 1) < _DETERMINANT_TOLERANCE
        and skew < _ORTHOGONALITY_TOLERANCE
        and np.array_equal(matrix[3], [0, 0, 0, 1])
    )


def look_at(
    eye: Vector,
    target: Vector,
    up: Vector = (0.0, 0.0, 1.0),
    roll: float = 0.0,
) -> Float64[np.ndarray, "4 4"]:
    """Return `world_from_camera` of a camera at `eye` that looks at `target`.

    `roll` in radians turns the camera clockwise as seen from behind it. Looking along
    `up`, where no direction is upright, the image's upper edge points to +y (or to +x
    if `up` is +-y).
    """
    eye, up = np.asarray(eye, np.float64), np.asarray(up, np.float64)
    forward = np.asarray(target, np.float64) - eye
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, up / np.linalg.norm(up))
    if np.linalg.norm(right) < 1e-6:
        other_up = (1.0, 0.0, 0.0) if abs(forward[1]) > 0.9 else (0.0, 1.0, 0.0)
        right = np.cross(forward, other_up)
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    cosine, sine = np.cos(roll), np.sin(roll)
    world_from_camera = np.eye(4)
    world_from_camera[:3, 0] = cosine * right + sine * down
    world_from_camera[:3, 1] = cosine * down - sine * right
    world_from_camera[:3, 2] = forward
    world_from_camera[:3, 3] = eye
    return world_from_camera


def pixel_rays(
    intrinsics: Float[np.ndarray, "3 3"], width: int, height: int
) -> Float64[np.ndarray, "h w 3"]:
    """Return the camera-frame direction through each pixel centre, scaled to z = 1.

    A point at `t * direction` has depth t, so ray parameters are depths.
    """
    rays = np.ones((height, width, 3))
    rays[..., 0] = (np.arange(width) - intrinsics[0, 2]) / intrinsics[0, 0]
    rays[..., 1] = ((np.arange(height) - intrinsics[1, 2]) / intrinsics[1, 1])[:, None]
    return rays


def scale_intrinsics(
    intrinsics: Float[np.ndarray, "3 3"],
    from_size: tuple[int, int],
    to_size: tuple[int, int],
) -> Float64[np.ndarray, "3 3"]:
    """Return the intrinsics of an image resized between two (width, height) sizes.

    With pixel centres at integers a resize keeps the image's edges, at -0.5 and
    w - 0.5, in place: u' = (u + 0.5) * s - 0.5.
    """
    scaled = np.array(intrinsics, np.float64)
    for axis in range(2):
        scale = to_size[axis] / from_size[axis]
        scaled[axis, axis] *= scale
        scaled[axis, 2] = (scaled[axis, 2] + 0.5) * scale - 0.5
    return scaled


def nearest_pixels(
    from_size: tuple[int, int], to_size: tuple[int, int]
) -> tuple[Int64[np.ndarray, " rows"], Int64[np.ndarray, " columns"]]:
    """Return the rows and columns of the pixels that another size's pixels lie in."""
    columns, rows = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64)
        for old, new in zip(from_size, to_size, strict=True)
    )
    return rows, columns


def pixel_from_world(
    intrinsics: Float[np.ndarray, "3 3"],
    world_from_camera: Float[np.ndarray, "*batch 4 4"],
) -> Float[np.ndarray, "*batch 3 4"]:
    """Return the matrices that take (x, y, z, 1) to (u * depth, v * depth, depth)."""
    return intrinsics @ invert_rigid(world_from_camera)[..., :3, :]


def in_image(
    uv: Float[np.ndarray, "*points 2"] | Float[AnyTensor, "*points 2"],
    width: int,
    height: int,
) -> Bool[np.ndarray, "*points"] | Bool[AnyTensor, "*points"]:
    """Tell which `uv` lie on a pixel: -0.5 <= u < w - 0.5, and the same for v."""
    u, v = uv[..., 0], uv[..., 1]
    return (u >= -0.5) & (u < width - 0.5) & (v >= -0.5) & (v < height - 0.5)
