import json
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from gnesf_core.data.images import encode_png8, encode_png16
from gnesf_core.data.ply import write_ply
from gnesf_core.data.scannet import (
    LABEL_MAP_COLUMNS,
    LabelZip,
    LabelZipWriter,
    SceneFiles,
    SegmentGroup,
    check_scene_id,
    nyu40_from_aggregation,
    read_aggregation,
    read_evaluation_ids,
    read_mesh_labels,
    read_meta,
    read_scene_list,
    read_segments,
    write_aggregation,
    write_evaluation_ids,
    write_label_map,
    write_mesh_labels,
    write_meta,
    write_scene_list,
    write_segments,
    write_submission_zip,
)
from gnesf_core.errors import BadInput
from gnesf_core.labels import PALETTE, LabelMap

IMAGE = np.array([[0, 1, 2], [40, 1357, 65535]], np.uint16)
NO_FACES = np.empty((0, 3), int)


def _text(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "file.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.fixture
def label_map(tmp_path):
    path = tmp_path / "labels.tsv"
    rows = [
        {"id": 1, "raw_category": "wall", "nyu40id": 1},
        {"id": 2, "raw_category": "chair", "nyu40id": 5},
        {"id": 8, "raw_category": "wardrobe", "nyu40id": 39},
    ]
    write_label_map(path, rows)
    return LabelMap.read(path)


def test_the_files_of_a_scan_have_scannets_names(tmp_path):
    files = SceneFiles(tmp_path, "scene0000_00")
    stem = str(tmp_path / "scene0000_00" / "scene0000_00")
    assert [
        str(path).removeprefix(stem)
        for path in (files.sens, files.meta, files.mesh, files.mesh_labels)
    ] == [".sens", ".txt", "_vh_clean_2.ply", "_vh_clean_2.labels.ply"]
    assert str(files.segments) == f"{stem}_vh_clean_2.0.010000.segs.json"
    assert str(files.aggregation) == f"{stem}.aggregation.json"
    assert str(files.labels_2d) == f"{stem}_2d-label-filt.zip"
    assert str(files.instances_2d) == f"{stem}_2d-instance-filt.zip"


@pytest.mark.parametrize(
    "scene",
    ["../../x", "scene0000_00/..", "scene0000_0", "scene0000_00\n", "", "test",
     "scene\u0661\u0661\u0661\u0661_00", "SCENE0000_00", "scene0000_000"],
)  # fmt: skip
def test_a_scene_id_that_is_none_is_refused(scene):
    with pytest.raises(BadInput, match="scene id"):
        check_scene_id(scene)
    with pytest.raises(BadInput):
        SceneFiles(Path(), scene)


def test_meta_is_read_as_scannet_writes_it(tmp_path):
    text = (
        "axisAlignment = 0.945519 0.325568 0.000000 -5.384390\r\n"
        "colorHeight = 968\n\nfx_color = 1170.187988\nsceneType = Living room / Lounge"
    )
    meta = read_meta(_text(tmp_path, text))
    assert meta["colorHeight"] == "968"
    assert meta["sceneType"] == "Living room / Lounge"
    assert len(meta["axisAlignment"].split()) == 4


def test_meta_survives_a_round_trip(tmp_path):
    write_meta(tmp_path / "m.txt", {"w": 640, "fx": 577.5, "axis": np.eye(2)})
    assert (tmp_path / "m.txt").read_text() == (
        "w = 640\nfx = 577.500000\naxis = 1.000000 0.000000 0.000000 1.000000\n"
    )
    assert read_meta(tmp_path / "m.txt")["fx"] == "577.500000"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a = 1\nno equals\n", "line 2"),
        ("= 1\n", "line 1"),
        ("a = 1\n\na = 2\n", "line 3"),
        (b"a = \xff\n", "UTF-8"),
        ("a = 1\n" * 20000, "at most 65536"),
    ],
)
def test_bad_meta_is_refused(tmp_path, text, complaint):
    with pytest.raises(BadInput, match=complaint):
        read_meta(_text(tmp_path, text))


def test_mesh_labels_survive_a_round_trip_in_scannets_properties(tmp_path):
    vertices = np.arange(15, dtype=np.float32).reshape(5, 3)
    faces = np.array([[0, 1, 2], [2, 3, 4]])
    nyu40 = np.array([0, 1, 39, 40, 149])
    path = tmp_path / "labels.ply"
    write_mesh_labels(path, vertices, faces, nyu40)
    read = read_mesh_labels(path)
    np.testing.assert_array_equal(read[0], vertices)
    np.testing.assert_array_equal(read[1], faces)
    assert read[2].dtype == np.uint16 and read[2].tolist() == nyu40.tolist()
    header = path.read_bytes().split(b"end_header")[0].decode()
    properties = [
        line.split()[1:] for line in header.splitlines() if line.startswith("property")
    ]
    assert properties == [
        ["float", "x"],
        ["float", "y"],
        ["float", "z"],
        ["uchar", "red"],
        ["uchar", "green"],
        ["uchar", "blue"],
        ["uchar", "alpha"],
        ["ushort", "label"],
        ["list", "uchar", "int", "vertex_indices"],
    ]


