"""zlib streams, by isal where it is installed: same content, several times faster.

A stream ends with a checksum of its content (Adler-32), which inflating verifies.
"""

import functools
import zlib
from types import ModuleType

_LEVEL = 1


@functools.cache
def _library() -> ModuleType:
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib
    return isal_zlib


def deflate(data: bytes | memoryview) -> bytes:
    """Compress quickly; the bytes depend on the library, what they hold does not."""
    return _library().compress(data, _LEVEL)


def inflate(stream: bytes, size: int) -> bytes:
    """Return the `size` bytes that a stream holds, never much more.

    Raises:
        ValueError: The stream is damaged, or holds another number of bytes.
    """
    library = _library()
    decompressor = library.decompressobj()
    try:
        data = decompressor.decompress(stream, size + 1)
    except library.error as error:
        raise ValueError(f"damage ({error})") from None
    if len(data) != size:
        found = "more" if len(data) > size else f"{len(data)}"
        raise ValueError(f"{found} bytes instead of {size}")
    if not decompressor.eof:
        raise ValueError("a stream without its end")
    return data
