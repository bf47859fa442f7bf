"""Ground truth as a prior, clean and spoilt, against definitions pixel by pixel."""

import logging
from fractions import Fraction

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from gnesf_core.config import LabelsPriorConfig, NoisyLabelsConfig
from gnesf_core.data import images, store
from gnesf_core.data.provenance import provenance
from gnesf_core.data.scan import ScanInfo
from gnesf_core.errors import BadInput
from gnesf_core.labels import CLASS_NAMES, IGNORE
from gnesf_core.priors import labels as labels_prior
from gnesf_core.priors import noisy_labels
from gnesf_core.priors.interface import Prior

WALL, FLOOR, BED = (CLASS_NAMES.index(name) for name in ("wall", "floor", "bed"))
CPU = "cpu"
LABELS = LabelsPriorConfig(8, 6)
NOISY = NoisyLabelsConfig(8, 6, seed=3, confusion=0.3, boundary_px=2.0, doubt=0.2)


def random_labels(seed, width=23, height=17):
    """Draw rectangles of all classes and void over each other."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width), IGNORE, np.uint8)
    for _ in range(12):
        (top, bottom), (left, right) = (
            np.sort(rng.integers(0, size + 1, 2)) for size in (height, width)
        )
        image[top:bottom, left:right] = rng.choice([*range(20), IGNORE])
    return image


def write_frames(path, label_images, *, scene="scene0000_00", raw=None, size=None):
    """Write grey frames with these labels; None stands for a scene without any."""
    height, width = size or label_images[0].shape
    count = len(label_images)
    raw = np.arange(count) * 3 + 1 if raw is None else np.array(raw)
    info = ScanInfo(
        path.with_suffix(".sens"), int(raw[-1]) + 1, width, height, 4, 3, np.eye(3),
        np.eye(3), 1000.0, "jpeg", "raw",
    )  # fmt: skip
    poses = np.tile(np.eye(4), (info.frame_count, 1, 1))
    status = np.zeros(info.frame_count, np.uint8)
    chosen = np.ones(count, bool)
    selection = store.Selection(raw, chosen, ~chosen, np.zeros((0, 1), np.int64))
    jpeg = images.encode_jpeg(np.full((height, width, 3), 128, np.uint8), 90)
    depth = np.ones((3, 4), np.uint16)
    with_labels = label_images[0] is not None
    made_by = provenance("test", {}, {})
    with store.write_frames(
        path, scene, info, poses, status, selection, with_labels, made_by
    ) as writer:
        for labels in label_images:
            writer.add(jpeg, depth, labels)
    return store.Frames(path)


@pytest.fixture
def frames(tmp_path):
    return write_frames(tmp_path / "frames.h5", [random_labels(s) for s in range(5)])


def clean(frames, config=LABELS, start=0):
    prior = labels_prior.open_prior(config, None, CPU)
    return list(prior.scores(frames, start))


def noisy(frames, start=0, **changes):
    config = NoisyLabelsConfig(**(vars(NOISY) | changes))
    prior = noisy_labels.open_prior(config, None, CPU)
    return list(prior.scores(frames, start))


def overlap(i, length, j, map_length):
    """Return how much of map pixel j's length lies in pixel i, as a fraction."""
    low = max(Fraction(i, length), Fraction(j, map_length))
    high = min(Fraction(i + 1, length), Fraction(j + 1, map_length))
    return max(high - low, Fraction(0)) * map_length


@pytest.mark.parametrize(
    ("size", "map_size"),
    [
        ((12, 8), (4, 4)), ((13, 9), (4, 3)), ((9, 7), (4, 6)), ((7, 5), (7, 5)),
        ((5, 4), (9, 11)), ((1, 1), (3, 2)), ((11, 6), (1, 1)),
    ],
)  # fmt: skip
def test_scores_are_shares_of_area_at_any_ratio(size, map_size):
    rng = np.random.default_rng(0)
    labels = rng.choice(np.array([0, 1, 2, 19, IGNORE], np.uint8), size[::-1])

    shares = labels_prior.class_shares(labels, *map_size)

    expected = np.zeros((20, *map_size[::-1]))
    for row, column in np.ndindex(*expected.shape[1:]):
        for v, u in np.ndindex(*labels.shape):
            area = overlap(v, size[1], row, map_size[1])
            area *= overlap(u, size[0], column, map_size[0])
            if labels[v, u] != IGNORE:
                expected[labels[v, u], row, column] += float(area)
    np.testing.assert_allclose(shares, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("width", "height"), [(324, 242), (647, 481), (1296, 968)])
