"""The page of scenes: everything in one file, and readable on a phone."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from gnesf_core.data.publish import write_json
from stages import rank_scenes
from tests import chromium
from tests.scored_scenes import ROWS

RED = (200, 30, 30)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    scores, pictures = [], []
    for number, row in enumerate(ROWS):
        scores.append(folder / f"{number}.json")
        write_json(scores[-1], row)
    for scene, width in (("a", 3000), ("c", 900)):
        pictures.append(folder / f"{scene}.jpg")
        Image.new("RGB", (width, 300), RED).save(pictures[-1])
    out = folder / "scenes.html"
    rank_scenes.main(scores, pictures, "rooms", "val", "vote", ["mean"], out)
    return out


def test_the_page_needs_no_other_file(page):
    text = page.read_text()
    assert not re.findall(r'(?:src|href)="(?!data:image/jpeg;base64,)', text)
    assert "<script" not in text and "url(" not in text
    sizes = [
        Image.open(io.BytesIO(base64.b64decode(data))).size
        for data in re.findall(r"base64,([^\"]+)", text)
    ]
    assert sizes == [(1400, 140), (900, 300)]  # wide ones are made smaller


@pytest.mark.skipif(chromium.PROGRAM is None, reason="no chromium on this machine")
@pytest.mark.slow
def test_on_a_phone_only_tables_and_pictures_are_wider_and_names_stay(page, tmp_path):
    with chromium.open_chromium(tmp_path) as browser:
        browser.open(page, 390, 844, touch=True)
        assert browser.value("document.documentElement.scrollWidth") <= 390
        boxes = browser.value(
            "JSON.stringify([...document.querySelectorAll('div')]"
            ".map(box => [box.clientWidth, box.scrollWidth]))"
        )
        boxes = np.array(json.loads(boxes))
        assert (boxes[:, 0] <= 390).all() and (boxes[:, 1] > 900).sum() == 2
        browser.value("document.querySelectorAll('div')[0].scrollLeft = 100")
        name = "document.querySelector('td').getBoundingClientRect()"
        assert 0 <= browser.value(f"{name}.left") < 40  # it stays beside its numbers
        browser.value("document.querySelector('img').scrollIntoView()")
        red = (np.abs(browser.picture().astype(int) - RED) < 9).all(axis=-1)
        assert red.any(axis=0).sum() > 300  # the width of the box
        assert browser.complaints == []
