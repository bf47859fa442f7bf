"""2D scores of a prior equal what counting pixels by hand gives."""

import json
from contextlib import ExitStack

import numpy as np
import pytest

from gnesf_core.data import store
from gnesf_core.data.provenance import provenance
from gnesf_core.errors import BadInput
from gnesf_core.evaluation import pooling, prior_summary
from gnesf_core.evaluation.prior import decide, entropy, resize, score_prior
from gnesf_core.labels import CLASS_NAMES, IGNORE
from tests.made_up import write_frames_file

WALL, FLOOR, CABINET, CHAIR = 0, 1, 2, 4


def scored(folder, scene, truths, maps):
    """Write a scene and its prior, and score it."""
    height, width = truths[0].shape
    path = write_frames_file(folder, scene, len(truths), (width, height), truths)
    with ExitStack() as stack:
        frames = stack.enter_context(store.Frames(path))
        made_by = provenance("test", {}, {"frames": frames.fingerprint})
        out = folder / f"{scene}_prior.h5"
        size = maps[0].shape[:0:-1]
        with store.write_prior(out, frames, size, False, made_by) as writer:
            for scores in maps:
                writer.add(scores.astype(np.float32))
        opened = stack.enter_context(store.PriorMaps(out, frames))
        stored = [opened.probabilities(i) for i in range(len(frames))]
        return score_prior(opened, frames) | {"scene": scene, "prior": "p"}, stored


def one_hot(labels):
    """Return scores that are sure of `labels`; IGNORE has none at all."""
    return (np.arange(20)[:, None, None] == labels).astype(float)


def row_of(**counts):
    """Return an image of one row: so many pixels of each class, in order."""
    ids = {"void": IGNORE, "wall": WALL, "floor": FLOOR, "chair": CHAIR}
    pixels = [ids[name] for name, count in counts.items() for _ in range(count)]
    return np.array([pixels], np.uint8)


def bilinear(image, height, width):
    """Interpolate by the half-pixel rule, one pixel at a time, in double precision."""
    rows, columns = image.shape
    out = np.empty((height, width))
    for v in range(height):
        for u in range(width):
            y = min(max((v + 0.5) * rows / height - 0.5, 0), rows - 1)
            x = min(max((u + 0.5) * columns / width - 0.5, 0), columns - 1)
            top, left = int(y), int(x)
            below, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            a, b = y - top, x - left
            upper = (1 - b) * image[top, left] + b * image[top, right]
            lower = (1 - b) * image[below, left] + b * image[below, right]
            out[v, u] = (1 - a) * upper + a * lower
    return out


def test_scores_equal_counting_pixels_by_hand(tmp_path):
    rng = np.random.default_rng(3)
    classes = np.array([WALL, FLOOR, CHAIR, IGNORE], np.uint8)
    truths = [rng.choice(classes, (9, 13)) for _ in range(3)]
    maps = [rng.random((20, 4, 5)) ** 4 for _ in range(3)]
    for scores in maps:
        scores[6:] = 0
        scores[:, 1:4, 1:4] = 0  # nothing is known here
    result, stored = scored(tmp_path, "scene0000_00", truths, maps)

    counts = np.zeros((21, 21), int)
    for frame, truth, bytes_ in zip(result["frames"], truths, stored, strict=True):
        large = np.stack([bilinear(channel, 9, 13) for channel in bytes_.astype(float)])
        predicted = np.where(large.sum(0) > 0, large.argmax(0), IGNORE)
        assert (predicted == IGNORE).any()
        valid = truth != IGNORE
        ious, recalls = [], []
        for c in np.unique(truth[valid]):
            both = ((truth == c) & (predicted == c)).sum()
            either = valid & ((truth == c) | (predicted == c))
            ious.append(both / either.sum())
            recalls.append(both / (truth == c).sum())
        assert frame["miou"] == pytest.approx(np.mean(ious))
        assert frame["mean_accuracy"] == pytest.approx(np.mean(recalls))
        correct = (truth == predicted)[valid]
        assert frame["accuracy"] == pytest.approx(correct.mean())
        assert frame["pixels"] == valid.sum()
        for t, p in zip(truth.flat, predicted.flat, strict=True):
            counts[min(t, 20), min(p, 20)] += 1
    np.testing.assert_array_equal(result["confusion"], counts)
    assert [frame["index"] for frame in result["frames"]] == [0, 1, 2]
    assert result["semantics"]["points_void_prediction"] == counts[:20, 20].sum() > 0
    assert json.loads(json.dumps(result, allow_nan=False)) == result


@pytest.mark.parametrize("size", [(13, 9), (40, 30), (7, 5), (3, 4), (10, 3)])
def test_maps_are_resized_as_scipy_samples_them_at_half_pixel_coordinates(size):
    from scipy.ndimage import map_coordinates

    rng = np.random.default_rng(1)
    maps = rng.integers(0, 256, (3, 5, 7), dtype=np.uint8)
    width, height = size
    rows = (np.arange(height) + 0.5) * 5 / height - 0.5
    columns = (np.arange(width) + 0.5) * 7 / width - 0.5
    where = np.meshgrid(rows, columns, indexing="ij")

    resized = resize(maps, size)

    for channel, got in zip(maps.astype(float), resized, strict=True):
        expected = map_coordinates(channel, where, order=1, mode="nearest")
        np.testing.assert_allclose(got, expected, atol=1e-3)


