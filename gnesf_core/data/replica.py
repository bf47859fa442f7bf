"""Replica rooms as Semantic-NeRF renders them: a folder of images and trajectories.

One camera renders everything: 90 degrees of horizontal view, no distortion, the
principal point in the middle of the image.
"""

import re
import struct
from itertools import chain
from pathlib import Path
from typing import NoReturn

import numpy as np

from gnesf_core.data.bounded import read_bounded
from gnesf_core.data.images import (
    decode_color,
    decode_png8,
    decode_png16,
)
from gnesf_core.data.scan import ScanInfo
from gnesf_core.data.watched import WatchedFiles
from gnesf_core.errors import BadInput
from gnesf_core.shapes import Float64, UInt8, UInt16

_MAX_TRAJECTORY_BYTES = 64 << 20
_TRAJECTORY = "traj_w_c.txt"
_FOLDERS = ("rgb", "depth", "semantic_class")
_MILLIMETRES_PER_METRE = 1000.0
_MISPLACED = 10 / 480  # of the height, by which released code has cy too small
_REMEDY = (
    "use a whole folder of the Replica sequences that Semantic-NeRF offers, with"
    " traj_w_c.txt, rgb/rgb_0.png, depth/depth_0.png, semantic_class/..."
)


class ReplicaScan:
    """Random access to the frames of one rendered sequence; implements `Scan`.

    Class images are optional: a sequence without them can still be reconstructed.

    `released_intrinsics` gives the camera of the released code of Semantic-Ray, GSNeRF
    and GP-NeRF, whose cy is 229.5 instead of 239.5 at 640 x 480: wrong, and needed only
    to repeat what they did. It is for colour and depth alike.
    """

    info: ScanInfo
    world_from_camera: Float64[np.ndarray, "frames 4 4"]
    warnings: tuple[str, ...] = ()

    def __init__(self, folder: Path, released_intrinsics: bool = False) -> None:
        self._folder = Path(folder)
        self.world_from_camera = _read_trajectory(self._folder / _TRAJECTORY)
        self._images = {name: self._list(name) for name in _FOLDERS}
        paths = [self._folder / _TRAJECTORY, *chain(*self._images.values())]
        names = {path.relative_to(self._folder).as_posix(): path for path in paths}
        self._files = WatchedFiles(names, _REMEDY)
        width, height = self._common_size()
        focal = width / 2  # half the image is seen under 45 degrees
        centre_v = (height - 1) / 2 - released_intrinsics * _MISPLACED * height
        intrinsics = np.array(
            [[focal, 0, (width - 1) / 2], [0, focal, centre_v], [0, 0, 1]]
        )
        self.info = ScanInfo(
            path=self._folder,
            frame_count=len(self.world_from_camera),
            color_width=width,
            color_height=height,
            depth_width=width,
            depth_height=height,
            color_intrinsics=intrinsics,
            depth_intrinsics=intrinsics.copy(),
            depth_units_per_metre=_MILLIMETRES_PER_METRE,
            color_encoding="png",
            depth_encoding="png",
        )

    def color_bytes(self, index: int) -> bytes:
        """Return the encoded colour image, untouched."""
        return self._files.read(self._images["rgb"][index])

    def decode_color(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Return the colour image as RGB."""
        where = (self._images["rgb"][index], "image")
        size = (self.info.color_width, self.info.color_height)
        return decode_color(self.color_bytes(index), "png", *size, where)

    def depth_bytes(self, index: int) -> bytes:
        """Return the encoded depth image, untouched."""
        return self._files.read(self._images["depth"][index])

    def decode_depth(self, index: int) -> UInt16[np.ndarray, "h w"]:
        """Return the depth image in millimetres; 0 and 65535 mean no depth."""
        where = (self._images["depth"][index], "image")
        size = (self.info.depth_width, self.info.depth_height)
        return decode_png16(self.depth_bytes(index), *size, where)

    def semantic_ids(
        self, index: int
    ) -> UInt8[np.ndarray, "h w"] | UInt16[np.ndarray, "h w"]:
        """Return the class ids of Replica as they stand in the file; 0 is void."""
        if not self._images["semantic_class"]:
            _fail(self._folder, "semantic_class", "a folder of class images", "none")
        path = self._images["semantic_class"][index]
        data = self._files.read(path)
        _, _, bits = _png_header(path, data)
        decode = decode_png16 if bits == 16 else decode_png8
        size = (self.info.color_width, self.info.color_height)
        return decode(data, *size, (path, "image"))

    def sha256(self) -> str:
        """Return the digest of the trajectory and of all images, names included."""
        return self._files.sha256()

    def check_unchanged(self) -> None:
        """Refuse the folder if a file changed since it was opened."""
        self._files.check_unchanged()

    def close(self) -> None:
        """Release the files; none is kept open."""

    def _list(self, kind: str) -> list[Path]:
        """Return the images of one kind in the order of their numbers."""
        folder = self._folder / kind
        if kind == "semantic_class" and not folder.is_dir():
            return []
        pattern = re.compile(rf"{kind}_([0-9]{{1,9}})\.png")
        try:
            matches = [pattern.fullmatch(path.name) for path in folder.iterdir()]
        except OSError as error:
            _fail(folder, "folder", "a readable folder", error)
        numbered = sorted((int(m[1]), m[0]) for m in matches if m is not None)
        numbers = [number for number, _ in numbered]
        poses = len(self.world_from_camera)
        if numbers != list(range(poses)):
            gap = next((i for i, n in enumerate(numbers) if i != n), len(numbers))
            _fail(
                folder,
                f"{kind}_{min(gap, poses)}.png",
                f"images 0..{poses - 1}, one a row of {_TRAJECTORY}",
                f"{len(numbers)} images",
            )
        return [folder / name for _, name in numbered]

    def _common_size(self) -> tuple[int, int]:
        """Return width and height, which the first images of all kinds share."""
        sizes = {}
        for images in self._images.values():
            if images:
                data = self._files.read(images[0])
                sizes[images[0]] = _png_header(images[0], data)[:2]
        first = next(iter(sizes.values()))
        for path, size in sizes.items():
            if size != first:
                _fail(path, "size", f"{first} as the colour image", size)
        return first


def _fail(path: Path, place: str, expected: str, found: object) -> NoReturn:
    raise BadInput(path, place, expected=expected, found=found, remedy=_REMEDY)


def _png_header(path: Path, data: bytes) -> tuple[int, int, int]:
    """Return width, height and bits per channel as a PNG states them."""
    if len(data) < 26 or data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR":
        _fail(path, "image", "a PNG image", f"bytes starting {data[:8].hex()}")
    return struct.unpack_from(">IIB", data, 16)


def _read_trajectory(path: Path) -> Float64[np.ndarray, "frames 4 4"]:
    """Read one row-major matrix a line; poses are kept as they stand."""
    lines = read_bounded(path, _MAX_TRAJECTORY_BYTES, _REMEDY).splitlines()
    matrices = []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        try:
            row = [float(word) for word in words]
        except ValueError as error:
            _fail(path, f"line {number}", "16 numbers", str(error)[:80])
        if len(row) != 16:
            _fail(path, f"line {number}", "16 numbers", len(row))
        matrices.append(row)
    if not matrices:
        _fail(path, "file", "at least one pose", "none")
    return np.array(matrices).reshape(-1, 4, 4)
