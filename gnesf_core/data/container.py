"""The one HDF5 container of the project: checksummed, marked complete, self-describing.

Files are written in the v1.10 format, whose metadata carries checksums, with fletcher32
on every chunked data set: no single bit can change unnoticed. Reading goes through
`Container`, which refuses files that are incomplete, of another kind or scene, or made
from other inputs, and never follows links out of the file.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from gnesf_core.data.deflate import deflate, inflate
from gnesf_core.data.publish import publish
from gnesf_core.errors import BadInput

_REMEDY = "delete the file and run snakemake again"
_ONLY_DEFLATED = 2  # filter mask of a chunk that skipped fletcher32, the second filter


class ContainerWriter:
    """Data sets and attributes of a file that is being made."""

    def __init__(self, file: h5py.File) -> None:
        self.file = file
        self._digest = hashlib.sha256()

    def array(
        self, name: str, values: np.ndarray, *, compress: bool = False
    ) -> h5py.Dataset:
        """Store a whole array; compress only where it pays."""
        values = np.ascontiguousarray(values)
        if values.size == 0:
            dataset = self.file.create_dataset(name, data=values)
        else:
            options = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
            dataset = self.file.create_dataset(
                name,
                data=values,
                chunks=_chunk_shape(values.shape, values.dtype.itemsize),
                fletcher32=True,
                **(options if compress else {}),
            )
        self._account(name, values)
        return dataset

    def frames(
        self, name: str, count: int, shape: tuple[int, ...], dtype: str
    ) -> h5py.Dataset:
        """Create a data set [count, *shape] of one compressed chunk per frame.

        The chunks are zlib streams, as HDF5's own deflate filter makes them, so that
        every HDF5 reader opens them; `put` and `Container.frame` are only faster.
        """
        if count == 0:  # for which HDF5 has no chunks
            return self.file.create_dataset(name, (0, *shape), dtype)
        return self.file.create_dataset(
            name,
            (count, *shape),
            dtype,
            chunks=(1, *shape),
            compression="gzip",
            compression_opts=1,
            fletcher32=True,
        )

    def put(self, dataset: h5py.Dataset, index: int, values: np.ndarray) -> None:
        """Write one frame of a data set made by `frames`."""
        values = np.ascontiguousarray(values, dataset.dtype)
        if values.shape != dataset.shape[1:]:
            raise ValueError(f"a frame is {dataset.shape[1:]}, found {values.shape}")
        self.put_stream(dataset, index, deflate(values.data))
        self._account(f"{dataset.name}[{index}]", values)

    def put_stream(self, dataset: h5py.Dataset, index: int, stream: bytes) -> None:
        """Write one frame that is a zlib stream already; see `account_bytes`.

        Filter mask bit 1 skips fletcher32: the stream carries its own Adler-32.
        """
        place = (index, *[0] * (dataset.ndim - 1))
        dataset.id.write_direct_chunk(place, stream, filter_mask=_ONLY_DEFLATED)

    def attributes(self, name: str, **values: Any) -> None:
        """Attach plain values (numbers, strings) to a group or data set."""
        for key, value in values.items():
            self.file[name].attrs[key] = _stored(value)
            self._digest.update(f"{name}.{key}={value!r};".encode())

    def account_bytes(self, name: str, data: bytes) -> None:
        """Let bytes that were stored by other means take part in the fingerprint."""
        self._digest.update(f"{name}:{len(data)};".encode())
        self._digest.update(data)

    def fingerprint(self) -> str:
        """Return the digest of everything stored so far."""
        return self._digest.hexdigest()

    def _account(self, name: str, values: np.ndarray) -> None:
        self._digest.update(f"{name}:{values.dtype}{values.shape};".encode())
        self._digest.update(np.ascontiguousarray(values).data)


@contextmanager
def write_container(
    path: Path, kind: str, scene: str, made_by: Mapping[str, Any]
) -> Iterator[ContainerWriter]:
    """Publish an HDF5 file of `kind` for `scene`; it is marked complete at the end."""
    with publish(path) as temporary:
        # Our own lock is on the file already, and HDF5's would collide with it.
        file = h5py.File(temporary, "w", libver=("v110", "v110"), locking=False)
        try:
            writer = ContainerWriter(file)
            yield writer
            about = {
                "kind": kind,
                "scene": scene,
                "provenance": json.dumps(made_by, sort_keys=True),
                "fingerprint": writer.fingerprint(),
                "complete": 1,
            }
            for key, value in about.items():
                file.attrs[key] = _stored(value)
        except BaseException:
            with contextlib.suppress(OSError):
                _close(file)  # fails too after a failed write; the first error counts
            raise
        _close(file)


def _close(file: h5py.File) -> None:
    """Close a written file; HDF5 reports a failed write here as a RuntimeError."""
    try:
        file.close()
    except RuntimeError as error:
        number = re.search(r"errno = (\d+)", str(error))
        code = int(number.group(1)) if number else errno.EIO
        raise OSError(code, os.strerror(code)) from error


class Container:
    """A complete file of one kind, opened for reading."""

    def __init__(self, path: Path, kind: str, scene: str | None = None) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            self._refuse("file", f"a {kind} file", "no such file")
        try:
            self.file = h5py.File(self.path, "r", locking=False)
        except OSError as error:
            self._refuse("file", "a readable HDF5 file", error)
        try:
            self._check(kind, scene)
        except BaseException:
            self.file.close()
            raise

    def _check(self, kind: str, scene: str | None) -> None:
        attributes = self.attributes("/")
        for key in ("complete", "kind", "scene", "fingerprint", "provenance"):
            attributes.setdefault(key, None)
        if attributes.get("complete") != 1:
            self._refuse("attribute complete", "1", attributes.get("complete"))
        if attributes.get("kind") != kind:
            self._refuse("attribute kind", kind, attributes.get("kind"))
        if scene is not None and attributes.get("scene") != scene:
            self._refuse("attribute scene", scene, attributes.get("scene"))
        self.scene: str = attributes["scene"]
        self.fingerprint: str = attributes["fingerprint"]
        self.provenance: dict[str, Any] = self._provenance(attributes["provenance"])

    def _provenance(self, text: str) -> dict[str, Any]:
        try:
            about = json.loads(text)
        except (TypeError, ValueError):
            about = None
        if not (isinstance(about, dict) and isinstance(about.get("inputs"), dict)):
            self._refuse("attribute provenance", "a JSON object with inputs", text)
        return about

    def expect_input(self, role: str, fingerprint: str) -> None:
        """Refuse this file if it was made from another `role` than the given one."""
        recorded = self.provenance["inputs"].get(role)
        if recorded != fingerprint:
            self._refuse(
                f"input {role}",
                f"fingerprint {fingerprint[:12]}",
                f"made from {str(recorded)[:12]}",
            )

    def attributes(self, name: str) -> dict[str, Any]:
        """Read the plain values attached to a group or data set."""
        try:
            found = dict(self._local(name).attrs)
        except (KeyError, OSError, RuntimeError) as error:
            self._refuse(f"attributes of {name}", "readable attributes", error)
        return _Attributes(self, name, found)

    def _local(self, name: str) -> h5py.Group | h5py.Dataset:
        """Return what stands under a name, without following links out of the file."""
        node = self.file
        for part in filter(None, name.split("/")):
            try:
                link = node.get(part, getlink=True)
                if not isinstance(link, h5py.HardLink):
                    self._refuse(name, "data in this file", type(link).__name__)
                node = node[part]
            except (KeyError, OSError, RuntimeError, AttributeError) as error:
                self._refuse(name, "readable data", error)
        return node

    def has(self, name: str) -> bool:
        """Tell whether the file holds something under a name."""
        try:
            return name in self.file
        except (KeyError, OSError, RuntimeError) as error:
            self._refuse(name, "readable data", error)
            raise

    def dataset(self, name: str, dtype: str, shape: tuple[int | None, ...]) -> Any:
        """Return a data set after checking its type, its shape and that it is local.

        `None` in `shape` stands for any length.
        """
        found = self._local(name)
        if not isinstance(found, h5py.Dataset):
            self._refuse(name, "a data set", type(found).__name__)
        if found.external or found.is_virtual:
            self._refuse(name, "data in this file", "data kept elsewhere")
        fits = len(found.shape) == len(shape) and all(
            want is None or want == have
            for want, have in zip(shape, found.shape, strict=True)
        )
        if found.dtype != np.dtype(dtype) or not fits:
            self._refuse(name, f"{dtype} {shape}", f"{found.dtype} {found.shape}")
        return found

    def array(self, name: str, dtype: str, shape: tuple[int | None, ...]) -> np.ndarray:
        """Read a whole data set, its checksum verified."""
        return self.read(self.dataset(name, dtype, shape), ())

    def read(self, dataset: h5py.Dataset, selection: Any) -> np.ndarray:
        """Read part of a data set, its checksums verified."""
        try:
            return dataset[selection]
        except (OSError, RuntimeError) as error:
            self._refuse(dataset.name, "data that fit their checksum", error)

    def frame(self, dataset: h5py.Dataset, index: int) -> np.ndarray:
        """Read one frame of a data set of one chunk per frame, checksum verified."""
        shape = dataset.shape[1:]
        place = (index, *[0] * len(shape))
        try:
            mask, stream = dataset.id.read_direct_chunk(place)
        except (OSError, RuntimeError, ValueError, MemoryError) as error:
            self._refuse(f"{dataset.name}[{index}]", "a whole chunk", error)
        if mask != _ONLY_DEFLATED or dataset.chunks != (1, *shape):
            return self.read(dataset, index)
        size = math.prod(shape) * dataset.dtype.itemsize
        try:
            data = inflate(stream, size)
        except ValueError as error:
            expected = "data that fit their checksum"
            self._refuse(f"{dataset.name}[{index}]", expected, error)
        return np.frombuffer(bytearray(data), dataset.dtype).reshape(shape)

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def __enter__(self) -> "Container":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _refuse(self, place: str, expected: str, found: object) -> None:
        raise BadInput(self.path, place, expected=expected, found=found, remedy=_REMEDY)


class _Attributes(dict):
    """Plain values of a group or data set; a missing one is the file's fault."""

    def __init__(self, container: Container, name: str, values: dict) -> None:
        super().__init__(
            {
                key: value.decode(errors="replace")
                if isinstance(value, bytes)
                else value
                for key, value in values.items()
            }
        )
        self._container, self._name = container, name

    def __missing__(self, key: str) -> None:
        self._container._refuse(f"{self._name}, attribute {key}", "a value", "none")


def _stored(value: Any) -> Any:
    """Give text a fixed length: the heap that holds the other kind has no checksum."""
    return np.bytes_(value.encode()) if isinstance(value, str) else value


def _chunk_shape(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Cut an array into chunks of about 256 KiB, whole along its last axes."""
    budget = (1 << 18) // itemsize
    chunk = list(shape)
    for axis in range(len(shape)):
        inner = int(np.prod(chunk[axis + 1 :]))
        chunk[axis] = max(1, min(shape[axis], budget // max(inner, 1)))
        if chunk[axis] > 1:
            break
    return tuple(chunk)