def test_frames_of_odd_sizes_keep_the_area_of_every_class(width, height):
    labels = random_labels(1, width, height)

    shares = labels_prior.class_shares(labels, 160, 120)

    expected = [np.mean(labels == class_id) for class_id in range(20)]
    np.testing.assert_allclose(
        shares.mean(axis=(1, 2), dtype=float), expected, atol=1e-7
    )
    assert shares.sum(axis=0).max() <= 1 + 1e-6
    as_wall = np.where(labels == IGNORE, WALL, IGNORE).astype(np.uint8)
    void = labels_prior.class_shares(as_wall, 160, 120)[WALL]
    np.testing.assert_allclose(shares.sum(axis=0) + void, 1, atol=1e-6)


def test_void_takes_its_share_from_no_class_but_leaves_it_empty(tmp_path):
    labels = np.array([[WALL, IGNORE, IGNORE, IGNORE]], np.uint8)
    frames = write_frames(tmp_path / "frames.h5", [labels])

    (scores,) = clean(frames, LabelsPriorConfig(2, 1))

    assert scores[WALL].tolist() == [[0.5, 0.0]]
    assert scores.sum() == 0.5


def test_a_value_that_is_no_class_is_void():
    labels = np.array([[20, 254, BED, 255]], np.uint8)

    shares = labels_prior.class_shares(labels, 4, 1)

    assert shares.sum(axis=0).tolist() == [[0, 0, 1, 0]]


@pytest.mark.parametrize(
    ("module", "config"), [(labels_prior, LABELS), (noisy_labels, NOISY)]
)
def test_a_scene_without_labels_gets_empty_maps_and_one_warning(
    tmp_path, caplog, module, config
):
    frames = write_frames(tmp_path / "frames.h5", [None] * 3, size=(17, 23))
    prior = module.open_prior(config, None, CPU)

    with caplog.at_level(logging.WARNING):
        maps = list(prior.scores(frames, 0))

    assert [scores.shape for scores in maps] == [(20, 6, 8)] * 3
    assert not any(scores.any() for scores in maps)
    assert [record.message for record in caplog.records] == [
        "scene0000_00 has no labels: its prior says nothing"
    ]


@pytest.mark.parametrize(
    ("module", "config"), [(labels_prior, LABELS), (noisy_labels, NOISY)]
)
def test_a_scene_whose_labels_are_all_void_gets_empty_maps(tmp_path, module, config):
    void = np.full((17, 23), IGNORE, np.uint8)
    frames = write_frames(tmp_path / "frames.h5", [void, void])

    maps = list(module.open_prior(config, None, CPU).scores(frames, 0))

    assert len(maps) == 2
    assert not any(scores.any() for scores in maps)