def test_mesh_labels_are_seen_in_the_benchmarks_colours(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    path = tmp_path / "labels.ply"
    vertices = np.eye(3)
    write_mesh_labels(path, vertices, np.array([[0, 1, 2]]), np.array([0, 1, 39]))
    colors = trimesh.load(path, process=False).visual.vertex_colors
    assert colors.tolist() == [
        [0, 0, 0, 255],
        [*PALETTE[0], 255],
        [*PALETTE[19], 255],
    ]


def test_a_mesh_without_usable_labels_is_refused(tmp_path):
    path = tmp_path / "m.ply"
    for vertex in ({}, {"label": np.zeros(1, np.float32)}):
        write_ply(path, np.zeros((1, 3)), NO_FACES, vertex=vertex)
        with pytest.raises(BadInput, match="property label"):
            read_mesh_labels(path)
    for value in (-1, 65536):
        vertex = {"label": np.array([value], np.int32)}
        write_ply(path, np.zeros((1, 3)), NO_FACES, vertex=vertex)
        with pytest.raises(BadInput, match="16-bit"):
            read_mesh_labels(path)


def test_segments_survive_a_round_trip(tmp_path):
    path = tmp_path / "s.json"
    write_segments(path, "scene0000_00", np.array([1, 1, 3, 15]))
    payload = json.loads(path.read_text())
    assert list(payload) == ["params", "sceneId", "segIndices"]
    assert read_segments(path, 4).tolist() == [1, 1, 3, 15]


def test_segments_of_another_mesh_are_refused(tmp_path):
    write_segments(tmp_path / "s.json", "scene0000_00", np.arange(4))
    with pytest.raises(BadInput, match="expected 5 entries, found 4"):
        read_segments(tmp_path / "s.json", 5)


def test_aggregations_survive_a_round_trip(tmp_path):
    groups = (
        SegmentGroup(0, "wall", (1, 4, 3)),
        SegmentGroup(7, "office chair", ()),
    )
    path = tmp_path / "a.json"
    write_aggregation(path, "scene0000_00", groups)
    payload = json.loads(path.read_text())
    assert list(payload) == ["sceneId", "appId", "segGroups", "segmentsFile"]
    assert list(payload["segGroups"][0]) == ["id", "objectId", "segments", "label"]
    assert read_aggregation(path) == groups


def test_objects_label_their_vertices_by_the_benchmarks_rule(label_map):
    # Vertices 0..6 lie in the segments 9, 2, 2, 5, 9, 7, 30; by hand: the wall has the
    # segments 2 and 30, a chair 9, and a wardrobe, whose name ends in a blank, 5.
    segments = np.array([9, 2, 2, 5, 9, 7, 30])
    groups = [
        SegmentGroup(0, "wall", (2, 30)),
        SegmentGroup(1, "chair", (9,)),
        SegmentGroup(4, "wardrobe ", (5,)),
    ]
    nyu40, instances = nyu40_from_aggregation(segments, groups, label_map)
    assert nyu40.tolist() == [5, 1, 1, 39, 5, 0, 1]
    assert instances.tolist() == [2, 1, 1, 5, 2, 0, 1]
    assert nyu40.dtype == np.uint16


def test_the_later_of_two_objects_has_the_segment(label_map):
    groups = [SegmentGroup(0, "wall", (1,)), SegmentGroup(1, "chair", (1,))]
    for order, expected in ((groups, (5, 2)), (groups[::-1], (1, 1))):
        nyu40, instances = nyu40_from_aggregation(np.array([1]), order, label_map)
        assert (nyu40[0], instances[0]) == expected


def test_nothing_annotated_is_all_zero(label_map):
    nyu40, instances = nyu40_from_aggregation(np.array([3, 4]), [], label_map)
    assert not nyu40.any() and not instances.any()


def test_an_aggregation_of_another_mesh_is_refused(tmp_path, label_map):
    groups = [SegmentGroup(0, "wall", (3,))]
    with pytest.raises(BadInput, match=r"segGroups\[0\].*segment 3"):
        nyu40_from_aggregation(np.array([1, 2]), groups, label_map)
    path = tmp_path / "a.json"
    write_aggregation(path, "scene0000_00", [])
    text = path.read_text().replace("_vh_clean_2.0.010000.segs", "_vh_clean.segs")
    with pytest.raises(BadInput, match="segmentsFile"):
        read_aggregation(_text(tmp_path, text))


def test_an_unknown_category_is_refused_by_name(label_map):
    with pytest.raises(BadInput, match=r"a\.json: segGroups\[0\].*'unicorn'"):
        nyu40_from_aggregation(
            np.array([1]), [SegmentGroup(0, "unicorn", (1,))], label_map, "a.json"
        )


HOSTILE_JSON = {
    "deep": "[" * 10**5 + "]" * 10**5,
    "deep value": '{"segIndices": ' + "[" * 10**5,
    "infinite": '{"segIndices": [1e999]}',
    "nan": '{"segIndices": [NaN]}',
    "infinity": '{"segIndices": [], "x": -Infinity}',
    "twice": '{"segIndices": [1], "segIndices": [2]}',
    "float": '{"segIndices": [1.0]}',
    "bool": '{"segIndices": [true]}',
    "text": '{"segIndices": [1, "' + "x" * 10**6 + '", 2]}',
    "negative": '{"segIndices": [-1]}',
    "large": '{"segIndices": [2147483648]}',
    "larger": '{"segIndices": [' + "9" * 5000 + "]}",
    "nested": '{"segIndices": [[1]]}',
    "none": '{"segIndices": null}',
    "missing": "{}",
    "list": "[1, 2]",
    "cut": '{"segIndices": [1, 2',
    "empty": "",
    "binary": b"\xff\x00",
}


@pytest.mark.parametrize("name", HOSTILE_JSON)
def test_hostile_segments_are_refused(tmp_path, name):
    with pytest.raises(BadInput, match="remedy") as error:
        read_segments(_text(tmp_path, HOSTILE_JSON[name]))
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "groups",
    [
        "null",
        "[1]",
        "[{}]",
        '[{"objectId": 0, "segments": [1], "label": 5}]',
        '[{"objectId": 0, "segments": [1.5], "label": "wall"}]',
        '[{"objectId": 0, "segments": 1, "label": "wall"}]',
        '[{"objectId": "0", "segments": [1], "label": "wall"}]',
        '[{"objectId": 2147483647, "segments": [1], "label": "wall"}]',
        '[{"objectId": 0, "segments": [1], "label": "wall", "label": "x"}]',
    ],
)
def test_hostile_aggregations_are_refused(tmp_path, groups):
    with pytest.raises(BadInput, match="remedy"):
        read_aggregation(_text(tmp_path, f'{{"segGroups": {groups}}}'))


