"""Our figures beside published ones: what is added, what is compared, what is said."""

import numpy as np
import pytest

from gnesf_core.errors import BadInput
from gnesf_core.evaluation import paper_tables, semantics, tables
from gnesf_core.evaluation.paper_tables import Seconds
from gnesf_core.evaluation.published import COLOR_SCORES, TABLES

WALL, FLOOR, CHAIR, VOID = 0, 1, 4, 20
SAID = {
    "views": "held-out", "views_words": "Frames that are spread",
    "image_quality": "gnesf", "image_words": "PSNR of everything.",
}  # fmt: skip


def row(field, scene, counts, frames=0):
    """Score a scene from {(truth, prediction): count}; with frames it is a 2D score."""
    confusion = np.zeros((21, 21), int)
    for cell, count in counts.items():
        confusion[cell] = count
    frame = {"miou": 0.1, "mean_accuracy": 0.1, "accuracy": 0.1, "pixels": 5}
    unlabelled = dict.fromkeys(frame, None) | {"pixels": 0}
    scores = {"field": field, "scene": scene, "confusion": confusion.tolist()}
    views = {"frames": [frame] * frames + [unlabelled], "protocol": SAID,
             "frames_without_truth": 1,
             "semantics": semantics.scannet_scores(confusion)}  # fmt: skip
    return scores | (views if frames else {})


def picture_row(field, scene, *figures):
    """Score the colours of a scene's frames: (PSNR, SSIM, LPIPS) of each."""
    names = ("full_psnr_db", "ssim", "lpips")
    frames = [dict(zip(names, own, strict=True)) for own in figures]
    return {"field": field, "scene": scene, "frames": frames, "protocol": SAID}


def share_right(field, share, scenes=("a", "b")):
    """Confuse wall and floor alike: IoU is share / (2 - share), recall `share`."""
    right, wrong = round(1000 * share), round(1000 * (1 - share))
    counts = {(WALL, WALL): right, (FLOOR, FLOOR): right,
              (WALL, FLOOR): wrong, (FLOOR, WALL): wrong}  # fmt: skip
    return [row(field, scene, counts) for scene in scenes]


def measure(rows, scores, views=(), split="val", comparable="", colors=()):
    given = {"3D": scores, "2D": views, "colours": colors}
    return paper_tables.measure("rooms", split, rows, given, comparable)


def cells(block, label):
    """Return a row of a block by its headings."""
    (line,) = [line for line in block.rows if line[0] == label]
    return dict(zip(block.columns, line, strict=True))


def validation(field, share):
    """Score the whole validation split of ScanNet."""
    return share_right(field, share, [f"scene{n:04d}_00" for n in range(312)])


def test_published_steps_add_up_as_the_papers_text_says():
    # Section 5: each component improves the last by these points (Table 4's brackets).
    figures = np.array([r.figures for r in TABLES["table4"].rows])
    np.testing.assert_allclose(
        np.diff(figures, axis=0), [[19.8, 23.9], [0.6, 0.3], [0.9, 0.9]]
    )
    # 10 views and 1201 scenes are the same experiment in two tables of the supplement.
    by_views = {r.label: r.figures for r in TABLES["views"].rows}
    by_scenes = {r.label: r.figures for r in TABLES["scenes"].rows}
    assert by_views["10"] == by_scenes["1201"]
    # Table 1 takes its own two rows from there; the larger is of all 1201 scenes.
    by_method = {r.label: r for r in TABLES["table1"].rows}
    assert by_method["Ours-100"].figures == by_scenes["100"]
    assert by_method["Ours-1000"].figures == by_scenes["1201"] != by_scenes["1000"]
    # Section 5.1.1: by 7 over Mask2Former, 3.5 behind Semantic-NeRF on novel views.
    gain = by_method["Ours-1000"].figures[2] - by_method["Mask2Former"].figures[2]
    assert gain == pytest.approx(7)
    first = [by_method[name].figures[0] for name in ("Semantic-NeRF", "Ours-100")]
    assert first[0] - first[1] == pytest.approx(3.5)
    # With all modules, Table 4 is Table 2's validation split.
    (gnesf,) = [r for r in TABLES["table2"].rows if r.shown == "GNeSF"]
    assert gnesf.figures[0] == figures[-1, 0]


