"""Read `transforms.json` as nerfstudio's tools write it.

Polycam, Record3D, ARKit and COLMAP captures become such files too. Cameras look along
-z with y up (OpenGL's axes). Pixel centres are at halves, here at whole numbers.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from gnesf_core.data.bounded import read_bounded
from gnesf_core.data.posed_images import (
    MAX_IMAGES,
    Capture,
    PosedImage,
    inside,
    natural_order,
    picture_size,
)
from gnesf_core.errors import BadInput
from gnesf_core.geometry.lens import Lens
from gnesf_core.shapes import Float64

TRANSFORMS = "transforms.json"
_MAX_BYTES = 64 << 20
_REMEDY = "write the file anew with nerfstudio's ns-process-data"
_OPENCV_FROM_OPENGL = np.diag([1.0, -1, -1, 1])
_METRES_PER_DEPTH_UNIT = 0.001  # where the file says nothing
_PERSPECTIVE = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")
_FISHEYE = "OPENCV_FISHEYE"


def read_nerfstudio(path: Path) -> Capture:
    """Read the cameras and name the pictures of a capture, in the order of names."""
    about = _parse(path)
    frames = about.get("frames")
    if not isinstance(frames, list) or not frames or len(frames) > MAX_IMAGES:
        expected = f"a list of 1 to {MAX_IMAGES} frames"
        _fail(path, "frames", expected, _kind(frames))
    images = [_image(path, number, about, frame) for number, frame in enumerate(frames)]
    images.sort(key=lambda image: natural_order(image.color.as_posix()))
    scale = _number(path, "applied_scale", about.get("applied_scale", 1.0))
    depth_unit = about.get("depth_unit_scale_factor", _METRES_PER_DEPTH_UNIT)
    depth_unit_m = _number(path, "depth_unit_scale_factor", depth_unit)
    if scale <= 0 or depth_unit_m <= 0:
        _fail(path, "scale", "factors above 0", f"{scale} and {depth_unit_m}")
    return Capture(
        kind="nerfstudio",
        path=path,
        folder=path.parent,
        images=tuple(images),
        files=(path,),
        depth_units_per_metre=1 / depth_unit_m,
        metres_per_unit=1 / scale,
    )


def _parse(path: Path) -> dict[str, Any]:
    data = read_bounded(path, _MAX_BYTES, _REMEDY)

    def refuse(word: str) -> NoReturn:
        raise ValueError(f"the number {word}")

    try:
        about = json.loads(data, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        _fail(path, "file", "JSON", str(error)[:200])
    if not isinstance(about, dict):
        _fail(path, "file", "a JSON object", _kind(about))
    return about


def _image(
    path: Path, number: int, about: Mapping[str, Any], frame: object
) -> PosedImage:
    """Read one frame; what it does not say of its camera, the file says for all."""
    place = f"frames[{number}]"
    if not isinstance(frame, dict):
        _fail(path, place, "a JSON object", _kind(frame))
    color = _file(path, f"{place}.file_path", frame.get("file_path"))
    values = {**about, **frame}
    lens = _lens(path, place, values, picture_size(color))
    depth = depth_lens = None
    if frame.get("depth_file_path"):
        name = f"{place}.depth_file_path"
        depth = _file(path, name, frame["depth_file_path"])
        depth_lens = lens.resized(*picture_size(depth))
    matrix = _matrix(path, f"{place}.transform_matrix", frame.get("transform_matrix"))
    return PosedImage(color, lens, matrix @ _OPENCV_FROM_OPENGL, depth, depth_lens)


def _lens(
    path: Path, place: str, values: Mapping[str, Any], size: tuple[int, int]
) -> Lens:
    width, height = size
    stated = values.get("w", width), values.get("h", height)
    if stated != size:
        raise BadInput(
            path,
            f"{place}: w, h",
            expected=f"the picture's size, {width} x {height}",
            found=f"{stated[0]} x {stated[1]}",
            remedy="write intrinsics for the pictures as they are; cameras that turn "
            "pictures by EXIF: turn the pixels themselves",
        )
    model = values.get("camera_model", "OPENCV")
    if model not in (*_PERSPECTIVE, _FISHEYE):
        raise BadInput(
            path,
            f"{place}: camera_model",
            expected=f"one of {', '.join((*_PERSPECTIVE, _FISHEYE))}",
            found=str(model)[:40],
            remedy="undistort the pictures first (colmap image_undistorter)",
        )

    def number(name: str, default: object = None) -> float:
        return _number(path, f"{place}: {name}", values.get(name, default))

    fx = number("fl_x")
    fy = number("fl_y", fx)
    cx, cy = number("cx", width / 2), number("cy", height / 2)
    if min(fx, fy) <= 0:
        _fail(path, f"{place}: fl_x, fl_y", "focal lengths above 0", f"{fx}, {fy}")
    radial = tuple(number(f"k{order}", 0.0) for order in range(1, 5))
    tangential = number("p1", 0.0), number("p2", 0.0)
    is_fisheye = model == _FISHEYE
    if is_fisheye:
        tangential = 0.0, 0.0  # not part of that model
    return Lens(
        width, height, fx, fy, cx - 0.5, cy - 0.5, radial, tangential, is_fisheye
    )


def _file(path: Path, place: str, name: object) -> Path:
    if not isinstance(name, str) or not name:
        _fail(path, place, "the name of a file", _kind(name))
    return inside(path.parent, name, path)


def _matrix(path: Path, place: str, rows: object) -> Float64[np.ndarray, "4 4"]:
    """Return `world_from_camera` with the file's axes; a last row may be missing."""
    is_matrix = isinstance(rows, list) and len(rows) in (3, 4)
    if not is_matrix or not all(isinstance(r, list) and len(r) == 4 for r in rows):
        _fail(path, place, "4 rows of 4 numbers", _kind(rows))
    matrix = np.eye(4)
    for place_of_row, row in enumerate(rows):
        matrix[place_of_row] = [_number(path, place, value) for value in row]
    return matrix


def _number(path: Path, place: str, value: object) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # Comparing first: an integer may be too large to become a float at all.
    if not is_number or not -1e12 < value < 1e12 or not math.isfinite(value):
        _fail(path, place, "a finite number", _kind(value))
    return float(value)


def _kind(value: object) -> str:
    """Describe a JSON value briefly."""
    if value is None:
        return "none"
    is_small = isinstance(value, str | int | float) and len(str(value)) < 80
    return repr(value) if is_small else type(value).__name__


def _fail(path: Path, place: str, expected: str, found: object) -> NoReturn:
    raise BadInput(path, place, expected=expected, found=found, remedy=_REMEDY)
