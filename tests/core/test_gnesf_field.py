"""The field of a whole scene: who votes on its points, and what comes of it."""

import dataclasses

import numpy as np
import pytest
import torch

from gnesf_core.data import store
from gnesf_core.data.keyframes import fragments_of
from gnesf_core.errors import BadInput
from gnesf_core.fields import gnesf
from gnesf_core.fields.interface import SceneInputs
from gnesf_core.training.weights import write_weights
from tests import field_scenes, tiny_room
from tests.field_scenes import ENCODER, SETTINGS

CPU = torch.device("cpu")
NOWHERE = np.array([[50.0, 50, 50]])


def points_of_the_room():
    """Return points on all four walls, half-way up, and one out of the world."""
    middle = (tiny_room.LOW + tiny_room.HIGH) / 2
    points = np.tile(middle, (8, 1))
    points[:4, :2] += np.random.default_rng(0).uniform(-1, 1, (4, 2))
    for n, side in enumerate((tiny_room.LOW, tiny_room.HIGH)):
        points[n::4, 0] = side[0]
        points[n + 2 :: 4, 1] = side[1]
    return np.concatenate([points, NOWHERE])


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A room of ten key frames in fragments of three: the last two overlap."""
    folder = tmp_path_factory.mktemp("room")
    return field_scenes.write_scene(folder, "a", 20, fragment_views=3)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return field_scenes.write_start(tmp_path_factory.mktemp("start") / "g.safetensors")


def opened(start, tmp_path, **changes):
    """Return a field of which nothing was learned but that votes differ."""
    settings = dataclasses.replace(SETTINGS, **changes)
    torch.manual_seed(3)
    network = gnesf.build(settings, ENCODER, start)
    torch.nn.init.normal_(network.vote.semantic.weight)
    path = tmp_path / "f.safetensors"
    write_weights(path, network.state_dict(), {})
    return gnesf.open_field(settings, ENCODER, path, CPU)


class Opened:
    """The files of a scene, as fields get them."""

    def __init__(self, paths):
        self._paths = paths

    def __enter__(self):
        self.frames = store.Frames(self._paths.frames)
        self.prior = store.PriorMaps(self._paths.prior, self.frames)
        with store.VolumeFile(self._paths.surface, self.frames) as file:
            volume = file.volume()
        return SceneInputs(self.frames, self.prior, volume.surface, volume)

    def __exit__(self, *_):
        self.prior.close()
        self.frames.close()


@pytest.mark.parametrize("voters", ["nearest", "fragments"])
def test_labels_are_what_the_voters_say_by_their_weights(room, start, tmp_path, voters):
    field = opened(start, tmp_path, voters=voters, views=2)
    points = points_of_the_room()
    with Opened(room) as scene:
        labels = field.label_points(points, scene)
        told = field.explain_each(points, scene)
        keys = np.flatnonzero(scene.frames.is_key).tolist()
        assert fragments_of(scene.frames)[-1] == keys[7:]
    groups = [keys[:3], keys[3:6], keys[6:9], keys[9:]]
    assert len(told[-1]) == 0 and labels.confidence[-1] == 0
    for n, votes in enumerate(told[:-1]):
        assert sum(vote.weight for vote in votes) == pytest.approx(1, abs=1e-5)
        expected = sum(vote.weight * vote.probabilities for vote in votes)
        assert labels.class_id[n] == expected.argmax()
        assert labels.confidence[n] == pytest.approx(expected.max(), abs=1e-5)
        who = [vote.position for vote in votes]
        if voters == "nearest":
            assert len(who) <= 2
            continue
        # All that see it of each fragment, which counts by how many those are.
        assert set(who) <= set(keys) and len(set(who)) == len(who)
        for group in groups:
            own = [vote.weight for vote in votes if vote.position in group]
            assert sum(own) == pytest.approx(len(own) / len(who), abs=1e-5)
    if voters == "fragments":
        assert max(len(votes) for votes in told) > 2  # more than so many nearest


def test_a_scene_without_fragments_has_no_voters_among_them(start, tmp_path):
    paths = field_scenes.write_scene(tmp_path, "b", 8)
    field = opened(start, tmp_path, voters="fragments")
    with Opened(paths) as scene, pytest.raises(BadInput, match="voters: fragments"):
        field.label_points(NOWHERE, scene)
