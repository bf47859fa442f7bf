"""A user's own maps: what they mean, and what is refused."""

import io
import pickle
import struct
import zlib

import numpy as np
import pytest

from gnesf_core.config import FolderPriorConfig, FramesConfig
from gnesf_core.data import images, store
from gnesf_core.errors import BadInput
from gnesf_core.labels import CLASS_NAMES
from gnesf_core.priors import folder
from gnesf_core.priors.interface import Prior
from stages import extract_frames
from tests import tiny_room

WALL, BED, SOFA, OTHER = (
    CLASS_NAMES.index(name) for name in ("wall", "bed", "sofa", "otherfurniture")
)
SCENE = "scene0000_00"
SIZE = (8, 6)  # of the maps, width and height
NPY, PNG = "{scene}/{index:05d}.npy", "{scene}/{index:05d}.png"


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    raw = tmp_path_factory.mktemp("raw")
    room = tiny_room.write_room(raw, frames=12, bad_poses=(0,), empty_depth=())
    out = raw / "frames.h5"
    extract_frames.main(
        room.sens, out, room.scene, "scannet", FramesConfig(15.0, 0.1, 9, False, 0, 0)
    )
    with store.Frames(out) as kept:
        assert kept.index[0] > 0  # so that a position is not taken for a raw number
        yield kept


def open_prior(root, pattern, ids=""):
    config = FolderPriorConfig(str(root), pattern, str(ids))
    prior = folder.open_prior(config, None, "cpu")
    assert isinstance(prior, Prior)
    return prior


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def channels(seed, count=20, dtype=np.float32):
    values = np.random.default_rng(seed).random((count, *SIZE[::-1]))
    return (values * 255 if dtype == np.uint8 else values).astype(dtype)


def ids_image(seed, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, 24, SIZE[::-1]).astype(dtype)


def write_all(root, frames, make, suffix):
    """Write a file for each kept frame, and return where the first one lies."""
    (root / SCENE).mkdir(parents=True, exist_ok=True)
    for index in frames.index.tolist():
        (root / SCENE / f"{index:05d}{suffix}").write_bytes(make(index))
    return root / SCENE / f"{frames.index[0]:05d}{suffix}"


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.uint8])
@pytest.mark.parametrize("order", ["C", "F"])
def test_channels_are_scores_of_the_frame_with_that_raw_number(
    tmp_path, frames, dtype, order
):
    def make(index):
        return npy(np.asarray(channels(index, dtype=dtype), order=order))

    write_all(tmp_path, frames, make, ".npy")
    prior = open_prior(tmp_path, NPY)

    assert prior.map_size(frames) == SIZE
    for start in (0, 2):
        maps = list(prior.scores(frames, start))
        assert len(maps) == len(frames) - start
        for index, scores in zip(frames.index[start:], maps, strict=True):
            assert scores.dtype == np.float32
            np.testing.assert_array_equal(scores, channels(index, dtype=dtype))


@pytest.mark.parametrize(
    ("dtype", "encode"),
    [(np.uint8, images.encode_png8), (np.uint16, images.encode_png16)],
)
def test_label_images_are_one_hot_and_unknown_ids_are_void(
    tmp_path, frames, dtype, encode
):
    write_all(tmp_path, frames, lambda index: encode(ids_image(index, dtype)), ".png")

    maps = list(open_prior(tmp_path, PNG).scores(frames, 0))

    for index, scores in zip(frames.index, maps, strict=True):
        ids = ids_image(index)
        for row, column in np.ndindex(*ids.shape):
            expected = [float(ids[row, column] == class_id) for class_id in range(20)]
            assert scores[:, row, column].tolist() == expected


