"""The ground-truth mesh of a room: what its cameras saw, finely cut and annotated."""

from dataclasses import dataclass

import numpy as np
import torch

from gnesf_core.data.annotation import SegmentGroup
from gnesf_core.geometry.camera import invert_rigid, project, transform
from gnesf_core.geometry.raycast import Caster
from gnesf_core.shapes import Bool, Float64, Int64, UInt8
from gnesf_core.synthrooms.render import Camera, Renderer
from gnesf_core.synthrooms.rooms import Room
from gnesf_core.synthrooms.surfaces import Surfaces

WELD_M = 1e-4
SEEN_M = 0.02  # a vertex is seen if the depth around its pixel comes this close
SIGHT_SLACK_M = 0.004
PATCH_M = 0.7  # segments are no wider than about this


@dataclass(frozen=True)
class TruthMesh:
    """A triangle mesh in the room frame; `source` is the triangle a vertex is from."""

    vertices: Float64[np.ndarray, "n 3"]
    faces: Int64[np.ndarray, "m 3"]
    thing: Int64[np.ndarray, " n"]
    source: Int64[np.ndarray, " n"]

    def keep(self, seen: Bool[np.ndarray, " n"]) -> "TruthMesh":
        """Return the faces whose three vertices were seen, and their vertices."""
        faces = self.faces[seen[self.faces].all(1)]
        used = np.unique(faces)
        renumbered = np.zeros(len(self.vertices), np.int64)
        renumbered[used] = np.arange(len(used))
        return TruthMesh(
            self.vertices[used], renumbered[faces], self.thing[used], self.source[used]
        )


def cut(surfaces: Surfaces, edge_m: float) -> TruthMesh:
    """Return the room's surfaces with no edge longer than `edge_m`.

    Parts of one thing that meet at vertices are welded there.
    """
    count = len(surfaces.corners)
    flat = surfaces.corners.reshape(-1, 3)
    owner = np.repeat(surfaces.thing, 3)
    key = np.rint(flat / WELD_M).astype(np.int64)
    _, first, index = np.unique(
        np.column_stack([owner, key]), axis=0, return_index=True, return_inverse=True
    )
    vertices, faces = flat[first], index.reshape(count, 3)
    source = np.arange(count)
    solid = (faces != np.roll(faces, 1, 1)).all(1)
    faces, source = faces[solid], source[solid]
    vertices, faces, source = subdivide(vertices, faces, source, edge_m)
    vertex_source = np.zeros(len(vertices), np.int64)
    vertex_source[faces] = source[:, None]
    return TruthMesh(vertices, faces, surfaces.thing[vertex_source], vertex_source)


def subdivide(
    vertices: Float64[np.ndarray, "n 3"],
    faces: Int64[np.ndarray, "m 3"],
    source: Int64[np.ndarray, " m"],
    edge_m: float,
) -> tuple[
    Float64[np.ndarray, "k 3"], Int64[np.ndarray, "l 3"], Int64[np.ndarray, " l"]
]:
    """Return the mesh with every edge cut in halves until it is short enough.

    Triangles that share an edge share its middle, so that no cracks open. Only edges
    that are nearly as long as their triangle's longest are cut at a time, which keeps
    triangles well shaped. Triangles with short edges only are done and set aside.
    """
    done_faces, done_source = [], []
    while len(faces):
        ends = vertices[faces]
        lengths = np.linalg.norm(ends - np.roll(ends, -1, 1), axis=2)
        long = (lengths > edge_m).any(1)
        done_faces.append(faces[~long])
        done_source.append(source[~long])
        faces, source, lengths = faces[long], source[long], lengths[long]
        pairs = np.sort(np.stack([faces, np.roll(faces, -1, 1)], -1), -1)
        code = pairs[..., 0] * len(vertices) + pairs[..., 1]
        wanted = (lengths > edge_m) & (
            lengths >= 0.75 * lengths.max(1, initial=0, keepdims=True)
        )
        split = np.unique(code[wanted])
        at = np.searchsorted(split, code).clip(max=max(len(split) - 1, 0))
        middles = (
            np.where(split[at] == code, len(vertices) + at, -1) if len(faces) else code
        )
        a, b = split // len(vertices), split % len(vertices)
        vertices = np.concatenate([vertices, (vertices[a] + vertices[b]) / 2])
        faces, source = _split_faces(faces, middles, source)
    return vertices, np.concatenate(done_faces), np.concatenate(done_source)