def test_a_perfect_prior_at_full_resolution_scores_one(tmp_path):
    truth = np.random.default_rng(0).integers(0, 20, (31, 47)).astype(np.uint8)
    result, _ = scored(tmp_path, "scene0000_00", [truth], [one_hot(truth)])

    lines = prior_summary.per_prior([result], [])[0]
    names = [f"{p}_{m}" for p in pooling.POOLINGS for m in pooling.MEASURES]
    assert len(names) == 9
    assert {lines[name] for name in names} == {1.0}
    assert lines["calibration_error"] == 0.0
    assert lines["void_prediction"] == 0.0
    assert result["calibration"]["pixels"] == [0] * 9 + [31 * 47]


def test_ties_go_to_the_lowest_class_and_nothing_is_void():
    probabilities = np.zeros((20, 1, 4), np.uint8)
    probabilities[[CHAIR, FLOOR, 19], 0, 0] = 85
    probabilities[[19, CABINET], 0, 1] = 100, 101
    probabilities[7, 0, 2] = 255

    labels, confidence = decide(probabilities, (4, 1))

    assert labels.tolist() == [[FLOOR, CABINET, 7, IGNORE]]
    np.testing.assert_allclose(confidence, [[1 / 3, 101 / 201, 1, 0]], rtol=1e-6)


def test_a_whole_map_of_ties_is_decided_as_numpy_does():
    probabilities = np.random.default_rng(0).integers(1, 3, (20, 40, 50), np.uint8)

    labels, _ = decide(probabilities, (50, 40))

    np.testing.assert_array_equal(labels, probabilities.argmax(axis=0))


def test_a_map_that_knows_nothing_is_void_at_any_size():
    labels, confidence = decide(np.zeros((20, 3, 4), np.uint8), (9, 5))

    assert labels.shape == confidence.shape == (5, 9)
    assert (labels == IGNORE).all() and not confidence.any()


def test_the_poolings_differ_as_computed_by_hand(tmp_path):
    first = [row_of(wall=10), row_of(wall=5, floor=5)]
    first_guess = [one_hot(row_of(wall=10))] * 2
    second = [row_of(wall=2, floor=8)]
    second_guess = [one_hot(row_of(chair=2, floor=8))]
    rows = [
        scored(tmp_path, "scene0000_00", first, first_guess)[0],
        scored(tmp_path, "scene0001_00", second, second_guess)[0],
    ]

    line = prior_summary.per_prior(rows, [])[0]

    assert (line["images"], line["scenes"], line["classes_scored"]) == (3, 2, 3)
    expected = {
        # Images: (1), (wall 5/10, floor 0/5), (wall 0/2, floor 8/8).
        # Two of them are of one scene.
        "per_image_miou": ((1 + 0.25) / 2 + 0.5) / 2,
        "per_image_mean_accuracy": ((1 + 0.5) / 2 + 0.5) / 2,
        "per_image_accuracy": ((1 + 0.5) / 2 + 0.8) / 2,
        # Scenes: (wall 15/20, floor 0/5), (wall 0/2, floor 8/8).
        "per_scene_miou": (0.375 + 0.5) / 2,
        "per_scene_mean_accuracy": (0.5 + 0.5) / 2,
        "per_scene_accuracy": (15 / 20 + 8 / 10) / 2,
        # Wall 15 of 17 + 5, floor 8 of 13, and a chair that nobody has seen.
        "data_set_miou": (15 / 22 + 8 / 13 + 0) / 3,
        "data_set_mean_accuracy": (15 / 17 + 8 / 13) / 2,
        "data_set_accuracy": 23 / 30,
    }
    assert {name: line[name] for name in expected} == pytest.approx(expected)


def test_images_without_truth_are_counted_and_take_no_part(tmp_path):
    truths = [row_of(wall=4), row_of(void=4)]
    maps = [one_hot(row_of(wall=4))] * 2
    result, _ = scored(tmp_path, "scene0000_00", truths, maps)
    empty, _ = scored(tmp_path, "scene0001_00", truths[1:], maps[1:])

    assert result["frames_without_truth"] == 1
    assert result["frames"][1]["miou"] is None
    assert result["frames"][1]["pixels"] == 0
    line = prior_summary.per_prior([result, empty], [])[0]
    assert (line["images"], line["scenes"], line["images_without_truth"]) == (1, 1, 2)
    assert line["per_image_miou"] == line["per_scene_miou"] == 1.0
    # Of nothing there are no scores, and pages say so.
    line = prior_summary.per_prior([empty], [])[0]
    assert line["data_set_miou"] is line["per_image_miou"] is None
    assert line["calibration_error"] is line["void_prediction"] is None
    block = prior_summary.blocks([empty], [])[0]
    assert block.rows[0][4:] == ["-"] * 11


