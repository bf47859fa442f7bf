"""Read a COLMAP model, text or binary, with its pictures in `images/` beside it.

Poses are `camera_from_world` with OpenCV's axes, as a quaternion (w first) and a shift.
Pixel centres are at halves, here at whole numbers. The model's unit is arbitrary.
"""

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from gnesf_core.data.bounded import read_bounded
from gnesf_core.data.posed_images import (
    ENCODINGS,
    MAX_IMAGES,
    Capture,
    PosedImage,
    Sightings,
    inside,
    natural_order,
    picture_size,
)
from gnesf_core.errors import BadInput
from gnesf_core.geometry.camera import invert_rigid
from gnesf_core.geometry.lens import Lens
from gnesf_core.shapes import Float64, Int64

MODEL_FOLDERS = ("sparse/0", "sparse", ".")
_MAX_BYTES = 2 << 30
_REMEDY = "export the model again by `colmap model_converter`"
# Number in binary files, name, and the names of the parameters in both.
_MODELS = (
    (0, "SIMPLE_PINHOLE", ("f", "cx", "cy")),
    (1, "PINHOLE", ("fx", "fy", "cx", "cy")),
    (2, "SIMPLE_RADIAL", ("f", "cx", "cy", "k1")),
    (3, "RADIAL", ("f", "cx", "cy", "k1", "k2")),
    (4, "OPENCV", ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2")),
)
_PARAMETERS = {name: parameters for _, name, parameters in _MODELS}
_NAMES = {number: name for number, name, _ in _MODELS}
# Known, so that they can be named, but not read.
_OTHER_NAMES = {
    5: "OPENCV_FISHEYE",
    6: "FULL_OPENCV",
    7: "FOV",
    8: "SIMPLE_RADIAL_FISHEYE",
    9: "RADIAL_FISHEYE",
    10: "THIN_PRISM_FISHEYE",
    11: "RAD_TAN_THIN_PRISM_FISHEYE",
}
_NO_POINT = -1


@dataclass(frozen=True)
class _Picture:
    """One registered picture, as the model has it."""

    name: str
    camera: int
    quaternion: tuple[float, float, float, float]
    shift: tuple[float, float, float]
    uv: Float64[np.ndarray, "n 2"]  # key points, COLMAP's pixels
    point_ids: Int64[np.ndarray, " n"]  # -1 where a key point is of no 3D point


@dataclass(frozen=True)
class _Points:
    """The 3D points of a model, in the order of their ids."""

    ids: Int64[np.ndarray, " n"]
    xyz: Float64[np.ndarray, "n 3"]


def read_colmap(path: Path) -> Capture:
    """Read the model that the file at `path` is a part of."""
    model, suffix = path.parent, path.suffix
    folder = root_of(model)
    names = ("cameras", "images", "points3D")
    files = {name: model / f"{name}{suffix}" for name in names}
    binary = suffix == ".bin"
    cameras = (_binary_cameras if binary else _text_cameras)(files["cameras"])
    pictures = (_binary_pictures if binary else _text_pictures)(files["images"])
    points = (_binary_points if binary else _text_points)(files["points3D"])
    if not pictures:
        _fail(files["images"], "pictures", "registered ones", "none")
    pictures = sorted(pictures, key=lambda picture: natural_order(picture.name))
    images = tuple(
        _image(files["images"], folder, picture, cameras) for picture in pictures
    )
    return Capture(
        kind="colmap",
        path=files["images"],
        folder=folder,
        images=images,
        files=tuple(files.values()),
        metres_per_unit=0.0,
        points=points.xyz,
        sightings=_sightings(pictures, points),
        warnings=_left_out(folder, model, images),
    )


def root_of(model: Path) -> Path:
    """Return the folder that holds `images/`, given the one that holds the model."""
    for folder in (model, model.parent, model.parent.parent):
        if (folder / "images").is_dir():
            return folder
    raise BadInput(
        model,
        "folder",
        expected="the pictures in images/ beside the model or beside sparse/",
        found="no such folder",
        remedy="copy or move the pictures that COLMAP was given there",
    )


def _left_out(
    folder: Path, model: Path, images: tuple[PosedImage, ...]
) -> tuple[str, ...]:
    """Tell of what COLMAP could not join to this model."""
    files = (folder / "images").rglob("*")
    found = {path for path in files if path.suffix.lower() in ENCODINGS}
    unregistered = len(found - {image.color for image in images})
    models = {path.parent for path in (folder / "sparse").glob("*/images.*")} - {model}
    names = ", ".join(sorted((path.name for path in models), key=natural_order))
    warnings = []
    if unregistered:
        warnings.append(f"pictures without a pose, left out: {unregistered}")
    if models:
        warnings.append(f"further models in sparse/, left out: {names}")
    return tuple(warnings)


def _image(
    path: Path, folder: Path, picture: _Picture, cameras: Mapping[int, Lens]
) -> PosedImage:
    if picture.camera not in cameras:
        _fail(path, f"picture {picture.name}", "a camera of the model", picture.camera)
    lens = cameras[picture.camera]
    color = inside(folder, f"images/{picture.name}", path)
    size = picture_size(color)
    if size != (lens.width, lens.height):
        raise BadInput(
            color,
            "size",
            expected=f"{lens.width}x{lens.height} as the model's camera has it",
            found=f"{size[0]}x{size[1]}",
            remedy="use the very pictures that COLMAP was given, neither shrunk nor "
            "turned",
        )
    depth = _depth_of(path, folder, picture.name)
    depth_lens = None if depth is None else lens.resized(*picture_size(depth))
    pose = _world_from_camera(path, picture)
    return PosedImage(color, lens, pose, depth, depth_lens)


def _depth_of(path: Path, folder: Path, name: str) -> Path | None:
    """Return the depth image of a picture: the same name, as PNG."""
    for candidate in (Path(name).with_suffix(".png").as_posix(), f"{name}.png"):
        depth = inside(folder, f"depth/{candidate}", path)
        if depth.is_file():
            return depth
    return None


def _world_from_camera(path: Path, picture: _Picture) -> Float64[np.ndarray, "4 4"]:
    quaternion = np.array(picture.quaternion)
    length = np.linalg.norm(quaternion)
    if not (0.9 < length < 1.1 and np.isfinite(picture.shift).all()):
        found = f"{picture.quaternion}, {picture.shift}"
        expected = "a quaternion of length 1 and a finite shift"
        _fail(path, f"pose of {picture.name}", expected, found)
    w, x, y, z = quaternion / length
    camera_from_world = np.eye(4)
    camera_from_world[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    camera_from_world[:3, 3] = picture.shift
    return invert_rigid(camera_from_world)


def _sightings(pictures: list[_Picture], points: _Points) -> Sightings:
    """Return which picture saw which 3D point, and where."""
    frames, uvs, rows = [], [], []
    for number, picture in enumerate(pictures):
        place = np.searchsorted(points.ids, picture.point_ids)
        place = place.clip(max=max(len(points.ids) - 1, 0))
        known = picture.point_ids != _NO_POINT
        if len(points.ids):
            known &= points.ids[place] == picture.point_ids
        else:
            known[:] = False
        frames.append(np.full(int(known.sum()), number, np.int64))
        uvs.append(picture.uv[known] - 0.5)
        rows.append(place[known].astype(np.int64))
    return Sightings(np.concatenate(frames), np.concatenate(uvs), np.concatenate(rows))


def _lens(
    path: Path, place: str, model: str, width: int, height: int, values: list[float]
) -> Lens:
    if model not in _PARAMETERS:
        raise BadInput(
            path,
            place,
            expected=f"a camera model of {', '.join(_PARAMETERS)}",
            found=model[:40],
            remedy="undistort the pictures by `colmap image_undistorter` and use the "
            "folder that it writes",
        )
    names = _PARAMETERS[model]
    sane = 0 < width < 1 << 20 and 0 < height < 1 << 20
    if len(values) != len(names) or not sane or not all(map(math.isfinite, values)):
        expected = f"a size and {len(names)} finite numbers"
        _fail(path, place, expected, f"{width} x {height}, {values}")
    given = dict(zip(names, values, strict=True))
    fx = given.get("fx", given.get("f", 0.0))
    fy = given.get("fy", fx)
    if min(fx, fy) <= 0:
        _fail(path, place, "focal lengths above 0", f"{fx}, {fy}")
    radial = given.get("k1", 0.0), given.get("k2", 0.0)
    tangential = given.get("p1", 0.0), given.get("p2", 0.0)
    cx, cy = given["cx"] - 0.5, given["cy"] - 0.5
    return Lens(width, height, fx, fy, cx, cy, radial, tangential)


def _content(path: Path) -> bytes:
    """Read a whole file; memory is asked for by its size, not by the limit."""
    try:
        size = path.stat().st_size
    except OSError as error:
        _fail(path, "file", "a file of the model", error)
    return read_bounded(path, min(size, _MAX_BYTES), _REMEDY)


# Text files


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield lines with their numbers, without comments; empty ones may mean a lot."""
    text = _content(path).decode("utf-8", "replace")
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.lstrip().startswith("#"):
            yield number, line.strip()


def _text_cameras(path: Path) -> dict[int, Lens]:
    cameras = {}
    for number, line in _lines(path):
        if not line:
            continue
        place, words = f"line {number}", line.split()
        if len(words) < 5:
            _fail(path, place, "CAMERA_ID MODEL WIDTH HEIGHT PARAMS[]", line[:80])
        identity, width, height = _whole(path, place, words[0], *words[2:4])
        values = _numbers(path, place, words[4:])
        cameras[identity] = _lens(path, place, words[1], width, height, values)
    return cameras


def _text_pictures(path: Path) -> list[_Picture]:
    pictures: list[_Picture] = []
    lines = _lines(path)
    for number, line in lines:
        if not line:
            continue
        place, words = f"line {number}", line.split(maxsplit=9)
        if len(words) != 10:
            expected = "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME"
            _fail(path, place, expected, line[:80])
        qw, qx, qy, qz, tx, ty, tz = _numbers(path, place, words[1:8])
        _, camera = _whole(path, place, words[0], words[8])
        number, line = next(lines, (number, ""))
        flat = np.array(_numbers(path, f"line {number}", line.split()))
        if len(flat) % 3:
            _fail(path, f"line {number}", "POINTS2D[] as (X, Y, POINT3D_ID)", line[:80])
        rows = flat.reshape(-1, 3)
        if not (np.abs(rows) < 1 << 53).all():  # not so for NaN either
            _fail(path, f"line {number}", "finite numbers and ids", line[:80])
        ids = rows[:, 2].astype(np.int64)
        quaternion, shift = (qw, qx, qy, qz), (tx, ty, tz)
        pictures.append(_Picture(words[9], camera, quaternion, shift, rows[:, :2], ids))
        if len(pictures) > MAX_IMAGES:
            _fail(path, place, f"at most {MAX_IMAGES} pictures", "more")
    return pictures


def _text_points(path: Path) -> _Points:
    ids, rows = [], []
    for number, line in _lines(path):
        if not line:
            continue
        place, words = f"line {number}", line.split(maxsplit=8)
        if len(words) < 8:
            _fail(path, place, "POINT3D_ID X Y Z R G B ERROR TRACK[]", line[:80])
        ids += _whole(path, place, words[0])
        rows.append(_numbers(path, place, words[1:4]))
    return _sorted(path, np.array(ids, np.int64), np.array(rows).reshape(-1, 3))


def _whole(path: Path, place: str, *words: str) -> list[int]:
    try:
        values = [int(word) for word in words]
    except ValueError as error:
        _fail(path, place, "whole numbers", str(error)[:80])
    if max(map(abs, values)) >= 1 << 62:
        _fail(path, place, "smaller whole numbers", "huge ones")
    return values


def _numbers(path: Path, place: str, words: list[str]) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError as error:
        _fail(path, place, "numbers", str(error)[:80])


def _sorted(
    path: Path, ids: Int64[np.ndarray, " n"], xyz: Float64[np.ndarray, "n 3"]
) -> _Points:
    if not np.isfinite(xyz).all():
        _fail(path, "points", "finite coordinates", "others")
    order = np.argsort(ids, kind="stable")
    return _Points(ids[order], xyz[order])


# Binary files


class _Bytes:
    """A binary file's content, read from front to back and never past its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data = _content(path)
        self._at = 0

    def take(self, layout: str) -> tuple:
        """Return the values of a little-endian layout of `struct`."""
        return struct.unpack("<" + layout, self._part(struct.calcsize("<" + layout)))

    def count(self, least_bytes: int) -> int:
        """Return a count of records, which the rest of the file has room for."""
        (count,) = self.take("Q")
        if count * least_bytes > len(self._data) - self._at:
            expected = f"room for the {count} records that are announced"
            _fail(self.path, f"byte {self._at}", expected, "the file's end")
        return count

    def rows(self, count: int, layout: np.dtype) -> np.ndarray:
        """Return an array of records."""
        return np.frombuffer(self._part(count * layout.itemsize), layout)

    def skip(self, length: int) -> None:
        """Leave bytes out."""
        self._part(length)

    def word(self) -> str:
        """Return text that ends with a zero byte."""
        end = self._data.find(b"\0", self._at, self._at + 4096)
        if end < 0:
            _fail(self.path, f"byte {self._at}", "a name and its end", "none")
        word = self._part(end + 1 - self._at)[:-1]
        return bytes(word).decode("utf-8", "replace")

    def end(self) -> None:
        """Refuse whatever follows."""
        if self._at != len(self._data):
            left = len(self._data) - self._at
            _fail(self.path, f"byte {self._at}", "the file's end", f"{left} bytes more")

    def _part(self, length: int) -> memoryview:
        end = self._at + length
        if end > len(self._data):
            expected = f"{length} bytes more"
            left = len(self._data) - self._at
            _fail(
                self.path, f"byte {self._at}", expected, f"the file's end after {left}"
            )
        part = memoryview(self._data)[self._at : end]
        self._at = end
        return part


_KEY_POINT = np.dtype([("uv", "<f8", 2), ("point", "<i8")])
_TRACK_BYTES = 8  # per picture that sees a 3D point


def _binary_cameras(path: Path) -> dict[int, Lens]:
    data = _Bytes(path)
    cameras = {}
    for _ in range(data.count(24)):
        identity, model, width, height = data.take("iiQQ")
        name = _NAMES.get(model, _OTHER_NAMES.get(model, f"number {model}"))
        place = f"camera {identity}"
        count = len(_PARAMETERS.get(name, ()))
        values = list(data.take(f"{count}d"))
        cameras[identity] = _lens(path, place, name, width, height, values)
    data.end()
    return cameras


def _binary_pictures(path: Path) -> list[_Picture]:
    data = _Bytes(path)
    count = data.count(73)
    if count > MAX_IMAGES:
        _fail(path, "count", f"at most {MAX_IMAGES} pictures", count)
    pictures = []
    for _ in range(count):
        _, qw, qx, qy, qz, tx, ty, tz, camera = data.take("i7di")
        name = data.word()
        points = data.rows(data.count(_KEY_POINT.itemsize), _KEY_POINT)
        pictures.append(
            _Picture(
                name,
                camera,
                (qw, qx, qy, qz),
                (tx, ty, tz),
                points["uv"].astype(np.float64),
                points["point"].astype(np.int64),
            )
        )
    data.end()
    return pictures


def _binary_points(path: Path) -> _Points:
    data = _Bytes(path)
    count = data.count(51)
    ids, xyz = np.empty(count, np.int64), np.empty((count, 3))
    for row in range(count):
        identity, *xyz[row], _, _, _, _ = data.take("Q3d3Bd")
        ids[row] = identity & (1 << 63) - 1
        data.skip(_TRACK_BYTES * data.count(_TRACK_BYTES))
    data.end()
    return _sorted(path, ids, xyz)


def _fail(path: Path, place: str, expected: str, found: object) -> NoReturn:
    raise BadInput(path, place, expected=expected, found=found, remedy=_REMEDY)
