import struct
from pathlib import Path

import numpy as np
import pytest

from gnesf_core.data.ply import read_ply, write_ply
from gnesf_core.errors import BadInput


@pytest.fixture
def mesh():
    rng = np.random.default_rng(3)
    vertices = rng.normal(size=(50, 3)).astype(np.float32)
    faces = rng.integers(0, 50, size=(80, 3)).astype(np.int32)
    vertex = {
        "red": rng.integers(0, 256, 50).astype(np.uint8),
        "green": rng.integers(0, 256, 50).astype(np.uint8),
        "blue": rng.integers(0, 256, 50).astype(np.uint8),
        "alpha": np.full(50, 255, np.uint8),
        "label": rng.integers(0, 1 << 16, 50).astype(np.uint16),
        "confidence": rng.random(50).astype(np.float32),
    }
    return vertices, faces, vertex


def _file(tmp_path: Path, header: str, body: bytes = b"") -> Path:
    path = tmp_path / "hand.ply"
    path.write_bytes(header.encode() + body)
    return path


XYZ = "property float x\nproperty float y\nproperty float z\n"
LITTLE = "ply\nformat binary_little_endian 1.0\n"
TRIANGLE = np.eye(3, dtype="<f4").tobytes()


def test_what_is_written_is_read_back(tmp_path, mesh):
    vertices, faces, vertex = mesh
    path = tmp_path / "mesh.ply"
    write_ply(path, vertices, faces, vertex=vertex, comments=("made by a test",))
    ply = read_ply(path)
    assert ply.vertices.dtype == np.float64 and ply.faces.dtype == np.int32
    np.testing.assert_array_equal(ply.vertices, vertices)
    np.testing.assert_array_equal(ply.faces, faces)
    assert list(ply.vertex) == list(vertex)
    for name, column in vertex.items():
        assert ply.vertex[name].dtype == column.dtype
        np.testing.assert_array_equal(ply.vertex[name], column)
    assert ply.comments == ("made by a test",)


def test_double_coordinates_keep_all_their_digits(tmp_path):
    vertices = np.array([[np.pi, np.e, 1 / 3]])
    write_ply(tmp_path / "m.ply", vertices, np.empty((0, 3), int))
    np.testing.assert_array_equal(read_ply(tmp_path / "m.ply").vertices, vertices)


def test_equal_meshes_give_equal_bytes(tmp_path, mesh):
    vertices, faces, vertex = mesh
    write_ply(tmp_path / "a.ply", vertices, faces, vertex=vertex)
    write_ply(tmp_path / "b.ply", vertices.copy(), faces.astype(int), vertex=vertex)
    assert (tmp_path / "a.ply").read_bytes() == (tmp_path / "b.ply").read_bytes()


def test_the_body_has_the_bytes_of_the_format_description(tmp_path):
    path = tmp_path / "m.ply"
    write_ply(path, np.eye(3, dtype=np.float32), np.array([[0, 1, 2]]))
    header, body = path.read_bytes().split(b"end_header\n")
    assert b"element vertex 3\n" in header and b"element face 1\n" in header
    assert body == TRIANGLE + struct.pack("<Biii", 3, 0, 1, 2)


def test_an_empty_mesh_is_a_result(tmp_path):
    path = tmp_path / "empty.ply"
    label = {"label": np.empty(0, np.uint16)}
    write_ply(path, np.empty((0, 3), np.float32), np.empty((0, 3), int), vertex=label)
    ply = read_ply(path)
    assert ply.vertices.shape == (0, 3) and ply.faces.shape == (0, 3)
    assert ply.vertex["label"].shape == (0,)


def test_a_point_cloud_has_no_faces(tmp_path):
    path = _file(tmp_path, f"{LITTLE}element vertex 3\n{XYZ}end_header\n", TRIANGLE)
    assert read_ply(path).faces.shape == (0, 3)


def test_trimesh_reads_our_meshes_with_the_label(tmp_path, mesh):
    trimesh = pytest.importorskip("trimesh")
    vertices, faces, vertex = mesh
    write_ply(tmp_path / "mesh.ply", vertices, faces, vertex=vertex)
    other = trimesh.load(tmp_path / "mesh.ply", process=False)
    np.testing.assert_array_equal(other.vertices, vertices)
    np.testing.assert_array_equal(other.faces, faces)
    raw = other.metadata["_ply_raw"]["vertex"]["data"]
    np.testing.assert_array_equal(raw["label"].ravel(), vertex["label"])
    rgb = np.stack([vertex[name] for name in ("red", "green", "blue")], axis=1)
    np.testing.assert_array_equal(other.visual.vertex_colors[:, :3], rgb)


