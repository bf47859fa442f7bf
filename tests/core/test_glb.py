"""Binary glTF, against the words of its specification and other readers."""

import io
import json
import struct

import numpy as np
import pytest
import trimesh

from gnesf_core.data.glb import glb_bytes

TRIANGLES = np.array([[0, 1, 2], [2, 1, 3]])
# From IEC 61966-2-1: black, the end of its straight part, a middle grey, white.
SRGB = np.array([[0] * 3, [10] * 3, [188] * 3, [255] * 3], np.uint8)
LINEAR = (0.0, 0.003035, 0.502886, 1.0)


def corners(count=4):
    return np.random.default_rng(5).normal(size=(count, 3)).astype(np.float32)


def chunks(data):
    """Take a file apart as section 4.4 of the specification says."""
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    at, found = 12, {}
    while at < len(data):
        size, kind = struct.unpack_from("<I4s", data, at)
        assert size % 4 == 0
        found[kind] = data[at + 8 : at + 8 + size]
        at += 8 + size
    return json.loads(found[b"JSON"]), found.get(b"BIN\0")


def column(data, name):
    """Return the raw bytes of an attribute and what is said about it."""
    document, binary = chunks(data)
    (mesh,) = document["meshes"]
    (primitive,) = mesh["primitives"]
    accessor = document["accessors"][primitive["attributes"][name]]
    view = document["bufferViews"][accessor["bufferView"]]
    assert view["byteOffset"] % 4 == 0
    return binary[view["byteOffset"] :][: view["byteLength"]], accessor


def test_what_is_up_in_the_world_is_up_in_the_file():
    vertices = corners()
    data, accessor = column(glb_bytes(vertices, TRIANGLES, SRGB), "POSITION")
    stored = np.frombuffer(data, "<f4").reshape(-1, 3)
    np.testing.assert_array_equal(stored[:, 1], vertices[:, 2])
    quarter = trimesh.transformations.rotation_matrix(-np.pi / 2, [1, 0, 0])
    turned = trimesh.transform_points(vertices, quarter)
    np.testing.assert_allclose(stored, turned, atol=1e-6)
    assert accessor["min"] == stored.min(axis=0).tolist()
    assert accessor["max"] == stored.max(axis=0).tolist()


def test_colours_are_linear_and_opaque():
    data, accessor = column(glb_bytes(corners(), TRIANGLES, SRGB), "COLOR_0")
    stored = np.frombuffer(data, "<u2").reshape(-1, 4) / 65535
    expected = np.repeat(np.array(LINEAR)[:, None], 3, axis=1)
    np.testing.assert_allclose(stored[:, :3], expected, atol=1e-5)
    assert (stored[:, 3] == 1).all() and accessor["normalized"]


def test_attributes_come_back_in_another_reader():
    own = {
        "class": np.array([0, 5, 19, 255], np.float32),
        "photo": np.arange(16, dtype=np.uint8).reshape(4, 4),
    }
    data = glb_bytes(corners(), TRIANGLES, SRGB, vertex=own)
    read = trimesh.load(io.BytesIO(data), file_type="glb", process=False)
    (mesh,) = read.dump()
    np.testing.assert_array_equal(mesh.faces, TRIANGLES)
    np.testing.assert_array_equal(
        mesh.vertex_attributes["_CLASS"].ravel(), own["class"]
    )
    np.testing.assert_array_equal(mesh.vertex_attributes["_PHOTO"], own["photo"])


def test_an_attribute_that_would_break_the_alignment_is_refused():
    labels = {"class": np.zeros(4, np.uint8)}
    with pytest.raises(ValueError, match="four bytes"):
        glb_bytes(corners(), TRIANGLES, SRGB, vertex=labels)


def test_a_mesh_without_faces_is_an_empty_scene():
    data = glb_bytes(corners(0), TRIANGLES[:0], SRGB[:0])
    document, binary = chunks(data)
    assert document["scenes"] == [{}] and binary is None