def test_endless_json_is_refused_unread(tmp_path):
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(BadInput, match="at most"):
        read_segments(path)


def test_label_images_survive_a_round_trip_in_frame_order(tmp_path):
    path = tmp_path / "l.zip"
    with LabelZipWriter(path) as archive:
        for index in (10, 9, 100):
            archive.write(index, IMAGE + np.uint16(index))
    with LabelZip(path) as labels:
        assert labels.indices == (9, 10, 100)
        for index in labels.indices:
            image = labels.read(index)
            assert image.dtype == np.uint16
            np.testing.assert_array_equal(image, IMAGE + np.uint16(index))
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist()[0] == "label-filt/10.png"
        assert archive.testzip() is None
        assert {info.date_time[0] for info in archive.infolist()} == {1980}


def test_instance_images_have_8_bits(tmp_path):
    path = tmp_path / "i.zip"
    image = np.array([[0, 7], [255, 1]], np.uint8)
    with LabelZipWriter(path, "instance-filt") as archive:
        archive.write(0, image)
    with LabelZip(path, "instance-filt", np.uint8) as instances:
        np.testing.assert_array_equal(instances.read(0), image)
    with LabelZip(path, "instance-filt") as labels, pytest.raises(BadInput, match="16"):
        labels.read(0)


def test_equal_label_images_give_equal_bytes(tmp_path):
    for name in ("a.zip", "b.zip"):
        with LabelZipWriter(tmp_path / name) as archive:
            archive.write(0, IMAGE)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with LabelZipWriter(tmp_path / "c.zip") as archive:
        archive.write(0, IMAGE)
        with pytest.raises(ValueError, match="already"):
            archive.write(0, IMAGE)