def _split_faces(
    faces: Int64[np.ndarray, "m 3"],
    middles: Int64[np.ndarray, "m 3"],
    source: Int64[np.ndarray, " m"],
) -> tuple[Int64[np.ndarray, "l 3"], Int64[np.ndarray, " l"]]:
    """Return each face cut into one more than it has edges with a middle."""
    count = (middles >= 0).sum(1)
    # Turned so that one cut edge is first, and one whole edge is last.
    turn = np.where(
        count == 1, (middles >= 0).argmax(1), (np.argmin(middles >= 0, 1) + 1) % 3
    )
    order = (np.arange(3) + turn[:, None]) % 3
    a, b, c = np.take_along_axis(faces, order, 1).T
    x, y, z = np.take_along_axis(middles, order, 1).T
    patterns = {
        0: [(a, b, c)],
        1: [(a, x, c), (x, b, c)],
        2: [(x, b, y), (a, x, y), (a, y, c)],
        3: [(a, x, z), (x, b, y), (z, y, c), (x, y, z)],
    }
    new_faces, new_source = [], []
    for number, triangles in patterns.items():
        rows = count == number
        for corners in triangles:
            new_faces.append(np.stack([corner[rows] for corner in corners], 1))
            new_source.append(source[rows])
    return np.concatenate(new_faces), np.concatenate(new_source)


def seen_by(
    vertices: Float64[np.ndarray, "n 3"],
    room_from_camera: Float64[np.ndarray, "4 4"],
    camera: Camera,
    depth_m: Float64[np.ndarray, "h w"],
) -> Bool[np.ndarray, " n"]:
    """Return which vertices lie on the surface that a true depth image shows.

    A vertex lies between pixels: the four around it bound the depth it may have.
    """
    points = transform(invert_rigid(room_from_camera), vertices)
    uv, z = project(points, camera.intrinsics)
    column, row = (np.floor(uv[:, axis]) for axis in range(2))
    inside = (column >= 0) & (column < camera.width - 1)
    inside &= (row >= 0) & (row < camera.height - 1)
    seen = np.zeros(len(vertices), bool)
    near = np.flatnonzero(inside)
    at = row[near].astype(np.int64) * camera.width + column[near].astype(np.int64)
    flat = depth_m.ravel()
    around = flat[at[:, None] + np.array([0, 1, camera.width, camera.width + 1])]
    z = z[near]
    seen[near] = (z < around.max(1) + SEEN_M) & (z > around.min(1) - SEEN_M)
    return seen


def is_in_sight(
    vertices: Float64[np.ndarray, "n 3"],
    room_from_camera: Float64[np.ndarray, "4 4"],
    caster: Caster,
) -> Bool[np.ndarray, " n"]:
    """Return which vertices nothing hides, not even something millimetres before them.

    Pixels are too coarse to tell a picture from the wall behind it.
    """
    eye = room_from_camera[:3, 3].copy()
    rays = vertices - eye
    _, t = caster.cast(eye, rays)
    return (1 - t) * np.linalg.norm(rays, axis=1) < SIGHT_SLACK_M


def vertex_colors(mesh: TruthMesh, renderer: Renderer) -> UInt8[np.ndarray, "n 3"]:
    """Return the lit colour of every vertex."""
    points = torch.from_numpy(mesh.vertices).to(renderer.device, torch.float32)
    source = torch.from_numpy(mesh.source).to(renderer.device)
    footprint = torch.full((len(points),), 0.01, device=renderer.device)
    linear = renderer.light(points, source, None, footprint).cpu().numpy()
    return (np.clip(linear, 0, 1) ** (1 / 2.2) * 255 + 0.5).astype(np.uint8)


def segment(mesh: TruthMesh, surfaces: Surfaces) -> Int64[np.ndarray, " n"]:
    """Return an over-segmentation: pieces of planar patches of single things."""
    corners = surfaces.corners[mesh.source]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    direction = np.rint(normal).astype(np.int64)
    cell = np.floor(mesh.vertices / PATCH_M).astype(np.int64)
    key = np.column_stack([mesh.thing, direction, cell])
    _, segments = np.unique(key, axis=0, return_inverse=True)
    return segments.reshape(-1)


def groups(
    mesh: TruthMesh, segments: Int64[np.ndarray, " n"], room: Room
) -> list[SegmentGroup]:
    """Return the annotated objects; what has no category is claimed by none."""
    found = []
    for number, thing in enumerate(room.things):
        members = np.unique(segments[mesh.thing == number])
        if thing.category and len(members):
            found.append(
                SegmentGroup(
                    instance_of(number), thing.category, tuple(members.tolist())
                )
            )
    return found


def instance_of(thing: int) -> int:
    """Return the object id of a room's n-th thing; instance images hold one more."""
    return thing
