"""Triangle meshes with any vertex properties in PLY files.

Own code, because a mesh from outside is untrusted: every count in a header is checked
against the bytes that follow before anything is allocated, and ScanNet's `label`
property has to survive, which general mesh libraries do not promise.
"""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np

from gnesf_core.errors import BadInput
from gnesf_core.shapes import Float, Float64, Int32, Integer

_MAX_HEADER_BYTES = 64 << 10
_MAX_PROPERTIES = 256
_MAX_LIST = 1 << 16
_MAX_BYTES = {"ascii": 128 << 20, "binary": 4 << 30}
_REMEDY = "check that the file is complete and not damaged, or export it again"

_TYPES = {
    "char": "i1",
    "uchar": "u1",
    "short": "i2",
    "ushort": "u2",
    "int": "i4",
    "uint": "u4",
    "float": "f4",
    "double": "f8",
}
_TYPES |= {np.dtype(code).name: code for code in tuple(_TYPES.values())}
_NAMES = {np.dtype(code): name for name, code in list(_TYPES.items())[:8]}
_FORMATS = ("ascii", "binary_little_endian", "binary_big_endian")
_CORNER_NAMES = ("vertex_indices", "vertex_index")


@dataclass(frozen=True)
class Ply:
    """A triangle mesh as it stands in a file."""

    vertices: Float64[np.ndarray, "vertices 3"]
    faces: Int32[np.ndarray, "faces 3"]
    vertex: dict[str, np.ndarray]  # the other vertex properties, in the file's types
    comments: tuple[str, ...] = ()


@dataclass
class _Property:
    name: str
    value: np.dtype
    count: np.dtype | None = None  # the type of a list's length; None for a scalar


@dataclass
class _Element:
    name: str
    rows: int
    properties: list[_Property] = field(default_factory=list)


@dataclass
class _Header:
    format: str = ""
    elements: list[_Element] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    body_offset: int = 0


def read_ply(path: Path) -> Ply:
    """Read a triangle mesh, ascii or binary, with its vertex properties by name.

    A file without faces is a point cloud, one without vertices an empty result; both
    are fine. Other elements and face properties are skipped.

    Raises:
        BadInput: The header or body is damaged or hostile, a coordinate is not
            finite, a face is no triangle or points beyond the vertices.
    """
    path = Path(path)
    header, body = _open(path)
    wanted = {"vertex", "face"} & {element.name for element in header.elements}
    read: dict[str, dict[str, np.ndarray]] = {}
    for element in header.elements:
        if wanted <= read.keys():
            break
        read[element.name] = body.take(element)
    if "vertex" not in read:
        _fail(path, "header", "an element vertex", "none")
    vertex = read["vertex"]
    vertices = _vertices(path, vertex)
    faces = _faces(path, read.get("face", {}), len(vertices))
    return Ply(vertices, faces, vertex, tuple(header.comments))


def write_ply(
    path: Path,
    vertices: Float[np.ndarray, "vertices 3"],
    faces: Integer[np.ndarray, "faces 3"],
    *,
    vertex: Mapping[str, np.ndarray] | None = None,
    comments: tuple[str, ...] = (),
) -> None:
    """Write a binary little-endian PLY; equal arguments give equal bytes.

    Args:
        path: The file to write.
        vertices: Coordinates, kept in their precision (float32 or float64).
        faces: Vertex indices of the triangles.
        vertex: Further vertex properties, kept in their types, in this order.
        comments: Lines for the header.
    """
    columns = {name: vertices[:, axis] for axis, name in enumerate("xyz")}
    columns |= dict(vertex or {})
    rows = np.empty(
        len(vertices),
        [(name, column.dtype.newbyteorder("<")) for name, column in columns.items()],
    )
    for name, column in columns.items():
        if column.shape != (len(vertices),):
            raise ValueError(f"property {name} has the shape {column.shape}")
        rows[name] = column
    if len(faces) and not 0 <= faces.min() <= faces.max() < len(vertices):
        raise ValueError("a face points beyond the vertices")
    triangles = np.empty(len(faces), [("count", "u1"), ("corners", "<i4", 3)])
    triangles["count"] = 3
    triangles["corners"] = faces
    header = _header_text(rows.dtype, len(rows), len(triangles), comments)
    with Path(path).open("wb") as file:
        file.write(header.encode())
        file.write(rows.view(np.uint8).data)
        file.write(triangles.view(np.uint8).data)


