"""ScanNet's zips of label and instance images, read member by member.

Nothing is ever extracted to disk. A zip is refused as a whole if any member could not
have come from ScanNet: another name, a link, an encrypted or absurdly packed member.
"""

import io
import re
import stat
import zipfile
import zlib
from pathlib import Path
from types import TracebackType
from typing import NoReturn

import numpy as np

from gnesf_core.data.images import (
    decode_png8,
    decode_png16,
    encode_png8,
    encode_png16,
)
from gnesf_core.errors import BadInput
from gnesf_core.shapes import UInt8, UInt16

_MAX_MEMBERS = 100_000
_MAX_MEMBER_BYTES = 64 << 20
_MAX_DIRECTORY_BYTES = 16 << 20
_MAX_RATIO = 200
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that zip can say
_REMEDY = "fetch the zip again from ScanNet"
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)


class LabelZip:
    """Random access to the label images of one scan.

    Args:
        path: The zip, for example `{scene}_2d-label-filt.zip`.
        folder: The folder in it: label, label-filt, instance or instance-filt.
        dtype: np.uint16 for label images (ScanNet ids), np.uint8 for instances.
    """

    def __init__(
        self, path: Path, folder: str = "label-filt", dtype: type = np.uint16
    ) -> None:
        self._path = Path(path)
        self._decode = {np.uint16: decode_png16, np.uint8: decode_png8}[dtype]
        self._file: _BoundedFile | None = None
        try:
            self._file = _BoundedFile(io.FileIO(self._path))
            self._zip = zipfile.ZipFile(self._file)
            self._members = self._check(self._zip.infolist(), folder)
        except _BROKEN as error:
            self._close_file()
            if isinstance(error, BadInput):
                raise
            self._fail("zip directory", "a readable zip", error)
        self._file.limit = None
        self.indices: tuple[int, ...] = tuple(sorted(self._members))

    def read(self, index: int) -> UInt16[np.ndarray, "h w"] | UInt8[np.ndarray, "h w"]:
        """Return the image of one frame, ids as they stand in the file."""
        if index not in self._members:
            self._fail(f"frame {index}", "an image of that frame", "none")
        member = self._members[index]
        try:
            with self._zip.open(member) as stream:
                data = stream.read(member.file_size + 1)
        except _BROKEN as error:
            self._fail(member.filename, "an undamaged member", error)
        return self._decode(data, None, None, (self._path, member.filename))

    def close(self) -> None:
        """Release the file."""
        self._zip.close()
        self._close_file()

    def __enter__(self) -> "LabelZip":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()

    def _check(
        self, infos: list[zipfile.ZipInfo], folder: str
    ) -> dict[int, zipfile.ZipInfo]:
        """Return the members by frame index, or refuse the zip."""
        if len(infos) > _MAX_MEMBERS:
            self._fail("zip directory", f"at most {_MAX_MEMBERS} members", len(infos))
        pattern = re.compile(re.escape(folder) + r"/([0-9]{1,9})\.png")
        members: dict[int, zipfile.ZipInfo] = {}
        for info in infos:
            name = info.filename
            place = f"member {name[:80]!r}"
            if name == f"{folder}/":
                continue
            match = pattern.fullmatch(name)
            if match is None:
                self._fail(place, f"names {folder}/NUMBER.png only", "another name")
            if int(match[1]) in members:
                self._fail(place, "every frame once", "a second image of it")
            if info.flag_bits & 1:
                self._fail(place, "no encryption", "an encrypted member")
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
                self._fail(place, "a plain file", "a link or special file")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                self._fail(place, "stored or deflated", info.compress_type)
            ratio = info.file_size / max(info.compress_size, 1)
            if info.file_size > _MAX_MEMBER_BYTES or ratio > _MAX_RATIO:
                self._fail(
                    place,
                    f"at most {_MAX_MEMBER_BYTES} bytes packed {_MAX_RATIO} to 1",
                    f"{info.file_size} bytes packed {ratio:.0f} to 1",
                )
            members[int(match[1])] = info
        return members

    def _fail(self, place: str, expected: str, found: object) -> NoReturn:
        raise BadInput(
            self._path, place, expected=expected, found=found, remedy=_REMEDY
        ) from None


class _BoundedFile(io.BufferedReader):
    """A file that hands out no more than `limit` bytes at once.

    zipfile reads a directory of whatever length the zip claims and makes an object of
    every entry, before anybody can count them.
    """

    limit: int | None = _MAX_DIRECTORY_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        """Read like any file, up to the limit."""
        if self.limit is None:
            return super().read(size)
        everything = size is None or size < 0
        data = super().read(self.limit + 1 if everything else min(size, self.limit + 1))
        if len(data) > self.limit:
            raise zipfile.BadZipFile(f"a directory beyond {self.limit} bytes")
        return data


class LabelZipWriter:
    """Write label or instance images as ScanNet packs them; equal images, equal bytes.

    The images are stored: PNG is compressed already.
    """

    def __init__(self, path: Path, folder: str = "label-filt") -> None:
        self._folder = folder
        self._zip = zipfile.ZipFile(path, "w")
        self._indices: set[int] = set()

    def write(
        self,
        index: int,
        image: UInt16[np.ndarray, "h w"] | UInt8[np.ndarray, "h w"],
    ) -> None:
        """Add the image of one frame: uint16 for labels, uint8 for instances."""
        if index in self._indices:
            raise ValueError(f"frame {index} is there already")
        self._indices.add(index)
        encode = {np.dtype(np.uint16): encode_png16, np.dtype(np.uint8): encode_png8}
        info = fixed_member(f"{self._folder}/{index}.png")
        self._zip.writestr(info, encode[image.dtype](image))

    def close(self) -> None:
        """Write the directory; the zip is complete only then."""
        self._zip.close()

    def __enter__(self) -> "LabelZipWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def fixed_member(name: str) -> zipfile.ZipInfo:
    """Return a member that bears no trace of when and where it was written."""
    info = zipfile.ZipInfo(name, _EPOCH)
    info.create_system = 3
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    return info