def test_times_and_colours_agree_with_what_the_supplement_says_of_them():
    facts = {r.shown: r.facts for r in TABLES["supplement4"].rows}
    minutes = [60 * int(f[0]) + int(f[1]) for f in facts.values()]
    speedup = int(facts["GNeSF"][3].rstrip("x"))
    assert minutes[0] // minutes[1] == speedup == 150  # the 2 of 602 are left out
    # "Comparable with most generalizable methods, and worse than SurfelNeRF".
    columns = dict(zip(
        [c.quantity for c in TABLES["supplement1"].columns],
        zip(*[r.figures for r in TABLES["supplement1"].rows], strict=True), strict=True,
    ))  # fmt: skip
    assert [r.shown for r in TABLES["supplement1"].rows][3:] == ["SurfelNeRF", "GNeSF"]
    assert max(columns["PSNR"]) == columns["PSNR"][3]
    assert max(columns["SSIM"]) == columns["SSIM"][3]
    assert min(columns["LPIPS"]) == columns["LPIPS"][3]
    assert sorted(columns["LPIPS"])[1] == columns["LPIPS"][4]


@pytest.mark.parametrize("name", TABLES)
def test_published_figures_have_the_decimals_of_their_column_and_its_unit(name):
    table = TABLES[name]
    for each in table.rows:
        for column, figure in zip(table.columns, each.figures, strict=True):
            assert figure is None or figure == round(figure, column.decimals)
            of_color = column.quantity in COLOR_SCORES
            assert (column.unit != "percent") == of_color == table.of_colors


@pytest.mark.parametrize("name", TABLES)
def test_every_published_row_has_a_figure_for_every_column(name):
    table = TABLES[name]
    assert len({r.label for r in table.rows}) == len(table.rows)
    for each in table.rows:
        assert len(each.figures) == len(table.columns)
        assert len(each.facts) == len(table.facts)
        for column, figure in zip(table.columns, each.figures, strict=True):
            low, high = (1, 100) if column.unit else (0, 1)
            assert figure is None or low < figure < high


def test_no_published_row_is_shown_as_ours_nor_menini_as_without_geometry():
    shown = {r.shown: r for table in TABLES.values() for r in table.rows}
    assert not any(name.startswith("Ours") for name in shown)
    assert "no" not in shown["Joint Recon-Segment"].facts


def test_confusions_are_added_over_scenes_before_dividing():
    scores = [
        row("f", "a", {(WALL, WALL): 90, (WALL, VOID): 10}),
        row("f", "b", {(WALL, FLOOR): 100, (FLOOR, FLOOR): 100, (VOID, WALL): 50}),
    ]
    ours = measure({"f": "Logit"}, scores)
    # Wall: 90 of 200 true ones. Floor: 100 right of 200 predicted, 100 true.
    assert ours.values("Logit", "3D mIoU") == [
        pytest.approx(100 * (90 / 200 + 0.5) / 2)
    ]
    assert ours.values("Logit", "3D mAcc") == [pytest.approx(100 * (90 / 200 + 1) / 2)]
    assert ours.fields[0].classes_scored == {"3D": 2}


def test_published_and_measured_figures_share_a_row_but_never_a_column():
    ours = measure({"f": "Logit"}, share_right("f", 0.9))
    beside, ours_only = paper_tables.blocks(TABLES["table4"], ours)

    line = cells(beside, "Logit")
    assert line == {
        "vote": "Logit",
        "published, ScanNet val: 3D mIoU": "57.3",
        "published, ScanNet val: 3D mAcc": "70.9",
        "ours, rooms val, 2 scenes, another data set: 3D mIoU": "81.8",
        "ours, rooms val, 2 scenes, another data set: 3D mAcc": "90.0",
    }
    assert "rooms is another data set than ScanNet" in beside.protocol
    assert cells(beside, "Prob.")[beside.columns[3]] == "-"
    assert "published" not in str(ours_only.columns) + str(ours_only.rows)
    assert "57.3" not in str(ours_only.rows)


