"""A user's own maps as a prior: one file per frame, from any segmenter.

A `.png` holds label ids, 8 or 16 bits of grey. A `.npy` holds probabilities [channels,
height, width] as float16, float32 or uint8. Either covers the whole colour image, at a
size of its own that all frames of a scene share. A table may say which of our classes
an id or channel is.
"""

import hashlib
import io
import math
import re
from collections.abc import Iterator
from pathlib import Path
from string import Formatter
from typing import NoReturn

import numpy as np

from gnesf_core.config import FolderPriorConfig
from gnesf_core.data.bounded import read_bounded
from gnesf_core.data.images import decode_png8, decode_png16
from gnesf_core.data.publish import sha256_of
from gnesf_core.data.store import Frames
from gnesf_core.errors import BadInput
from gnesf_core.labels import CLASS_NAMES, IGNORE
from gnesf_core.priors.interface import Prior
from gnesf_core.shapes import Float32, Shaped

Settings = FolderPriorConfig
PACKAGES: tuple[str, ...] = ()

VOID = "void"  # in tables: an id that is none of our classes

_CLASSES = len(CLASS_NAMES)
_ID_COUNT = 1 << 16
_MAX_TABLE_BYTES = 4 << 20
_MAX_FILE_BYTES = 1 << 30
_MAX_PIXELS = 1 << 22  # of a map; each takes 80 bytes as scores
_MAX_SCORE = np.float32(1e30)  # so that no sum overflows
_BITS_IN_PNG = 24  # byte of a PNG's header
_DTYPES = ("float16", "float32", "uint8")

_PATTERN_REMEDY = "write it such as {scene}/{index:05d}.png or {scene}/{index}.npy"
_TABLE_REMEDY = f"name in each line one id and one class of {CLASS_NAMES} or {VOID}"
_MAP_REMEDY = "export the map again: a grey .png of ids or a .npy of probabilities"


def open_prior(settings: FolderPriorConfig, weights: Path | None, device: str) -> Prior:
    """Check the settings and return the prior; it has no weights."""
    return FolderPrior(settings)


class FolderPrior:
    """Maps that lie in a folder."""

    def __init__(self, settings: FolderPriorConfig) -> None:
        _check_pattern(settings.pattern)
        self._pattern = settings.pattern
        self._root = Path(settings.root).resolve()
        if not self._root.is_dir():
            _fail(
                settings.root,
                "root of the folder prior",
                "a folder",
                "none",
                "name the folder that holds the maps",
            )
        self._class_of_id = read_table(Path(settings.ids)) if settings.ids else None

    def map_size(self, frames: Frames) -> tuple[int, int]:
        """Return width and height of the first frame's map."""
        height, width = self._read(frames, 0, None).shape[1:]
        return width, height

    def inputs(self, frames: Frames) -> dict[str, str]:
        """Return a digest of the scene's maps, with their names, and of the table."""
        digest = hashlib.sha256()
        for position in range(len(frames)):
            path = self._path(frames, position)
            name = self._name(frames, position)
            digest.update(f"{name} {sha256_of(path)}\n".encode())
        if self._class_of_id is not None:
            digest.update(f"ids {sorted(self._class_of_id.items())}\n".encode())
        return {"source": digest.hexdigest()}

    def scores(
        self, frames: Frames, start: int
    ) -> Iterator[Float32[np.ndarray, "classes h w"]]:
        """Yield the maps; whatever is none of our classes leaves its share empty."""
        size = self.map_size(frames)
        for position in range(start, len(frames)):
            yield self._read(frames, position, size)

    def _name(self, frames: Frames, position: int) -> str:
        index = int(frames.index[position])
        return self._pattern.format(scene=frames.scene, index=index)

    def _path(self, frames: Frames, position: int) -> Path:
        """Return a frame's file, links followed; it must lie below the root."""
        path = self._root / self._name(frames, position)
        place = f"map of frame {frames.index[position]} of {frames.scene}"
        try:
            found = path.resolve(strict=True)
        except (OSError, RuntimeError) as error:
            remedy = "write a map for every kept frame, or correct root and pattern"
            _fail(path, place, "a file", error, remedy)
        if not found.is_relative_to(self._root) or not found.is_file():
            remedy = "put the maps themselves into the folder"
            _fail(path, place, f"a file below {self._root}", found, remedy)
        return found

    def _read(
        self, frames: Frames, position: int, size: tuple[int, int] | None
    ) -> Float32[np.ndarray, "classes h w"]:
        """Read a frame's scores; refuse another size than this one."""
        path = self._path(frames, position)
        data = read_bounded(path, _MAX_FILE_BYTES, _MAP_REMEDY)
        if self._pattern.endswith(".npy"):  # a link may lead to another ending
            return _scores_of_channels(path, data, size, self._class_of_id)
        return _scores_of_ids(path, data, size, self._class_of_id)


