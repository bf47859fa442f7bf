"""Write results so that a final name always stands for a whole file.

A result is written under a temporary name in its own folder, flushed to disk, given a
checksum beside it (`.name.sha256`, the format of `sha256sum`) and renamed. The
temporary file is also the lock: while one process holds it, a second writer of the
same result is refused, even when the first is an orphan of a killed run. A temporary
file left by a killed process holds no lock and is reused.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gnesf_core.errors import BadInput

_HASH_BLOCK = 1 << 22


@contextmanager
def publish(path: Path) -> Iterator[Path]:
    """Hand out a temporary path; move it to `path` when the block ends well.

    The block must write into the file at the temporary path, not replace it. If the
    block raises, nothing appears under `path` and what stood there before stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    descriptor = _claim(temporary, path)
    try:
        yield temporary
        _sync(temporary, os.O_RDONLY)
        _write_checksum(path, sha256_of(temporary))
        temporary.replace(path)
        _sync(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # "disk full" alone does not say where
        raise
    finally:
        os.close(descriptor)


@contextmanager
def publish_files(folder: Path) -> Iterator[Path]:
    """Hand out a temporary folder; move its files into `folder` when all are written.

    For results that are many files, such as a raw scan. Each file appears whole; if the
    block raises, none appears. (If moving them fails half way, those already moved
    stay; `files.list` comes last and stands for all.)
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with publish(folder / "files.list") as listing:
        temporary = folder / ".files.partial"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            yield temporary
            names = sorted(path.name for path in temporary.iterdir())
            for name in names:
                with publish(folder / name) as target:
                    shutil.move(temporary / name, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        listing.write_text("".join(f"{name}\n" for name in names))


def write_bytes(path: Path, data: bytes) -> None:
    """Publish `data` as the whole content of `path`."""
    with publish(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Publish `text` in UTF-8 with Unix line ends."""
    write_bytes(path, text.encode())


def write_json(path: Path, payload: Any) -> None:
    """Publish `payload` as JSON that every reader accepts (no NaN, sorted keys)."""
    write_text(path, json.dumps(payload, indent=1, sort_keys=True, allow_nan=False))


def read_text(path: Path) -> str:
    """Read a text of ours and refuse one that changed since it was written."""
    complaint = verify(path)
    if complaint is not None:
        raise BadInput(
            path,
            *complaint[:1],
            expected="the bytes that were published",
            found=complaint[1],
            remedy="delete the file and run snakemake again",
        )
    return path.read_text()


def read_json(path: Path) -> Any:
    """Read a JSON result of ours, as `read_text` does."""
    return json.loads(read_text(path))


def verify(path: Path) -> tuple[str, str] | None:
    """Compare a result with its checksum; return (place, finding) if they disagree."""
    sidecar = checksum_path(path)
    if not path.is_file():
        return "file", "no such file"
    if not sidecar.is_file():
        return "checksum", f"no {sidecar.name} beside it"
    recorded = sidecar.read_text(errors="replace").split(" ")[0]
    actual = sha256_of(path)
    if recorded != actual:
        return (
            "content",
            f"SHA-256 {actual[:12]}... where {recorded[:12]}... is on file",
        )
    return None


def checksum_path(path: Path) -> Path:
    """Name the file that holds the checksum of `path`."""
    return path.with_name(f".{path.name}.sha256")


def sha256_of(path: Path) -> str:
    """Hash a file of any size in constant memory."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _claim(temporary: Path, path: Path) -> int:
    """Open and lock the temporary file; refuse when a living process holds it."""
    while True:
        # O_NOFOLLOW: a link planted under the temporary name must not lead us away.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(temporary, flags, 0o666)
        except OSError as error:
            raise BadInput(
                path,
                "output",
                expected="a folder that can be written",
                found=error.strerror,
                remedy=f"look at {temporary}",
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _lock_holder(descriptor)
            os.close(descriptor)
            raise BadInput(
                path,
                "output",
                expected="one writer",
                found=f"{holder} is writing it",
                remedy="wait until it ends, or end it, then run again",
            ) from None
        # The previous holder may have renamed the file between our open and our lock.
        try:
            same = os.fstat(descriptor).st_ino == temporary.stat().st_ino
        except FileNotFoundError:
            same = False
        if same:
            os.ftruncate(descriptor, 0)
            return descriptor
        os.close(descriptor)


def _lock_holder(descriptor: int) -> str:
    """Name the process that holds the lock, as far as the kernel tells."""
    inode = str(os.fstat(descriptor).st_ino)
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return "another process"
    for line in lines:
        fields = line.split()
        if len(fields) > 5 and fields[1] == "FLOCK" and fields[5].endswith(f":{inode}"):
            return f"process {fields[4]}"
    return "another process"


def _write_checksum(path: Path, digest: str) -> None:
    """Record the digest before the file it describes gets its name.

    A crash in between leaves a checksum without its file, which `verify` reports; the
    other order would leave a file that nothing vouches for.
    """
    sidecar = checksum_path(path)
    temporary = sidecar.with_name(f"{sidecar.name}.{os.getpid()}")
    try:
        with temporary.open("w") as stream:
            stream.write(f"{digest}  {path.name}\n")
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(sidecar)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
