import contextlib
import resource
import struct
import tracemalloc
import zlib

import numpy as np
import pytest

from gnesf_core.data import images
from gnesf_core.errors import BadInput

WHERE = ("scan.sens", "frame 7, colour")
WIDTH, HEIGHT = 64, 48


def gradient():
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([rows * 4, columns * 3, rows + columns], -1).astype(np.uint8)


def png(width, height, bits, color_type, rows, stream=None, interlace=0):
    """Build a PNG chunk by chunk, as its standard says."""
    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, interlace)
    stream = zlib.compress(rows) if stream is None else stream
    chunks = ((b"IHDR", header), (b"IDAT", stream), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        checksum = zlib.crc32(kind + body)
        data += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)
    return data


def jpeg_of_size(width, height):
    """Return a JPEG of gradient() whose frame header claims another size."""
    data = bytearray(images.encode_jpeg(gradient(), 90))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def test_a_hand_made_16_bit_png_decodes_to_its_big_endian_samples():
    rows = (
        b"\0" + struct.pack(">3H", 0, 1, 258) + b"\0" + struct.pack(">3H", 9, 65535, 7)
    )
    decoded = images.decode_png16(png(3, 2, 16, 0, rows), 3, 2, WHERE)
    assert decoded.dtype == np.uint16
    assert decoded.tolist() == [[0, 1, 258], [9, 65535, 7]]


def test_a_hand_made_rgb_png_decodes_in_the_order_red_green_blue():
    data = png(2, 1, 8, 2, b"\0" + bytes([1, 2, 3, 250, 251, 252]))
    decoded = images.decode_color(data, "png", 2, 1, WHERE)
    assert decoded.tolist() == [[[1, 2, 3], [250, 251, 252]]]


def test_grey_pngs_round_trip_exactly():
    deep = np.random.default_rng(0).integers(0, 65536, (9, 5)).astype(np.uint16)
    shallow = (deep % 256).astype(np.uint8)
    assert np.array_equal(
        images.decode_png16(images.encode_png16(deep), None, None, WHERE), deep
    )
    assert np.array_equal(
        images.decode_png8(images.encode_png8(shallow), 5, 9, WHERE), shallow
    )


def test_lossless_colour_encodings_round_trip_exactly():
    rgb = gradient()
    for data, encoding in ((rgb.tobytes(), "raw"), (images.encode_png(rgb), "png")):
        decoded = images.decode_color(data, encoding, WIDTH, HEIGHT, WHERE)
        assert np.array_equal(decoded, rgb)
        assert decoded.flags.writeable


def test_jpeg_round_trips_within_the_error_of_its_quality():
    data = images.encode_jpeg(gradient(), 95)
    decoded = images.decode_color(data, "jpeg", WIDTH, HEIGHT, WHERE)
    assert np.abs(decoded.astype(int) - gradient()).mean() < 2
    assert data == images.encode_jpeg(gradient(), 95)


def test_eight_bit_labels_are_refused_as_16_bit_ones():
    data = images.encode_png8(np.ones((2, 3), np.uint8))
    with pytest.raises(BadInput, match="16-bit grey PNG, found 8-bit grey; remedy"):
        images.decode_png16(data, 3, 2, ("labels/0.png", "image"))


def test_palettes_colours_and_interlacing_are_refused_as_grey():
    palette = png(2, 1, 8, 3, b"\0\1\2")
    interlaced = png(2, 1, 16, 0, b"\0\1\2\3\4", interlace=1)
    for data in (palette, interlaced, images.encode_png(gradient())):
        with pytest.raises(BadInput):
            images.decode_png16(data, None, None, WHERE)
        with pytest.raises(BadInput):
            images.decode_png8(data, None, None, WHERE)


@pytest.mark.parametrize("encoding", ["jpeg", "png", "raw"])
def test_every_cut_of_an_image_is_refused(encoding):
    rgb = gradient()
    data = {
        "jpeg": images.encode_jpeg(rgb, 50),
        "png": images.encode_png(rgb),
        "raw": rgb.tobytes(),
    }[encoding]
    images.check_color(data, encoding, WIDTH, HEIGHT, WHERE)
    for size in {*range(0, len(data), 7), len(data) - 1}:
        for function in (images.check_color, images.decode_color):
            with pytest.raises(BadInput, match="frame 7, colour"):
                function(data[:size], encoding, WIDTH, HEIGHT, WHERE)


def test_a_jpeg_of_another_size_is_refused_before_decoding():
    with pytest.raises(BadInput, match="64x48 pixels, found 65x48"):
        images.check_color(jpeg_of_size(65, 48), "jpeg", WIDTH, HEIGHT, WHERE)