def read_table(path: Path) -> dict[int, int]:
    """Return the class of each id in a table with the columns `id` and `class`.

    Cells are separated by commas or by tabs, whichever the first line has.
    """
    data = read_bounded(path, _MAX_TABLE_BYTES, _TABLE_REMEDY)
    lines = data.decode("utf-8-sig", errors="replace").splitlines()
    separator = "\t" if lines and "\t" in lines[0] else ","
    rows = [[cell.strip() for cell in line.split(separator)] for line in lines]
    if not rows or rows[0] != ["id", "class"]:
        found = lines[0][:80] if lines else "nothing"
        _fail(path, "line 1", "the columns id,class", found, _TABLE_REMEDY)
    class_of_name = {name: number for number, name in enumerate(CLASS_NAMES)}
    class_of_name[VOID] = IGNORE
    class_of_id: dict[int, int] = {}
    for number, row in enumerate(rows[1:], start=2):
        if not any(row):
            continue
        place = f"line {number}"
        if len(row) != 2:
            _fail(path, place, "two cells", len(row), _TABLE_REMEDY)
        if not re.fullmatch("[0-9]{1,5}", row[0]) or int(row[0]) >= _ID_COUNT:
            expected = f"an id in 0..{_ID_COUNT - 1}"
            _fail(path, place, expected, repr(row[0][:40]), _TABLE_REMEDY)
        if row[1] not in class_of_name:
            _fail(path, place, "a class or void", repr(row[1][:40]), _TABLE_REMEDY)
        if int(row[0]) in class_of_id:
            _fail(path, place, "each id once", f"{row[0]} again", _TABLE_REMEDY)
        class_of_id[int(row[0])] = class_of_name[row[1]]
    return class_of_id


def _check_pattern(pattern: str) -> None:
    """Refuse patterns that are malformed or give several frames the same file."""
    place = f"pattern {pattern!r}"
    try:
        parts = list(Formatter().parse(pattern))
    except ValueError as error:
        _fail("folder prior", place, "a pattern", error, _PATTERN_REMEDY)
    fields = {field for _, field, _, _ in parts if field is not None}
    if fields != {"scene", "index"}:
        found = " and ".join(f"{{{field}}}" for field in sorted(fields)) or "none"
        expected = "the fields {scene} and {index}"
        _fail("folder prior", place, expected, found, _PATTERN_REMEDY)
    for _, field, spec, conversion in parts:
        allowed = "(0?[0-9]{1,2})?d?" if field == "index" else ""
        if conversion or not re.fullmatch(allowed, spec or ""):
            found = f"{field} as {spec or conversion}"
            _fail("folder prior", place, "a width at most", found, _PATTERN_REMEDY)
    if not pattern.endswith((".png", ".npy")):
        found = "another ending"
        _fail("folder prior", place, ".png or .npy", found, _PATTERN_REMEDY)