def test_a_void_prediction_counts_against_its_true_class(tmp_path):
    truth = row_of(wall=4, floor=4)
    guess = one_hot(row_of(wall=4, void=3, floor=1))
    result, _ = scored(tmp_path, "scene0000_00", [truth], [guess])

    assert result["frames"][0]["miou"] == pytest.approx((1 + 1 / 4) / 2)
    assert result["frames"][0]["accuracy"] == pytest.approx(5 / 8)
    line = prior_summary.per_prior([result], [])[0]
    assert line["void_prediction"] == pytest.approx(3 / 8)
    # Whoever says nothing claims nothing.
    assert sum(result["calibration"]["pixels"]) == 5


def test_calibration_compares_what_is_claimed_with_what_is_right(tmp_path):
    truth = row_of(wall=10, void=2)
    scores = np.zeros((20, 1, 12))
    scores[WALL, 0, :4], scores[FLOOR, 0, :4] = 204, 51  # 0.8 sure, and right
    scores[FLOOR, 0, 4:], scores[WALL, 0, 4:] = 153, 102  # 0.6 sure, and wrong
    result, _ = scored(tmp_path, "scene0000_00", [truth], [scores / 255])

    sums = result["calibration"]
    assert sums["pixels"][8] + sums["pixels"][7] == 4  # 0.8 in single precision
    assert sums["pixels"][6] + sums["pixels"][5] == 6
    assert sum(sums["pixels"]) == 10
    assert sum(sums["confidence"]) == pytest.approx(4 * 0.8 + 6 * 0.6)
    assert sum(sums["correct"]) == 4
    error = prior_summary.calibration_error([result, result])
    assert error == pytest.approx((4 * 0.2 + 6 * 0.6) / 10)


def test_entropy_is_the_logarithm_of_how_many_classes_are_in_question():
    probabilities = np.zeros((20, 1, 4), np.uint8)
    probabilities[3, 0, 0] = 255
    probabilities[[3, 9], 0, 1] = 127
    probabilities[:, 0, 2] = 12

    doubt = entropy(resize(probabilities, (4, 1)))[0]

    assert doubt[:3] == pytest.approx([0, np.log(2) / np.log(20), 1], abs=1e-6)
    assert np.isnan(doubt[3])


def test_a_scene_without_labels_is_refused_by_the_name_of_its_frames(tmp_path):
    path = write_frames_file(tmp_path, "scene0007_00", labelled=False)
    with store.Frames(path) as frames:
        made_by = provenance("test", {}, {"frames": frames.fingerprint})
        out = tmp_path / "prior.h5"
        with store.write_prior(out, frames, (4, 3), False, made_by) as writer:
            for _ in range(len(frames)):
                writer.add(np.ones((20, 3, 4), np.float32))
        with (
            store.PriorMaps(out, frames) as maps,
            pytest.raises(BadInput, match=r"scene0007_00\.h5: labels: expected 2D"),
        ):
            score_prior(maps, frames)


def test_costs_are_added_before_they_are_divided():
    bill = {"prior": "p", "device": "cpu", "threads": 2}
    costs = [
        bill
        | {"frames": 10, "frames_timed": 10, "seconds": 1.0, "stored_bytes": 1_000_000},
        bill
        | {"frames": 30, "frames_timed": 30, "seconds": 7.0, "stored_bytes": 5_000_000},
    ]

    cost = prior_summary.cost_of(costs)

    assert cost["frames_per_second"] == 5.0
    assert cost["bytes_per_frame"] == 150_000
    assert cost["megabytes_per_scene"] == 3.0
    assert cost["cached_on"] == "cpu, 2 threads"
    assert prior_summary.cost_of([])["frames_per_second"] is None


def test_scenes_and_images_come_worst_first_and_those_without_truth_last(tmp_path):
    good, bad = one_hot(row_of(wall=4)), one_hot(row_of(floor=4))
    wall, void = row_of(wall=4), row_of(void=4)
    rows = [
        scored(tmp_path, "scene0000_00", [void, wall], [good, good])[0],
        scored(tmp_path, "scene0001_00", [wall, wall], [good, bad])[0],
    ]

    images = [(e["scene"], e["index"]) for e in prior_summary.per_frame(rows)]
    assert images[0] == ("scene0001_00", 1)
    assert images[-1] == ("scene0000_00", 0)
    scenes = prior_summary.blocks(rows, [])[-1].rows
    assert [line[1] for line in scenes] == ["scene0001_00", "scene0000_00"]
    assert scenes[0][-2:] == [1, "0.0"]


def test_every_class_has_a_line_with_integers_that_add_up(tmp_path):
    truth = row_of(wall=3, chair=5)
    result, _ = scored(tmp_path, "scene0000_00", [truth], [one_hot(truth)])

    lines = prior_summary.per_class([result, result])

    assert [line["name"] for line in lines] == list(CLASS_NAMES)
    assert lines[CHAIR]["truth"] == 10 and lines[CHAIR]["iou"] == 1.0
    assert lines[FLOOR]["iou"] is None
