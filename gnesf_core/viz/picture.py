"""Pictures of coloured meshes by ray casting: no OpenGL, no display, no GPU.

A `Viewpoint` says where a picture is taken from and what is cut away. It is made once,
from the true surface, and reused for every prediction, so that pictures side by side
show the same place.
"""

from dataclasses import dataclass

import numpy as np

from gnesf_core.geometry.camera import (
    invert_rigid,
    look_at,
    pixel_rays,
    scale_intrinsics,
    transform,
)
from gnesf_core.geometry.raycast import make_caster
from gnesf_core.labels import IGNORE, PALETTE
from gnesf_core.shapes import Float, Float64, Int, UInt8

UNLABELLED = (215, 215, 215)
BACKGROUND = 255.0
_SUPERSAMPLING = 2  # rays per pixel and axis
_LIGHT_WORLD = np.array([0.55, -0.18, 0.82]) / np.linalg.norm([0.55, -0.18, 0.82])
_DARKEST_SHADE = 0.66
_OUTLINE_SHADE = 0.6
_OUTLINE_JUMP_M = 0.12  # depth steps beyond this are outlined
_TOP_DISTANCE_M = 40.0  # far enough to look orthographic
_CUT_ABOVE_FLOOR_M = 1.9
_TOPS_ABOVE_CUT_M = 0.5  # tops of tall furniture stay, ceilings go
_CEILING_THICKNESS_M = 0.2
_EYE_ABOVE_FLOOR_M = 1.9
_INSIDE_FIELD_OF_VIEW = np.deg2rad(82.0)
_INSIDE_NEAR_M = 0.25
_WALL_DISTANCES_M = (0.4, 0.8, 1.3)  # places to stand, from the wall
_BEFORE_THE_EYE_M = 1.0  # nearer surfaces hide the room rather than show it
_SIDES = ((-1, -1), (1, -1), (1, 1), (-1, 1), (-1, 0), (1, 0), (0, -1), (0, 1))
_MARGIN = 0.94  # share of the picture that a scene fills


@dataclass(frozen=True)
class Viewpoint:
    """A camera, and which part of a scene it ignores."""

    world_from_camera: Float64[np.ndarray, "4 4"]
    intrinsics: Float64[np.ndarray, "3 3"]
    width: int
    height: int
    near_m: float = 0.0  # triangles with no corner further away are left out
    cut_world_z: float = np.inf  # everything above is cut away,
    tops_world_z: float = -np.inf  # but for what faces up, up to here


def class_colors(
    labels: UInt8[np.ndarray, "*points"],
) -> UInt8[np.ndarray, "*points 3"]:
    """Return the colour of each label; grey for `IGNORE`."""
    table = np.full((IGNORE + 1, 3), UNLABELLED, np.uint8)
    table[: len(PALETTE)] = PALETTE
    return table[labels]


def top_viewpoint(
    vertices: Float[np.ndarray, "n 3"], width: int, height: int
) -> Viewpoint:
    """Look straight down on the whole scene, +y up, with everything high cut away.

    The ceiling goes, and so do walls and furniture from 1.9 m above the floor upwards;
    what faces up just above that stays, so that a wardrobe is not an empty box.
    """
    low, high = _robust_bounds(vertices)
    centre, extent = (low + high) / 2, np.maximum(high - low, 0.1)
    cut = float(low[2]) + _CUT_ABOVE_FLOOR_M
    tops = min(cut + _TOPS_ABOVE_CUT_M, float(high[2]) - _CEILING_THICKNESS_M)
    nearest = _TOP_DISTANCE_M - _CUT_ABOVE_FLOOR_M
    focal = _MARGIN * nearest * min(width / extent[0], height / extent[1])
    eye = np.array([centre[0], centre[1], low[2] + _TOP_DISTANCE_M])
    world_from_camera = look_at(eye, eye - (0.0, 0.0, 1.0))
    intrinsics = _intrinsics(focal, width, height)
    return Viewpoint(
        world_from_camera,
        intrinsics,
        width,
        height,
        cut_world_z=cut,
        tops_world_z=tops,
    )


