"""Bounded image codecs: JPEG and PNG bytes from outside to arrays and back.

The size that an image claims is compared with the size that the caller expects before
a decoder allocates anything for it. Pillow does the decoding and is imported only
where it is needed, since a training node holds decoded arrays.
"""

import io
import struct
import zlib
from pathlib import Path
from typing import NoReturn

import numpy as np

from gnesf_core.errors import BadInput
from gnesf_core.shapes import UInt8, UInt16

MAX_PIXELS = 64_000_000
MAX_JPEG_SCANS = 100  # progressive encoders write about ten; each costs a whole pass

Where = tuple[Path | str, str]  # the file and the place in it that errors name

_AGAIN = "fetch or export the file again; it is damaged or was cut short"
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_COLOR_TYPES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # type -> channels
_GREY = 0
_STANDALONE_MARKERS = {0x01, *range(0xD0, 0xD8)}
_FRAME_MARKERS = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9


def decode_color(
    data: bytes, encoding: str, width: int, height: int, where: Where
) -> UInt8[np.ndarray, "height width 3"]:
    """Decode one colour image as RGB, refusing any size but the expected one."""
    check_color(data, encoding, width, height, where)
    if encoding == "raw":
        return np.frombuffer(data, np.uint8).reshape(height, width, 3).copy()
    return _pillow_decode(data, encoding, "RGB", (width, height), where)


def decode_color_reduced(
    data: bytes,
    encoding: str,
    width: int,
    height: int,
    least: tuple[int, int],
    where: Where,
) -> UInt8[np.ndarray, "h w 3"]:
    """Decode a colour image that will be resized to `least`, if need be from less.

    A JPEG's decoder can leave out what resizing would average away, at half the cost.
    It is asked for a size that divides the image's, so that the edges stay in place.
    """
    if encoding != "jpeg":
        return decode_color(data, encoding, width, height, where)
    shrink = 1
    while shrink < 8 and all(
        size % (2 * shrink) == 0 and size // (2 * shrink) >= enough
        for size, enough in zip((width, height), least, strict=True)
    ):
        shrink *= 2
    check_color(data, encoding, width, height, where)
    return _pillow_decode(data, encoding, "RGB", (width, height), where, shrink)


def check_color(
    data: bytes, encoding: str, width: int, height: int, where: Where
) -> None:
    """Check the frame of one colour image, its size and its end, without decoding."""
    _check_pixels(width, height, where)
    if encoding == "jpeg" and data.count(b"\xff\xda") > MAX_JPEG_SCANS:
        _refuse(where, f"at most {MAX_JPEG_SCANS} JPEG scans", "more", _AGAIN)
    if encoding == "raw":
        if len(data) != width * height * 3:
            expected = f"{width * height * 3} bytes of {width}x{height} RGB rows"
            _refuse(where, expected, f"{len(data)} bytes", _AGAIN)
        return
    if encoding == "jpeg":
        found = _jpeg_size(data, where)
    elif encoding == "png":
        found = _png_header(data, where)[:2]
    else:
        raise ValueError(f"unknown colour encoding {encoding!r}")
    _check_size(found, width, height, where)


def probe_color(
    data: bytes, encoding: str, width: int, height: int, where: Where
) -> None:
    """Make sure that a colour image decodes, as cheaply as that can be known.

    A JPEG's coded data are read to their end, but turned into an eighth of the pixels,
    which costs a third of `decode_color`; other encodings are decoded.
    """
    check_color(data, encoding, width, height, where)
    if encoding == "jpeg":
        _pillow_decode(data, "jpeg", "RGB", (width, height), where, shrink=8)
    else:
        decode_color(data, encoding, width, height, where)


def encode_jpeg(rgb: UInt8[np.ndarray, "height width 3"], quality: int) -> bytes:
    """Encode an RGB image as baseline JPEG."""
    return _pillow_encode(rgb, format="JPEG", quality=quality)


