import dataclasses
import hashlib
import os
import resource
import struct
import tracemalloc
import zlib

import numpy as np
import pytest

from gnesf_core.data import images
from gnesf_core.data.scan import ScanInfo
from gnesf_core.data.sens import NO_POSE, SensReader, SensWriter
from gnesf_core.errors import BadInput

WIDTH, HEIGHT = 6, 4
INTRINSICS = np.array([[5.5, 0, 2.5], [0, 5.25, 1.5], [0, 0, 1]])
NAME = b"iPad"

# Where each field starts in a file made by `hand_made`, by the format's definition.
AT = {
    "version": 0,
    "name size": 4,
    "name": 12,
    "colour intrinsics": 16,
    "colour extrinsics": 80,
    "depth intrinsics": 144,
    "depth extrinsics": 208,
    "colour compression": 272,
    "depth compression": 276,
    "colour width": 280,
    "colour height": 284,
    "depth width": 288,
    "depth height": 292,
    "depth shift": 296,
    "frame count": 300,
    "pose": 308,
    "colour timestamp": 372,
    "depth timestamp": 380,
    "colour bytes": 388,
    "depth bytes": 396,
    "colour": 404,
}


def color_image(index):
    return np.random.default_rng(index).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def depth_image(index):
    depth = np.random.default_rng(50 + index).integers(0, 65536, (HEIGHT, WIDTH))
    return depth.astype(np.uint16)


def pose(index):
    matrix = np.eye(4)
    matrix[:3, 3] = index, 0.5, -0.25
    return matrix


def encode(index, encoding):
    rgb = color_image(index)
    if encoding == "raw":
        return rgb.tobytes()
    return images.encode_png(rgb) if encoding == "png" else images.encode_jpeg(rgb, 90)


def hand_made(frames=2, version=4, color="raw", depth="zlib", imu=1):
    """Build a file with struct alone."""
    matrix = np.eye(4)
    matrix[:3, :3] = INTRINSICS
    camera = struct.pack("<16f", *matrix.ravel())
    identity = struct.pack("<16f", *np.eye(4).ravel())
    data = struct.pack("<IQ", version, len(NAME)) + NAME + (camera + identity) * 2
    codes = {"raw": 0, "png": 1, "jpeg": 2}[color], {"raw": 0, "zlib": 1}[depth]
    data += struct.pack("<ii4I", *codes, WIDTH, HEIGHT, WIDTH, HEIGHT)
    data += struct.pack("<fQ", 1000.0, frames)
    for index in range(frames):
        blob = depth_image(index).tobytes()
        blob = zlib.compress(blob) if depth == "zlib" else blob
        image = encode(index, color)
        data += struct.pack("<16f", *pose(index).ravel())
        data += struct.pack("<4Q", 10 + index, 20 + index, len(image), len(blob))
        data += image + blob
    return data + (struct.pack("<Q", imu) + bytes(128 * imu) if version == 4 else b"")


def replaced(data, field, layout, *values):
    damaged = bytearray(data)
    struct.pack_into(layout, damaged, AT[field], *values)
    return bytes(damaged)


def description(path, **changes):
    info = ScanInfo(
        path=path,
        frame_count=0,
        color_width=WIDTH,
        color_height=HEIGHT,
        depth_width=WIDTH,
        depth_height=HEIGHT,
        color_intrinsics=INTRINSICS,
        depth_intrinsics=INTRINSICS * [[0.5], [0.5], [1]],
        depth_units_per_metre=1000.0,
        color_encoding="raw",
        depth_encoding="zlib",
    )
    return dataclasses.replace(info, **changes)


def read_all(path):
    """Touch everything in a file; return the number of frames that decode."""
    good = 0
    with SensReader(path) as scan:
        for index in range(scan.info.frame_count):
            try:
                scan.decode_color(index)
                scan.decode_depth(index)
                good += 1
            except BadInput:
                continue
        scan.sha256()
    return good