@pytest.mark.parametrize("encoding", ["ascii", "binary"])
def test_meshes_of_trimesh_are_read(tmp_path, mesh, encoding):
    trimesh = pytest.importorskip("trimesh")
    vertices, faces, vertex = mesh
    other = trimesh.Trimesh(vertices, faces, process=False)
    other.vertex_attributes["label"] = vertex["label"].astype(np.int32)
    other.export(tmp_path / "t.ply", encoding=encoding)
    ply = read_ply(tmp_path / "t.ply")
    np.testing.assert_allclose(ply.vertices, vertices, atol=1e-6)
    np.testing.assert_array_equal(ply.faces, faces)
    np.testing.assert_array_equal(ply.vertex["label"], vertex["label"])


@pytest.mark.parametrize("ascii_text", [True, False])
def test_open3d_and_we_read_each_other(tmp_path, mesh, ascii_text):
    open3d = pytest.importorskip("open3d")
    vertices, faces, vertex = mesh
    faces = faces[(np.sort(faces, 1)[:, 1:] != np.sort(faces, 1)[:, :-1]).all(1)]
    write_ply(tmp_path / "ours.ply", vertices, faces, vertex=vertex)
    theirs = open3d.io.read_triangle_mesh(str(tmp_path / "ours.ply"))
    np.testing.assert_array_equal(np.asarray(theirs.vertices), vertices)
    np.testing.assert_array_equal(np.asarray(theirs.triangles), faces)
    red = np.round(np.asarray(theirs.vertex_colors)[:, 0] * 255)
    np.testing.assert_array_equal(red, vertex["red"])
    open3d.io.write_triangle_mesh(
        str(tmp_path / "theirs.ply"), theirs, write_ascii=ascii_text
    )
    ply = read_ply(tmp_path / "theirs.ply")
    np.testing.assert_allclose(ply.vertices, vertices, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(ply.faces, faces)
    np.testing.assert_array_equal(ply.vertex["red"], vertex["red"])


def test_real_valued_properties_survive_open3ds_tensor_reader(tmp_path, mesh):
    open3d = pytest.importorskip("open3d")
    vertices, faces, vertex = mesh
    write_ply(tmp_path / "ours.ply", vertices, faces, vertex=vertex)
    cloud = open3d.t.io.read_point_cloud(str(tmp_path / "ours.ply"))
    # Open3D knows no 16-bit properties and steps over the label.
    assert "label" not in cloud.point
    theirs = cloud.point["confidence"].numpy()[:, 0]
    np.testing.assert_array_equal(theirs, vertex["confidence"])


def test_big_endian_files_are_read(tmp_path):
    header = (
        "ply\nformat binary_big_endian 1.0\nelement vertex 3\n"
        f"{XYZ}property ushort label\n"
        "element face 1\nproperty list uint ushort vertex_index\nend_header\n"
    )
    rows = b"".join(struct.pack(">fffH", i, 0, 1, 258 + i) for i in range(3))
    path = _file(tmp_path, header, rows + struct.pack(">IHHH", 3, 2, 0, 1))
    ply = read_ply(path)
    assert ply.vertices.tolist() == [[0, 0, 1], [1, 0, 1], [2, 0, 1]]
    assert ply.vertex["label"].tolist() == [258, 259, 260]
    assert ply.faces.tolist() == [[2, 0, 1]]


def test_other_elements_and_properties_are_stepped_over(tmp_path):
    header = (
        f"{LITTLE}comment hello\nobj_info x\nelement camera 2\nproperty double f\n"
        "property list uchar short tags\n"
        "element face 1\nproperty uchar flags\nproperty list uchar int vertex_indices\n"
        "property list uchar float texcoord\n"
        f"element vertex 3\n{XYZ}element edge 7\nproperty list int int anything\n"
        "end_header\n"
    )
    body = struct.pack("<dBhhdBhh", 1.0, 2, 5, 6, 2.0, 2, 7, 8)
    body += struct.pack("<BBiiiB6f", 9, 3, 0, 1, 2, 6, *range(6)) + TRIANGLE
    ply = read_ply(_file(tmp_path, header, body))
    assert ply.faces.tolist() == [[0, 1, 2]]
    np.testing.assert_array_equal(ply.vertices, np.eye(3))


def test_carriage_returns_in_the_header_do_no_harm(tmp_path):
    header = f"{LITTLE}element vertex 3\n{XYZ}end_header\n".replace("\n", "\r\n")
    np.testing.assert_array_equal(
        read_ply(_file(tmp_path, header, TRIANGLE)).vertices, np.eye(3)
    )


FACES = "element face 1\nproperty list {} int vertex_indices\nend_header\n"
MESH = f"{LITTLE}element vertex 3\n{XYZ}"


ASCII = f"ply\nformat ascii 1.0\nelement vertex 1\n{XYZ}"
MANY_PROPERTIES = "".join(f"property uchar p{i}\n" for i in range(300))
HOSTILE = {
    "2^40 vertices": (f"{LITTLE}element vertex {2**40}\n{XYZ}end_header\n", TRIANGLE),
    "400 digits": (f"{LITTLE}element vertex {10**400}\n{XYZ}end_header\n", TRIANGLE),
    "negative count": (f"{LITTLE}element vertex -1\n{XYZ}end_header\n", TRIANGLE),
    "rows of nothing": (f"{LITTLE}element vertex {2**40}\nend_header\n", TRIANGLE),
    "2^40 in ascii": (
        ASCII.replace("vertex 1", f"vertex {2**40}") + "end_header\n",
        b"1 2 3",
    ),
    "negative list": (
        MESH + FACES.format("char"),
        TRIANGLE + struct.pack("<biii", -1, 0, 1, 2),
    ),
    "endless list": (
        MESH + FACES.format("uint"),
        TRIANGLE + struct.pack("<I", 2**32 - 1),
    ),
    "fractional list": (
        MESH + FACES.format("float"),
        TRIANGLE + struct.pack("<fiii", 3, 0, 1, 2),
    ),
    "10^6 properties": (
        MESH + "property uchar p\n" * 10**6 + "end_header\n",
        TRIANGLE,
    ),
    "300 properties": (f"{MESH}{MANY_PROPERTIES}end_header\n", bytes(2000)),
    "no end_header": (MESH, bytes(100)),
    "long header": (MESH + "comment x\n" * 10**5 + "end_header\n", TRIANGLE),
    "short body": (f"{MESH}end_header\n", TRIANGLE[:-1]),
    "short face": (
        MESH + FACES.format("uchar"),
        TRIANGLE + struct.pack("<Bii", 3, 0, 1),
    ),
    "no face": (MESH + FACES.format("uchar"), TRIANGLE),
    "two x": (MESH + "property float x\nend_header\n", bytes(48)),
    "two vertex elements": (f"{MESH}{MESH[len(LITTLE) :]}end_header\n", TRIANGLE * 2),
    "unknown version": ("ply\nformat ascii 2.0\nend_header\n", b""),
    "no format": (f"ply\nelement vertex 3\n{XYZ}end_header\n", TRIANGLE),
    "no element": (f"{LITTLE}property float x\nend_header\n", TRIANGLE),
    "unknown type": (
        f"{LITTLE}element vertex 3\nproperty complex x\nend_header\n",
        TRIANGLE,
    ),
    "half a list": (
        f"{LITTLE}element vertex 3\nproperty list x\nend_header\n",
        TRIANGLE,
    ),
    "no vertices": (f"{LITTLE}element point 3\n{XYZ}end_header\n", TRIANGLE),
    "no z": (MESH.replace("float z", "float w") + "end_header\n", TRIANGLE),
    "list for x": (
        MESH.replace("float x", "list uchar float x") + "end_header\n",
        struct.pack("<B4f", 2, 1, 1, 1, 1) * 3,
    ),
    "a word for a number": (f"{ASCII}end_header\n", b"1 2 three"),
    "256 in a byte": (f"{ASCII}property uchar red\nend_header\n", b"1 2 3 256"),
    "nothing": ("", b""),
    "another format": ("solid not a ply\n", b""),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_with_a_remedy(tmp_path, name):
    with pytest.raises(BadInput, match="remedy") as error:
        read_ply(_file(tmp_path, *HOSTILE[name]))
    assert len(str(error.value)) < 1000


def test_the_hostile_files_are_made_of_parts_that_are_accepted(tmp_path):
    body = TRIANGLE + struct.pack("<Biii", 3, 0, 1, 2)
    assert len(read_ply(_file(tmp_path, MESH + FACES.format("char"), body)).faces) == 1
    assert read_ply(_file(tmp_path, f"{ASCII}end_header\n", b"1 2 3")).vertices.sum()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_coordinates_that_are_not_finite_are_refused_by_row(tmp_path, value):
    vertices = np.zeros((5, 3), np.float32)
    vertices[3, 1] = value
    write_ply(tmp_path / "m.ply", vertices, np.empty((0, 3), int))
    with pytest.raises(BadInput, match="vertex 3"):
        read_ply(tmp_path / "m.ply")


@pytest.mark.parametrize("corner", [-1, 3, 2**31 - 1])
def test_a_face_beyond_the_vertices_is_refused(tmp_path, corner):
    body = TRIANGLE + struct.pack("<Biii", 3, 0, 1, corner)
    with pytest.raises(BadInput, match="face 0"):
        read_ply(_file(tmp_path, MESH + FACES.format("uchar"), body))


def test_quads_are_refused_wherever_they_stand(tmp_path):
    two = MESH + FACES.format("uchar").replace("face 1", "face 2")
    triangle = struct.pack("<Biii", 3, 0, 1, 2)
    quad = struct.pack("<Biiii", 4, 0, 1, 2, 0)
    for faces in (quad + quad, quad + triangle, triangle + quad):
        with pytest.raises(BadInput, match="triangles|lengths"):
            read_ply(_file(tmp_path, two, TRIANGLE + faces))
    text = two.replace("binary_little_endian", "ascii")
    for faces in (b"4 0 1 2 0 4 0 1 2 0", b"3 0 1 2 4 0 1 2 0"):
        with pytest.raises(BadInput, match="triangles"):
            read_ply(_file(tmp_path, text, b"1 2 3 " * 3 + faces))


def test_every_truncation_is_refused(tmp_path, mesh):
    vertices, faces, vertex = mesh
    write_ply(tmp_path / "m.ply", vertices[:3], np.array([[0, 1, 2]]))
    data = (tmp_path / "m.ply").read_bytes()
    cut = tmp_path / "cut.ply"
    for length in range(len(data)):
        cut.write_bytes(data[:length])
        with pytest.raises(BadInput):
            read_ply(cut)


def test_random_damage_never_escapes_as_another_error(tmp_path, mesh):
    vertices, faces, vertex = mesh
    path = tmp_path / "m.ply"
    rng = np.random.default_rng(11)
    write_ply(path, vertices, faces, vertex=vertex)
    binary = path.read_bytes()
    text = (
        f"ply\nformat ascii 1.0\nelement vertex 3\n{XYZ}"
        + FACES.format("uchar")
        + "0 0 0\n0 1 0\n1 0 0\n3 0 1 2\n"
    ).encode()
    refused = 0
    for trial in range(600):
        data = bytearray(binary if trial % 2 else text)
        for _ in range(1 + trial % 3):
            data[rng.integers(min(len(data), 500))] = rng.integers(256)
        path.write_bytes(data)
        try:
            read_ply(path)
        except BadInput:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian"])
def test_endless_files_are_refused_unread(tmp_path, kind):
    text = MESH.replace("binary_little_endian", kind)
    path = _file(tmp_path, f"{text}end_header\n")
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(BadInput, match="size"):
        read_ply(path)


def test_a_missing_file_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match=r"gone\.ply"):
        read_ply(tmp_path / "gone.ply")


def test_what_cannot_be_read_back_is_not_written(tmp_path):
    vertices = np.zeros((2, 3), np.float32)
    none = np.empty((0, 3), int)
    with pytest.raises(ValueError, match="beyond"):
        write_ply(tmp_path / "m.ply", vertices, np.array([[0, 1, 2]]))
    with pytest.raises(ValueError, match="shape"):
        write_ply(tmp_path / "m.ply", vertices, none, vertex={"a": np.zeros(3)})
    with pytest.raises(ValueError, match="printable"):
        write_ply(tmp_path / "m.ply", vertices, none, comments=("x\nend_header",))