@pytest.mark.parametrize(
    ("module", "config"), [(labels_prior, LABELS), (noisy_labels, NOISY)]
)
def test_a_prior_goes_on_where_it_was_stopped(frames, module, config):
    prior = module.open_prior(config, None, CPU)
    assert isinstance(prior, Prior)
    assert prior.map_size(frames) == (8, 6)
    whole = list(prior.scores(frames, 0))

    for start in (1, 3, 5):
        rest = list(module.open_prior(config, None, CPU).scores(frames, start))
        assert len(rest) == 5 - start
        for expected, found in zip(whole[start:], rest, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_without_any_fault_the_noisy_prior_is_the_clean_one(frames):
    spoilt = noisy(frames, confusion=0.0, boundary_px=0.0, doubt=0.0)

    np.testing.assert_array_equal(spoilt, clean(frames))


@pytest.mark.parametrize("change", ["seed", "scene", "raw"])
def test_faults_depend_on_seed_scene_and_raw_frame_number(tmp_path, frames, change):
    labels = [random_labels(s) for s in range(5)]
    raw = frames.index.tolist()
    changed = {"scene": "scene0000_01"} if change == "scene" else {}
    if change == "raw":
        raw = [number + 1 for number in raw]
    other = write_frames(tmp_path / "other.h5", labels, raw=raw, **changed)

    spoilt = noisy(other, seed=4 if change == "seed" else 3)

    for before, after in zip(noisy(frames), spoilt, strict=True):
        assert not np.array_equal(before, after)


def test_a_frame_keeps_its_faults_when_other_frames_are_kept(tmp_path, frames):
    few = write_frames(
        tmp_path / "few.h5",
        [frames.labels(4), frames.labels(2)][::-1],
        raw=frames.index[[2, 4]],
    )

    whole, part = noisy(frames), noisy(few)

    np.testing.assert_array_equal(part, [whole[2], whole[4]])


def checkerboard(classes, cells=30, edge=4):
    """Return squares of random classes; equal neighbours form one region."""
    rng = np.random.default_rng(0)
    board = rng.choice(np.array(classes, np.uint8), (cells, cells))
    return board.repeat(edge, axis=0).repeat(edge, axis=1)


def regions_of(labels):
    """Yield class and mask of every region, by flooding one class at a time."""
    for class_id in range(20):
        numbered, count = ndimage.label(labels == class_id)
        for number in range(1, count + 1):
            yield class_id, numbered == number


def test_whole_regions_are_confused_as_often_as_asked():
    labels = checkerboard([*range(20), IGNORE])
    confused = noisy_labels.confuse_regions(labels, 0.3, np.random.default_rng(0))

    pairs = {frozenset(pair) for pair in noisy_labels.LOOK_ALIKES}
    hits = []
    for class_id, mask in regions_of(labels):
        (becomes,) = np.unique(confused[mask])  # a region has one class, also after
        hits.append(becomes != class_id)
        if becomes != class_id:
            assert {CLASS_NAMES[class_id], CLASS_NAMES[becomes]} in pairs
    deviation = np.sqrt(0.3 * 0.7 / len(hits))
    assert len(hits) > 500
    assert abs(np.mean(hits) - 0.3) < 4 * deviation
    assert (confused[labels == IGNORE] == IGNORE).all()


def test_look_alikes_are_taken_as_often_as_they_are_alike():
    walls = checkerboard([WALL, IGNORE], cells=80, edge=2)
    others = dict.fromkeys(CLASS_NAMES, 0)
    regions = 0
    for seed in range(10):
        confused = noisy_labels.confuse_regions(walls, 1.0, np.random.default_rng(seed))
        for _, mask in regions_of(walls):
            others[CLASS_NAMES[confused[mask][0]]] += 1
            regions += 1
    # wall is like door and window by 1, like floor by 0.1
    for name, likeness in (("door", 1), ("window", 1), ("floor", 0.1)):
        share = likeness / 2.1
        deviation = np.sqrt(share * (1 - share) / regions)
        assert abs(others.pop(name) / regions - share) < 4 * deviation
    assert not any(others.values())


def test_every_class_has_a_look_alike_and_none_is_its_own():
    assert {name for pair in noisy_labels.LOOK_ALIKES for name in pair} == set(
        CLASS_NAMES
    )
    probabilities = noisy_labels.look_alike_probabilities()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert not np.diag(probabilities).any()


def test_more_confusion_adds_errors_to_those_there_are():
    labels = checkerboard(range(20))
    few, many = (
        noisy_labels.confuse_regions(labels, p, np.random.default_rng(1))
        for p in (0.1, 0.4)
    )

    wrong = few != labels

    assert wrong.any()
    np.testing.assert_array_equal(few[wrong], many[wrong])
    assert np.count_nonzero(many != labels) > 2 * np.count_nonzero(wrong)


@pytest.mark.parametrize("rms_px", [2.0, 5.0])
def test_outlines_wander_but_not_far(rms_px):
    height, width = 150, 200
    disc = np.full((height, width), WALL, np.uint8)
    v, u = np.mgrid[:height, :width]
    disc[np.hypot(v - 70, u - 90) < 40] = BED
    to_outline = np.where(
        disc == BED,
        ndimage.distance_transform_edt(disc == BED),
        ndimage.distance_transform_edt(disc == WALL),
    )
    wander = []
    for seed in range(40):
        moved = noisy_labels.displace(disc, rms_px, np.random.default_rng(seed))
        changed = moved != disc
        assert to_outline[changed].max() <= 4 * rms_px + 1
        wander.append(changed.sum() / (2 * np.pi * 40))
    # Across an outline a Gaussian of rms / sqrt(2) moves sqrt(2 / pi) of that.
    assert np.mean(wander) == pytest.approx(rms_px / np.sqrt(np.pi), rel=0.15)


def test_the_flow_is_smooth_and_as_long_as_asked():
    ramp = np.tile(np.arange(250, dtype=np.uint8), (250, 1))
    squares = []
    for seed in range(60):
        for image in (ramp, ramp.T):
            moved = noisy_labels.displace(image, 3.0, np.random.default_rng(seed))
            shift = moved.astype(int) - image
            inner = shift[15:-15, 15:-15]
            squares.append(np.mean(inner**2))
            assert np.abs(np.diff(inner, axis=0)).max() <= 3
    # Both components together, less the variance 1/12 of rounding each.
    rms = np.sqrt(2 * (np.mean(squares) - 1 / 12))
    assert rms == pytest.approx(3.0, rel=0.1)


def test_doubt_moves_this_share_and_nothing_else(frames):
    sure = clean(frames)
    doubtful = noisy(frames, confusion=0.0, boundary_px=0.0, doubt=0.25)

    for before, after in zip(sure, doubtful, strict=True):
        np.testing.assert_allclose(after.sum(axis=0), before.sum(axis=0), atol=1e-6)
        pure = before.max(axis=0) == 1
        assert pure.any()
        np.testing.assert_allclose(after.max(axis=0)[pure], 0.75, atol=1e-6)
        np.testing.assert_array_equal(
            after.argmax(axis=0)[pure], before.argmax(axis=0)[pure]
        )
        void = before.sum(axis=0) == 0
        assert not after[:, void].any()
        assert after[:, ~void].min() > 0


def test_doubt_prefers_look_alikes():
    shares = np.zeros((20, 1, 1), np.float32)
    shares[BED] = 1

    scores = noisy_labels.spread(shares, 0.38)[:, 0, 0]

    sofa = CLASS_NAMES.index("sofa")  # the only look-alike of a bed
    expected = np.full(20, 0.19 / 19)
    expected[[BED, sofa]] = 0.62, 0.19 / 19 + 0.19
    np.testing.assert_allclose(scores, expected, atol=1e-6)


# What follows is about the file that every prior is written to.


def cache(path, frames, maps):
    made_by = provenance("test", {}, {"frames": frames.fingerprint})
    size = maps[0].shape[:0:-1]
    with store.write_prior(path, frames, size, False, made_by) as writer:
        for scores in maps:
            writer.add(scores)


def test_maps_come_back_from_their_file_and_empty_pixels_stay_empty(tmp_path, frames):
    maps = noisy(frames)
    cache(tmp_path / "prior.h5", frames, maps)

    with store.PriorMaps(tmp_path / "prior.h5", frames) as read:
        assert (len(read), read.map_size) == (5, (8, 6))
        for position, scores in enumerate(maps):
            stored = read.probabilities(position)
            total = scores.sum(axis=0)
            assert not stored[:, total == 0].any()
            known = total > 0
            expected = scores[:, known] / total[known]
            np.testing.assert_allclose(
                stored[:, known] / 255, expected, atol=1 / 510 + 1e-6
            )


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(0, 1, width=32), min_size=20, max_size=20),
    st.sampled_from([1e-3, 1.0, 1e6]),
)
def test_renormalised_probabilities_are_off_by_a_known_bound(values, scale):
    scores = np.array(values, np.float32).reshape(20, 1, 1) * np.float32(scale)
    exact = scores[:, 0, 0].astype(float)
    if exact.sum() < 1e-9:
        return
    exact /= exact.sum()

    stored = store.quantize_probabilities(scores)[:, 0, 0].astype(float)

    np.testing.assert_allclose(stored / 255, exact, atol=1 / 510 + 1e-6)
    # Each of the others may be off by half a step, which the sum passes on to p.
    others = np.count_nonzero(exact) - (exact > 0)
    bound = (0.5 * (1 - exact) + 0.5 * exact * others) / stored.sum() + 1e-6
    assert (np.abs(stored / stored.sum() - exact) <= bound).all()