@pytest.mark.parametrize("separator", [",", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_table_sends_ids_to_classes(tmp_path, frames, separator, newline):
    rows = [("id", "class"), ("300", "wall"), ("7", "bed"), ("8", "void"), ("", "")]
    table = tmp_path / "ids.txt"
    lines = [separator.join(row).strip() for row in rows]
    table.write_bytes(newline.join(lines).encode("utf-8-sig"))
    image = np.full(SIZE[::-1], 9, np.uint16)
    image[0, :3] = 300, 7, 8
    write_all(tmp_path, frames, lambda _: images.encode_png16(image), ".png")

    scores = next(open_prior(tmp_path, PNG, table).scores(frames, 0))

    assert scores.sum() == 2
    assert (scores[WALL, 0, 0], scores[BED, 0, 1]) == (1, 1)


def test_channels_of_one_class_are_added_and_others_dropped(tmp_path, frames):
    table = tmp_path / "ids.csv"
    table.write_text("id,class\n0,sofa\n2,sofa\n3,otherfurniture\n1,void\n")
    write_all(tmp_path, frames, lambda index: npy(channels(index, 5)), ".npy")

    scores = next(open_prior(tmp_path, NPY, table).scores(frames, 0))

    given = channels(frames.index[0], 5)
    expected = np.zeros((20, *SIZE[::-1]), np.float32)
    expected[SOFA] = given[0] + given[2]
    expected[OTHER] = given[3]
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_halves_and_bytes_are_added_without_overflow(tmp_path, frames):
    table = tmp_path / "ids.csv"
    table.write_text("id,class\n0,sofa\n1,sofa\n")
    for dtype, value in ((np.uint8, 255), (np.float16, 65504)):
        array = np.full((2, *SIZE[::-1]), value, dtype)
        write_all(tmp_path, frames, lambda _, array=array: npy(array), ".npy")
        scores = next(open_prior(tmp_path, NPY, table).scores(frames, 0))
        assert (scores[SOFA] == 2 * value).all()


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "line 1"),
        ("1,wall\n", "line 1"),
        ("id,class,colour\n", "line 1"),
        ("id,class\n1,wall\n2,ceiling\n", "line 3"),
        ("id,class\n\n1,Wall\n", "line 3"),
        ("id,class\n1,wall,2\n", "line 2"),
        ("id,class\n65536,wall\n", "line 2"),
        ("id,class\n-1,wall\n", "line 2"),
        ("id,class\n1.0,wall\n", "line 2"),
        ("id,class\n\u0661,wall\n", "line 2"),
        ("id,class\n1,wall\n1,bed\n", "line 3"),
    ],
)
def test_a_table_with_a_wrong_line_is_refused_by_its_number(tmp_path, text, place):
    table = tmp_path / "ids.csv"
    table.write_text(text)

    with pytest.raises(BadInput, match=rf"ids\.csv: {place}: "):
        open_prior(tmp_path, NPY, table)


def test_tables_that_cannot_be_read_are_refused(tmp_path):
    table = tmp_path / "ids.csv"
    with pytest.raises(BadInput, match=r"ids\.csv"):
        open_prior(tmp_path, NPY, table)
    table.write_bytes(b"id,class\n1,\xff\xfe\n")
    with pytest.raises(BadInput, match="line 2"):
        open_prior(tmp_path, NPY, table)


def test_a_table_for_more_channels_than_there_are_is_refused(tmp_path, frames):
    table = tmp_path / "ids.csv"
    table.write_text("id,class\n0,wall\n5,bed\n")
    write_all(tmp_path, frames, lambda index: npy(channels(index, 5)), ".npy")
    with pytest.raises(BadInput, match="up to 5, found 5"):
        open_prior(tmp_path, NPY, table).map_size(frames)


def test_without_a_table_there_must_be_twenty_channels(tmp_path, frames):
    write_all(tmp_path, frames, lambda index: npy(channels(index, 21)), ".npy")
    with pytest.raises(BadInput, match="channels: expected 20, found 21"):
        open_prior(tmp_path, NPY).map_size(frames)


@pytest.mark.parametrize(
    "pattern",
    [
        "{scene}/{index}.txt", "{scene}/map.png", "{index}.png", "{scene}/{frame}.png",
        "{scene}/{index.real}.png", "{scene}/{index!r}.png", "{scene}/{}.png",
        "{scene}/{index:0999999999d}.png", "{scene}/{index:{scene}}.png",
        "{scene:>99999999}/{index}.png", "{scene}/{index.png", "{scene[0]}/{index}.npy",
        "",
    ],
)  # fmt: skip
def test_a_pattern_that_cannot_be_meant_is_refused(tmp_path, pattern):
    with pytest.raises(BadInput, match=r"folder prior: pattern '"):
        open_prior(tmp_path, pattern)


@pytest.mark.parametrize("spec", ["", ":d", ":5", ":05", ":06d"])
def test_raw_numbers_are_written_as_the_pattern_says(tmp_path, frames, spec):
    pattern = "maps/x_{scene}_{index" + spec + "}.npy"
    (tmp_path / "maps").mkdir()
    for index in frames.index.tolist():
        name = f"x_{SCENE}_{format(index, spec[1:])}.npy"
        (tmp_path / "maps" / name).write_bytes(npy(channels(index)))

    assert len(list(open_prior(tmp_path, pattern).scores(frames, 0))) == len(frames)


def test_a_root_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(BadInput, match="root of the folder prior"):
        open_prior(tmp_path / "missing", NPY)