def _zip(tmp_path, names, data=None, **attributes):
    """Pack one image under every name; attributes are set on the last member."""
    path = tmp_path / "z.zip"
    data = encode_png16(IMAGE) if data is None else data
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            if name == names[-1]:
                for key, value in attributes.items():
                    setattr(info, key, value)
            archive.writestr(info, data)
    return path


def test_a_zip_made_by_another_tool_is_read(tmp_path):
    path = _zip(tmp_path, ["label-filt/", "label-filt/0.png", "label-filt/000012.png"])
    with LabelZip(path) as labels:
        assert labels.indices == (0, 12)
        np.testing.assert_array_equal(labels.read(12), IMAGE)
        with pytest.raises(BadInput, match="frame 5"):
            labels.read(5)


@pytest.mark.parametrize(
    "name",
    ["../0.png", "/label-filt/0.png", "label-filt/../0.png", "label/0.png",
     "label-filt/0.png/", "label-filt/x.png", "label-filt/-1.png", "0.png",
     "label-filt/0.txt", "label-filt/0.png\n", "label-filt/9999999999.png",
     "C:\\0.png", "label-filt\\0.png/x"],
)  # fmt: skip
def test_members_of_other_names_are_refused(tmp_path, name):
    with pytest.raises(BadInput, match="member"):
        LabelZip(_zip(tmp_path, ["label-filt/1.png", name]))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_images_of_one_frame_are_refused(tmp_path):
    for other in ("label-filt/1.png", "label-filt/01.png"):
        with pytest.raises(BadInput, match="second image"):
            LabelZip(_zip(tmp_path, ["label-filt/1.png", other]))


def test_links_are_refused(tmp_path):
    with pytest.raises(BadInput, match="link"):
        LabelZip(_zip(tmp_path, ["label-filt/1.png"], external_attr=0o120777 << 16))


def test_encrypted_members_are_refused(tmp_path):
    path = _zip(tmp_path, ["label-filt/1.png"])
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)
    with pytest.raises(BadInput, match="encrypt"):
        LabelZip(path)


def test_absurdly_packed_members_are_refused(tmp_path):
    path = _zip(tmp_path, ["label-filt/1.png"], bytes(10 << 20))
    with pytest.raises(BadInput, match="packed"):
        LabelZip(path)


def test_a_member_that_lies_about_its_size_is_refused_when_read(tmp_path):
    path = _zip(tmp_path, ["label-filt/1.png"], bytes(1 << 20))
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, 1000)
    path.write_bytes(data)
    with LabelZip(path) as labels, pytest.raises(BadInput):
        labels.read(1)


def test_other_packings_are_refused(tmp_path):
    path = _zip(tmp_path, ["label-filt/1.png"], compress_type=zipfile.ZIP_BZIP2)
    with pytest.raises(BadInput, match="stored or deflated"):
        LabelZip(path)


def test_too_many_members_are_refused_before_they_are_listed(tmp_path, monkeypatch):
    # A directory of 10^6 entries written by hand, as zipfile would take a minute.
    entry = struct.pack(
        "<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 0, 0, 33, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0
    )
    directory = (entry + b"1.png") * 10**6
    end = struct.pack(
        "<4s4H2IH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, len(directory), 0, 0
    )
    listed = []
    monkeypatch.setattr(zipfile, "ZipInfo", lambda *_: listed.append(1))
    with pytest.raises(BadInput, match="directory"):
        LabelZip(_text(tmp_path, directory + end))
    assert not listed


def test_100001_members_are_refused(tmp_path):
    entry = struct.pack(
        "<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 0, 0, 33, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0
    )
    directory = (entry + b"1.png") * 100_001
    end = struct.pack(
        "<4s4H2IH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, len(directory), 0, 0
    )
    with pytest.raises(BadInput, match="at most 100000 members, found 100001"):
        LabelZip(_text(tmp_path, directory + end))


