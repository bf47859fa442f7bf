"""Read and write ScanNet's `.sens` files, versions 3 and 4.

A file is one header, then per frame a pose, two time stamps, two sizes and two encoded
images, then (version 4) a vector of inertial measurements. Everything is little-endian
and nothing is checksummed. Opening a file hops over the frame headers only; images are
read one by one, so memory does not grow with the size of the scan.

Both cameras share one pose, in the conventions used here: OpenCV axes, metres.
"""

import hashlib
import math
import os
import struct
import zlib
from pathlib import Path
from types import TracebackType
from typing import NoReturn

import numpy as np

from gnesf_core.data import images
from gnesf_core.data.deflate import inflate
from gnesf_core.data.scan import ScanInfo
from gnesf_core.errors import BadInput
from gnesf_core.shapes import Float32, Float64, UInt8, UInt16

COLOR_ENCODINGS = {0: "raw", 1: "png", 2: "jpeg"}
DEPTH_ENCODINGS = {0: "raw", 1: "zlib"}
VERSIONS = (3, 4)

MAX_NAME_BYTES = 4096
MAX_SIDE = 16384
MAX_FRAMES = 1_000_000  # nine hours at 30 Hz
MAX_IMU_FRAMES = 100 * MAX_FRAMES
DEPTH_UNITS_PER_METRE = (1.0, 1e6)  # plausible range; ScanNet has 1000
FOCAL_LENGTHS = (1.0, 1e6)  # pixels; anything else is damage
NO_POSE = np.full((4, 4), -np.inf)  # how the format says that tracking was lost

_HEADER_START = struct.Struct("<IQ")  # version, bytes of the sensor's name
_CAMERAS = np.dtype("<f4")  # 4 matrices: colour and depth, each intrinsic, extrinsic
_HEADER_END = struct.Struct("<iiIIIIfQ")
_MAX_HEADER_BYTES = _HEADER_START.size + MAX_NAME_BYTES + 4 * 64 + _HEADER_END.size
_FRAME = np.dtype(
    [
        ("pose", "<f4", (4, 4)),
        ("timestamps_us", "<u8", 2),
        ("color_bytes", "<u8"),
        ("depth_bytes", "<u8"),
    ]
)
_SIZES = struct.Struct("<QQ")
_SIZES_AT = _FRAME.itemsize - _SIZES.size
_COUNT = struct.Struct("<Q")
_IMU_BYTES = 15 * 8 + 8
_HASH_CHUNK_BYTES = 4 << 20
_UNFINISHED = 2**64 - 1  # a frame count that every bounded reader refuses

_AGAIN = "fetch the file again; it is damaged or was cut short"
_EXPORT = "export the scan with ScanNet's own tools as version 4, JPEG and zlib"