def test_a_missing_frame_is_named_with_its_file(tmp_path, frames):
    write_all(tmp_path, frames, lambda index: npy(channels(index)), ".npy")
    index = int(frames.index[1])
    (tmp_path / SCENE / f"{index:05d}.npy").unlink()
    prior = open_prior(tmp_path, NPY)
    maps = prior.scores(frames, 0)
    next(maps)

    expected = rf"{index:05d}\.npy: map of frame {index} of {SCENE}: expected a file"
    with pytest.raises(BadInput, match=expected):
        next(maps)
    with pytest.raises(BadInput, match=expected):
        prior.inputs(frames)


@pytest.mark.parametrize("way", ["dots", "absolute", "link", "linked folder"])
def test_nothing_outside_the_root_is_read(tmp_path, frames, way):
    outside, root = tmp_path / "outside", tmp_path / "root"
    first = write_all(outside, frames, lambda index: npy(channels(index)), ".npy")
    root.mkdir()
    pattern = NPY
    if way == "dots":
        pattern = f"../outside/{NPY}"
    elif way == "absolute":
        pattern = f"{outside}/{NPY}"
    elif way == "link":
        (root / SCENE).mkdir()
        (root / SCENE / first.name).symlink_to(first)
    else:
        (root / SCENE).symlink_to(outside / SCENE)
    prior = open_prior(root, pattern)

    for read in (prior.map_size, prior.inputs):
        with pytest.raises(BadInput, match="expected a file below"):
            read(frames)


def test_links_within_the_root_and_a_root_that_is_a_link_are_followed(tmp_path, frames):
    first = write_all(tmp_path / "a", frames, lambda i: npy(channels(i)), ".npy")
    moved = first.with_name("blob")
    first.rename(moved)
    first.symlink_to(moved)
    (tmp_path / "link").symlink_to(tmp_path / "a")

    assert open_prior(tmp_path / "link", NPY).map_size(frames) == SIZE


def test_folders_and_circular_links_are_no_maps(tmp_path, frames):
    first = write_all(tmp_path, frames, lambda index: npy(channels(index)), ".npy")
    first.unlink()
    first.mkdir()
    with pytest.raises(BadInput, match="expected a file below"):
        open_prior(tmp_path, NPY).map_size(frames)
    first.rmdir()
    first.symlink_to(first)
    with pytest.raises(BadInput, match="map of frame"):
        open_prior(tmp_path, NPY).map_size(frames)


def test_maps_of_one_scene_share_one_size(tmp_path, frames):
    odd = int(frames.index[-1])

    def cut(index, image):
        return image[..., :-1] if index == odd else image

    write_all(tmp_path, frames, lambda i: npy(cut(i, channels(i))), ".npy")
    write_all(
        tmp_path, frames, lambda i: images.encode_png8(cut(i, ids_image(i))), ".png"
    )
    for pattern in (NPY, PNG):
        with pytest.raises(BadInput, match=rf"{odd:05d}.*expected 8x6.*found 7x6"):
            list(open_prior(tmp_path, pattern).scores(frames, 0))


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (np.nan, np.float32), (np.inf, np.float32), (-1e-6, np.float32),
        (3e38, np.float32), (np.inf, np.float16), (-1, np.float16),
    ],
)  # fmt: skip
def test_a_number_that_is_no_score_is_refused_by_its_place(
    tmp_path, frames, value, dtype
):
    array = channels(0, dtype=dtype)
    array[7, 2, 5] = value
    write_all(tmp_path, frames, lambda _: npy(array), ".npy")

    with pytest.raises(BadInput, match="channel 7, row 2, column 5"):
        open_prior(tmp_path, NPY).map_size(frames)


def header(shape, descr="<f4", version=1):
    """Build the head of a .npy by hand, so that it can claim anything."""
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}\n"
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text.encode()


class Bomb:
    """Calls back when it is unpickled."""

    went_off = False

    def __reduce__(self):
        return setattr, (Bomb, "went_off", True)