@pytest.fixture
def write(tmp_path):
    def to_file(data):
        path = tmp_path / "scan.sens"
        path.write_bytes(data)
        return path

    return to_file


def peak_growth_kib(path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadInput):
        read_every_depth(path)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


def read_every_depth(path):
    with SensReader(path) as scan:
        for index in range(scan.info.frame_count):
            scan.decode_depth(index)


def test_a_hand_made_file_reads_as_its_definition_says(write):
    data = hand_made()
    with SensReader(write(data)) as scan:
        info = scan.info
        assert (scan.version, scan.sensor_name, info.frame_count) == (4, "iPad", 2)
        assert (info.color_width, info.color_height) == (WIDTH, HEIGHT)
        assert (info.depth_width, info.depth_height) == (WIDTH, HEIGHT)
        assert (info.color_encoding, info.depth_encoding) == ("raw", "zlib")
        assert info.depth_units_per_metre == 1000.0
        assert np.array_equal(info.color_intrinsics, INTRINSICS)
        assert np.array_equal(scan.world_from_camera, [pose(0), pose(1)])
        assert scan.world_from_camera.dtype == np.float64
        assert scan.timestamps_us.tolist() == [[10, 20], [11, 21]]
        for index in range(2):
            assert np.array_equal(scan.decode_color(index), color_image(index))
            assert np.array_equal(scan.decode_depth(index), depth_image(index))
        assert scan.color_bytes(1) == color_image(1).tobytes()
        assert scan.depth_bytes(0) == zlib.compress(depth_image(0).tobytes())
        assert scan.sha256() == hashlib.sha256(data).hexdigest()
        assert scan.warnings == []


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("depth", ["raw", "zlib"])
@pytest.mark.parametrize("color", ["raw", "png", "jpeg"])
def test_the_writer_writes_the_defined_bytes(tmp_path, version, color, depth):
    path = tmp_path / "ours.sens"
    info = description(
        path,
        color_encoding=color,
        depth_encoding=depth,
        depth_intrinsics=INTRINSICS,
    )
    with SensWriter(
        path, info, version=version, sensor_name="iPad", zlib_level=6
    ) as writer:
        for index in range(3):
            image = encode(index, color)
            writer.add(pose(index), image, depth_image(index), 10 + index, 20 + index)
    assert path.read_bytes() == hand_made(3, version, color, depth, imu=0)
    with SensReader(path) as scan:
        assert scan.warnings == []
        assert (scan.version, scan.info.frame_count) == (version, 3)
        for index in range(3):
            assert scan.color_bytes(index) == encode(index, color)
            assert np.array_equal(scan.decode_depth(index), depth_image(index))
            image = scan.decode_color(index)
            assert color == "jpeg" or np.array_equal(image, color_image(index))


def test_depth_that_is_already_encoded_is_stored_untouched(tmp_path):
    path = tmp_path / "scan.sens"
    blob = zlib.compress(depth_image(0).tobytes(), 9)
    with SensWriter(path, description(path)) as writer:
        writer.add(pose(0), b"", blob)
    with SensReader(path) as scan:
        assert scan.depth_bytes(0) == blob
        assert scan.color_bytes(0) == b""
        with pytest.raises(BadInput, match="frame 0, colour"):
            scan.decode_color(0)


def test_lost_poses_stay_minus_infinity(tmp_path):
    path = tmp_path / "scan.sens"
    with SensWriter(path, description(path)) as writer:
        for matrix in (pose(0), NO_POSE, np.full((4, 4), np.nan)):
            writer.add(matrix, encode(0, "raw"), depth_image(0))
    with SensReader(path) as scan:
        assert np.array_equal(scan.world_from_camera[0], pose(0))
        assert np.isneginf(scan.world_from_camera[1]).all()
        assert np.isnan(scan.world_from_camera[2]).all()
        assert np.array_equal(scan.decode_depth(2), depth_image(0))