def _header_text(
    vertex: np.dtype, vertices: int, faces: int, comments: tuple[str, ...]
) -> str:
    properties = [
        f"property {_NAMES[vertex[name].newbyteorder('=')]} {name}"
        for name in vertex.names
    ]
    lines = [
        "ply",
        "format binary_little_endian 1.0",
        *(f"comment {line}" for line in comments),
        f"element vertex {vertices}",
        *properties,
        f"element face {faces}",
        "property list uchar int vertex_indices",
        "end_header",
    ]
    if any(not line.isprintable() for line in lines):
        raise ValueError("names and comments are single printable lines")
    return "\n".join(lines) + "\n"


def _fail(path: Path, place: str, expected: str, found: object) -> NoReturn:
    raise BadInput(path, place, expected=expected, found=found, remedy=_REMEDY)


def _open(path: Path) -> "tuple[_Header, _AsciiBody | _BinaryBody]":
    try:
        with path.open("rb") as file:
            header = _parse_header(path, file.read(_MAX_HEADER_BYTES))
            kind = header.format.split("_")[0]
            limit = _MAX_BYTES[kind]
            if file.seek(0, io.SEEK_END) > limit:
                _fail(path, "size", f"at most {limit} bytes of {kind} data", "more")
            file.seek(header.body_offset)
            data = file.read(limit)
    except OSError as error:
        _fail(path, "file", "a readable file", error)
    if kind == "ascii":
        return header, _AsciiBody(path, data)
    order = "<" if header.format == "binary_little_endian" else ">"
    return header, _BinaryBody(path, data, order)


def _parse_header(path: Path, data: bytes) -> _Header:
    if not re.match(rb"ply[ \t]*\r?\n", data):
        _fail(path, "line 1", "'ply'", repr(data[:20]))
    end = re.search(rb"\nend_header[ \t]*\r?\n", data)
    if end is None:
        _fail(path, "header", f"end_header within {_MAX_HEADER_BYTES} bytes", "none")
    header = _Header(body_offset=end.end())
    lines = data[: end.start()].decode("utf-8", errors="replace").split("\n")[1:]
    for number, line in enumerate(lines, start=2):
        try:
            _parse_line(header, line.strip())
        except (KeyError, IndexError, ValueError) as error:
            _fail(path, f"line {number}", "a PLY header line", f"{line[:80]!r} {error}")
    if not header.format:
        _fail(path, "header", "a format line", "none")
    return header


def _parse_line(header: _Header, line: str) -> None:
    """Add one line to the header; raises ValueError or its kin on any other line."""
    keyword, _, rest = line.partition(" ")
    words = rest.split()
    if keyword == "comment":
        header.comments.append(rest.strip())
    elif keyword == "format" and not header.format:
        if words not in ([f, "1.0"] for f in _FORMATS):
            raise ValueError("unknown format")
        header.format = words[0]
    elif keyword == "element" and len(words) == 2:
        if not re.fullmatch("[0-9]{1,15}", words[1]):
            raise ValueError("the count is no such integer")
        if words[0] in (element.name for element in header.elements):
            raise ValueError("the element is there twice")
        header.elements.append(_Element(words[0], int(words[1])))
    elif keyword == "property":
        _add_property(header, words)
    elif keyword not in ("", "obj_info"):
        raise ValueError("unknown line")