def inside_viewpoint(
    vertices: Float[np.ndarray, "n 3"],
    faces: Int[np.ndarray, "m 3"],
    width: int,
    height: int,
) -> Viewpoint:
    """Stand at the edge of the room that shows most, looking across.

    Quick pictures from the corners and the middles of the walls, some closer to the
    wall than others, decide: the widest view wins, where whatever stands right before
    the eye counts as nothing. So a place behind a cupboard or a curtain loses, and so
    does one outside an L-shaped room.
    """
    low, high = _robust_bounds(vertices)
    centre, half = (low + high) / 2, (high - low) / 2
    eye_z = low[2] + min(_EYE_ABOVE_FLOOR_M, 0.8 * (high[2] - low[2]))
    target_z = low[2] + 0.4 * (eye_z - low[2])
    focal = 0.5 * width / np.tan(_INSIDE_FIELD_OF_VIEW / 2)
    intrinsics = _intrinsics(focal, width, height)
    coarse = scale_intrinsics(intrinsics, (width, height), (48, 36))
    caster = make_caster(vertices, faces)
    best_shown, best_pose = -1.0, np.eye(4)
    for wall_m in _WALL_DISTANCES_M:
        inset = np.maximum(half[:2] - wall_m, 0.4 * half[:2])
        for side in _SIDES:
            offset = np.array(side) * inset
            eye = np.append(centre[:2] + offset, eye_z)
            pose = look_at(eye, np.append(centre[:2] - 0.6 * offset, target_z))
            rays = pixel_rays(coarse, 48, 36) @ pose[:3, :3].T
            _, depth_m = caster.cast(eye, rays)
            counts = np.isfinite(depth_m) & (depth_m > _BEFORE_THE_EYE_M)
            shown = np.where(counts, np.minimum(depth_m, 6.0), 0.0).mean()
            if shown > best_shown:
                best_shown, best_pose = shown, pose
    return Viewpoint(best_pose, intrinsics, width, height, near_m=_INSIDE_NEAR_M)


def render_mesh(
    vertices: Float[np.ndarray, "n 3"],
    faces: Int[np.ndarray, "m 3"],
    vertex_colors: UInt8[np.ndarray, "n 3"],
    viewpoint: Viewpoint,
) -> UInt8[np.ndarray, "h w 3"]:
    """Draw a mesh with soft shading, thin outlines, and a white background.

    Each hit takes the colour of the nearest corner of its triangle, so that a class
    keeps its own colour and two classes never mix into a third.
    """
    vertices = np.asarray(vertices, np.float64)
    normals = _vertex_normals(vertices, faces)
    vertices, faces, source = _cut(vertices, faces, viewpoint)
    width, height = viewpoint.width, viewpoint.height
    fine_size = (_SUPERSAMPLING * width, _SUPERSAMPLING * height)
    fine = scale_intrinsics(viewpoint.intrinsics, (width, height), fine_size)
    eye, rotation = viewpoint.world_from_camera[:3, 3], viewpoint.world_from_camera
    rays = pixel_rays(fine, *fine_size) @ rotation[:3, :3].T
    triangle, depth_m = make_caster(vertices, faces).cast(eye, rays)
    picture = np.full(rays.shape, BACKGROUND)
    hit = triangle >= 0
    points = eye + depth_m[hit, None] * rays[hit]
    corners = faces[triangle[hit]]
    weights = _barycentric(points, vertices[corners])
    nearest = corners[np.arange(len(corners)), weights.argmax(axis=1)]
    normal = np.einsum("pc,pcx->px", weights, normals[source[corners]])
    shade = _shade(normal, rays[hit]) * _outline(depth_m)[hit]
    picture[hit] = vertex_colors[source[nearest]] * shade[:, None]
    blocks = picture.reshape(height, _SUPERSAMPLING, width, _SUPERSAMPLING, 3)
    return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)


def _robust_bounds(
    vertices: Float[np.ndarray, "n 3"],
) -> tuple[Float64[np.ndarray, " 3"], Float64[np.ndarray, " 3"]]:
    """Return the corners of a box that a few stray points do not stretch."""
    assert len(vertices) > 0
    low, high = np.quantile(np.asarray(vertices, np.float64), (0.002, 0.998), axis=0)
    return low, high


def _intrinsics(focal: float, width: int, height: int) -> Float64[np.ndarray, "3 3"]:
    return np.array(
        [[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]]
    )