def test_many_tiny_probabilities_cost_the_largest_error():
    scores = np.full((20, 1, 1), 0.499 / 255, np.float32)
    scores[0] = 1 - scores[1:].sum()

    stored = store.quantize_probabilities(scores)[:, 0, 0]

    # All nineteen vanish: 1 instead of 0.9628, nearly 9.5 steps of 1/255.
    assert np.count_nonzero(stored) == 1
    assert 1 - scores[0, 0, 0] == pytest.approx(9.5 / 255, rel=0.01)


def test_a_prior_of_other_frames_is_refused(tmp_path, frames):
    labels = [random_labels(s) for s in range(5)]
    cache(tmp_path / "prior.h5", frames, clean(frames))
    another = write_frames(tmp_path / "another.h5", labels, scene="scene0000_01")
    changed = write_frames(tmp_path / "changed.h5", labels[::-1])

    with pytest.raises(BadInput, match="attribute scene"):
        store.PriorMaps(tmp_path / "prior.h5", another)
    with pytest.raises(BadInput, match="input frames"):
        store.PriorMaps(tmp_path / "prior.h5", changed)


def test_a_prior_cut_anywhere_is_refused(tmp_path, frames):
    path = tmp_path / "prior.h5"
    cache(path, frames, clean(frames))
    whole = path.read_bytes()

    for length in [*range(0, len(whole), 97), len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with (
            pytest.raises(BadInput, match="prior.h5"),
            store.PriorMaps(path, frames) as read,
        ):
            for position in range(len(read)):
                read.probabilities(position)


def test_a_prior_of_other_classes_is_refused(tmp_path, frames):
    path = tmp_path / "prior.h5"
    cache(path, frames, clean(frames))
    with h5py.File(path, "r+", locking=False) as file:
        names = file["probabilities"].attrs["class_names"].decode()
        swapped = names.replace('"wall", "floor"', '"floor", "wall"')
        assert swapped != names
        file["probabilities"].attrs["class_names"] = np.bytes_(swapped.encode())

    with pytest.raises(BadInput, match="class names"):
        store.PriorMaps(path, frames)
