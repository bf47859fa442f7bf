"""Which frames are rendered, from which, and what may be learned before, by name."""

from dataclasses import replace

import numpy as np
import pytest

from gnesf_core.config import SourceViewsConfig
from gnesf_core.data import store
from gnesf_core.errors import BadInput
from gnesf_core.evaluation.view_splits import VIEW_PROTOCOLS
from gnesf_core.views import choice
from gnesf_core.views.choice import HELD_OUT
from tests import room_files

COUNT = 130
SOURCES = SourceViewsConfig("keys", 4, 0.0, 48, 36)
RANGE_M = 0.1, 5.0


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A scene whose frames are all kept: keys, every 5th, and views, all."""
    path = tmp_path_factory.mktemp("room") / "frames.h5"
    keys = np.arange(COUNT) % 5 == 0
    return room_files.write_frames(path, keys, np.ones(COUNT, bool))


@pytest.fixture
def frames(path):
    with store.Frames(path) as kept:
        yield kept


@pytest.mark.parametrize("protocol", [HELD_OUT, *VIEW_PROTOCOLS])
def test_every_protocol_has_words_for_a_title(protocol):
    assert len(choice.words(protocol)) > 50


@pytest.mark.parametrize("system", ["sray", "gsnerf", "gpnerf"])
def test_clean_protocols_keep_ten_frames_between_what_is_judged_and_known(
    frames, system
):
    protocol = f"{system}-clean"
    judged = choice.targets(frames, protocol, 1)
    assert judged == [2, 72]
    learned = choice.fitting_frames(frames, "keys", protocol)
    assert learned and np.abs(np.subtract.outer(learned, judged)).min() > 10
    for target in judged:
        sources = choice.sources_of_frame(frames, target, protocol, SOURCES, RANGE_M)
        assert len(sources) == SOURCES.views == len(set(sources))
        assert np.abs(np.subtract.outer(sources, judged)).min() > 10


def test_semantic_rays_released_views_are_those_of_its_code(frames):
    judged = choice.targets(frames, "sray-released", 1)
    assert judged == [2, 22, 42, 62, 82, 102, 122]
    sources = choice.sources_of_frame(frames, 42, "sray-released", SOURCES, RANGE_M)
    assert all(source % 5 == 0 for source in sources)
    assert set(judged) <= set(choice.fitting_frames(frames, "keys", "sray-released"))


def test_sources_are_the_same_whenever_a_frame_is_rendered(frames):
    once, again, other = (
        choice.sources_of_frame(frames, target, "gpnerf-clean", SOURCES, RANGE_M)
        for target in (2, 2, 72)
    )
    assert once == again != other


def test_a_protocol_whose_frames_were_not_kept_is_refused(frames):
    frames.index = 3 * frames.index  # as if only every third had been kept
    with pytest.raises(BadInput, match="such as frame 2; .*view_stride: 1"):
        choice.targets(frames, "sray-released", 1)


def test_a_protocol_that_leaves_no_sources_is_refused(tmp_path):
    few = np.ones(12, bool)
    path = room_files.write_frames(tmp_path / "frames.h5", few, few)
    with (
        store.Frames(path) as frames,
        pytest.raises(BadInput, match="sray-clean, found none for frame 2 of 12"),
    ):
        choice.sources_of_frame(frames, 2, "sray-clean", SOURCES, RANGE_M)


@pytest.mark.parametrize("kind", ["keys", "views", "kept"])
def test_held_out_frames_are_never_learned_from(path, tmp_path, kind):
    keys, views = np.arange(20) % 4 == 0, np.arange(20) % 2 == 0
    own = room_files.write_frames(tmp_path / "frames.h5", keys, views)
    with store.Frames(own) as frames:
        learned = choice.fitting_frames(frames, kind, HELD_OUT)
        judged = choice.targets(frames, HELD_OUT, 100)
        assert judged and learned and not set(learned) & set(judged)


def test_a_scene_whose_views_are_all_keys_has_nothing_to_render(tmp_path, caplog):
    every = np.ones(6, bool)
    path = room_files.write_frames(tmp_path / "frames.h5", every, every)
    with store.Frames(path) as frames:
        assert choice.targets(frames, HELD_OUT, 8) == []
    assert "view_stride" in caplog.text


def test_sources_of_a_pose_are_near_it(frames):
    pose = frames.world_from_camera[50].copy()
    one = replace(SOURCES, views=1)
    assert choice.sources_of_pose(frames, pose, one, RANGE_M) == [50]
