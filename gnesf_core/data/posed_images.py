"""A folder of posed pictures as a scan, whoever wrote the folder.

Readers of the single formats hand over a `Capture`: where the pictures are, what lens
took each, and its pose. A scan has one colour and one depth camera, both without
distortion: pictures that fit these are handed out as they are, others are resampled.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from gnesf_core.data import images
from gnesf_core.data.scan import CaptureWorld, ScanInfo
from gnesf_core.data.watched import WatchedFiles
from gnesf_core.errors import BadInput
from gnesf_core.geometry import lens as lenses
from gnesf_core.geometry.lens import Lens
from gnesf_core.shapes import Float32, Float64, Int64, UInt8, UInt16

MAX_IMAGES = 100_000
ENCODINGS = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png"}
_LEAST_COVERED = 0.9  # of the scan's camera that every picture has to fill
_JPEG_QUALITY = 95
_EVERY = 8  # pixels between those whose place in a bent picture is computed
_REMEDY = "export the capture again with all of its pictures"


@dataclass(frozen=True)
class PosedImage:
    """One picture, where it was taken from, and what depth belongs to it."""

    color: Path
    lens: Lens
    world_from_camera: Float64[np.ndarray, "4 4"]  # OpenCV axes, the capture's world
    depth: Path | None = None
    depth_lens: Lens | None = None


@dataclass(frozen=True)
class Sightings:
    """Which pictures saw which points of a capture, and at which of their pixels."""

    image: Int64[np.ndarray, " n"]
    uv: Float64[np.ndarray, "n 2"]
    point: Int64[np.ndarray, " n"]


@dataclass(frozen=True)
class Capture:
    """What a reader found in a folder."""

    kind: str  # nerfstudio, colmap or folder
    path: Path  # the file that the poses stand in, or are found by
    folder: Path
    images: tuple[PosedImage, ...]
    files: tuple[Path, ...]  # read besides the pictures
    depth_units_per_metre: float = 1000.0
    metres_per_unit: float = 1.0  # of the poses; 0 = the files cannot tell
    points: Float64[np.ndarray, "n 3"] | None = None  # of the capture's world
    sightings: Sightings | None = None  # of these points
    warnings: tuple[str, ...] = ()


class PosedImages:
    """Random access to the frames of a capture; implements `Scan`.

    Poses are the capture's own until `move` says where its world lies.
    """

    info: ScanInfo
    world_from_camera: Float64[np.ndarray, "frames 4 4"]

    def __init__(self, capture: Capture) -> None:
        _check_count(capture)
        for path in capture.files:
            name = path.relative_to(capture.folder).as_posix()
            inside(capture.folder, name, path)
        self.capture = capture
        self.warnings = capture.warnings
        self._images = capture.images
        poses = [image.world_from_camera for image in self._images]
        self.world_from_camera = np.stack(poses).astype(np.float64)
        self._pinhole = _shared_pinhole(
            [(image.color, image.lens) for image in self._images]
        )
        with_depth = [
            (image.depth, image.depth_lens)
            for image in self._images
            if image.depth is not None and image.depth_lens is not None
        ]
        self._depth_pinhole = _shared_pinhole(with_depth) if with_depth else None
        encodings = {_encoding(image.color) for image in self._images}
        encoding = encodings.pop() if len(encodings) == 1 else "png"
        depth = self._depth_pinhole
        self.info = ScanInfo(
            path=capture.path,
            frame_count=len(self._images),
            color_width=self._pinhole.width,
            color_height=self._pinhole.height,
            depth_width=depth.width if depth else 0,
            depth_height=depth.height if depth else 0,
            color_intrinsics=self._pinhole.intrinsics,
            depth_intrinsics=(depth or self._pinhole).intrinsics,
            depth_units_per_metre=capture.depth_units_per_metre,
            color_encoding=encoding,
            depth_encoding="png",
        )
        self._files = _watched(capture)

    def move(self, world: CaptureWorld) -> None:
        """Express the poses in the upright world, in metres."""
        with np.errstate(invalid="ignore"):  # poses of lost frames are -inf
            moved = world.world_from_capture @ self.world_from_camera
        moved[:, :3, :3] /= world.metres_per_unit  # poses turn and shift only
        self.world_from_camera = moved

    def color_bytes(self, index: int) -> bytes:
        """Return the encoded picture, untouched where it fits the scan's camera."""
        image = self._images[index]
        encoding = _encoding(image.color)
        fits = _fits(image.lens, self._pinhole)
        if fits and encoding == self.info.color_encoding:
            return self._files.read(image.color)
        size = image.lens.width, image.lens.height
        where = (image.color, "picture")
        rgb = images.decode_color(self._files.read(image.color), encoding, *size, where)
        if not fits:
            rgb = _resampled(rgb, image.lens, self._pinhole, smooth=True)
        if self.info.color_encoding == "png":
            return images.encode_png(rgb)
        return images.encode_jpeg(rgb, _JPEG_QUALITY)

    def decode_color(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Return the picture as RGB."""
        where = (self._images[index].color, "picture")
        size = self.info.color_width, self.info.color_height
        encoding = self.info.color_encoding
        return images.decode_color(self.color_bytes(index), encoding, *size, where)

    def lens(self, index: int) -> Lens:
        """Return the lens that took a picture, before any resampling."""
        return self._images[index].lens

    def has_depth(self, index: int) -> bool:
        """Tell whether a frame has a depth image."""
        return self._images[index].depth is not None

    def depth_bytes(self, index: int) -> bytes:
        """Return the depth file's bytes; empty where there is none."""
        path = self._images[index].depth
        return b"" if path is None else self._files.read(path)

    def decode_depth(self, index: int) -> UInt16[np.ndarray, "h w"]:
        """Return the depth image in the capture's units; 0 and 65535 mean none."""
        image = self._images[index]
        if image.depth is None or image.depth_lens is None:
            raise ValueError(f"frame {index} has no depth")
        size = image.depth_lens.width, image.depth_lens.height
        data = self._files.read(image.depth)
        depth = images.decode_png16(data, *size, (image.depth, "depth image"))
        if self._depth_pinhole is None or _fits(image.depth_lens, self._depth_pinhole):
            return depth
        return _resampled(depth, image.depth_lens, self._depth_pinhole, smooth=False)

    def sha256(self) -> str:
        """Return the digest of all files, names included."""
        return self._files.sha256()

    def check_unchanged(self) -> None:
        """Refuse the folder if a file changed since it was opened."""
        self._files.check_unchanged()

    def close(self) -> None:
        """Release the files; none is kept open."""


def _watched(capture: Capture) -> WatchedFiles:
    """Watch all files of a capture, by their names in its folder."""
    pictures = [image.color for image in capture.images]
    depths = [image.depth for image in capture.images if image.depth is not None]
    root = capture.folder.resolve()
    paths = [*capture.files, *pictures, *depths]
    names = {path.resolve().relative_to(root).as_posix(): path for path in paths}
    return WatchedFiles(names, _REMEDY)


def picture_size(path: Path) -> tuple[int, int]:
    """Return width and height of a JPEG or PNG file, from its header alone."""
    from PIL import Image

    encoding = _encoding(path)
    try:
        with Image.open(path, formats=(encoding.upper(),)) as image:
            return image.size
    except FileNotFoundError:
        _fail(path, "file", "a picture of the capture", "no such file")
    except Exception as error:  # Pillow raises whatever its parsers stumble over
        _fail(path, "picture", f"a {encoding.upper()} image", error)


def inside(folder: Path, name: str, source: Path) -> Path:
    """Return the path of a file that `source` names; it may not lead elsewhere."""
    path = folder / name
    if not _stays_inside(folder, name):
        raise BadInput(
            source,
            "file name",
            expected=f"a file inside {folder}",
            found=repr(name[:200]),
            remedy="copy the files into the folder and name them relative to it",
        )
    return path


def _stays_inside(folder: Path, name: str) -> bool:
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts or "\0" in name:
        return False
    try:
        return (folder / name).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links in a circle
        return False


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts names by the numbers in them: 2.jpg before 10.jpg."""
    parts = re.split(r"([0-9]{1,18})", name)
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]


def _check_count(capture: Capture) -> None:
    count = len(capture.images)
    if not 2 <= count <= MAX_IMAGES:
        raise BadInput(
            capture.path,
            "pictures",
            expected=f"2 to {MAX_IMAGES} pictures with poses",
            found=count,
            remedy="a scene is seen from several places: export more of the capture",
        )


def _shared_pinhole(pictures: Sequence[tuple[Path, Lens]]) -> Lens:
    """Return the pinhole camera of all pictures; refuse those that show too little."""
    pinhole = lenses.common_pinhole([lens for _, lens in pictures])
    seen = {lens: path for path, lens in reversed(pictures)}
    for lens, path in seen.items():
        share = lenses.covered(lens, pinhole)
        if share < _LEAST_COVERED:
            raise BadInput(
                path,
                "camera",
                expected="the view of the capture's other pictures "
                f"({pinhole.width}x{pinhole.height} pixels, focal length "
                f"{pinhole.fx:.0f})",
                found=f"{lens.width}x{lens.height} pixels, focal length {lens.fx:.0f}, "
                f"which shows {share:.0%} of it",
                remedy="keep one orientation and zoom in a folder, others in another",
            )
    return pinhole


@functools.lru_cache(maxsize=1024)
def _fits(lens: Lens, pinhole: Lens) -> bool:
    return lenses.fits(lens, pinhole)


@functools.lru_cache(maxsize=2)
def _source_pixels(lens: Lens, pinhole: Lens) -> Float32[np.ndarray, "h w 2"]:
    """Return where each pixel of the pinhole camera is in a picture of the lens.

    Lenses bend smoothly: every few pixels are computed, and those between are blended,
    which errs by a hundredth of a pixel and is many times as fast.
    """
    width, height = pinhole.width, pinhole.height
    nodes = [np.arange(0, side + _EVERY, _EVERY) for side in (width, height)]
    uv = np.stack(np.meshgrid(*nodes), -1)
    xy = lenses.rays_of(pinhole, uv.reshape(-1, 2).astype(np.float64))
    source = lens.pixels(xy).clip(-1e6, 1e6).reshape(uv.shape).astype(np.float32)
    return _blended(_blended(source, height, 0), width, 1)


def _blended(
    values: Float32[np.ndarray, "a b 2"], count: int, axis: int
) -> Float32[np.ndarray, "c d 2"]:
    """Return `count` values along an axis, of which every few are given."""
    at = np.arange(count, dtype=np.float32) / _EVERY
    first = at.astype(np.int64)
    shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
    part = (at - first).astype(np.float32).reshape(shape)
    start, end = values.take(first, axis), values.take(first + 1, axis)
    return start + (end - start) * part


def _resampled(
    picture: np.ndarray, lens: Lens, pinhole: Lens, *, smooth: bool
) -> np.ndarray:
    """Return what the pinhole camera would have shown; 0 where the lens saw nothing.

    Depth must not be blended across edges, so it takes the nearest pixel.
    """
    import cv2

    if smooth:
        picture, lens = _shrunk(picture, lens, pinhole)
        source = _source_pixels(lens, pinhole)
        # The outermost half pixels belong to the picture but have no neighbours.
        border = cv2.BORDER_REPLICATE
        result = cv2.remap(picture, source, None, cv2.INTER_LINEAR, borderMode=border)
    else:
        source = np.floor(_source_pixels(lens, pinhole) + 0.5)
        result = cv2.remap(picture, source, None, cv2.INTER_NEAREST)
    limits = np.array([lens.width, lens.height]) - 0.5
    result[((source < -0.5) | (source >= limits)).any(-1)] = 0
    return result


def _shrunk(picture: np.ndarray, lens: Lens, pinhole: Lens) -> tuple[np.ndarray, Lens]:
    """Average pixels first of a picture that has far more than are asked for."""
    import cv2

    factor = int(min(lens.fx / pinhole.fx, lens.fy / pinhole.fy))
    if factor < 2:
        return picture, lens
    size = lens.width // factor, lens.height // factor
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return small, lens.resized(*size)


def _encoding(path: Path) -> str:
    kind = path.suffix.lower()
    if kind in ENCODINGS:
        return ENCODINGS[kind]
    raise BadInput(
        path,
        "file name",
        expected="a picture in .jpg, .jpeg or .png",
        found=kind or "none of these",
        remedy="convert the pictures to JPEG or PNG and correct their names",
    )


def _fail(path: Path, place: str, expected: str, found: object) -> NoReturn:
    raise BadInput(path, place, expected=expected, found=found, remedy=_REMEDY)