def test_a_difference_is_formed_on_the_whole_published_split_alone():
    table, rows = TABLES["table4"], {"f": "Logit"}
    ours = measure(rows, validation("f", 0.9), comparable="ScanNet")
    line = cells(paper_tables.blocks(table, ours)[0], "Logit")
    # IoU 9/11; published 57.3.
    assert line["ours - published, ScanNet val: 3D mIoU"] == "+24.5"
    assert line["ours - published, ScanNet val: 3D mAcc"] == "+19.1"
    assert not any("another data set" in heading for heading in line)

    part = measure(rows, share_right("f", 0.9), comparable="ScanNet")
    other_split = measure(
        rows, validation("f", 0.9), split="train", comparable="ScanNet"
    )
    for ours, words in ((part, "ours are 2 scenes, the published 312"),
                        (other_split, "ours is the train split")):  # fmt: skip
        block = paper_tables.blocks(table, ours)[0]
        assert not any("ours - published" in heading for heading in block.columns)
        assert words in block.protocol


def test_a_difference_is_to_the_column_of_the_same_split():
    ours = measure({"f": "Ours"}, validation("f", 0.5), comparable="ScanNet")
    block = paper_tables.blocks(TABLES["table2"], ours)[0]
    line = cells(block, "GNeSF")
    # IoU 1/3 against 58.8; the test split's 55.1 stands alone.
    assert line["ours - published, ScanNet val: 3D mIoU"] == "-25.5"
    assert "ours - published, ScanNet test: 3D mIoU" not in line
    assert "ScanNet test 3D mIoU: ours is the val split" in block.protocol
    assert cells(block, "Atlas")["ours - published, ScanNet val: 3D mIoU"] == "-"


def test_a_table_whose_source_keeps_its_protocol_to_itself_is_never_compared():
    eight = share_right("f", 0.9, tuple("abcdefgh"))
    ours = measure({"f": "Ours"}, eight, split="all", comparable="Replica")
    block = paper_tables.blocks(TABLES["table3"], ours)[0]
    assert "19 classes" in block.protocol
    assert not any("ours - published" in heading for heading in block.columns)


def test_several_fields_in_a_row_give_mean_and_range():
    scores = [
        *share_right("seed1", 0.9), *share_right("seed2", 0.8),
        *share_right("seed3", 0.7), *share_right("single", 0.6),
    ]  # fmt: skip
    rows = {f"seed{n}": "Prob." for n in (1, 2, 3)} | {"single": "Logit"}
    ours = measure(rows, scores)
    beside, each = paper_tables.blocks(TABLES["table4"], ours)
    assert cells(beside, "Prob.")[beside.columns[-1]] == "80.0 (70.0..90.0)"
    assert cells(beside, "Logit")[beside.columns[-1]] == "60.0"
    assert "mean (lowest..highest)" in beside.protocol
    assert [line[1] for line in each.rows] == [*rows]
    assert [line[-1] for line in each.rows] == ["90.0", "80.0", "70.0", "60.0"]

    lines = paper_tables.figure_lines("table4", TABLES["table4"], ours)
    (line,) = [
        line for line in lines
        if (line["label"], line["origin"], line["quantity"])
        == ("Prob.", "ours", "3D mIoU")
    ]  # fmt: skip
    ious = [100 * share / (2 - share) for share in (0.9, 0.8, 0.7)]
    assert line["figure"] == pytest.approx(sum(ious) / 3)
    assert line["unit"] == "percent"
    assert line["lowest"] == pytest.approx(min(ious))
    assert line["highest"] == pytest.approx(max(ious))
    assert (line["fields"], line["scenes"]) == (3, 2)


