"""The files of a ScanNet scan beside its .sens: readers, and writers for stand-ins.

Everything is in the scan's own unaligned world. Meshes hold nyu40 ids, label images
ScanNet ids; `gnesf_core.labels` turns both into train ids.
"""

import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from gnesf_core.data.annotation import (
    SegmentGroup,
    nyu40_from_aggregation,
    read_aggregation,
    read_segments,
    write_aggregation,
    write_segments,
)
from gnesf_core.data.bounded import read_bounded
from gnesf_core.data.label_zip import LabelZip, LabelZipWriter, fixed_member
from gnesf_core.data.ply import read_ply, write_ply
from gnesf_core.errors import BadInput
from gnesf_core.labels import IGNORE, PALETTE, train_ids_from_nyu40
from gnesf_core.shapes import Float, Float64, Int32, Integer, UInt8, UInt16

__all__ = [
    "LABEL_MAP_COLUMNS",
    "LabelZip",
    "LabelZipWriter",
    "SceneFiles",
    "SegmentGroup",
    "check_scene_id",
    "nyu40_from_aggregation",
    "read_aggregation",
    "read_evaluation_ids",
    "read_mesh_labels",
    "read_meta",
    "read_scene_list",
    "read_segments",
    "write_aggregation",
    "write_evaluation_ids",
    "write_label_map",
    "write_mesh_labels",
    "write_meta",
    "write_scene_list",
    "write_segments",
    "write_submission_zip",
]

LABEL_MAP_COLUMNS = (
    "id",
    "raw_category",
    "category",
    "count",
    "nyu40id",
    "eigen13id",
    "nyuClass",
    "nyu40class",
    "eigen13class",
    "ModelNet40",
    "ModelNet10",
    "ShapeNetCore55",
    "synsetoffset",
    "wnsynsetid",
    "wnsynsetkey",
    "mpcat40",
    "mpcat40index",
)

_MAX_META_BYTES = 64 << 10
_MAX_LIST_BYTES = 1 << 20
_MAX_IDS_BYTES = 256 << 20
_MAX_EVALUATION_ID = 2**31 - 1
_AGAIN = "fetch the file again from ScanNet"
_OTHER_COLOR = (100, 85, 144)  # classes outside the benchmark


def check_scene_id(scene: str) -> str:
    """Return the scene id, which is safe as a file name; refuse anything else."""
    if re.fullmatch(r"scene[0-9]{4}_[0-9]{2}", scene):
        return scene
    raise BadInput(
        "scene id",
        repr(scene[:80]),
        expected="an id like scene0000_00",
        found="another name",
        remedy="correct the scene list or setting that names it",
    )


@dataclass(frozen=True)
class SceneFiles:
    """Where ScanNet keeps the files of one scan."""

    scans_root: Path
    scene: str

    def __post_init__(self) -> None:
        check_scene_id(self.scene)

    def _file(self, suffix: str) -> Path:
        return Path(self.scans_root) / self.scene / f"{self.scene}{suffix}"

    @property
    def sens(self) -> Path:
        """The raw capture."""
        return self._file(".sens")

    @property
    def meta(self) -> Path:
        """Capture settings as key = value lines."""
        return self._file(".txt")

    @property
    def mesh(self) -> Path:
        """The decimated mesh, the one that the benchmark is scored on."""
        return self._file("_vh_clean_2.ply")

    @property
    def mesh_labels(self) -> Path:
        """The decimated mesh with nyu40 ids."""
        return self._file("_vh_clean_2.labels.ply")

    @property
    def segments(self) -> Path:
        """The segment of every vertex of the decimated mesh."""
        return self._file("_vh_clean_2.0.010000.segs.json")

    @property
    def aggregation(self) -> Path:
        """The annotated objects of the decimated mesh."""
        return self._file(".aggregation.json")

    @property
    def labels_2d(self) -> Path:
        """Label images, 16-bit ScanNet ids."""
        return self._file("_2d-label-filt.zip")

    @property
    def instances_2d(self) -> Path:
        """Instance images, 8 bit."""
        return self._file("_2d-instance-filt.zip")


def read_meta(path: Path) -> dict[str, str]:
    """Read `{scene}.txt`, lines of `key = value`, as text."""
    meta: dict[str, str] = {}
    for number, line in _lines(path, _MAX_META_BYTES):
        key, equals, value = (part.strip() for part in line.partition("="))
        if not key or not equals:
            _fail(path, f"line {number}", "key = value", repr(line[:80]))
        if meta.setdefault(key, value) != value:
            _fail(path, f"line {number}", f"one value of {key}", repr(value[:80]))
    return meta


def write_meta(path: Path, meta: Mapping[str, object]) -> None:
    """Write `{scene}.txt`; floats with six digits, sequences with blanks between."""
    lines = [f"{key} = {_meta_value(value)}\n" for key, value in meta.items()]
    Path(path).write_text("".join(lines))


def _meta_value(value: object) -> str:
    if isinstance(value, float | np.floating):
        return f"{value:.6f}"
    if isinstance(value, list | tuple | np.ndarray):
        return " ".join(_meta_value(item) for item in np.asarray(value).ravel())
    return str(value)


def read_mesh_labels(
    path: Path,
) -> tuple[
    Float64[np.ndarray, "vertices 3"],
    Int32[np.ndarray, "faces 3"],
    UInt16[np.ndarray, " vertices"],
]:
    """Read a mesh with nyu40 ids; some scans hold 50 and 149, which mean nothing."""
    ply = read_ply(path)
    label = ply.vertex.get("label")
    if label is None or label.ndim != 1 or label.dtype.kind == "f":
        _fail(path, "element vertex", "an integer property label", list(ply.vertex))
    if len(label) and not 0 <= label.min() <= label.max() < 1 << 16:
        _fail(path, "property label", "16-bit ids", f"{label.min()} and {label.max()}")
    return ply.vertices, ply.faces, label.astype(np.uint16)


