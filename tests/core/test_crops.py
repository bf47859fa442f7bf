"""What a segmenter is shown: windows that match their labels, by number alone."""

import pickle

import numpy as np
import pytest
import torch

from gnesf_core.config import SegmentationDataConfig
from gnesf_core.data.store import Frames
from gnesf_core.errors import BadInput
from gnesf_core.labels import IGNORE
from gnesf_core.nets.pictures import jitter
from gnesf_core.priors.crops import Crops, crop, frame_shares
from tests.made_up import write_frames_file

PLAIN = SegmentationDataConfig(
    frames="kept", balance=0.0, scale_min=1.0, scale_max=1.0, flip=0.0, color_jitter=0.0
)


def ramp(width, height):
    """A picture that says where each pixel came from, and labels that say it too."""
    v, u = np.mgrid[:height, :width]
    rgb = np.stack([u, v, np.full_like(u, 7)], axis=-1).astype(np.uint8)
    return rgb, (u // 10).astype(np.uint8)


@pytest.mark.parametrize("scale", [0.5, 0.9, 1.0, 1.3, 2.0])
@pytest.mark.parametrize("place", [(0.0, 0.0), (0.3, 0.8), (0.999, 0.999)])
def test_picture_and_labels_show_the_same_place(scale, place):
    rgb, labels = ramp(200, 150)
    picture, target = crop(rgb, labels, (100, 75), scale, np.array(place))
    assert picture.shape == (3, 75, 100) and target.shape == (75, 100)
    inside = target != IGNORE
    expected = (picture[0].float() // 10)[inside]
    # One class is ten columns wide; resampling may blur the column at its edge.
    assert ((expected - target[inside].float()).abs() <= 1).all()
    assert (expected == target[inside]).float().mean() > 0.75
    shown = 1.0 if scale >= 1 else scale**2
    assert abs(inside.float().mean() - shown) < 0.03


def test_a_larger_scale_shows_less_of_the_frame():
    rgb, labels = ramp(200, 150)
    picture, _ = crop(rgb, labels, (100, 75), 2.0, np.array([0.0, 0.0]))
    assert picture[0].max() <= 100 and picture[1].max() <= 75


def test_places_reach_both_ends_of_the_frame():
    rgb, labels = ramp(200, 150)
    first, _ = crop(rgb, labels, (100, 75), 2.0, np.array([0.0, 0.0]))
    last, _ = crop(rgb, labels, (100, 75), 2.0, np.array([0.9999, 0.9999]))
    assert first[0].min() == 0 and first[1].min() == 0
    assert last[0].max() == 199 and last[1].max() == 149


def test_odd_sizes_do_not_matter():
    rgb, labels = ramp(97, 61)
    for scale in (0.31, 1.0, 3.7):
        picture, target = crop(rgb, labels, (64, 32), scale, np.array([0.5, 0.5]))
        assert picture.shape == (3, 32, 64) and target.shape == (32, 64)


def test_jitter_by_ones_changes_nothing_and_factors_do_what_they_say():
    picture = torch.randint(60, 120, (3, 8, 9), dtype=torch.uint8)
    assert torch.equal(jitter(picture, np.ones(3)), picture)
    brighter = jitter(picture, np.array([1.5, 1.0, 1.0])).float()
    assert (brighter - 1.5 * picture).abs().max() <= 0.5
    grey = jitter(picture, np.array([1.0, 1.0, 0.0]))
    assert (grey.max(dim=0)[0] == grey.min(dim=0)[0]).all()
    flat = jitter(picture, np.array([1.0, 0.0, 1.0]))
    assert flat.unique().numel() == 1


def test_frames_of_rare_classes_are_drawn_by_their_rarity():
    present = np.zeros((10, 20), bool)
    present[:, 0] = True  # everywhere
    present[3, 5] = True  # in one frame of ten
    assert np.allclose(frame_shares(present, 0.0), 0.1)
    shares = frame_shares(present, 1.0)
    assert np.isclose(shares[3] / shares[0], 10)
    assert np.isclose(
        frame_shares(present, 0.5)[3] / frame_shares(present, 0.5)[0], 10**0.5
    )


def test_frames_without_any_class_can_be_drawn_too():
    assert np.allclose(frame_shares(np.zeros((4, 20), bool), 1.0), 0.25)


def test_a_sample_is_a_function_of_its_number(tmp_path):
    paths = [write_frames_file(tmp_path, f"scene000{i}_00", frames=4) for i in range(2)]
    config = SegmentationDataConfig("kept", 1.0, 0.6, 1.7, 0.5, 0.3)
    crops = Crops(paths, config, (64, 32), seed=3)
    twin = pickle.loads(pickle.dumps(Crops(paths, config, (64, 32), seed=3)))
    crops[11]
    for number in (7, 0, 11):
        ours, theirs = crops[number], twin[number]
        assert torch.equal(ours["picture"], theirs["picture"])
        assert torch.equal(ours["labels"], theirs["labels"])
        assert ours["name"] == theirs["name"]
    other = Crops(paths, config, (64, 32), seed=4)
    assert any(
        not torch.equal(crops[n]["picture"], other[n]["picture"]) for n in range(4)
    )


def test_every_frame_of_the_chosen_kind_is_shown(tmp_path):
    path = write_frames_file(tmp_path, "scene0000_00", frames=6)
    with Frames(path) as frames:
        keys = {f"scene0000_00 frame {i}" for i in frames.index[frames.is_key]}
        kept = {f"scene0000_00 frame {i}" for i in frames.index}
    assert keys < kept
    for kind, names in (("keys", keys), ("kept", kept)):
        config = SegmentationDataConfig(kind, 0.0, 1.0, 1.0, 0.0, 0.0)
        crops = Crops([path], config, (64, 32), seed=0)
        assert {crops[number]["name"] for number in range(100)} == names


def test_the_whole_frame_at_scale_one(tmp_path):
    path = write_frames_file(tmp_path, "scene0000_00", frames=1, size=(64, 32))
    sample = Crops([path], PLAIN, (64, 32), seed=0)[0]
    with Frames(path) as frames:
        assert np.array_equal(
            sample["picture"].permute(1, 2, 0).numpy(), frames.color(0)
        )
        assert np.array_equal(sample["labels"].numpy(), frames.labels(0))


def test_nothing_to_train_on_is_said_at_once(tmp_path):
    path = write_frames_file(tmp_path, "scene0000_00", frames=2, labelled=False)
    with pytest.raises(BadInput, match="labelled frames to train on"):
        Crops([path], PLAIN, (64, 32), seed=0)
    with pytest.raises(BadInput, match="none of the kind"):
        Crops([], PLAIN, (64, 32), seed=0)


def test_scenes_of_void_only_are_drawn_without_harm(tmp_path):
    void = np.full((32, 64), IGNORE, np.uint8)
    path = write_frames_file(
        tmp_path, "scene0000_00", frames=2, size=(64, 32), labels=[void, void]
    )
    config = SegmentationDataConfig("kept", 1.0, 0.5, 2.0, 0.5, 0.1)
    sample = Crops([path], config, (64, 32), seed=0)[0]
    assert (sample["labels"] == IGNORE).all()