class SensReader:
    """Random access to a `.sens` file; a context manager and a `Scan`."""

    info: ScanInfo
    world_from_camera: Float64[np.ndarray, "frames 4 4"]
    timestamps_us: np.ndarray  # uint64[frames, 2]: colour, depth; often 0 or wrong
    warnings: list[str]
    version: int
    sensor_name: str
    color_extrinsics: Float64[np.ndarray, "4 4"]
    depth_extrinsics: Float64[np.ndarray, "4 4"]

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self.warnings = []
        if not self._path.is_file():
            self._refuse("path", "a .sens file", "no such file", "check the path")
        try:
            self._file = os.open(self._path, os.O_RDONLY)
        except OSError as error:
            self._refuse("path", "a readable file", error, "check its permissions")
        try:
            self._stat = os.fstat(self._file)
            self._index_frames(*self._read_header())
            self.check_unchanged()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "SensReader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.check_unchanged()
        finally:
            self.close()

    def color_bytes(self, index: int) -> bytes:
        """Return the encoded colour image, untouched; empty where there is none."""
        size = int(self._frames["color_bytes"][index])
        return self._read(int(self._offsets[index]), size, f"frame {index}, colour")

    def decode_color(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Return the colour image as RGB."""
        info, where = self.info, (self._path, f"frame {index}, colour")
        data = self.color_bytes(index)
        return images.decode_color(
            data, info.color_encoding, info.color_width, info.color_height, where
        )

    def depth_bytes(self, index: int) -> bytes:
        """Return the encoded depth image, untouched; empty where there is none."""
        frame = self._frames[index]
        offset = int(self._offsets[index]) + int(frame["color_bytes"])
        return self._read(offset, int(frame["depth_bytes"]), f"frame {index}, depth")

    def decode_depth(self, index: int) -> UInt16[np.ndarray, "h w"]:
        """Return the depth image in the scan's units; 0 and 65535 mean no depth."""
        shape = self.info.depth_height, self.info.depth_width
        data, where = self.depth_bytes(index), f"frame {index}, depth"
        expected = math.prod(shape) * 2
        if self.info.depth_encoding == "zlib":
            try:
                data = inflate(data, expected)
            except ValueError as error:
                wanted = f"a zlib stream of {shape[1]}x{shape[0]} depth"
                self._refuse(where, wanted, error, _AGAIN)
        if len(data) != expected:
            wanted = f"{expected} bytes of {shape[1]}x{shape[0]} depth"
            found = f"{len(data)} bytes" if len(data) < expected else "more"
            self._refuse(where, wanted, found, _AGAIN)
        return np.frombuffer(data, "<u2").reshape(shape).astype(np.uint16)

    def sha256(self) -> str:
        """Return the digest of the file, which must not have changed since opening."""
        digest = hashlib.sha256()
        for offset in range(0, self._stat.st_size, _HASH_CHUNK_BYTES):
            size = min(_HASH_CHUNK_BYTES, self._stat.st_size - offset)
            digest.update(self._read(offset, size, f"byte {offset}"))
        self.check_unchanged()
        return digest.hexdigest()

    def check_unchanged(self) -> None:
        """Raise if the file has changed since it was opened, as by a running copy."""
        if self._file < 0:
            return
        now = os.fstat(self._file)
        if (now.st_size, now.st_mtime_ns) != (
            self._stat.st_size,
            self._stat.st_mtime_ns,
        ):
            found = f"{now.st_size} bytes, modified while it was being read"
            self._refuse_change(f"{self._stat.st_size} bytes as when opened", found)

    def close(self) -> None:
        """Release the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _read_header(self) -> tuple[int, int]:
        """Fill in everything above the frames; return their count and their start."""
        size = min(_MAX_HEADER_BYTES, self._stat.st_size)
        data = self._read(0, size, "header")
        start = _HEADER_START.size
        self._need(data, start, "header")
        self.version, name_bytes = _HEADER_START.unpack_from(data)
        if self.version not in VERSIONS:
            self._refuse("header, version", "version 3 or 4", self.version, _EXPORT)
        if name_bytes > MAX_NAME_BYTES:
            expected = f"at most {MAX_NAME_BYTES} bytes"
            self._refuse("header, sensor name", expected, name_bytes, _AGAIN)
        cameras_at = start + name_bytes
        end = cameras_at + 4 * 64
        self._need(data, end + _HEADER_END.size, "header")
        self.sensor_name = data[start:cameras_at].decode(errors="replace")
        with np.errstate(invalid="ignore"):
            cameras = np.frombuffer(data, _CAMERAS, 64, cameras_at).astype(np.float64)
        cameras = cameras.reshape(4, 4, 4)
        self.color_extrinsics, self.depth_extrinsics = cameras[1], cameras[3]
        *fields, units_per_metre, count = _HEADER_END.unpack_from(data, end)
        self.info = self._check_header(cameras, fields, units_per_metre, count)
        return count, end + _HEADER_END.size

    def _check_header(
        self,
        cameras: Float64[np.ndarray, "4 4 4"],
        fields: list[int],
        units_per_metre: float,
        count: int,
    ) -> ScanInfo:
        """Check each header field and return them as a scan's description."""
        color, depth, *sizes = fields
        for name, code, known in (
            ("colour", color, COLOR_ENCODINGS),
            ("depth", depth, DEPTH_ENCODINGS),
        ):
            if code not in known:
                wanted = " or ".join(f"{code} ({text})" for code, text in known.items())
                self._refuse(f"header, {name} compression", wanted, code, _EXPORT)
        for name, (width, height) in (("colour", sizes[:2]), ("depth", sizes[2:])):
            sides_fit = 1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE
            if not sides_fit or width * height > images.MAX_PIXELS:
                expected = f"sides of 1 to {MAX_SIDE}, {images.MAX_PIXELS} pixels"
                found = f"{width}x{height}"
                self._refuse(f"header, {name} size", expected, found, _AGAIN)
        low, high = DEPTH_UNITS_PER_METRE
        if not low <= units_per_metre <= high:
            expected = f"{low:g} to {high:g} units per metre"
            self._refuse("header, depth shift", expected, units_per_metre, _AGAIN)
        if count > MAX_FRAMES:
            expected = f"at most {MAX_FRAMES} frames"
            self._refuse("header, frame count", expected, count, _AGAIN)
        return ScanInfo(
            path=self._path,
            frame_count=count,
            color_width=sizes[0],
            color_height=sizes[1],
            depth_width=sizes[2],
            depth_height=sizes[3],
            color_intrinsics=self._intrinsics(cameras[0], "colour"),
            depth_intrinsics=self._intrinsics(cameras[2], "depth"),
            depth_units_per_metre=units_per_metre,
            color_encoding=COLOR_ENCODINGS[color],
            depth_encoding=DEPTH_ENCODINGS[depth],
        )

    def _intrinsics(
        self, matrix: Float64[np.ndarray, "4 4"], camera: str
    ) -> Float64[np.ndarray, "3 3"]:
        """Return the 3x3 part of a stored camera matrix, checked."""
        intrinsics = matrix[:3, :3].copy()
        focal_lengths = intrinsics[[0, 1], [0, 1]]
        low, high = FOCAL_LENGTHS
        usable = np.isfinite(intrinsics).all() and (focal_lengths >= low).all()
        if not usable or (focal_lengths > high).any():
            place = f"header, {camera} intrinsics"
            expected = f"finite, fx and fy within {low}..{high} pixels"
            self._refuse(place, expected, intrinsics.tolist(), _AGAIN)
        return intrinsics

    def _index_frames(self, count: int, start: int) -> None:
        """Hop from frame to frame, keeping only their headers and offsets."""
        self._need_left(count * _FRAME.itemsize, start, "header, frame count")
        color_limit, depth_limit = _blob_limits(self.info)
        headers, position = bytearray(), start
        for index in range(count):
            place = f"frame {index}, header"
            self._need_left(_FRAME.itemsize, position, place)
            header = self._read(position, _FRAME.itemsize, place)
            color_bytes, depth_bytes = _SIZES.unpack_from(header, _SIZES_AT)
            if color_bytes > color_limit or depth_bytes > depth_limit:
                expected = f"at most {color_limit} and {depth_limit} bytes"
                found = f"{color_bytes} (colour) and {depth_bytes} (depth)"
                self._refuse(f"frame {index}, image sizes", expected, found, _AGAIN)
            position += _FRAME.itemsize
            self._need_left(color_bytes, position, f"frame {index}, colour")
            position += color_bytes
            self._need_left(depth_bytes, position, f"frame {index}, depth")
            position += depth_bytes
            headers += header
        self._frames = np.frombuffer(headers, _FRAME)
        sizes = self._frames["color_bytes"] + self._frames["depth_bytes"]
        ends = start + np.cumsum(sizes + _FRAME.itemsize, dtype=np.int64)
        self._offsets = ends - sizes.astype(np.int64)
        with np.errstate(invalid="ignore"):  # a pose may hold any bits
            self.world_from_camera = self._frames["pose"].astype(np.float64)
        self.timestamps_us = self._frames["timestamps_us"].astype(np.uint64)
        self._check_trailer(position)

    def _check_trailer(self, position: int) -> None:
        """Account for the bytes after the frames, which hold nothing that is used."""
        left = self._stat.st_size - position
        if self.version == 4:
            if left < _COUNT.size:
                self._warn("the inertial measurements at the end are missing")
                return
            (count,) = _COUNT.unpack(self._read(position, _COUNT.size, "IMU count"))
            if count > MAX_IMU_FRAMES:
                expected = f"at most {MAX_IMU_FRAMES} inertial measurements"
                self._refuse("IMU count", expected, count, _AGAIN)
            left -= _COUNT.size + count * _IMU_BYTES
        if left < 0:
            self._warn("the inertial measurements at the end are cut short")
        if left > 0:
            self._warn(f"{left} bytes after the end of the scan")

    def _read(self, offset: int, size: int, place: str) -> bytes:
        """Return `size` bytes, which were there when the file was opened."""
        data = os.pread(self._file, size, offset)
        if len(data) != size:
            found = f"{len(data)} bytes; the file has become shorter"
            self._refuse_change(f"{size} bytes at byte {offset}", found, place)
        return data

    def _need(self, data: bytes, size: int, place: str) -> None:
        """Refuse a header that ends before `size` bytes."""
        if len(data) < size:
            self._refuse(place, f"{size} bytes", f"{len(data)} bytes", _AGAIN)

    def _need_left(self, size: int, offset: int, place: str) -> None:
        """Refuse a size that the file cannot hold from `offset` on."""
        left = self._stat.st_size - offset
        if size > left:
            self._refuse(place, f"{size} bytes", f"{left} up to the file's end", _AGAIN)

    def _warn(self, text: str) -> None:
        self.warnings.append(f"{self._path}: {text}")

    def _refuse_change(
        self, expected: str, found: str, place: str = "size"
    ) -> NoReturn:
        self._refuse(place, expected, found, "wait until the copy is complete")

    def _refuse(
        self, place: str, expected: str, found: object, remedy: str
    ) -> NoReturn:
        raise BadInput(self._path, place, expected=expected, found=found, remedy=remedy)


class SensWriter:
    """Write a `.sens` file frame by frame; a context manager.

    The encodings, sizes and cameras are those of `info`; its frame count is replaced by
    the number of frames added. Equal calls give equal bytes. Until the writer is closed
    without an error, the file says that it is unfinished and no reader accepts it.
    """

    def __init__(
        self,
        path: Path | str,
        info: ScanInfo,
        *,
        version: int = 4,
        sensor_name: str = "StructureSensor",
        color_extrinsics: Float64[np.ndarray, "4 4"] | None = None,
        depth_extrinsics: Float64[np.ndarray, "4 4"] | None = None,
        zlib_level: int = 1,
    ) -> None:
        if version not in VERSIONS:
            raise ValueError(f"version is one of {VERSIONS}, found {version}")
        self._info, self._version, self._level = info, version, zlib_level
        self._limits = _blob_limits(info)
        self.frame_count = 0
        name = sensor_name.encode()
        start = _HEADER_START.pack(version, len(name)) + name
        for intrinsics, extrinsics in (
            (info.color_intrinsics, color_extrinsics),
            (info.depth_intrinsics, depth_extrinsics),
        ):
            matrix = np.eye(4)
            matrix[:3, :3] = intrinsics
            start += _float32(matrix).tobytes()
            start += _float32(np.eye(4) if extrinsics is None else extrinsics).tobytes()
        end = _HEADER_END.pack(
            _code(COLOR_ENCODINGS, info.color_encoding),
            _code(DEPTH_ENCODINGS, info.depth_encoding),
            info.color_width,
            info.color_height,
            info.depth_width,
            info.depth_height,
            info.depth_units_per_metre,
            _UNFINISHED,
        )
        self._count_at = len(start) + len(end) - _COUNT.size
        self._file = Path(path).open("wb")  # noqa: SIM115 (close() and `with` close it)
        self._file.write(start + end)

    def __enter__(self) -> "SensWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        self._file.close()

    def add(
        self,
        world_from_camera: Float64[np.ndarray, "4 4"],
        color: bytes,
        depth: UInt16[np.ndarray, "h w"] | bytes,
        color_timestamp_us: int = 0,
        depth_timestamp_us: int = 0,
    ) -> None:
        """Append a frame: encoded colour, and depth as an image or encoded."""
        if isinstance(depth, np.ndarray):
            depth = self._encode_depth(depth)
        if len(color) > self._limits[0] or len(depth) > self._limits[1]:
            raise ValueError(f"frame {self.frame_count} is larger than readers accept")
        frame = np.zeros((), _FRAME)
        frame["pose"] = _float32(world_from_camera)
        frame["timestamps_us"] = color_timestamp_us, depth_timestamp_us
        frame["color_bytes"], frame["depth_bytes"] = len(color), len(depth)
        self._file.write(frame.tobytes())
        self._file.write(color)
        self._file.write(depth)
        self.frame_count += 1

    def close(self) -> None:
        """Complete the file: append the trailer and state the number of frames."""
        if self._file.closed:
            return
        if self._version == 4:
            self._file.write(_COUNT.pack(0))
        self._file.seek(self._count_at)
        self._file.write(_COUNT.pack(self.frame_count))
        self._file.close()

    def _encode_depth(self, depth: UInt16[np.ndarray, "h w"]) -> bytes:
        """Encode a depth image as the header says."""
        shape = self._info.depth_height, self._info.depth_width
        if depth.dtype != np.uint16 or depth.shape != shape:
            raise ValueError(
                f"depth is uint16{list(shape)}, found {depth.dtype}{list(depth.shape)}"
            )
        rows = depth.astype("<u2").tobytes()
        # Not isal, whose bytes differ: the file must not depend on what is installed.
        is_zlib = self._info.depth_encoding == "zlib"
        return zlib.compress(rows, self._level) if is_zlib else rows


def _blob_limits(info: ScanInfo) -> tuple[int, int]:
    """Return the most bytes that an encoded colour and depth image may take."""
    color_pixels = info.color_width * info.color_height
    depth_pixels = info.depth_width * info.depth_height
    return 4 * color_pixels * 3 + (64 << 10), 4 * depth_pixels * 2 + (64 << 10)


def _code(encodings: dict[int, str], name: str) -> int:
    """Return the number that the format has for an encoding."""
    for code, encoding in encodings.items():
        if encoding == name:
            return code
    raise ValueError(f"encoding {name!r} is not one of {list(encodings.values())}")


def _float32(matrix: Float64[np.ndarray, "4 4"]) -> Float32[np.ndarray, "4 4"]:
    """Return a matrix in the format's precision and byte order."""
    matrix = np.asarray(matrix, "<f4")
    if matrix.shape != (4, 4):
        raise ValueError(f"expected a 4x4 matrix, found {matrix.shape}")
    return matrix