def hostile_arrays():
    objects = np.empty((20, 6, 8), object)
    objects[:] = Bomb()
    whole = npy(channels(0))
    return {
        "a pickled array": npy(objects),
        "a bare pickle": pickle.dumps(Bomb()),
        "10^12 numbers": header("(20, 250000, 200000)"),
        "10^12 channels": header("(1000000000000, 1, 1)") + bytes(64),
        "more pixels than fit": header("(1, 65536, 65536)", "|u1"),
        "a negative size": header("(20, -6, -8)") + bytes(3840),
        "an empty axis": header("(20, 0, 8)"),
        "too few axes": header("(20, 48)") + bytes(3840),
        "many axes": header("(" + "1," * 500 + ")") + bytes(4),
        "a structure": header("(20, 6, 8)", [("a", "<f4")]) + bytes(3840),
        "doubles": npy(channels(0, dtype=np.float64)),
        "signed integers": npy(np.ones((20, 6, 8), np.int32)),
        "foreign byte order": npy(channels(0).astype(">f4")),
        "a header without end": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100),
        "a header of nests": b"\x93NUMPY\x01\x00\x00\x20" + b"[" * 8192,
        "code in the header": header("__import__('os').getpid()"),
        "no open bracket": header("(20, 6, 8)")[:-10] + b"(" * 10 + bytes(3840),
        "an unknown version": header("(20, 6, 8)", version=9) + bytes(3840),
        "too little": whole[:-1],
        "too much": whole + b"\0",
        "nothing": b"",
        "an image": images.encode_png8(ids_image(0)),
    }


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", hostile_arrays())
def test_hostile_arrays_are_refused_by_name_and_run_nothing(tmp_path, frames, kind):
    first = write_all(tmp_path, frames, lambda index: npy(channels(index)), ".npy")
    first.write_bytes(hostile_arrays()[kind])

    with pytest.raises(BadInput, match=first.name):
        open_prior(tmp_path, NPY).map_size(frames)

    assert not Bomb.went_off


def test_maps_of_too_many_pixels_are_refused_before_their_scores_exist(
    tmp_path, frames
):
    table = tmp_path / "ids.csv"
    table.write_text("id,class\n0,wall\n")
    large = npy(np.zeros((1, 4096, 1025), np.uint8))
    write_all(tmp_path, frames, lambda _: large, ".npy")
    with pytest.raises(BadInput, match="found 1025x4096"):
        open_prior(tmp_path, NPY, table).map_size(frames)


def test_an_array_cut_anywhere_is_refused(tmp_path, frames):
    first = write_all(tmp_path, frames, lambda index: npy(channels(index)), ".npy")
    whole = first.read_bytes()
    prior = open_prior(tmp_path, NPY)
    for length in [*range(0, 140), *range(140, len(whole), 173), len(whole) - 1]:
        first.write_bytes(whole[:length])
        with pytest.raises(BadInput, match=first.name):
            prior.map_size(frames)


def png_of(width, height, bits=8):
    """Build a PNG that claims this size and holds next to nothing."""

    def chunk(kind, data):
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    about = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    data = chunk(b"IHDR", about) + chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + data + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        images.encode_png8(ids_image(0))[:-20],
        images.encode_png(np.zeros((6, 8, 3), np.uint8)),
        images.encode_png8(np.zeros((4096, 1025), np.uint8)),
        png_of(100_000, 100_000),
        png_of(8, 6, bits=4),
        npy(channels(0)),
    ],
    ids=["empty", "cut", "colour", "large", "bomb", "4 bits", "array"],
)
def test_hostile_label_images_are_refused_by_name(tmp_path, frames, data):
    first = write_all(
        tmp_path, frames, lambda i: images.encode_png8(ids_image(i)), ".png"
    )
    first.write_bytes(data)

    with pytest.raises(BadInput, match=first.name):
        open_prior(tmp_path, PNG).map_size(frames)


def test_the_digest_changes_with_any_map_and_with_the_meaning_of_ids(tmp_path, frames):
    table = tmp_path / "ids.csv"
    table.write_text("id,class\n0,sofa\n1,bed\n")
    first = write_all(tmp_path, frames, lambda index: npy(channels(index)), ".npy")

    def digest(ids=table, pattern=NPY):
        inputs = open_prior(tmp_path, pattern, ids).inputs(frames)
        assert set(inputs) == {"source"}
        return inputs["source"]

    before = digest()
    assert digest() == before
    assert digest(ids="") != before
    table.write_text("id,class\n0,sofa\n1,table\n")
    assert digest() != before
    table.write_text("id\tclass\r\n1\tbed\r\n0\tsofa\r\n")  # the same in other words
    assert digest() == before
    (tmp_path / "other").mkdir()
    (tmp_path / SCENE).rename(tmp_path / "other" / SCENE)
    assert digest(pattern=f"other/{NPY}") != before
    (tmp_path / "other" / SCENE).rename(tmp_path / SCENE)
    last = first.with_name(f"{frames.index[-1]:05d}.npy")
    first.write_bytes(last.read_bytes())
    assert digest() != before
