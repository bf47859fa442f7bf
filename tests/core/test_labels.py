import numpy as np
import pytest

from gnesf_core.errors import BadInput
from gnesf_core.labels import (
    AMBIGUOUS,
    CLASS_NAMES,
    IGNORE,
    NYU40_IDS,
    NYU40_NAMES,
    PALETTE,
    LabelMap,
    label_map_digest,
    nyu40_from_train_ids,
    train_ids_from_nyu40,
)

HEADER = "id\traw_category\tcategory\tcount\tnyu40id\tnyu40class"
ROWS = (
    "1\twall\twall\t8277\t1\twall",
    "2\tchair\tchair\t4646\t5\tchair",
    "22\tceiling\tceiling\t871\t22\tceiling",
    "1163\tobject\tobject\t1\t40\totherprop",
)


def _write(tmp_path, *rows, header=HEADER, end="\n", start=b""):
    path = tmp_path / "labels.tsv"
    text = "".join(line + end for line in (header, *rows))
    path.write_bytes(start + text.encode())
    return path


def test_the_classes_are_the_benchmarks_twenty_in_its_order():
    assert len(NYU40_NAMES) == 41
    assert list(NYU40_IDS) == [*range(1, 13), 14, 16, 24, 28, 33, 34, 36, 39]
    assert CLASS_NAMES[0] == "wall" and CLASS_NAMES[-1] == "otherfurniture"
    assert CLASS_NAMES[12:16] == ("desk", "curtain", "refrigerator", "shower curtain")


def test_every_class_has_a_colour_of_its_own():
    assert PALETTE.shape == (20, 3) and PALETTE.dtype == np.uint8
    assert len(np.unique(PALETTE, axis=0)) == 20
    assert PALETTE[CLASS_NAMES.index("floor")].tolist() == [152, 223, 138]


def test_ids_go_to_classes_and_back():
    classes = np.arange(20, dtype=np.uint8)
    np.testing.assert_array_equal(nyu40_from_train_ids(classes), NYU40_IDS)
    np.testing.assert_array_equal(train_ids_from_nyu40(np.array(NYU40_IDS)), classes)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_what_is_no_benchmark_class_is_ignored(dtype):
    others = sorted(set(range(256)) - set(NYU40_IDS))
    assert {0, 13, 40, 50, 149} <= set(others)
    assert (train_ids_from_nyu40(np.array(others, dtype)) == IGNORE).all()


def test_ids_beyond_any_table_are_ignored_and_do_not_wrap_around():
    ids = np.array([[-1, 65535], [65537, 2**40 + 1]])
    assert train_ids_from_nyu40(ids).tolist() == [[IGNORE] * 2] * 2


def test_ignored_pixels_become_unannotated():
    ids = np.array([IGNORE, 20, 100, 0], np.uint8)
    assert nyu40_from_train_ids(ids).tolist() == [0, 0, 0, 1]


def test_a_label_map_is_read_by_id_and_by_category(tmp_path):
    label_map = LabelMap.read(_write(tmp_path, *ROWS))
    assert label_map.nyu40_from_id[[1, 2, 22, 1163]].tolist() == [1, 5, 22, 40]
    assert label_map.nyu40_from_category["ceiling"] == 22
    assert label_map.train_ids_from_id[[1, 2, 22, 1163]].tolist() == [0, 4, 255, 255]


def test_an_id_that_is_not_in_the_map_is_ignored_and_never_wall(tmp_path):
    lookup = LabelMap.read(_write(tmp_path, *ROWS)).train_ids_from_id
    assert lookup.shape == (65536,)
    assert np.flatnonzero(lookup != IGNORE).tolist() == [1, 2]
    assert lookup[0] == lookup[65535] == IGNORE


def test_accidents_of_transport_change_nothing(tmp_path):
    plain = _write(tmp_path, *ROWS).read_bytes()
    reference = LabelMap.read(tmp_path / "labels.tsv")
    blanks = [row.replace("wall\t8277", "wall \t8277") + "\t\t" for row in ROWS]
    for options in (
        {"end": "\r\n"},
        {"end": "\r\r\n"},
        {"start": b"\xef\xbb\xbf"},
        {"end": "\n\n"},
    ):
        path = _write(tmp_path, *blanks, **options)
        read = LabelMap.read(path, (label_map_digest(plain),))
        np.testing.assert_array_equal(read.nyu40_from_id, reference.nyu40_from_id)
        assert read.nyu40_from_category == reference.nyu40_from_category


def test_the_digest_is_that_of_the_folded_text():
    import hashlib

    folded = b"id\tnyu40id\n1\t2\n"
    assert (
        label_map_digest(b"\xef\xbb\xbfid \tnyu40id\t\r\n\r\n1\t2  ")
        == hashlib.sha256(folded).hexdigest()
    )
    assert label_map_digest(b"id\tnyu40id\n1\t3\n") != label_map_digest(folded)


