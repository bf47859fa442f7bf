"""The files of a capture that is a folder: read within bounds, digested, watched."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from gnesf_core.data.bounded import read_bounded
from gnesf_core.errors import BadInput

MAX_FILE_BYTES = 64 << 20


class WatchedFiles:
    """Files, by their names in the folder, that must not change while it is read."""

    def __init__(self, files: Mapping[str, Path], remedy: str) -> None:
        self._files, self._remedy = dict(files), remedy
        self._stamps = {path: self._stamp(path) for path in self._files.values()}

    def read(self, path: Path) -> bytes:
        """Return a file's content."""
        return read_bounded(path, MAX_FILE_BYTES, self._remedy)

    def sha256(self) -> str:
        """Return the digest of all files, names included."""
        digest = hashlib.sha256()
        for name, path in self._files.items():
            data = self.read(path)
            digest.update(f"{name} {len(data)}\n".encode())
            digest.update(data)
        return digest.hexdigest()

    def check_unchanged(self) -> None:
        """Refuse the folder if a file changed since it was opened."""
        for path, stamp in self._stamps.items():
            if self._stamp(path) != stamp:
                self._fail(path, "the file as it was at first", "a changed one")

    def _stamp(self, path: Path) -> tuple[int, int]:
        try:
            about = path.stat()
        except OSError as error:
            self._fail(path, "a file of the capture", error)
        return about.st_size, about.st_mtime_ns

    def _fail(self, path: Path, expected: str, found: object) -> NoReturn:
        raise BadInput(
            path, "file", expected=expected, found=found, remedy=self._remedy
        )
