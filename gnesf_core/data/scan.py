"""What every raw capture offers, whatever its format on disk.

A scan is read-only. Poses and bytes are handed out as they stand in the files; which
frames are usable is decided once, by `extract_frames`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from gnesf_core.shapes import Float64, UInt8, UInt16


@dataclass(frozen=True)
class ScanInfo:
    """Cameras and encodings of one scan; both cameras share one pose per frame."""

    path: Path  # the file or folder that errors name
    frame_count: int
    color_width: int
    color_height: int
    depth_width: int
    depth_height: int
    color_intrinsics: Float64[np.ndarray, "3 3"]
    depth_intrinsics: Float64[np.ndarray, "3 3"]
    depth_units_per_metre: float
    color_encoding: str  # jpeg | png | raw (rows of RGB bytes)
    depth_encoding: str  # zlib (of little-endian uint16 rows) | raw | png

    @property
    def has_depth(self) -> bool:
        """Tell whether there was a depth camera; without one its size is 0 x 0."""
        return self.depth_width > 0


@dataclass(frozen=True)
class CaptureWorld:
    """Where the upright world in metres lies in the world of somebody's capture.

    `world_from_capture` scales, turns and shifts. Each `_by` says how its value was
    found, for people to judge.
    """

    world_from_capture: Float64[np.ndarray, "4 4"]
    metres_per_unit: float
    scale_by: str
    up_capture: Float64[np.ndarray, " 3"]  # of unit length
    up_by: str
    floor_m: float  # height of the floor in the capture's world along up, in its units
    floor_by: str


@runtime_checkable
class Scan(Protocol):
    """Random access to the frames of one scan."""

    info: ScanInfo
    world_from_camera: Float64[np.ndarray, "frames 4 4"]  # as stored: may be -inf
    warnings: Sequence[str]  # of what was left out or looks strange, so far

    def color_bytes(self, index: int) -> bytes:
        """Return the encoded colour image, untouched; empty where there is none."""
        ...

    def decode_color(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Return the colour image as RGB."""
        ...

    def depth_bytes(self, index: int) -> bytes:
        """Return the encoded depth image, untouched; empty where there is none."""
        ...

    def decode_depth(self, index: int) -> UInt16[np.ndarray, "h w"]:
        """Return the depth image in the scan's units; 0 and 65535 mean no depth."""
        ...

    def check_unchanged(self) -> None:
        """Refuse the scan if its files changed since it was opened."""
        ...

    def sha256(self) -> str:
        """Return the digest of everything that the scan is read from."""
        ...

    def close(self) -> None:
        """Release the files."""
        ...