def test_pixels_of_all_images_are_pooled_and_own_numbers_stand_in_order():
    views = [
        row("few", "a", {(WALL, WALL): 10}, frames=3),
        row("few", "b", {(WALL, FLOOR): 30}, frames=2),
        row("many", "a", {(WALL, WALL): 10}, frames=3),
        row("many", "b", {(WALL, WALL): 30}, frames=2),
    ]
    ours = measure({"many": "16", "few": "8"}, [], views)
    beside, each = paper_tables.blocks(TABLES["views"], ours)

    assert [line[0] for line in beside.rows] == ["5", "8", "10", "12", "16"]
    line = cells(beside, "8")
    assert line["published, ScanNet train, novel view: 2D mIoU"] == "87.4"
    assert line["published, ScanNet val, novel scene: 2D mIoU"] == "71.4"
    # Wall 10 of 40, and a floor that was only imagined; a mean of images would be 30.
    own = "ours, rooms val, 2 scenes, another data set: 2D "
    assert (line[own + "mIoU"], line[own + "mAcc"]) == ("12.5", "25.0")
    # Of scenes one is right; each image says so of itself, whatever its scene.
    assert line[own + "mIoU per scene"] == "50.0"
    assert line[own + "mIoU per image"] == "10.0"
    assert "2D: IoU pooled over the data set; views: held-out" in beside.title
    assert cells(beside, "16")["published, ScanNet val, novel scene: 2D mIoU"] == "-"
    assert cells(beside, "16")[own + "mIoU"] == "100.0"
    assert cells(each, "8")["images"] == 5  # those without any label are none
    assert not any("3D" in heading for heading in beside.columns)


def test_scenes_of_which_no_frame_is_held_out_do_not_count():
    views = [row("f", "a", {(WALL, WALL): 10}, frames=1), row("f", "b", {}, frames=1)]
    views[1]["frames"] = []
    ours = measure({"f": "8"}, [], views)
    assert ours.scenes == {"2D": 1}


def test_colours_are_means_over_scenes_in_units_of_their_own():
    colors = [
        picture_row("f", "a", (20.0, 0.5, None), (22.0, 0.6, None)),
        picture_row("f", "b", (27.0, 0.4, None), (None, None, None)),  # nothing to see
        picture_row("g", "a", (30.0, 0.9, None)),
        picture_row("g", "b", (31.0, 1.0, None)),
    ]  # fmt: skip
    ours = measure({"f": "IBRNet", "g": "Ours"}, [], colors=colors)
    beside, each = paper_tables.blocks(TABLES["supplement1"], ours)

    line = cells(beside, "IBRNet")
    published = "published, ScanNet split of SurfelNeRF: "
    assert line[published + "PSNR (dB)"] == "21.19"
    assert line[published + "LPIPS"] == "0.358"
    own = "ours, rooms val, 2 scenes, another data set: "
    # Two scenes of 21 and 27 dB, not three images; nobody gave weights to LPIPS.
    assert [line[own + name] for name in ("PSNR (dB)", "SSIM", "LPIPS")] == [
        "24.00", "0.475", "-",
    ]  # fmt: skip
    assert "colours: gnesf; views: held-out" in beside.title
    assert cells(beside, "GNeSF")[own + "SSIM"] == "0.950"
    assert cells(each, "IBRNet")["images"] == 3
    assert not any("classes" in heading for heading in each.columns)
    for block in (beside, each):
        assert "percent" not in block.protocol
    assert "Frames that are spread. PSNR of everything." in beside.protocol
    lines = paper_tables.figure_lines("supplement1", TABLES["supplement1"], ours)
    units = {line["quantity"]: line["unit"] for line in lines}
    assert units == {"PSNR": "dB", "SSIM": "", "LPIPS": ""}
    (psnr, _) = [x["figure"] for x in lines if x["origin"] == "ours"][::2]
    assert psnr == 24


def test_ours_have_the_decimals_of_the_column_beside_them():
    views = [row("f", "a", {(WALL, WALL): 2, (WALL, FLOOR): 1}, frames=1)]
    ours = measure({"f": "Ours"}, [], views)
    line = cells(paper_tables.blocks(TABLES["supplement4"], ours)[0], "GNeSF")
    own = "ours, rooms val, 1 scene, another data set: 2D "
    assert line["published, ScanNet val, novel scene: 2D mIoU"] == "70.03"
    assert (line[own + "mIoU"], line[own + "mAcc"]) == ("33.33", "66.7")


def test_times_are_those_of_a_new_scene_and_of_what_is_needed_once():
    views = [row(name, "a", {(WALL, WALL): 1}, frames=1) for name in "fgh"]
    rows = {"f": "M2F + Opt.", "g": "Ours", "h": "not timed"}
    ours = measure(rows, [], views)
    seconds = {"f": Seconds(90.0, fitting=600.0), "g": Seconds(30.0, training=1200.0)}
    block = paper_tables.cost_block(TABLES["supplement4"], ours, seconds)
    assert block.rows == [
        ["M2F + Opt.", "f", "-", "10.0", "1.5", "11.5"],
        ["GNeSF", "g", "20.0", "-", "0.5", "0.5"],
    ]
    assert "Minutes" in block.protocol


def test_both_kinds_stand_beside_each_other_with_their_own_scenes():
    views = [row("f", "a", {(WALL, WALL): 1}, frames=1)]
    ours = measure({"f": "4"}, share_right("f", 0.9), views)
    block = paper_tables.blocks(TABLES["scenes"], ours)[0]
    line = cells(block, "4")
    assert line["ours, rooms val, 2 scenes, another data set: 3D mIoU"] == "81.8"
    assert line["ours, rooms val, 1 scene, another data set: 2D mIoU"] == "100.0"
    assert [r[0] for r in block.rows][::6] == ["4", "1201 (full)"]


def test_fields_of_one_table_must_share_their_scenes():
    scores = share_right("f", 0.9) + share_right("g", 0.9, ("a", "c"))
    with pytest.raises(BadInput, match="the scenes of f, each once: a, b, found a, c"):
        measure({"f": "Logit", "g": "Prob."}, scores)
    with pytest.raises(BadInput, match="each once"):
        measure({"f": "Logit"}, scores[:1] * 2)
    with pytest.raises(BadInput, match="h: expected scores"):
        measure({"f": "Logit", "h": "Prob."}, scores)


def test_fields_without_a_row_stay_out():
    scores = share_right("f", 0.9) + share_right("oracle", 1.0, ("a",))
    ours = measure({"f": "Logit"}, scores)
    page = tables.markdown("t", paper_tables.blocks(TABLES["table4"], ours))
    assert "oracle" not in page and "100.0" not in page


def test_pages_state_the_protocol_of_what_was_measured():
    both = measure(
        {"f": "Logit"}, share_right("f", 0.9),
        [row("f", "a", {(WALL, WALL): 1}, frames=1)],
    )  # fmt: skip
    three = measure({"f": "Logit"}, share_right("f", 0.9))
    for ours in (both, three):
        words = " ".join(
            paper_tables.blocks(TABLES["table4"], ours)[0].protocol.split()
        )
        assert "nearest predicted vertex, however far (Atlas)" in words
        assert "void prediction = wrong" in words
        assert ("pooled over the data set" in words) == (ours is both)
        assert ("Frames that are spread." in words) == (ours is both)
        assert words.startswith("Scores in percent.") and "everything" not in words


def test_every_figure_of_a_csv_says_whose_it_is():
    ours = measure({"f": "Logit", "g": "own idea"}, [
        *validation("f", 0.9), *validation("g", 0.8)
    ], comparable="ScanNet")  # fmt: skip
    lines = paper_tables.figure_lines("table4", TABLES["table4"], ours)
    assert {(line["origin"], line["dataset"], line["scenes"]) for line in lines} == {
        ("published", "ScanNet", 312), ("ours", "rooms", 312),
    }  # fmt: skip
    own = {(x["label"], x["quantity"]): x for x in lines if x["origin"] == "ours"}
    gain = own["Logit", "3D mAcc"]["ours_minus_published"]
    assert gain == pytest.approx(90 - 70.9)
    assert own["own idea", "3D mIoU"]["ours_minus_published"] is None
    assert sum(line["origin"] == "published" for line in lines) == 8


def test_plain_text_keeps_its_columns_under_their_headings():
    ours = measure({"f": "Logit"}, share_right("f", 0.9))
    text = paper_tables.plain_text(paper_tables.blocks(TABLES["table4"], ours)[0])
    lines = text.splitlines()
    rule = next(i for i, line in enumerate(lines) if set(line) == {"-"})
    table = lines[lines.index("") + 1 : rule + 5]
    headings = [line for line in lines[lines.index("") : rule] if "mIoU" in line]
    (end,) = {line.index("mIoU") + 4 for line in headings}
    (logit,) = [line for line in table if line.startswith("Logit")]
    assert logit[:end].endswith("57.3")
    assert logit.endswith("90.0")
    assert max(map(len, lines)) <= 120