def test_padding_after_a_jpeg_is_accepted():
    data = images.encode_jpeg(gradient(), 90) + bytes(3)
    images.check_color(data, "jpeg", WIDTH, HEIGHT, WHERE)
    assert images.decode_color(data, "jpeg", WIDTH, HEIGHT, WHERE).any()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n",
        b"<svg xmlns='http://www.w3.org/2000/svg' width='64' height='48'/>",
        b"II*\0\x08\0\0\0\0\0",
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8" + b"\xff" * 100,
    ],
)
def test_other_formats_declared_as_jpeg_or_png_are_refused(data):
    for encoding in ("jpeg", "png"):
        with pytest.raises(BadInput):
            images.decode_color(data, encoding, WIDTH, HEIGHT, WHERE)


def test_a_png_declared_as_jpeg_is_refused():
    with pytest.raises(BadInput, match="a JPEG image, found bytes starting 89504e47"):
        images.decode_color(images.encode_png(gradient()), "jpeg", WIDTH, HEIGHT, WHERE)


def test_images_that_claim_to_be_huge_are_refused_without_allocating_them():
    hostile_jpeg = jpeg_of_size(60000, 60000)
    hostile_png = png(60000, 60000, 16, 0, bytes(1000))
    images.decode_png16(images.encode_png16(np.ones((2, 2), np.uint16)), 2, 2, WHERE)
    tracemalloc.start()
    with pytest.raises(BadInput, match="60000x60000"):
        images.decode_color(hostile_jpeg, "jpeg", WIDTH, HEIGHT, WHERE)
    with pytest.raises(BadInput, match="60000x60000"):
        images.decode_color(hostile_jpeg, "jpeg", 60000, 60000, WHERE)
    with pytest.raises(BadInput, match="60000x60000"):
        images.decode_png16(hostile_png, None, None, WHERE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_second_frame_header_in_a_jpeg_is_refused():
    data = images.encode_jpeg(gradient(), 90)
    at = data.index(b"\xff\xc0")
    header = data[at : at + 19]
    with pytest.raises(BadInput, match="one JPEG frame header"):
        images.decode_color(data[:at] + header + data[at:], "jpeg", 64, 48, WHERE)


def test_a_jpeg_of_countless_scans_is_refused():
    data = images.encode_jpeg(gradient(), 90)
    scans = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" * 1000
    with pytest.raises(BadInput, match="JPEG scans"):
        images.decode_color(data[:-2] + scans + data[-2:], "jpeg", 64, 48, WHERE)


def test_a_png_whose_pixels_inflate_beyond_its_size_stays_bounded():
    compressor, megabyte = zlib.compressobj(1), bytes(1 << 20)
    stream = b"".join(compressor.compress(megabyte) for _ in range(256))
    bomb = png(3, 2, 16, 0, b"", stream + compressor.flush())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(BadInput):
        assert images.decode_png16(bomb, 3, 2, WHERE).tolist() == [[0, 0, 0]] * 2
    growth_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert growth_kib < 32 << 10


def test_any_flipped_bit_in_a_png_is_noticed():
    data = images.encode_png16(np.arange(12, dtype=np.uint16).reshape(3, 4))
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadInput):
            images.decode_png16(bytes(damaged), 4, 3, WHERE)


def test_random_damage_to_a_jpeg_ends_in_pixels_or_in_bad_input():
    random = np.random.default_rng(3)
    data = np.frombuffer(images.encode_jpeg(gradient(), 60), np.uint8)
    refused = 0
    for _ in range(400):
        damaged = data.copy()
        damaged[random.integers(0, len(data), 3)] = random.integers(0, 256, 3)
        try:
            decoded = images.decode_color(damaged.tobytes(), "jpeg", 64, 48, WHERE)
            assert decoded.shape == (48, 64, 3)
        except BadInput:
            refused += 1
    assert 0 < refused < 400


def test_a_jpeg_of_endless_scans_is_refused_before_it_is_decoded():
    jpeg = images.encode_jpeg(np.zeros((16, 16, 3), np.uint8), 90)
    start = jpeg.index(b"\xff\xda")
    scan = jpeg[start:-2]
    endless = jpeg[:start] + scan * 200 + jpeg[-2:]
    for check in (images.check_color, images.probe_color, images.decode_color):
        with pytest.raises(BadInput, match="JPEG scans"):
            check(endless, "jpeg", 16, 16, ("scan.sens", "frame 1"))