def encode_png(rgb: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """Encode an RGB image as PNG, quickly rather than tightly."""
    return _pillow_encode(rgb, format="PNG", compress_level=1)


def decode_png16(
    data: bytes, width: int | None, height: int | None, where: Where
) -> UInt16[np.ndarray, "height width"]:
    """Decode a 16-bit grey PNG: depth in sensor units, or label ids.

    An 8-bit image is refused: label ids above 255 would have been lost on the way.
    """
    remedy = (
        "use the original 16-bit image; a viewer or converter has reduced it, and"
        " ids or depths above 255 are lost"
    )
    return _decode_grey(data, 16, width, height, where, remedy)


def decode_png8(
    data: bytes, width: int | None, height: int | None, where: Where
) -> UInt8[np.ndarray, "height width"]:
    """Decode an 8-bit grey PNG such as instance ids."""
    remedy = "write the image as 8-bit grey, without a palette"
    return _decode_grey(data, 8, width, height, where, remedy)


def encode_png16(image: UInt16[np.ndarray, "height width"]) -> bytes:
    """Encode a 16-bit grey PNG, quickly rather than tightly."""
    if image.dtype != np.uint16:
        raise ValueError(f"expected uint16, found {image.dtype}")
    return _pillow_encode(image, format="PNG", compress_level=1)


def encode_png8(image: UInt8[np.ndarray, "height width"]) -> bytes:
    """Encode an 8-bit grey PNG, quickly rather than tightly."""
    if image.dtype != np.uint8 or image.ndim != 2:
        raise ValueError(f"expected uint8 of 2 dimensions, found {image.dtype}")
    return _pillow_encode(image, format="PNG", compress_level=1)


def _decode_grey(
    data: bytes,
    bits: int,
    width: int | None,
    height: int | None,
    where: Where,
    remedy: str,
) -> np.ndarray:
    """Decode a grey PNG of exactly `bits` bits per pixel."""
    found_width, found_height, found_bits, color_type, interlaced = _png_header(
        data, where
    )
    if (found_bits, color_type) != (bits, _GREY):
        kind = "grey" if color_type == _GREY else f"colour type {color_type}"
        _refuse(where, f"a {bits}-bit grey PNG", f"{found_bits}-bit {kind}", remedy)
    if interlaced:
        _refuse(where, "a PNG without interlacing", "an interlaced one", remedy)
    width = found_width if width is None else width
    height = found_height if height is None else height
    _check_size((found_width, found_height), width, height, where)
    mode = "I;16" if bits == 16 else "L"
    return _pillow_decode(data, "png", mode, (width, height), where)


def _jpeg_size(data: bytes, where: Where) -> tuple[int, int]:
    """Return the width and height in a JPEG's frame header; require its end mark."""
    if data[:2] != b"\xff\xd8":
        _refuse(where, "a JPEG image", _describe(data), _AGAIN)
    size, position = None, 2
    while True:
        if position + 4 > len(data) or data[position] != 0xFF:
            _refuse(where, f"a JPEG marker at byte {position}", "none", _AGAIN)
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker in _STANDALONE_MARKERS:
            position += 2
            continue
        if marker in (_START_OF_SCAN, _END_OF_IMAGE):
            break
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if length < 2 or position + 2 + length > len(data):
            _refuse(where, "a whole JPEG segment", f"length {length}", _AGAIN)
        if marker in _FRAME_MARKERS:
            if size is not None or length < 8:
                _refuse(where, "one JPEG frame header", "a malformed one", _AGAIN)
            height, width = struct.unpack_from(">HH", data, position + 5)
            size = width, height
        position += 2 + length
    if size is None or marker != _START_OF_SCAN:
        _refuse(where, "a JPEG frame header and a scan", "none", _AGAIN)
    # Coded data never holds FF D9, so whatever follows the last one is padding.
    if data.rfind(b"\xff\xd9", position) < 0:
        _refuse(where, "a JPEG image with its end mark", "none", _AGAIN)
    return size


def _png_header(data: bytes, where: Where) -> tuple[int, int, int, int, bool]:
    """Return width, height, bits, colour type and interlacing; check every chunk."""
    if data[:8] != _PNG_SIGNATURE:
        _refuse(where, "a PNG image", _describe(data), _AGAIN)
    position, header, view = 8, None, memoryview(data)
    while True:
        if position + 12 > len(data):
            _refuse(where, "a PNG image with its end chunk", "none", _AGAIN)
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            _refuse(where, "a whole PNG chunk", f"a length of {length}", _AGAIN)
        checksum = int.from_bytes(data[end - 4 : end], "big")
        if zlib.crc32(view[position + 4 : end - 4]) != checksum:
            _refuse(where, f"the checksum of chunk {kind!r}", "another", _AGAIN)
        if (kind == b"IHDR") != (header is None) or (header is None and length != 13):
            _refuse(where, "one PNG header, first of all chunks", f"{kind!r}", _AGAIN)
        if kind == b"IHDR":
            header = struct.unpack_from(">IIBBBBB", data, position + 8)
        if kind == b"IEND":
            break
        position = end
    width, height, bits, color_type, _, _, interlace = header
    if color_type not in _PNG_COLOR_TYPES or bits not in (1, 2, 4, 8, 16):
        found = f"type {color_type} with {bits} bits"
        _refuse(where, "a PNG colour type", found, _AGAIN)
    return width, height, bits, color_type, bool(interlace)


def _pillow_decode(
    data: bytes,
    encoding: str,
    mode: str,
    size: tuple[int, int],
    where: Where,
    shrink: int = 1,
) -> np.ndarray:
    """Decode with the one declared codec; the caller has checked the size."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=(encoding.upper(),)) as image:
            if image.size != size:
                raise ValueError(f"a size of {image.size}")
            if shrink > 1:
                image.draft(mode, (size[0] // shrink, size[1] // shrink))
            return np.array(image if image.mode == mode else image.convert(mode))
    except Exception as error:  # Pillow raises whatever its parsers stumble over
        expected = f"a {size[0]}x{size[1]} {encoding.upper()} image"
        raise BadInput(
            *where, expected=expected, found=f"damage ({error})", remedy=_AGAIN
        ) from error


def _pillow_encode(image: np.ndarray, **options: object) -> bytes:
    """Encode an array with Pillow."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, **options)
    return buffer.getvalue()


def _check_size(found: tuple[int, int], width: int, height: int, where: Where) -> None:
    """Refuse an image whose header states another size than the expected one."""
    _check_pixels(*found, where)
    if found != (width, height):
        remedy = "use images of one size, the one that the scan declares"
        _refuse(where, f"{width}x{height} pixels", f"{found[0]}x{found[1]}", remedy)


def _check_pixels(width: int, height: int, where: Where) -> None:
    """Refuse empty images and those too large to decode safely."""
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        expected = f"an image of 1 to {MAX_PIXELS} pixels"
        _refuse(where, expected, f"{width}x{height}", "shrink the images")


def _describe(data: bytes) -> str:
    """Say what stands where an image should start."""
    return f"bytes starting {data[:8].hex()}" if data else "no bytes"


def _refuse(where: Where, expected: str, found: str, remedy: str) -> NoReturn:
    """Raise the error of the place `where`."""
    raise BadInput(*where, expected=expected, found=found, remedy=remedy)
