"""Read a plain folder of pictures with a pose file each.

All in one folder as 7-Scenes names them (`frame-000000.color.png`, `.depth.png`,
`.pose.txt`), or in subfolders `color`, `depth` and `pose` as ScanNet's exporter does.
Poses are `world_from_camera` with OpenCV's axes; a text file holds the intrinsics.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np

from gnesf_core.data.bounded import read_bounded
from gnesf_core.data.posed_images import (
    ENCODINGS,
    Capture,
    PosedImage,
    inside,
    natural_order,
    picture_size,
)
from gnesf_core.errors import BadInput
from gnesf_core.geometry.lens import Lens
from gnesf_core.shapes import Float64

# Names that tools give these files, the first that is there counts.
INTRINSICS = (
    "intrinsics.txt",
    "intrinsic_color.txt",
    "intrinsic/intrinsic_color.txt",
)
_DEPTH_INTRINSICS = (
    "intrinsics_depth.txt",
    "intrinsic_depth.txt",
    "intrinsic/intrinsic_depth.txt",
)
_FOLDERS = {
    "color": ("color", "rgb", "images"),
    "depth": ("depth",),
    "pose": ("pose", "poses"),
}
_PICTURES = tuple(ENCODINGS)
_MAX_TEXT_BYTES = 1 << 16
_MOST_FILES = 1_000_000
_REMEDY = (
    "use a folder with frame-000000.color.png, .depth.png, .pose.txt, ..., or with"
    " color/, depth/ and pose/, and intrinsics.txt"
)


def read_posed_folder(path: Path) -> Capture:
    """Read the folder whose intrinsics file is at `path`."""
    folder = path.parent.parent if path.parent.name == "intrinsic" else path.parent
    colors, depths, poses = _find(folder)
    without_color = sorted(set(poses) - set(colors))
    if without_color:
        expected = "a picture for every pose"
        _fail(poses[without_color[0]], "file", expected, "a pose without a picture")
    names = sorted(poses, key=natural_order)
    if not names:
        _fail(folder, "folder", "pictures with a pose file each", "none")
    files = [path, *(poses[name] for name in names)]
    lens_of = _lenses(path, colors[names[0]])
    depth_path = _first(folder, _DEPTH_INTRINSICS)
    depth_lens_of = None
    if depth_path is not None and depths:
        files.append(depth_path)
        depth_lens_of = _lenses(depth_path, depths[min(depths)])
    images = []
    for name in names:
        lens, depth, depth_lens = lens_of(colors[name]), depths.get(name), None
        if depth is not None and depth_lens_of is not None:
            depth_lens = depth_lens_of(depth)
        elif depth is not None:
            depth_lens = lens.resized(*picture_size(depth))
        pose = _matrix(poses[name], (16,))
        images.append(PosedImage(colors[name], lens, pose, depth, depth_lens))
    left_out = len(set(colors) - set(poses))
    return Capture(
        kind="folder",
        path=path,
        folder=folder,
        images=tuple(images),
        files=tuple(files),
        warnings=(f"pictures without a pose, left out: {left_out}",) * bool(left_out),
    )


def intrinsics_of(folder: Path) -> Path | None:
    """Return the file of a folder's intrinsics, if there is one."""
    return _first(folder, INTRINSICS)


def is_posed_folder(folder: Path) -> bool:
    """Tell whether a folder looks like one, be it without intrinsics."""
    named = any(folder.glob("*.pose.txt"))
    return named or any((folder / name).is_dir() for name in _FOLDERS["pose"])