def test_a_map_with_another_digest_is_refused_with_both_digests(tmp_path):
    path = _write(tmp_path, *ROWS)
    found = label_map_digest(path.read_bytes())
    LabelMap.read(path, ("0" * 64, found))
    LabelMap.read(path, ())
    with pytest.raises(BadInput, match=f"expected {'0' * 64}, found {found}"):
        LabelMap.read(path, ("0" * 64,))


def test_the_three_ambiguous_ids_follow_the_table(tmp_path):
    rows = (
        "107\tpipe\tpipe\t25\t40\totherprop",
        "188\tshower door\tshower door\t19\t8\tdoor",
        "385\tcabinet door\tcabinet door\t3\t8\tdoor",
        "107\tpipes\tpipe\t8\t38\totherstructure",
        "385\tcabinet doors\tcabinet door\t3\t3\tcabinet",
        "188\tshower doors\tshower door\t3\t38\totherstructure",
    )
    for ordered in (rows, rows[::-1]):
        label_map = LabelMap.read(_write(tmp_path, *ordered))
        assert label_map.nyu40_from_id[[107, 188, 385]].tolist() == [40, 8, 3]
    assert {id: decided for id, (decided, _) in AMBIGUOUS.items()} == {
        107: 40,
        188: 8,
        385: 3,
    }
    categories = label_map.nyu40_from_category
    assert categories["cabinet door"] == 8 and categories["cabinet doors"] == 3
    assert categories["shower doors"] == 38


def test_an_ambiguous_id_that_a_map_decides_stands_as_decided(tmp_path):
    row = "107\tpipe\tpipe\t25\t38\totherstructure"
    assert LabelMap.read(_write(tmp_path, row)).nyu40_from_id[107] == 38


def test_any_other_conflict_is_refused_with_its_lines(tmp_path):
    with pytest.raises(BadInput, match="lines 3, 6.*for 2, found"):
        LabelMap.read(_write(tmp_path, *ROWS, "2\tchairs\tchair\t1\t7\ttable"))
    with pytest.raises(BadInput, match=r"lines 2, 3.*107"):
        rows = ("107\tpipe\tpipe\t25\t1\twall", "107\tpipes\tpipe\t8\t38\tx")
        LabelMap.read(_write(tmp_path, *rows))
    with pytest.raises(BadInput, match="lines 3, 6.*'chair'"):
        LabelMap.read(_write(tmp_path, *ROWS, "7\tchair\tchair\t1\t7\ttable"))


def test_a_row_that_is_there_twice_is_no_conflict(tmp_path):
    assert LabelMap.read(_write(tmp_path, *ROWS, ROWS[1])).nyu40_from_id[2] == 5


@pytest.mark.parametrize(
    ("row", "place"),
    [
        ("x\twall\twall\t1\t1\twall", "line 6, column id"),
        ("0\twall\twall\t1\t1\twall", "line 6, column id"),
        ("65536\twall\twall\t1\t1\twall", "line 6, column id"),
        ("-5\twall\twall\t1\t1\twall", "line 6, column id"),
        (f"{'9' * 5000}\twall\twall\t1\t1\twall", "line 6, column id"),
        ("5\twall\twall\t1\t41\twall", "line 6, column nyu40id"),
        ("5\twall\twall\t1\t1.0\twall", "line 6, column nyu40id"),
        ("5\twall\twall\t1\t\u0661\twall", "line 6, column nyu40id"),
        ("203\tlamp\tlamp\t1\t\t", "line 6, column nyu40id"),
        ("5", "line 6, column nyu40id"),
    ],
)
def test_a_bad_row_is_refused_by_line_and_column(tmp_path, row, place):
    with pytest.raises(BadInput, match=place):
        LabelMap.read(_write(tmp_path, *ROWS, row))


def test_a_map_without_a_needed_column_is_refused_by_name(tmp_path):
    with pytest.raises(BadInput, match="no column nyu40id"):
        LabelMap.read(_write(tmp_path, *ROWS, header="id\traw_category\tcount"))
    (tmp_path / "empty.tsv").write_bytes(b"")
    with pytest.raises(BadInput, match="no column id, raw_category, nyu40id"):
        LabelMap.read(tmp_path / "empty.tsv")


def test_a_map_that_is_no_text_is_refused_by_line(tmp_path):
    path = _write(tmp_path, *ROWS)
    path.write_bytes(path.read_bytes() + b"\xff\xfe\n")
    with pytest.raises(BadInput, match="line 6: expected UTF-8"):
        LabelMap.read(path)


def test_an_endless_or_missing_map_is_refused(tmp_path):
    path = tmp_path / "huge.tsv"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(BadInput, match="at most 4194304 bytes"):
        LabelMap.read(path)
    with pytest.raises(BadInput, match="readable file"):
        LabelMap.read(tmp_path / "none.tsv")
