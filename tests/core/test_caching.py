"""A prior's cache: whole or absent, continued after a kill, tied to its frames."""

import logging

import h5py
import numpy as np
import pytest

from gnesf_core.data.provenance import provenance
from gnesf_core.data.store import Frames, PriorMaps
from gnesf_core.errors import BadInput
from gnesf_core.labels import CLASS_NAMES
from gnesf_core.priors.caching import cache_prior
from gnesf_core.priors.interface import Prior
from tests.made_up import write_frames_file

MADE_BY = provenance("test", {"x": 1}, {"frames": "?"})


class Pulled(Exception):
    """The plug."""


class RandomPrior:
    """Scores that depend on the frame alone; dies where it is told to."""

    def __init__(self, dies_at=None, sharpness=1.0):
        self.dies_at = dies_at
        self.sharpness = sharpness
        self.computed = []

    def map_size(self, frames):
        return 12, 7

    def inputs(self, frames):
        return {}

    def scores(self, frames, start):
        for position in range(start, len(frames)):
            if position == self.dies_at:
                raise Pulled
            self.computed.append(position)
            rng = np.random.default_rng(position)
            yield rng.random((20, 7, 12), dtype=np.float32) ** self.sharpness


@pytest.fixture
def frames(tmp_path):
    with Frames(write_frames_file(tmp_path, "scene0000_00", frames=6)) as opened:
        yield opened


def made_by(frames, value=1):
    return provenance("test", {"x": value}, {"frames": frames.fingerprint})


def cached(path, frames, prior, logits=False, value=1):
    cache_prior(path, frames, prior, logits, made_by(frames, value))
    with PriorMaps(path, frames) as maps:
        stack = np.stack([maps.probabilities(i) for i in range(len(maps))])
        return stack, maps.fingerprint


def test_the_made_up_prior_is_a_prior():
    assert isinstance(RandomPrior(), Prior)


def test_what_is_cached_is_the_share_of_each_class(tmp_path, frames):
    stack, _ = cached(tmp_path / "p.h5", frames, RandomPrior())
    for position in range(6):
        scores = np.random.default_rng(position).random((20, 7, 12), dtype=np.float32)
        share = scores / scores.sum(axis=0)
        assert np.abs(stack[position] / 255 - share).max() <= 0.5 / 255 + 1e-6


def test_after_a_kill_it_goes_on_and_ends_with_the_same_file(tmp_path, frames):
    whole, fingerprint = cached(tmp_path / "whole.h5", frames, RandomPrior())
    path = tmp_path / "cut.h5"
    with pytest.raises(Pulled):
        cached(path, frames, RandomPrior(dies_at=4))
    assert not path.exists()
    second = RandomPrior()
    again, same = cached(path, frames, second)
    assert second.computed == [4, 5]
    assert np.array_equal(whole, again) and same == fingerprint
    assert not [p for p in tmp_path.iterdir() if "journal" in p.name]


def test_what_another_recipe_left_is_not_taken_over(tmp_path, frames):
    path = tmp_path / "p.h5"
    with pytest.raises(Pulled):
        cached(path, frames, RandomPrior(dies_at=3))
    second = RandomPrior(sharpness=3.0)
    cached(path, frames, second, value=2)
    assert second.computed == list(range(6))


@pytest.mark.parametrize("damage", ["cut", "flip", "heading"])
def test_a_damaged_journal_is_trusted_as_far_as_it_is_whole(tmp_path, frames, damage):
    whole, _ = cached(tmp_path / "whole.h5", frames, RandomPrior())
    path = tmp_path / "p.h5"
    with pytest.raises(Pulled):
        cached(path, frames, RandomPrior(dies_at=4))
    journal = next(p for p in tmp_path.iterdir() if "journal" in p.name)
    data = bytearray(journal.read_bytes())
    record = 20 * 7 * 12 + 4
    if damage == "cut":
        data, expected = data[:-1], [3, 4, 5]
    elif damage == "flip":
        data[-record - 10] ^= 1
        expected = [2, 3, 4, 5]
    else:
        data[5] ^= 1
        expected = list(range(6))
    journal.write_bytes(data)
    second = RandomPrior()
    again, _ = cached(path, frames, second)
    assert second.computed == expected
    assert np.array_equal(whole, again)


def test_a_link_in_place_of_the_journal_is_not_followed(tmp_path, frames):
    precious = tmp_path / "precious"
    precious.write_bytes(b"do not touch")
    (tmp_path / ".p.h5.journal").symlink_to(precious)
    with pytest.raises(OSError):
        cached(tmp_path / "p.h5", frames, RandomPrior())
    assert precious.read_bytes() == b"do not touch"