def missing_intrinsics(folder: Path) -> NoReturn:
    """Say which file to write."""
    raise BadInput(
        folder / INTRINSICS[0],
        "file",
        expected="the 3x3 matrix of the colour camera",
        found="no such file",
        remedy="write it: fx 0 cx, 0 fy cy, 0 0 1 on three lines, in pixels of the "
        "pictures as they are; whoever made the data tells the numbers (7-Scenes: "
        "focal length 585, centre 320 240)",
    )


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _find(
    folder: Path,
) -> tuple[dict[str, Path], dict[str, Path], dict[str, Path]]:
    """Return the colour, depth and pose files by the names that they share."""
    parts = {kind: _subfolder(folder, kind) for kind in _FOLDERS}
    if parts["color"] is not None and parts["pose"] is not None:
        nothing: dict[str, Path] = {}
        depth = parts["depth"]
        return (
            _listed(folder, parts["color"], r"(.+)", _PICTURES),
            nothing if depth is None else _listed(folder, depth, r"(.+)", (".png",)),
            _listed(folder, parts["pose"], r"(.+)", (".txt",)),
        )
    return (
        _listed(folder, folder, r"(.+)\.color", _PICTURES),
        _listed(folder, folder, r"(.+)\.depth", (".png",)),
        _listed(folder, folder, r"(.+)\.pose", (".txt",)),
    )


def _subfolder(folder: Path, kind: str) -> Path | None:
    names = (folder / name for name in _FOLDERS[kind])
    return next((path for path in names if path.is_dir()), None)


def _listed(
    folder: Path, where: Path, pattern: str, suffixes: tuple[str, ...]
) -> dict[str, Path]:
    """Return files by the part of their names that the pattern keeps."""
    found: dict[str, Path] = {}
    for count, path in enumerate(where.iterdir()):
        if count == _MOST_FILES:
            _fail(where, "folder", f"at most {_MOST_FILES} files", "more")
        match = re.fullmatch(pattern, path.stem)
        if match is None or path.suffix.lower() not in suffixes:
            continue
        if match[1] in found:
            _fail(
                path, "file", "one file of a kind per name", f"also {found[match[1]]}"
            )
        found[match[1]] = inside(folder, path.relative_to(folder).as_posix(), where)
    return found


def _lenses(path: Path, picture: Path) -> Callable[[Path], Lens]:
    """Return a function from pictures to lenses; the matrix at `path` is one's own."""
    (fx, skew, cx), (_, fy, cy), _ = _matrix(path, (9, 16))[:3, :3].tolist()
    width, height = picture_size(picture)
    # A common mistake: pictures were shrunk and their intrinsics were not.
    central = abs(cx / width - 0.5) < 0.2 and abs(cy / height - 0.5) < 0.2
    if not (min(fx, fy) > 0 and central) or abs(skew) > 1e-3 * fx:
        raise BadInput(
            path,
            "matrix",
            expected=f"intrinsics without skew of {width}x{height} pictures",
            found=f"focal length {fx:.5g}, {fy:.5g}, centre {cx:.5g}, {cy:.5g}, "
            f"skew {skew:.3g}",
            remedy="write the matrix for the pictures as they are, not for the size "
            "that they were taken at",
        )
    lens = Lens(width, height, fx, fy, cx, cy)

    def lens_of(picture: Path) -> Lens:
        own = picture_size(picture)
        if abs(own[0] / width - own[1] / height) > 0.01:
            expected = f"the shape of the others, {width}x{height}"
            _fail(picture, "size", expected, f"{own[0]}x{own[1]}")
        return lens.resized(*own)

    return lens_of


def _matrix(path: Path, counts: tuple[int, ...]) -> Float64[np.ndarray, "n n"]:
    """Read a square matrix; poses may be -inf or NaN where tracking was lost."""
    words = read_bounded(path, _MAX_TEXT_BYTES, _REMEDY).split()
    if len(words) not in counts:
        expected = " or ".join(str(count) for count in counts)
        _fail(path, "file", f"{expected} numbers", f"{len(words)}")
    try:
        values = np.array([float(word) for word in words])
    except ValueError as error:
        _fail(path, "file", "numbers", str(error)[:80])
    return values.reshape(int(len(words) ** 0.5), -1)


def _fail(path: Path, place: str, expected: str, found: object) -> NoReturn:
    raise BadInput(path, place, expected=expected, found=found, remedy=_REMEDY)
