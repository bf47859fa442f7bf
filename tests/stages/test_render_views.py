"""Rendered views of a scene, from its files to JSON, a picture and tables."""

import csv
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from PIL import Image

from gnesf_core.config import FusionConfig, ImageQualityConfig, NovelViewsConfig
from gnesf_core.data import store
from gnesf_core.data.publish import read_json
from gnesf_core.errors import BadInput
from gnesf_core.labels import PALETTE
from stages import evaluate_views, render_field, summarize_views
from tests import room_files, tiny_room

COUNT = 20
ROLES = np.arange(COUNT) % 4 != 1, np.arange(COUNT) % 2 == 1
VIEWS = NovelViewsConfig("held-out", 5, 0, 24, 18)
QUALITY = ImageQualityConfig("gnesf", "", "")
WRONG = (213, 94, 0)
BED = 3


def all_bed(frames, position):
    bed = np.full(tiny_room.COLOR_SIZE[::-1], BED, np.uint8)
    return room_files.one_hot(bed)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Write a room with its geometry, a perfect prior and a poor one."""
    folder = tmp_path_factory.mktemp("scene")
    frames = room_files.write_frames(folder / "frames.h5", *ROLES)
    room_files.write_prior(folder / "good.h5", frames)
    room_files.write_prior(folder / "poor.h5", frames, all_bed)
    room_files.write_volume(folder / "volume.h5", frames, room_files.distances())
    return folder


def render(scene, out, name="good", views=VIEWS, module="gnesf", recipe=None, **files):
    recipe = asdict(room_files.FIELD) if recipe is None else recipe
    paths = {"frames": scene / "frames.h5", "volume": scene / "volume.h5",
             "prior": scene / f"{name}.h5"} | files  # fmt: skip
    seen = out.with_name(f"{out.stem}_seen.h5")
    render_field.main(
        **paths, out=seen, geometry="closed-form", module=module,
        recipe=json.dumps(recipe), views=views, encoder=room_files.ENCODER,
    )  # fmt: skip
    picture = out.with_suffix(".png")
    evaluate_views.main(paths["frames"], seen, out, picture, name, QUALITY)
    return read_json(out)


@pytest.fixture(scope="module")
def scores(scene):
    return {name: render(scene, scene / f"{name}.json", name)
            for name in ("good", "poor")}  # fmt: skip


def pixels_of(path):
    return np.asarray(Image.open(path).convert("RGB"))


def share_of(picture, color):
    return (np.abs(picture.astype(int) - color) <= 1).all(axis=-1).mean()


def test_scores_are_those_of_the_held_out_frames_and_can_be_traced(scene, scores):
    good, poor = scores["good"], scores["poor"]
    assert [frame["index"] for frame in good["frames"]] == [1, 5, 9, 13, 17]
    assert (good["scene"], good["field"]) == (room_files.SCENE, "good")
    assert good["semantics"]["overall_accuracy"] > 0.95
    assert good["semantics"]["miou_in_truth"] > 0.8
    assert poor["semantics"]["overall_accuracy"] == 0.0
    assert good["rays"] == 5 * 24 * 18 >= good["rays_rendered"] > 0.9 * good["rays"]
    assert all(frame["psnr_db"] > 20 for frame in good["frames"])
    protocol = dict(good["protocol"])
    assert "no key frames" in protocol.pop("views_words")
    assert "no weights given" in protocol.pop("image_words")
    assert protocol == {
        "geometry": "closed-form", "frames_per_scene": 5, "size": "24x18",
        "source_frames": "keys", "source_views": 6, "views": "held-out",
        "image_quality": "gnesf",
    }  # fmt: skip
    assert all(frame["lpips"] is None for frame in good["frames"])
    assert all(0.5 < frame["ssim"] <= 1 for frame in good["frames"])
    inputs = good["provenance"]["inputs"]
    with store.Frames(scene / "frames.h5") as frames:
        assert inputs["frames"] == frames.fingerprint
        with (
            store.PriorMaps(scene / "good.h5", frames) as prior,
            store.VolumeFile(scene / "volume.h5", frames) as volume,
        ):
            assert inputs["prior"] == prior.fingerprint
            assert inputs["volume"] == volume.fingerprint


def test_pictures_show_classes_and_mark_errors(scene, scores):
    good, poor = (pixels_of(scene / f"{name}.png") for name in scores)
    for picture in (good, poor):
        assert 1350 < picture.shape[1] < 1450 and 700 < picture.shape[0] < 1400
    assert share_of(good, WRONG) < 0.02 < 0.1 < share_of(poor, WRONG)
    assert share_of(poor, PALETTE[BED]) > 0.1 > 0.001 > share_of(good, PALETTE[BED])


@pytest.mark.parametrize("case", ["one frame", "nothing rendered"])
def test_every_scene_gets_a_picture(scene, tmp_path, case):
    views, files = replace(VIEWS, frames=1), {}
    if case == "nothing rendered":
        known = room_files.distances()
        nothing = replace(known, weight=np.zeros_like(known.weight))
        files["volume"] = room_files.write_volume(
            tmp_path / "volume.h5", scene / "frames.h5", nothing
        )
    found = render(scene, tmp_path / "v.json", views=views, **files)
    assert (found["rays_rendered"] == 0) == (case == "nothing rendered")
    picture = pixels_of(tmp_path / "v.png")
    assert 1350 < picture.shape[1] < 1450 and picture.shape[0] > 250


def test_a_field_that_does_not_render_is_refused(scene, tmp_path):
    recipe = asdict(FusionConfig("mean", 0.1, 5.0, 10.0))
    with pytest.raises(BadInput, match="expected a field that renders: gnesf, found"):
        render(scene, tmp_path / "v.json", module="fusion", recipe=recipe)
    assert not list(tmp_path.iterdir())


def test_a_scene_without_labels_leaves_nothing(scene, tmp_path):
    frames = room_files.write_frames(tmp_path / "f.h5", *ROLES, labelled=False)
    files = {
        "frames": frames,
        "prior": room_files.write_prior(tmp_path / "p.h5", frames),
        "volume": room_files.write_volume(
            tmp_path / "v.h5", frames, room_files.distances()
        ),
    }
    with pytest.raises(BadInput, match="labels: expected 2D labels"):
        render(scene, tmp_path / "v.json", views=replace(VIEWS, frames=1), **files)
    assert not (tmp_path / "v.json").exists() and not (tmp_path / "v.png").exists()


def test_tables_name_every_pooling_and_the_protocol(scene, scores, tmp_path):
    names = ("fields", "classes", "frames", "markdown", "html")
    out = {name: tmp_path / f"table.{name}" for name in names}

    files = [scene / f"{name}.json" for name in scores]
    summarize_views.main(files, "tiny", "val", **out)

    page = " ".join(out["markdown"].read_text().split())
    for words in (
        "Novel views of tiny, val split", "mIoU, per image", "mIoU, per scene",
        "mIoU, data set", "mAcc, data set", "at most 5 frames", "closed-form",
        "from key frames", "At most 6 source views", "interpolated bilinearly", "PSNR",
        "LPIPS: no weights given", "that are no key frames, evenly spread",
        "| good | closed-form | held-out | keys | 6 | 5 | 24x18 | 5 | 0 |",
    ):  # fmt: skip
        assert words in page
        assert "|" in words or words in out["html"].read_text()
    with out["fields"].open() as file:
        good, poor = csv.DictReader(file)
    assert float(good["data_set_miou"]) > 0.8 > float(poor["data_set_miou"]) == 0
    assert float(good["rendered"]) > 0.9 and float(good["per_image_psnr_db"]) > 20
    assert float(good["per_image_ssim"]) > 0.5 and good["per_image_lpips"] == ""
    assert good["geometry"] == "closed-form"
    with out["frames"].open() as file:
        assert len(list(csv.DictReader(file))) == 10
    with out["classes"].open() as file:
        assert len(list(csv.DictReader(file))) == 40