def test_logits_are_kept_only_if_asked_for(tmp_path, frames):
    path = tmp_path / "p.h5"
    cached(path, frames, RandomPrior())
    with PriorMaps(path, frames) as maps:
        assert not maps.has_logits
    cached(path, frames, RandomPrior(), logits=True)
    with PriorMaps(path, frames) as maps:
        logits = maps.logits(2).astype(np.float64)
    scores = np.random.default_rng(2).random((20, 7, 12), dtype=np.float32)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=0)
    # The softmax of the logits is the probability: they are two forms of one thing.
    assert np.abs(softmax - scores / scores.sum(axis=0)).max() < 1e-3


def test_the_prior_of_another_scene_is_refused(tmp_path, frames):
    path = tmp_path / "p.h5"
    cached(path, frames, RandomPrior())
    other = write_frames_file(tmp_path, "scene0001_00", frames=6)
    with Frames(other) as strangers, pytest.raises(BadInput, match="attribute scene"):
        PriorMaps(path, strangers)


def test_the_prior_of_other_frames_of_the_scene_is_refused(tmp_path, frames):
    path = tmp_path / "p.h5"
    cached(path, frames, RandomPrior())
    folder = tmp_path / "later"
    folder.mkdir()
    other = write_frames_file(folder, "scene0000_00", frames=6, seed=1)
    with Frames(other) as strangers, pytest.raises(BadInput, match="input frames"):
        PriorMaps(path, strangers)


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_file_cut_short_is_refused(tmp_path, frames, share):
    path = tmp_path / "p.h5"
    cached(path, frames, RandomPrior())
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(BadInput, match="remedy"), PriorMaps(path, frames) as maps:
        [maps.probabilities(i) for i in range(len(maps))]


def test_other_classes_in_another_order_are_refused(tmp_path, frames):
    path = tmp_path / "p.h5"
    cached(path, frames, RandomPrior())
    with h5py.File(path, "r+") as file:
        names = file["probabilities"].attrs["class_names"].decode()
        swapped = names.replace('"wall", "floor"', '"floor", "wall"')
        file["probabilities"].attrs["class_names"] = np.bytes_(swapped)
    with pytest.raises(BadInput, match="class names"):
        PriorMaps(path, frames)


def test_plain_hdf5_reads_it(tmp_path, frames):
    path = tmp_path / "p.h5"
    stack, _ = cached(path, frames, RandomPrior())
    with h5py.File(path) as file:
        assert np.array_equal(file["probabilities"][:], stack)
        assert file["probabilities"].chunks == (1, len(CLASS_NAMES), 7, 12)


def test_long_work_says_how_long_it_takes(tmp_path, frames, caplog, monkeypatch):
    ticks = iter(np.arange(0.0, 10000.0, 20.0).tolist())
    monkeypatch.setattr("time.monotonic", lambda: next(ticks))
    with caplog.at_level(logging.INFO):
        cached(tmp_path / "p.h5", frames, RandomPrior())
    assert any("frames/s" in line and "left" in line for line in caplog.messages)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.5])
def test_scores_that_mean_nothing_are_refused(tmp_path, frames, bad):
    class Broken(RandomPrior):
        def scores(self, frames, start):
            for number, scores in enumerate(super().scores(frames, start)):
                scores[3, 2, 1] = bad if number == 2 else scores[3, 2, 1]
                yield scores

    path = tmp_path / "p.h5"
    with pytest.raises(BadInput, match=r"partial: kept frame 2: expected class"):
        cached(path, frames, Broken())
    assert not path.exists()


def test_pixels_of_which_nothing_is_known_have_no_logits(tmp_path, frames):
    class Void(RandomPrior):
        def scores(self, frames, start):
            for scores in super().scores(frames, start):
                scores[:, :3] = 0
                yield scores

    path = tmp_path / "p.h5"
    cached(path, frames, Void(), logits=True)
    with PriorMaps(path, frames) as maps:
        assert (maps.probabilities(1)[:, :3] == 0).all()
        assert np.isneginf(maps.logits(1)[:, :3]).all()
        assert np.isfinite(maps.logits(1)[:, 3:]).all()


def test_what_other_code_left_is_not_taken_over(tmp_path, frames):
    path = tmp_path / "p.h5"
    with pytest.raises(Pulled):
        cache_prior(
            path, frames, RandomPrior(dies_at=3), False, made_by(frames), "before"
        )
    second = RandomPrior()
    cache_prior(path, frames, second, False, made_by(frames), "after")
    assert second.computed == list(range(6))