def _scores_of_ids(
    path: Path,
    data: bytes,
    size: tuple[int, int] | None,
    class_of_id: dict[int, int] | None,
) -> Float32[np.ndarray, "classes h w"]:
    """Return a label image as one-hot scores; void is all zeros."""
    deep = len(data) > _BITS_IN_PNG and data[_BITS_IN_PNG] == 16
    decode = decode_png16 if deep else decode_png8
    ids = decode(data, *(size or (None, None)), (path, "image"))
    _check_pixels(path, *ids.shape)
    if class_of_id is None:
        class_of_id = {number: number for number in range(_CLASSES)}
    lookup = np.full(_ID_COUNT, IGNORE, np.uint8)
    lookup[list(class_of_id)] = list(class_of_id.values())
    classes = np.arange(_CLASSES, dtype=np.uint8)[:, None, None]
    return (lookup[ids] == classes).astype(np.float32)


def _scores_of_channels(
    path: Path,
    data: bytes,
    size: tuple[int, int] | None,
    class_of_id: dict[int, int] | None,
) -> Float32[np.ndarray, "classes h w"]:
    """Return a map's channels as scores; channels of one class are added."""
    channels = _parse_npy(path, data)
    found = channels.shape[:0:-1]
    if size is not None and found != size:
        remedy = "write all maps of a scene in one size"
        _fail(path, "size", f"{size[0]}x{size[1]}", f"{found[0]}x{found[1]}", remedy)
    count = len(channels)
    if class_of_id is None:
        if count != _CLASSES:
            remedy = "name a table of ids that says which class each channel is"
            _fail(path, "channels", str(_CLASSES), count, remedy)
        class_of_id = {number: number for number in range(_CLASSES)}
    if class_of_id and max(class_of_id) >= count:
        expected = f"a channel for each id of the table, up to {max(class_of_id)}"
        _fail(path, "channels", expected, count, "use the table of this segmenter")
    scores = np.zeros((_CLASSES, *channels.shape[1:]), np.float32)
    for channel, class_id in class_of_id.items():
        if class_id != IGNORE:
            scores[class_id] += channels[channel]
    return scores


def _parse_npy(path: Path, data: bytes) -> Shaped[np.ndarray, "channels h w"]:
    """Return the array in a .npy file after checking all that its header claims.

    Nothing is unpickled, and nothing allocated that the file does not hold.
    """
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, column_major, dtype = read_header(stream)
    except Exception as error:  # the header is a Python literal: any error can be
        _fail(path, "header", "a NumPy array", str(error)[:200], _MAP_REMEDY)
    if dtype not in [np.dtype(name) for name in _DTYPES]:
        _fail(path, "type", f"one of {_DTYPES}", str(dtype)[:80], _MAP_REMEDY)
    if len(shape) != 3 or min(shape) < 1:
        found = str(shape)[:80]
        _fail(path, "shape", "[channels, height, width]", found, _MAP_REMEDY)
    _check_pixels(path, *shape[1:])
    expected = math.prod(shape) * dtype.itemsize
    found = len(data) - stream.tell()
    if found != expected:
        _fail(path, "data", f"{expected} bytes for {shape}", found, _MAP_REMEDY)
    values = np.frombuffer(data, dtype, offset=stream.tell())
    values = values.reshape(shape, order="F" if column_major else "C")
    _check_values(path, values)
    return values


def _check_pixels(path: Path, height: int, width: int) -> None:
    """Refuse maps whose scores would take too much memory."""
    if height * width > _MAX_PIXELS:
        expected, found = f"at most {_MAX_PIXELS} pixels", f"{width}x{height}"
        _fail(path, "size", expected, found, "shrink the maps")


def _check_values(path: Path, values: Shaped[np.ndarray, "channels h w"]) -> None:
    """Refuse NaN, infinite, negative and absurdly large scores."""
    good = (values >= 0) & (values <= _MAX_SCORE)
    if not good.all():
        channel, row, column = np.argwhere(~good)[0].tolist()
        found = values[channel, row, column]
        place = f"channel {channel}, row {row}, column {column}"
        _fail(path, place, f"a number in 0..{_MAX_SCORE:g}", found, _MAP_REMEDY)


def _fail(
    path: Path | str, place: str, expected: str, found: object, remedy: str
) -> NoReturn:
    raise BadInput(path, place, expected=expected, found=found, remedy=remedy)