def test_a_scan_without_frames_is_read_as_such(write):
    with SensReader(write(hand_made(0))) as scan:
        assert scan.info.frame_count == 0
        assert scan.world_from_camera.shape == (0, 4, 4)
        assert scan.warnings == []


def test_an_unfinished_file_is_refused(tmp_path):
    path = tmp_path / "scan.sens"
    with pytest.raises(KeyError), SensWriter(path, description(path)) as writer:
        writer.add(pose(0), encode(0, "raw"), depth_image(0))
        raise KeyError
    with pytest.raises(BadInput, match="frame count"):
        SensReader(path)


def test_the_writer_refuses_what_the_header_does_not_describe(tmp_path):
    path = tmp_path / "scan.sens"
    with SensWriter(path, description(path)) as writer:
        for depth in (depth_image(0)[:2], depth_image(0).astype(np.int32)):
            with pytest.raises((ValueError, TypeError), match="depth"):
                writer.add(pose(0), b"", depth)
        with pytest.raises(ValueError, match="larger than readers accept"):
            writer.add(pose(0), bytes(1 << 20), depth_image(0))
        with pytest.raises((ValueError, TypeError), match="4"):
            writer.add(np.eye(3), b"", depth_image(0))
    with pytest.raises(ValueError, match="encoding"):
        SensWriter(path, description(path, depth_encoding="png"))
    with pytest.raises(ValueError, match="version"):
        SensWriter(path, description(path), version=2)


@pytest.mark.parametrize("version", [3, 4])
def test_every_cut_is_refused_unless_only_inertial_data_is_lost(write, version):
    data = hand_made(2, version)
    frames_end = len(hand_made(2, 3))
    for size in range(len(data)):
        path = write(data[:size])
        if size < frames_end:
            with pytest.raises(BadInput, match="scan.sens"):
                SensReader(path)
        else:
            with SensReader(path) as scan:
                assert np.array_equal(scan.decode_depth(1), depth_image(1))
                assert len(scan.warnings) == 1
                assert "inertial" in scan.warnings[0]


def test_a_cut_image_names_its_frame_and_both_sizes(write):
    data = hand_made(2, 3)
    blob = len(zlib.compress(depth_image(1).tobytes()))
    with pytest.raises(BadInput) as caught:
        SensReader(write(data[:-5]))
    assert (
        f"scan.sens: frame 1, depth: expected {blob} bytes,"
        f" found {blob - 5} up to the file's end; remedy: fetch the file again"
    ) in str(caught.value)


def test_bytes_after_the_end_are_warned_of(write):
    for version in (3, 4):
        with SensReader(write(hand_made(1, version) + b"xyz")) as scan:
            assert "3 bytes after the end" in scan.warnings[0]