def _add_property(header: _Header, words: list[str]) -> None:
    properties = header.elements[-1].properties
    if words[0] == "list":
        _, count, value, name = words
        new = _Property(name, np.dtype(_TYPES[value]), np.dtype(_TYPES[count]))
        if new.count.kind == "f":
            raise ValueError("the length of a list is an integer")
    else:
        value, name = words
        new = _Property(name, np.dtype(_TYPES[value]))
    if name in (known.name for known in properties):
        raise ValueError("the property is there twice")
    if sum(len(element.properties) for element in header.elements) >= _MAX_PROPERTIES:
        raise ValueError(f"more than {_MAX_PROPERTIES} properties")
    properties.append(new)


class _BinaryBody:
    """Takes elements off packed rows; lists must be equally long in every row."""

    def __init__(self, path: Path, data: bytes, order: str) -> None:
        self._path = path
        self._data = data
        self._order = order
        self._offset = 0

    def take(self, element: _Element) -> dict[str, np.ndarray]:
        """Return the columns of one element, lists as [rows, length]."""
        lengths = self._first_lengths(element)
        fields = []
        for number, (prop, length) in enumerate(
            zip(element.properties, lengths, strict=True)
        ):
            if prop.count is not None:
                fields.append((f"n{number}", prop.count.newbyteorder(self._order)))
            value = prop.value.newbyteorder(self._order)
            shape = () if prop.count is None else (length,)
            fields.append((f"v{number}", value, shape))
        row = np.dtype(fields)
        left = len(self._data) - self._offset
        if element.rows and not 0 < element.rows * row.itemsize <= left:
            _fail(
                self._path,
                f"element {element.name}",
                f"{element.rows} rows of {row.itemsize} bytes",
                f"{left} bytes (or lists of different lengths)",
            )
        if element.rows:
            rows = np.frombuffer(self._data, row, element.rows, self._offset)
        else:
            rows = np.empty(0, row)
        self._offset += rows.nbytes
        columns = {}
        for number, prop in enumerate(element.properties):
            if prop.count is not None:
                _check_lengths(
                    self._path, element, prop, rows[f"n{number}"], lengths[number]
                )
            columns[prop.name] = rows[f"v{number}"].astype(prop.value)
        return columns

    def _first_lengths(self, element: _Element) -> list[int]:
        """Return the length of each property in the first row, 1 for scalars."""
        if not element.rows:
            return [1 if prop.count is None else 0 for prop in element.properties]
        lengths = []
        offset = self._offset
        for prop in element.properties:
            length = 1
            if prop.count is not None:
                stop = offset + prop.count.itemsize
                if stop > len(self._data):
                    _fail(self._path, f"element {element.name}", "a row", "file's end")
                count = prop.count.newbyteorder(self._order)
                length = int(np.frombuffer(self._data, count, 1, offset)[0])
                offset = stop
            left = len(self._data) - offset
            _check_first(self._path, element, prop, length, left // prop.value.itemsize)
            offset += length * prop.value.itemsize
            lengths.append(length)
        return lengths


class _AsciiBody:
    """Takes elements off whitespace-separated numbers."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._path = path
        self._words = data.split()
        self._next = 0

    def take(self, element: _Element) -> dict[str, np.ndarray]:
        """Return the columns of one element, lists as [rows, length]."""
        starts, lengths, width = self._layout(element)
        left = len(self._words) - self._next
        if element.rows and not 0 < element.rows * width <= left:
            _fail(
                self._path,
                f"element {element.name}",
                f"{element.rows} rows of {width} numbers",
                f"{left} numbers (or lists of different lengths)",
            )
        stop = self._next + element.rows * width
        numbers = self._numbers(element, self._next, stop)
        self._next = stop
        rows = numbers.reshape(element.rows, width)
        columns = {}
        for prop, start, length in zip(
            element.properties, starts, lengths, strict=True
        ):
            if prop.count is None:
                values = rows[:, start]
            else:
                _check_lengths(self._path, element, prop, rows[:, start], length)
                values = rows[:, start + 1 : start + 1 + length]
            columns[prop.name] = self._cast(element, prop, values)
        return columns

    def _layout(self, element: _Element) -> tuple[list[int], list[int], int]:
        """Return where each property starts in a row, its length, the row's width."""
        starts, lengths, width = [], [], 0
        for prop in element.properties:
            starts.append(width)
            length = 1
            if prop.count is not None:
                at = self._next + width
                first = self._numbers(element, at, at + 1) if element.rows else [0]
                length = int(first[0]) if len(first) and np.isfinite(first[0]) else -1
                left = len(self._words) - at - 1 if element.rows else 0
                _check_first(self._path, element, prop, length, left)
                width += 1
            lengths.append(length)
            width += length
        return starts, lengths, width

    def _numbers(self, element: _Element, start: int, stop: int) -> np.ndarray:
        try:
            return np.array([float(word) for word in self._words[start:stop]])
        except ValueError as error:
            _fail(self._path, f"element {element.name}", "numbers", str(error)[:80])

    def _cast(
        self, element: _Element, prop: _Property, values: np.ndarray
    ) -> np.ndarray:
        """Return the values in the property's type; integers must be in its range."""
        if prop.value.kind != "f":
            limits = np.iinfo(prop.value)
            fits = (values >= limits.min) & (values <= limits.max)
            if not fits.all():
                _fail(
                    self._path,
                    f"element {element.name}, property {prop.name}",
                    f"integers of type {prop.value}",
                    values[~fits][0],
                )
        with np.errstate(over="ignore"):
            return values.astype(prop.value)


def _check_first(
    path: Path, element: _Element, prop: _Property, length: int, most: int
) -> None:
    if not 0 <= length <= min(most, _MAX_LIST):
        _fail(
            path,
            f"element {element.name}, property {prop.name}, row 0",
            f"a list within the file, of at most {_MAX_LIST} values",
            f"length {length}",
        )


def _check_lengths(
    path: Path, element: _Element, prop: _Property, counts: np.ndarray, length: int
) -> None:
    different = np.flatnonzero(counts != length)
    if len(different):
        row = different[0]
        _fail(
            path,
            f"element {element.name}, property {prop.name}, row {row}",
            f"lists of one length ({length} in row 0; faces are triangles)",
            f"length {counts[row]}",
        )


def _vertices(
    path: Path, vertex: dict[str, np.ndarray]
) -> Float64[np.ndarray, "vertices 3"]:
    """Take the coordinates out of the vertex properties."""
    missing = [name for name in "xyz" if name not in vertex]
    if missing:
        _fail(path, "element vertex", "properties x, y, z", f"no {missing[0]}")
    axes = [vertex.pop(name).astype(np.float64) for name in "xyz"]
    if any(axis.ndim != 1 for axis in axes):
        _fail(path, "element vertex", "one number for x, y, z each", "a list")
    vertices = np.stack(axes, axis=1)
    finite = np.isfinite(vertices).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        _fail(path, f"vertex {row}", "finite coordinates", vertices[row])
    return vertices


def _faces(
    path: Path, face: dict[str, np.ndarray], vertex_count: int
) -> Int32[np.ndarray, "faces 3"]:
    corners = next((face[name] for name in _CORNER_NAMES if name in face), None)
    if corners is None:
        if any(len(column) for column in face.values()):
            _fail(path, "element face", f"a property {_CORNER_NAMES[0]}", list(face))
        return np.empty((0, 3), np.int32)
    if not len(corners):
        return np.empty((0, 3), np.int32)
    if corners.ndim != 2 or corners.shape[1] != 3 or corners.dtype.kind == "f":
        _fail(path, "element face", "triangles", f"{corners.shape[1:]} corners a face")
    outside = ((corners < 0) | (corners >= vertex_count)).any(axis=1)
    if outside.any():
        row = int(np.argmax(outside))
        _fail(path, f"face {row}", f"indices below {vertex_count}", corners[row])
    return corners.astype(np.int32, copy=False)
