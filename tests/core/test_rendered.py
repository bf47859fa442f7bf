"""Files of rendered views: what goes in comes out, and nothing else passes for it."""

import os

import numpy as np
import pytest

from gnesf_core.data import store
from gnesf_core.data.provenance import provenance
from gnesf_core.data.rendered import View, Views, write_views
from gnesf_core.errors import BadInput
from tests import field_scenes

SIZE = (5, 3)
COUNT = 6  # frames of the scene
POSITIONS = [1, 3, 4]
SOURCES = [(0, 2, 5), (), (5,)]
ABOUT = {"geometry": "none", "frames_per_scene": 3, "size": "5x3"}


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    path = tmp_path_factory.mktemp("frames") / "a.h5"
    poses = field_scenes.camera_path(COUNT)
    with store.Frames(field_scenes.write_frames(path, "a", poses)) as own:
        yield own


def view_of(number, sources=(), size=SIZE):
    rng, rows = np.random.default_rng(number), size[::-1]
    return View(
        rng.integers(0, 256, (20, *rows), np.uint8),
        rng.integers(0, 256, (*rows, 3), np.uint8),
        rng.random(rows, np.float32),
        rng.random(rows) < 0.5,
        sources,
    )


def write(path, frames, positions=POSITIONS, views=None, made_from=None):
    inputs = {"frames": made_from or frames.fingerprint}
    made_by = provenance("test", {}, inputs)
    if views is None:
        views = [view_of(*own) for own in enumerate(SOURCES)]
    with write_views(path, frames, positions, SIZE, made_by, ABOUT) as writer:
        for view in views:
            writer.add(view)
    return path


def test_views_come_out_as_they_went_in(frames, tmp_path):
    path = write(tmp_path / "v.h5", frames)
    with Views(path, frames) as views:
        assert (len(views), views.size, views.about) == (3, SIZE, ABOUT)
        assert views.positions.tolist() == POSITIONS
        for number in (2, 0, 1):
            found, expected = views.view(number), view_of(number, SOURCES[number])
            assert found.sources == expected.sources
            for one, other in zip(found[:-1], expected[:-1], strict=True):
                assert one.dtype == other.dtype
                np.testing.assert_array_equal(one, other)


def test_equal_views_have_one_fingerprint_and_others_another(frames, tmp_path):
    def fingerprint(**how):
        with Views(write(tmp_path / "v.h5", frames, **how), frames) as views:
            return views.fingerprint

    same = fingerprint()
    others = [view_of(*own) for own in enumerate(SOURCES)]
    depth_m = others[2].depth_m.copy()
    depth_m[1, 1] += 1e-6
    moved = [*others[:2], others[2]._replace(depth_m=depth_m)]
    looked = [others[0]._replace(sources=(0, 2, 4)), *others[1:]]
    every = [same, fingerprint(views=moved), fingerprint(views=looked)]
    every.append(fingerprint(positions=[1, 3, 5]))
    assert len(set(every)) == 4 and fingerprint() == same


def test_views_of_other_frames_are_refused(frames, tmp_path):
    path = write(tmp_path / "v.h5", frames, made_from="0" * 64)
    with pytest.raises(BadInput, match=r"v\.h5: input frames: .*made from 000000"):
        Views(path, frames)


def test_views_of_another_scene_are_refused(frames, tmp_path):
    poses = field_scenes.camera_path(COUNT)
    path = field_scenes.write_frames(tmp_path / "b.h5", "b", poses)
    with (
        store.Frames(path) as others,
        pytest.raises(BadInput, match="scene: expected b, found a"),
    ):
        Views(write(tmp_path / "v.h5", frames), others)


@pytest.mark.parametrize("wrong", [-1, COUNT, 10**12])
def test_positions_that_are_no_frames_are_refused(frames, tmp_path, wrong):
    path = write(tmp_path / "v.h5", frames, [1, wrong, 4])
    with pytest.raises(BadInput, match=f"positions: expected below 6, found .*{wrong}"):
        Views(path, frames)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated_files_are_refused(frames, tmp_path, share):
    path = write(tmp_path / "v.h5", frames)
    os.truncate(path, int(share * path.stat().st_size))
    with pytest.raises(BadInput, match=r"v\.h5"), Views(path, frames) as views:
        for number in range(len(views)):
            views.view(number)


def test_a_flipped_bit_is_refused_or_changes_nothing(frames, tmp_path):
    path = write(tmp_path / "v.h5", frames)
    whole = path.read_bytes()
    expected = [view_of(*own) for own in enumerate(SOURCES)]
    rng, refused = np.random.default_rng(0), 0
    for place in rng.integers(0, len(whole), 60):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            with Views(path, frames) as views:
                found = [views.view(number) for number in range(len(views))]
        except BadInput:
            refused += 1
            continue
        for one, other in zip(found, expected, strict=True):
            assert all(map(np.array_equal, one, other))
    assert refused > 10


def test_an_interrupted_rendering_leaves_no_file(frames, tmp_path):
    class Interrupted(Exception):
        pass

    def views():
        yield view_of(0)
        raise Interrupted

    with pytest.raises(Interrupted):
        write(tmp_path / "v.h5", frames, views=views())
    assert not list(tmp_path.glob("*.h5"))


def test_a_file_with_fewer_views_than_promised_is_not_published(frames, tmp_path):
    with pytest.raises(ValueError, match="1 views of 3"):
        write(tmp_path / "v.h5", frames, views=[view_of(0)])
    assert not (tmp_path / "v.h5").exists()


@pytest.mark.parametrize("name", View._fields[:-1])
def test_views_of_another_size_are_a_mistake_of_the_caller(frames, tmp_path, name):
    own, other = view_of(0), view_of(0, size=SIZE[::-1])
    odd = own._replace(**{name: getattr(other, name)})
    with pytest.raises(ValueError, match="a frame is"):
        write(tmp_path / "v.h5", frames, views=[odd])


def test_a_prior_is_not_taken_for_views(frames, tmp_path):
    path = tmp_path / "p.h5"
    field_scenes.write_prior(path, frames.path, lambda _: np.ones((20, 3, 5), "f4"),
                             size=SIZE)  # fmt: skip
    with pytest.raises(BadInput, match="kind: expected views, found prior"):
        Views(path, frames)