def write_mesh_labels(
    path: Path,
    vertices: Float[np.ndarray, "vertices 3"],
    faces: Integer[np.ndarray, "faces 3"],
    nyu40: Integer[np.ndarray, " vertices"],
) -> None:
    """Write a mesh with nyu40 ids and their colours, in ScanNet's properties."""
    colors = _colors(nyu40)
    vertex = {name: colors[:, i] for i, name in enumerate(("red", "green", "blue"))}
    vertex["alpha"] = np.full(len(vertices), 255, np.uint8)
    vertex["label"] = nyu40.astype(np.uint16)
    write_ply(path, vertices.astype(np.float32), faces, vertex=vertex)


def _colors(nyu40: Integer[np.ndarray, " n"]) -> UInt8[np.ndarray, "n 3"]:
    """Return the benchmark's colours; black where nothing is annotated."""
    lookup = np.full((256, 3), _OTHER_COLOR, np.uint8)
    lookup[: len(PALETTE)] = PALETTE
    train_ids = train_ids_from_nyu40(nyu40)
    colors = lookup[train_ids]
    colors[(train_ids == IGNORE) & (nyu40 == 0)] = 0
    return colors


def read_scene_list(path: Path) -> tuple[str, ...]:
    """Read scene ids, one a line, in order; repeated ids count once."""
    scenes = {}
    for number, line in _lines(path, _MAX_LIST_BYTES):
        try:
            scenes[check_scene_id(line)] = None
        except BadInput:
            raise BadInput(
                path,
                f"line {number}",
                expected="an id like scene0000_00",
                found=repr(line[:80]),
                remedy="remove or correct the line",
            ) from None
    return tuple(scenes)


def write_scene_list(path: Path, scenes: Iterable[str]) -> None:
    """Write scene ids, one a line."""
    Path(path).write_text("".join(f"{check_scene_id(scene)}\n" for scene in scenes))


def read_evaluation_ids(
    path: Path, vertex_count: int | None = None
) -> Int32[np.ndarray, " vertices"]:
    """Read the benchmark's text: one id a line, in the order of the mesh's vertices."""
    data = read_bounded(path, _MAX_IDS_BYTES, _AGAIN)
    words = data.split()
    if data.translate(None, b"0123456789\r\n") or len(words) != len(data.splitlines()):
        number, line = _first_stray(data)
        _fail(path, f"line {number}", "one integer", repr(line[:40]))
    if vertex_count is not None and len(words) != vertex_count:
        _fail(path, "file", f"{vertex_count} lines, one a vertex", len(words))
    if len(max(words, key=len, default=b"")) > 10:
        _fail(path, "file", "32-bit ids", "a longer number")
    ids = np.array([int(word) for word in words], np.int64)
    if len(ids) and ids.max() > _MAX_EVALUATION_ID:
        _fail(path, f"line {ids.argmax() + 1}", "a 32-bit id", ids.max())
    return ids.astype(np.int32)


def _first_stray(data: bytes) -> tuple[int, bytes]:
    """Return the first line that is no unsigned integer."""
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.isdigit():
            return number, line
    return 0, b""


def write_evaluation_ids(path: Path, ids: Integer[np.ndarray, " vertices"]) -> None:
    """Write ids as the benchmark wants them, one a line in vertex order."""
    if len(ids) and ids.min() < 0:
        raise ValueError(f"the benchmark knows no negative id, here {ids.min()}")
    Path(path).write_text("".join(f"{value}\n" for value in ids.tolist()))


def write_submission_zip(path: Path, texts: Mapping[str, Path]) -> None:
    """Pack `{scene}.txt` files flat, as the benchmark wants; equal input, equal bytes.

    Args:
        path: The zip to write.
        texts: The text file of each scene, whatever that file is called.
    """
    with zipfile.ZipFile(path, "w") as archive:
        for scene in sorted(texts):
            member = fixed_member(f"{check_scene_id(scene)}.txt")
            member.compress_type = zipfile.ZIP_DEFLATED
            text = Path(texts[scene])
            member.file_size = text.stat().st_size
            with text.open("rb") as source, archive.open(member, "w") as target:
                shutil.copyfileobj(source, target)


def write_label_map(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write a table in the columns of scannetv2-labels.combined.tsv."""
    lines = ["\t".join(LABEL_MAP_COLUMNS)]
    for row in rows:
        if unknown := set(row) - set(LABEL_MAP_COLUMNS):
            raise ValueError(f"unknown columns {sorted(unknown)}")
        lines.append("\t".join(str(row.get(name, "")) for name in LABEL_MAP_COLUMNS))
    Path(path).write_text("".join(f"{line}\n" for line in lines))


def _fail(path: Path, place: str, expected: str, found: object) -> NoReturn:
    raise BadInput(path, place, expected=expected, found=found, remedy=_AGAIN)


def _lines(path: Path, limit: int) -> Iterator[tuple[int, str]]:
    """Yield the lines that hold something, stripped, with their numbers."""
    data = read_bounded(path, limit, _AGAIN)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        _fail(path, "text", "UTF-8", error)
    for number, line in enumerate(text.split("\n"), start=1):
        if stripped := line.strip():
            yield number, stripped
