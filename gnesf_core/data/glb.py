"""Triangle meshes in binary glTF 2.0, which browsers and modelling programs open.

glTF has y up and linear vertex colours; our world has z up and sRGB colours.
"""

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from gnesf_core.shapes import Float32, Integer, UInt8, UInt16

_COMPONENT_TYPES = {"u1": 5121, "u2": 5123, "u4": 5125, "f4": 5126}
_KINDS = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}
_VERTICES, _CORNERS = 34962, 34963  # what a buffer view is for
_JSON, _BINARY = b"JSON", b"BIN\0"


def glb_bytes(
    vertices_world: Float32[np.ndarray, "n 3"],
    faces: Integer[np.ndarray, "m 3"],
    colors: UInt8[np.ndarray, "n 3"],
    *,
    vertex: Mapping[str, np.ndarray] | None = None,
) -> bytes:
    """Return a mesh as the content of a `.glb` file; equal arguments, equal bytes.

    Args:
        vertices_world: Metres, z up.
        faces: Vertex indices of the triangles.
        colors: What viewers show, sRGB.
        vertex: Further attributes by name, which becomes `_NAME`: float32 [n], or
            uint8 [n, 4] for shares in 1/255.
    """
    buffer = _Buffer()
    attributes = {"POSITION": y_up(vertices_world), "COLOR_0": _linear(colors)}
    attributes |= {
        f"_{name.upper()}": column for name, column in (vertex or {}).items()
    }
    document: dict[str, Any] = {"asset": {"version": "2.0"}, "scene": 0}
    if len(faces) == 0:
        # An accessor of nothing is not allowed, an empty scene is.
        return _container(document | {"scenes": [{}]}, b"")
    places = {name: buffer.add(column) for name, column in attributes.items()}
    corners = buffer.add(faces.astype("<u4").reshape(-1), _CORNERS)
    primitive = {"attributes": places, "indices": corners, "material": 0}
    # What is not said to be matt is metal, which is black without surroundings.
    matt = {"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0}}
    document |= {
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "materials": [matt],
        "buffers": [{"byteLength": len(buffer.data)}],
        "bufferViews": buffer.views,
        "accessors": buffer.accessors,
    }
    return _container(document, bytes(buffer.data))


def y_up(points_world: Float32[np.ndarray, "n 3"]) -> Float32[np.ndarray, "n 3"]:
    """Turn z-up points a quarter about x, which loses no digit."""
    x, y, z = points_world.T
    return np.stack([x, z, -y], axis=1)


def _linear(colors: UInt8[np.ndarray, "n 3"]) -> UInt16[np.ndarray, "n 4"]:
    """Return sRGB colours as opaque linear ones, finer so that dark ones differ."""
    share = np.arange(256) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    table = np.rint(linear * 65535).astype(np.uint16)
    out = np.full((len(colors), 4), 65535, np.uint16)
    out[:, :3] = table[colors]
    return out


class _Buffer:
    """Arrays one after the other, with what glTF says about each."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, int]] = []
        self.accessors: list[dict[str, Any]] = []

    def add(self, column: np.ndarray, purpose: int = _VERTICES) -> int:
        """Append an array and return the number of its accessor."""
        values = column.astype(column.dtype.newbyteorder("<"), copy=False)
        width = 1 if values.ndim == 1 else values.shape[1]
        if purpose == _VERTICES and width * values.itemsize % 4:
            raise ValueError("an attribute takes a multiple of four bytes per vertex")
        view = {"buffer": 0, "byteOffset": len(self.data)}
        self.views.append(view | {"byteLength": values.nbytes, "target": purpose})
        accessor: dict[str, Any] = {
            "bufferView": len(self.views) - 1,
            "componentType": _COMPONENT_TYPES[values.dtype.str[1:]],
            "count": len(values),
            "type": _KINDS[width],
        }
        if values.dtype.kind == "f":
            accessor["min"] = np.atleast_1d(values.min(axis=0)).tolist()
            accessor["max"] = np.atleast_1d(values.max(axis=0)).tolist()
        elif purpose == _VERTICES:
            accessor["normalized"] = True
        self.accessors.append(accessor)
        self.data += np.ascontiguousarray(values).tobytes()
        return len(self.accessors) - 1


def _container(document: Mapping[str, Any], binary: bytes) -> bytes:
    """Wrap a document and its buffer as chunks, padded to four bytes."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), _JSON) + text
    if binary:
        binary += b"\0" * (-len(binary) % 4)
        chunks += struct.pack("<I4s", len(binary), _BINARY) + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks
