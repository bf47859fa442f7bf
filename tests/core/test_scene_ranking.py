"""Which scenes come first on the page of scenes, and what stands beside them."""

import base64
import re

import pytest

from gnesf_core.evaluation import scene_ranking, tables
from tests.scored_scenes import BED, ROWS, WALL, row


def test_scenes_come_by_the_score_of_the_one_field_with_unscored_ones_first():
    assert scene_ranking.worst_first(ROWS, "vote") == ["d", "b", "a", "c"]
    assert scene_ranking.worst_first(ROWS, "mean") == ["d", "a", "b", "c"]


def test_the_worst_class_is_one_of_the_truth_and_of_equals_the_largest():
    # a: 8 of 10 walls; 9 floors and 2 that are none.
    assert scene_ranking.worst_class(ROWS[0]) == ("wall", 0.8)
    assert scene_ranking.worst_class(ROWS[1]) == ("floor", 0)
    made_up = row("e", "vote", {WALL: 9}, {(WALL, BED): 1})
    assert scene_ranking.worst_class(made_up) == ("wall", 0.9)
    assert scene_ranking.worst_class(ROWS[3]) is None


def test_all_scenes_have_a_line_and_pictured_ones_a_table():
    jpegs = {"a": b"picture of a", "b": b"picture of b"}
    overview, *own = scene_ranking.blocks(ROWS, "vote", ["mean"], jpegs)
    assert overview.columns[:3] == ["scene", "vote", "mean"]
    assert [line[0] for line in overview.rows] == ["d", "b", "a", "c"]
    assert overview.rows[2] == ["a", "80.9", "26.3", "wall", "80.0"]
    assert "2 of 4 scenes are pictured" in overview.protocol
    assert "the prior alone gives: mean." in overview.protocol
    assert [block.title for block in own] == ["2 of 4: b", "3 of 4: a"]
    assert [line[:2] for line in own[0].rows] == [["vote", "2.8"], ["mean", "100.0"]]


def test_a_page_holds_the_pictures_after_their_tables():
    jpegs = {"a": bytes(range(256)), "b": b"</div><script>"}
    blocks = scene_ranking.blocks(ROWS, "vote", [], jpegs)
    page = tables.html_page("<scenes>", blocks)
    parts = re.split("<h2>", page)
    assert "<script" not in page and "&lt;scenes&gt;" in page
    for part, scene in zip(parts[2:], "ba", strict=True):
        (data,) = re.findall(
            r'</table>.*src="data:image/jpeg;base64,(.*?)"', part, re.S
        )
        assert base64.b64decode(data, validate=True) == jpegs[scene]
    assert "<img" not in parts[1] and "base64" not in tables.markdown("", blocks)


@pytest.mark.parametrize("field", ["vote", "mean"])
def test_the_field_that_orders_is_the_first_column(field):
    overview, *_ = scene_ranking.blocks(ROWS, field, [], {})
    assert overview.columns[1] == field
    scores = [line[1] for line in overview.rows]
    assert scores[0] == "-"
    assert scores[1:] == sorted(scores[1:], key=float)
