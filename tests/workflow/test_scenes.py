"""Scene names come from outside and are checked before anything is done with them."""

import pytest

from gnesf_core.config import SynthRoomsCounts
from gnesf_core.data import captures
from gnesf_core.spread import spread
from gnesf_core.synthrooms.scene import scene_names
from workflow.scenes import (
    CAPTURE_FILES,
    capture_file,
    evenly_spread,
    read_splits,
)

COUNTS = {"scenes_train": 3, "scenes_val": 2, "scenes_test": 1}


def lists(tmp_path, text):
    path = tmp_path / "val.txt"
    path.write_bytes(text)
    return {"datasets": {"mine": {"format": "scannet", "splits": {"val": str(path)}}}}


def test_lists_are_read_with_their_usual_blemishes(tmp_path):
    config = lists(
        tmp_path, b"\xef\xbb\xbfscene0011_00\r\n\r\nscene0011_01 \nscene0011_00\n"
    )
    expected = {"train": [], "val": ["scene0011_00", "scene0011_01"], "test": []}
    assert read_splits("mine", config) == expected


@pytest.mark.parametrize(
    "name", ["../../x", "/abs", "a/b", "x;id", "$(id)", "`id`", "-rf", ".", "a b",
             "a" * 300, "scène"]
)  # fmt: skip
def test_a_hostile_scene_name_is_refused_with_its_line(tmp_path, name):
    config = lists(tmp_path, f"scene0011_00\n{name}\n".encode())
    with pytest.raises(ValueError, match=r"val\.txt: line 2: expected a scene's name"):
        read_splits("mine", config)


def test_a_missing_list_is_named(tmp_path):
    splits = {"val": str(tmp_path / "no.txt")}
    config = {"datasets": {"mine": {"format": "scannet", "splits": splits}}}
    with pytest.raises(ValueError, match=r"no\.txt"):
        read_splits("mine", config)


def test_the_workflow_counts_the_rooms_that_the_core_makes():
    made = scene_names(SynthRoomsCounts(**COUNTS))
    config = {"datasets": {"synthrooms": {}}, "synthrooms": COUNTS}
    counted = read_splits("synthrooms", config)
    assert {split: list(names) for split, names in made.items()} == counted


@pytest.mark.parametrize("count", [1, 2, 5, 32])
@pytest.mark.parametrize("most", [1, 3, 5, 40])
def test_the_workflow_makes_the_scenes_that_training_will_use(count, most):
    # What a stage that is given all scenes would choose of them.
    names = [f"scene{n}" for n in range(count)]
    assert evenly_spread(names, most) == [names[n] for n in spread(count, most)]
    assert evenly_spread(names, 0) == names
    assert evenly_spread([], most) == []


def captures_in(root):
    return {
        "datasets": {"mine": {"format": "capture", "root": str(root), "splits": {}}}
    }


def test_every_folder_of_captures_is_a_scene_without_labels(tmp_path):
    for name in ("kitchen", "attic-2", ".trash"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes.txt").touch()
    expected = {"train": [], "val": [], "test": ["attic-2", "kitchen"]}
    assert read_splits("mine", captures_in(tmp_path)) == expected


@pytest.mark.parametrize("name", ["my kitchen", "$(id)"])
def test_a_folder_that_cannot_be_a_scene_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match="rename it"):
        read_splits("mine", captures_in(tmp_path))


@pytest.mark.parametrize("name", CAPTURE_FILES)
def test_the_workflow_watches_the_file_that_a_capture_is_opened_by(tmp_path, name):
    for other in CAPTURE_FILES[CAPTURE_FILES.index(name) :]:
        (tmp_path / other).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / other).touch()
    assert capture_file(tmp_path) == str(tmp_path / name)
    assert captures.capture_file(tmp_path) == tmp_path / name


def test_a_folder_without_poses_is_refused_with_what_it_lacks(tmp_path):
    with pytest.raises(
        ValueError, match=r"expected transforms\.json.*docs/captures.md"
    ):
        capture_file(tmp_path)


def test_no_captures_are_no_scenes_but_an_error(tmp_path):
    with pytest.raises(ValueError, match="expected a folder of posed pictures"):
        read_splits("mine", captures_in(tmp_path / "nowhere"))


@pytest.mark.parametrize("system", ["sray", "gsnerf", "gpnerf"])
def test_lists_of_published_systems_go_by_name_and_leak_nothing(system):
    config = {"datasets": {"mine": {"format": "scannet", "splits": system}}}
    splits = read_splits("mine", config)
    assert len(splits["val"]) == 10 and splits["test"] == []
    assert len(splits["train"]) == {"sray": 198, "gsnerf": 61, "gpnerf": 198}[system]
    rooms = {name[:9] for name in splits["val"]}
    assert not rooms & {name[:9] for name in splits["train"]}
