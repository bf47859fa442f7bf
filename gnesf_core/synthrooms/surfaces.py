"""All triangles of a room in one table, with what shading and labelling ask of them."""

from dataclasses import dataclass

import numpy as np

from gnesf_core.shapes import Float32, Float64, Int64
from gnesf_core.synthrooms.looks import Material
from gnesf_core.synthrooms.rooms import Room


@dataclass(frozen=True)
class Surfaces:
    """A room's triangles in the room frame.

    `attributes` maps a point (x, y, z, 1) on a triangle to (u, v, normal), so that
    nothing has to be interpolated from corners.
    """

    corners: Float64[np.ndarray, "triangles 3 3"]
    thing: Int64[np.ndarray, " triangles"]
    part: Int64[np.ndarray, " triangles"]
    material: Int64[np.ndarray, " triangles"]
    attributes: Float32[np.ndarray, "triangles 4 5"]
    materials: tuple[Material, ...]


def gather(room: Room) -> Surfaces:
    """Return the triangles of all parts of all things."""
    corners, values, thing_ids, part_ids, material_ids = [], [], [], [], []
    materials: list[Material] = []
    for number, (thing, roles) in enumerate(
        zip(room.things, room.materials, strict=True)
    ):
        first = {role: len(materials) + i for i, role in enumerate(roles)}
        materials += roles.values()
        for part in thing.parts:
            count = len(part.triangles)
            corners.append(part.vertices[part.triangles])
            values.append(np.concatenate([part.uv, part.normals], 1)[part.triangles])
            thing_ids += [number] * count
            part_ids += [len(corners) - 1] * count
            material_ids += [first[part.material]] * count
    places = np.concatenate(corners)
    return Surfaces(
        places,
        np.array(thing_ids),
        np.array(part_ids),
        np.array(material_ids),
        _affine(places, np.concatenate(values)),
        tuple(materials),
    )


def _affine(
    corners: Float64[np.ndarray, "m 3 3"], values: Float64[np.ndarray, "m 3 c"]
) -> Float32[np.ndarray, "m 4 c"]:
    """Return the maps from points of each triangle's plane to interpolated values."""
    edges = corners[:, 1:] - corners[:, :1]
    gram = edges @ edges.transpose(0, 2, 1)
    spread = gram + 1e-18 * np.eye(2)
    slope = edges.transpose(0, 2, 1) @ np.linalg.solve(
        spread, values[:, 1:] - values[:, :1]
    )
    offset = values[:, :1] - corners[:, :1] @ slope
    return np.concatenate([slope, offset], 1).astype(np.float32)