@pytest.mark.parametrize(
    ("field", "layout", "value", "message"),
    [
        ("version", "<I", 2, "version"),
        ("version", "<I", 5, "version"),
        ("version", "<I", 4 << 24, "version"),
        ("name size", "<Q", 1 << 40, "sensor name"),
        ("name size", "<Q", 2**64 - 1, "sensor name"),
        ("name size", "<Q", 4000, "header"),
        ("colour intrinsics", "<f", float("nan"), "colour intrinsics"),
        ("colour intrinsics", "<f", 0.0, "colour intrinsics"),
        ("depth intrinsics", "<f", -5.0, "depth intrinsics"),
        ("depth intrinsics", "<f", float("inf"), "depth intrinsics"),
        ("colour compression", "<i", -1, "colour compression"),
        ("colour compression", "<i", 3, "colour compression"),
        ("depth compression", "<i", 2, "ScanNet's own tools"),
        ("depth compression", "<i", -(2**31), "depth compression"),
        ("colour width", "<I", 0, "colour size"),
        ("colour height", "<I", 60000, "colour size"),
        ("depth width", "<I", 2**31, "depth size"),
        ("depth height", "<I", 2**32 - 1, "depth size"),
        ("depth shift", "<f", float("nan"), "depth shift"),
        ("depth shift", "<f", float("inf"), "depth shift"),
        ("depth shift", "<f", 0.0, "depth shift"),
        ("depth shift", "<f", -1000.0, "depth shift"),
        ("depth shift", "<f", 1e-40, "depth shift"),
        ("frame count", "<Q", 1 << 60, "frame count"),
        ("frame count", "<Q", 2**31 - 1, "frame count"),
        ("frame count", "<Q", 999_999, "frame count"),
        ("frame count", "<Q", 4, "frame 3, header"),
        ("colour bytes", "<Q", 2**31 - 1, "frame 0, image sizes"),
        ("colour bytes", "<Q", 2**64 - 1, "frame 0, image sizes"),
        ("depth bytes", "<Q", 2**63, "frame 0, image sizes"),
        ("depth bytes", "<Q", 60000, "frame 0, depth"),
    ],
)
def test_hostile_headers_are_refused_in_little_memory(
    write, field, layout, value, message
):
    path = write(replaced(hand_made(), field, layout, value))
    tracemalloc.start()
    with pytest.raises(BadInput, match=message):
        SensReader(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 18


def test_an_impossible_number_of_inertial_measurements_is_refused(write):
    for count in (2**31 - 1, 2**64 - 1):
        data = hand_made(1, 3)
        data = replaced(data, "version", "<I", 4) + struct.pack("<Q", count)
        with pytest.raises(BadInput, match="IMU count"):
            SensReader(write(data))


def test_empty_missing_and_foreign_files_are_refused(write, tmp_path):
    for data in (b"", b"\x04", bytes(1000), b"PK\x03\x04" * 200):
        with pytest.raises(BadInput, match="scan.sens"):
            SensReader(write(data))
    for path in (tmp_path / "absent.sens", tmp_path):
        with pytest.raises(BadInput, match="no such file"):
            SensReader(path)


def test_a_zlib_bomb_stops_at_the_size_of_the_image(write):
    side, compressor, megabyte = 640, zlib.compressobj(1), bytes(1 << 20)
    bomb = b"".join(compressor.compress(megabyte) for _ in range(256))
    bomb += compressor.flush()
    data = hand_made(0, 3)
    data = replaced(data, "frame count", "<Q", 1)
    data = replaced(data, "depth width", "<II", side, side)
    data += bytes(64 + 16) + struct.pack("<QQ", 0, len(bomb)) + bomb
    path = write(data)
    assert peak_growth_kib(path) < 16 << 10
    with SensReader(path) as scan, pytest.raises(BadInput) as caught:
        scan.decode_depth(0)
    assert f"more bytes instead of {side * side * 2}" in str(caught.value)


def test_depth_of_a_wrong_length_is_refused(write):
    rows = depth_image(0).tobytes()
    whole = zlib.compress(rows)
    blobs = (
        b"",
        b"not zlib",
        zlib.compress(rows[:-1]),
        zlib.compress(rows + b"\0"),
        whole[:-1],
        whole[:-4] + b"abcd",
    )
    for blob in blobs:
        data = replaced(hand_made(0, 3), "frame count", "<Q", 1)
        data += bytes(64 + 16) + struct.pack("<QQ", 0, len(blob)) + blob
        path = write(data)
        with SensReader(path) as scan, pytest.raises(BadInput, match="frame 0, depth"):
            scan.decode_depth(0)


def test_a_jpeg_that_claims_another_size_is_refused(write):
    data = bytearray(hand_made(1, color="jpeg"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 60000, 60000)
    with SensReader(write(bytes(data))) as scan:
        with pytest.raises(BadInput, match="frame 0, colour.*60000x60000"):
            scan.decode_color(0)
        assert np.array_equal(scan.decode_depth(0), depth_image(0))


def test_postscript_declared_as_jpeg_is_refused(write):
    image = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\n"
    data = replaced(hand_made(0, 3, color="jpeg"), "frame count", "<Q", 1)
    data += bytes(64 + 16) + struct.pack("<QQ", len(image), 0) + image
    path = write(data)
    with SensReader(path) as scan, pytest.raises(BadInput, match="a JPEG image"):
        scan.decode_color(0)


def test_memory_stays_flat_with_many_frames(write):
    count, pixel = 20_000, bytes(3)
    frame = struct.pack("<16f", *np.eye(4).ravel())
    frame += struct.pack("<4Q", 0, 0, 3000, 0) + pixel * 1000
    data = replaced(hand_made(0, 3, depth="raw"), "frame count", "<Q", count)
    data = replaced(data, "colour width", "<II", 100, 10)
    path = write(data + frame * count)
    tracemalloc.start()
    with SensReader(path) as scan:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert scan.info.frame_count == count
        assert scan.decode_color(count - 1).shape == (10, 100, 3)
    assert peak < 400 * count < path.stat().st_size / 7


def test_a_file_that_shrinks_or_grows_while_being_read_is_refused(write):
    data = hand_made()
    path = write(data)
    with pytest.raises(BadInput, match="modified while"), SensReader(path) as scan:
        with path.open("ab") as file:
            file.write(b"more")
        assert np.array_equal(scan.decode_depth(0), depth_image(0))
    path = write(data)
    scan = SensReader(path)
    os.truncate(path, AT["colour"])
    for read in (lambda: scan.color_bytes(0), scan.sha256, scan.check_unchanged):
        with pytest.raises(BadInput, match="copy is complete"):
            read()
    scan.close()


def test_every_flipped_header_bit_is_read_or_refused_with_a_reason(write):
    data = hand_made(1)
    refused = 0
    for bit in range(8 * AT["colour"]):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path = write(bytes(damaged))
        try:
            read_all(path)
        except BadInput as error:
            refused += 1
            assert str(error).startswith(str(path))
            assert "remedy" in str(error)
    assert refused > 200


def test_randomly_damaged_files_raise_nothing_but_bad_input(write):
    random = np.random.default_rng(20)
    sources = [
        hand_made(3, version, color, depth)
        for version in (3, 4)
        for color in ("raw", "png", "jpeg")
        for depth in ("raw", "zlib")
    ]
    outcomes = {"refused": 0, "read": 0}
    for trial in range(2000):
        data = bytearray(sources[trial % len(sources)])
        for _ in range(random.integers(1, 6)):
            at = int(random.integers(0, len(data)))
            kind = random.integers(0, 4)
            if kind == 0:
                data[at] = random.integers(0, 256)
            elif kind == 1:
                data[at : at + 8] = random.bytes(8)
            elif kind == 2:
                del data[at : at + int(random.integers(1, 40))]
            else:
                data[at:at] = random.bytes(int(random.integers(1, 40)))
        try:
            read_all(write(bytes(data)))
            outcomes["read"] += 1
        except BadInput:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 100


def test_writing_twice_gives_the_same_bytes(tmp_path):
    digests = set()
    for name in ("a.sens", "b.sens"):
        path = tmp_path / name
        with SensWriter(path, description(path)) as writer:
            writer.add(pose(1), encode(1, "raw"), depth_image(1))
        with SensReader(path) as scan:
            digests.add(scan.sha256())
    assert len(digests) == 1


def test_depth_inflates_alike_without_isal(write, monkeypatch):
    monkeypatch.setattr("gnesf_core.data.deflate._library", lambda: zlib)
    path = write(hand_made())
    with SensReader(path) as scan:
        assert np.array_equal(scan.decode_depth(1), depth_image(1))
    damaged = path.read_bytes().replace(
        zlib.compress(depth_image(0).tobytes()), bytes([1]) * 59
    )
    path = write(damaged)
    with SensReader(path) as scan, pytest.raises(BadInput, match="zlib stream"):
        scan.decode_depth(0)