def _chunk(kind, data):
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def _png(bits, color_type, width=2, height=2, interlace=0):
    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, interlace)
    rows = zlib.compress(bytes((1 + 2 * bits // 8) * 2))
    palette = _chunk(b"PLTE", bytes(6)) if color_type == 3 else b""
    chunks = _chunk(b"IHDR", header) + palette + _chunk(b"IDAT", rows)
    return b"\x89PNG\r\n\x1a\n" + chunks + _chunk(b"IEND", b"")


BAD_IMAGES = {
    "8-bit grey": encode_png8(IMAGE.astype(np.uint8)),
    "8-bit palette": _png(8, 3),
    "interlaced": _png(16, 0, interlace=1),
    "giant": _png(16, 0, 60000, 60000),
    "bad checksum": encode_png16(IMAGE)[:-20] + b"xxxx" + encode_png16(IMAGE)[-16:],
    "half": encode_png16(IMAGE)[:-30],
    "no image": b"hello",
    "empty": b"",
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_label_images_are_refused_by_member(tmp_path, name):
    path = _zip(tmp_path, ["label-filt/3.png"], BAD_IMAGES[name])
    with LabelZip(path) as labels, pytest.raises(BadInput, match=r"label-filt/3\.png"):
        labels.read(3)


def test_label_ids_up_to_65535_come_through(tmp_path, label_map):
    with LabelZip(_zip(tmp_path, ["label-filt/0.png"])) as labels:
        classes = label_map.train_ids_from_id[labels.read(0)]
    assert classes.tolist() == [[255, 0, 4], [255, 255, 255]]


def test_damaged_zips_are_refused_and_never_crash(tmp_path):
    path = _zip(tmp_path, ["label-filt/1.png", "label-filt/2.png"])
    whole = path.read_bytes()
    rng = np.random.default_rng(5)
    damaged = [whole[:length] for length in range(len(whole))]
    for _ in range(300):
        data = bytearray(whole)
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        damaged.append(bytes(data))
    refused = 0
    for data in damaged:
        path.write_bytes(data)
        try:
            with LabelZip(path) as labels:
                for index in labels.indices:
                    labels.read(index)
        except BadInput:
            refused += 1
    assert refused > len(whole)
    with pytest.raises(BadInput):
        LabelZip(tmp_path / "none.zip")


def test_scene_lists_fold_blanks_line_ends_and_repeats(tmp_path):
    text = "\ufeffscene0001_00\r\n\r\n scene0000_01 \nscene0001_00\n"
    scenes = read_scene_list(_text(tmp_path, text))
    assert scenes == ("scene0001_00", "scene0000_01")
    write_scene_list(tmp_path / "s.txt", scenes)
    assert (tmp_path / "s.txt").read_text() == "scene0001_00\nscene0000_01\n"


def test_a_stray_line_in_a_scene_list_is_refused_by_number(tmp_path):
    with pytest.raises(BadInput, match="line 3.*'test'"):
        read_scene_list(_text(tmp_path, "scene0000_00\n\ntest\n"))


def test_evaluation_ids_survive_a_round_trip_one_a_line(tmp_path):
    path = tmp_path / "e.txt"
    write_evaluation_ids(path, np.array([1, 0, 39], np.uint16))
    assert path.read_bytes() == b"1\n0\n39\n"
    assert read_evaluation_ids(path, 3).tolist() == [1, 0, 39]
    write_evaluation_ids(path, np.array([], np.uint16))
    assert read_evaluation_ids(path, 0).shape == (0,)
    with pytest.raises(ValueError, match="negative"):
        write_evaluation_ids(path, np.array([-1]))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("1\n\n2\n", "line 2"),
        ("1\n2 3\n", "line 2"),
        ("1\n-2\n", "line 2"),
        ("1\n2.0\n", "line 2"),
        ("1\n2147483648\n", "line 2"),
        (f"1\n{'9' * 5000}\n", "32-bit"),
        (b"\x00", "line 1"),
        ("1\n2\n3\n", "2 lines"),
    ],
)
def test_bad_evaluation_ids_are_refused(tmp_path, text, complaint):
    with pytest.raises(BadInput, match=complaint):
        read_evaluation_ids(_text(tmp_path, text), 2)


def test_a_submission_is_flat_and_equal_input_gives_equal_bytes(tmp_path):
    texts = {}
    for scene in ("scene0708_00", "scene0707_00"):
        texts[scene] = tmp_path / f"{scene}.labels"
        write_evaluation_ids(texts[scene], np.full(1000, 5))
    write_submission_zip(tmp_path / "a.zip", texts)
    write_submission_zip(tmp_path / "b.zip", dict(sorted(texts.items())))
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["scene0707_00.txt", "scene0708_00.txt"]
        assert archive.read("scene0707_00.txt") == b"5\n" * 1000
    with pytest.raises(BadInput):
        write_submission_zip(tmp_path / "c.zip", {"../x": texts["scene0707_00"]})


def test_a_label_map_has_scannets_seventeen_columns(tmp_path, label_map):
    header = (tmp_path / "labels.tsv").read_text().splitlines()[0].split("\t")
    assert tuple(header) == LABEL_MAP_COLUMNS and len(header) == 17
    assert header[0] == "id" and header[4] == "nyu40id"
    assert label_map.nyu40_from_category == {"wall": 1, "chair": 5, "wardrobe": 39}
    with pytest.raises(ValueError, match="nyu41"):
        write_label_map(tmp_path / "x.tsv", [{"nyu41": 3}])