def _vertex_normals(
    vertices: Float64[np.ndarray, "n 3"], faces: Int[np.ndarray, "m 3"]
) -> Float64[np.ndarray, "n 3"]:
    """Return the sum of the normals of the faces around each vertex, by area."""
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    face_normals = np.cross(b - a, c - a)
    owner = faces.T.ravel()
    # Without faces bincount forgets that its weights are floats.
    sums = [
        np.bincount(owner, weights=np.tile(axis, 3), minlength=len(vertices))
        for axis in face_normals.T
    ]
    return np.stack(sums, axis=1).astype(np.float64)


def _cut(
    vertices: Float64[np.ndarray, "n 3"],
    faces: Int[np.ndarray, "m 3"],
    viewpoint: Viewpoint,
) -> tuple[
    Float64[np.ndarray, "kept 3"], Int[np.ndarray, "left 3"], Int[np.ndarray, " kept"]
]:
    """Return the part of a mesh to draw, and the vertex that each vertex came from.

    Triangles across the cut are not split: their upper corners are lowered onto it,
    which for upright surfaces is the same.
    """
    camera_from_world = invert_rigid(viewpoint.world_from_camera)
    depth = transform(camera_from_world, vertices)[:, 2]
    faces = faces[depth[faces].max(axis=1) > viewpoint.near_m]
    lowest, highest = vertices[faces, 2].min(axis=1), vertices[faces, 2].max(axis=1)
    below = faces[lowest < viewpoint.cut_world_z]
    tops = faces[
        (lowest >= viewpoint.cut_world_z) & (highest <= viewpoint.tops_world_z)
    ]
    a, b, c = (vertices[tops[:, corner]] for corner in range(3))
    normal = np.cross(b - a, c - a)
    tops = tops[normal[:, 2] > 0.3 * np.linalg.norm(normal, axis=1)]
    lowered = vertices.copy()
    lowered[:, 2] = np.minimum(lowered[:, 2], viewpoint.cut_world_z)
    both = np.concatenate([lowered, vertices])
    source = np.tile(np.arange(len(vertices)), 2)
    return both, np.concatenate([below, tops + len(vertices)]), source


def _barycentric(
    points: Float64[np.ndarray, "p 3"], corners: Float64[np.ndarray, "p 3 3"]
) -> Float64[np.ndarray, "p 3"]:
    """Return the weights of the corners for points in the planes of triangles."""
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    offset = points - corners[:, 0]
    normal = np.cross(first, second)
    area = np.maximum((normal**2).sum(axis=1), 1e-30)
    of_second_corner = (np.cross(offset, second) * normal).sum(axis=1) / area
    of_third_corner = (np.cross(first, offset) * normal).sum(axis=1) / area
    of_first_corner = 1 - of_second_corner - of_third_corner
    return np.stack([of_first_corner, of_second_corner, of_third_corner], axis=1)


def _shade(
    normals: Float64[np.ndarray, "p 3"], rays: Float64[np.ndarray, "p 3"]
) -> Float64[np.ndarray, " p"]:
    """Return brightness under one soft light; surfaces are lit on the side we see."""
    length = np.maximum(np.linalg.norm(normals, axis=1), 1e-30)
    towards_light = (normals @ _LIGHT_WORLD) / length
    facing_away = np.einsum("px,px->p", normals, rays) > 0
    towards_light = np.where(facing_away, -towards_light, towards_light)
    return _DARKEST_SHADE + (1 - _DARKEST_SHADE) * (0.5 + 0.5 * towards_light)


def _outline(depth_m: Float64[np.ndarray, "h w"]) -> Float64[np.ndarray, "h w"]:
    """Return a darker shade where depth jumps.

    Inverse depth is linear over the image of any plane, however slanted: its second
    difference, times depth squared, is the height of a step and nothing else.
    """
    inverse = np.where(np.isfinite(depth_m), 1 / depth_m, 0.0)
    padded = np.pad(inverse, 1, mode="edge")
    across = np.abs(padded[1:-1, 2:] + padded[1:-1, :-2] - 2 * inverse)
    down = np.abs(padded[2:, 1:-1] + padded[:-2, 1:-1] - 2 * inverse)
    across[:, [0, -1]] = down[[0, -1]] = 0.0
    jump_m = np.maximum(across, down) * np.where(inverse > 0, depth_m, 0.0) ** 2
    return np.where(jump_m > _OUTLINE_JUMP_M, _OUTLINE_SHADE, 1.0)
