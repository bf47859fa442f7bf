import json

import numpy as np
import pytest

from gnesf_core.evaluation.semantics import (
    confusion,
    released_gnesf_scores,
    scannet_iou,
    scannet_scores,
    transfer_labels,
)
from gnesf_core.labels import CLASS_NAMES, IGNORE, train_ids_from_nyu40

WALL, FLOOR, CABINET, CHAIR = 0, 1, 2, 4


def labels(*values):
    return np.array(values, np.uint8)


def random_labels(seed, count=4000):
    rng = np.random.default_rng(seed)
    values = np.append(np.arange(20), IGNORE).astype(np.uint8)
    truth = rng.choice(values, count)
    return truth, np.where(rng.random(count) < 0.5, truth, rng.choice(values, count))


def test_rows_are_truth_and_columns_prediction():
    counts = confusion(labels(WALL, WALL, FLOOR), labels(WALL, CHAIR, IGNORE))

    assert counts[WALL, WALL] == 1
    assert counts[WALL, CHAIR] == 1
    assert counts[FLOOR, 20] == 1
    assert counts.sum() == 3
    assert counts.dtype == np.int64


def test_confusions_of_parts_add_up_to_the_whole():
    truth, prediction = random_labels(0)

    parts = confusion(truth[:1500], prediction[:1500])
    parts += confusion(truth[1500:], prediction[1500:])

    np.testing.assert_array_equal(parts, confusion(truth, prediction))


def test_label_images_are_counted_like_flat_lists():
    truth, prediction = random_labels(1, 600)

    image = confusion(truth.reshape(20, 30), prediction.reshape(20, 30))

    np.testing.assert_array_equal(image, confusion(truth, prediction))


@pytest.mark.parametrize("value", [20, 39, 254])
def test_a_label_that_is_no_class_is_refused_by_value(value):
    with pytest.raises(ValueError, match=rf"\[{value}\]"):
        confusion(labels(WALL, value), labels(WALL, WALL))


def test_counts_equal_a_loop_over_vertices():
    truth, prediction = random_labels(2, 800)
    expected = np.zeros((21, 21), int)
    for t, p in zip(truth.tolist(), prediction.tolist(), strict=True):
        expected[20 if t == IGNORE else t, 20 if p == IGNORE else p] += 1

    np.testing.assert_array_equal(confusion(truth, prediction), expected)


def test_iou_equals_its_definition_vertex_by_vertex():
    truth, prediction = random_labels(3, 800)
    pairs = [
        (t, p)
        for t, p in zip(truth.tolist(), prediction.tolist(), strict=True)
        if t != IGNORE
    ]

    iou, true_positives, denominators = scannet_iou(confusion(truth, prediction))

    for c in range(20):
        both = sum(t == c and p == c for t, p in pairs)
        either = sum(t == c or p == c for t, p in pairs)
        assert (true_positives[c], denominators[c]) == (both, either)
        assert iou[c] == both / either


def test_a_void_prediction_is_a_false_negative_and_a_void_truth_is_skipped():
    truth = labels(WALL, WALL, CHAIR, CHAIR, CHAIR, CHAIR, IGNORE)
    prediction = labels(WALL, WALL, CHAIR, CHAIR, IGNORE, WALL, WALL)

    iou, true_positives, denominators = scannet_iou(confusion(truth, prediction))

    # Wall: 2 right, 1 chair taken for wall; the wall on void truth does not count.
    assert (true_positives[WALL], denominators[WALL]) == (2, 3)
    # Chair: 2 right of 4; dropping the void prediction would give 2/3.
    assert (true_positives[CHAIR], denominators[CHAIR]) == (2, 4)
    assert iou[WALL] == 2 / 3
    assert iou[CHAIR] == 1 / 2


def test_scannets_own_script_gives_the_same_integers():
    n = np.arange(600)
    truth = (n * n // 7 + 3 * n) % 41
    prediction = np.where(n % 3 > 0, truth, (5 * n // 4 + 11) % 41)
    # What BenchmarkScripts/3d_evaluation/evaluate_semantic_label.py, run with Python
    # 2.7 on these nyu40 ids, returns per class: true positives and denominators.
    official_hits = np.array(
        [3, 15, 19, 9, 6, 16, 0, 8, 11, 13, 0, 9, 6, 10, 5, 9, 13, 3, 6, 13]
    )
    official_totals = np.array(
        [8, 23, 28, 14, 10, 27, 2, 14, 19, 18, 3, 15, 11, 16, 10, 14, 20, 7, 9, 20]
    )

    counts = confusion(train_ids_from_nyu40(truth), train_ids_from_nyu40(prediction))
    iou, true_positives, denominators = scannet_iou(counts)

    assert true_positives.tolist() == official_hits.tolist()
    assert denominators.tolist() == official_totals.tolist()
    assert iou.tolist() == (official_hits / official_totals).tolist()


def test_two_classes_are_averaged_over_two_but_over_20_by_the_released_code():
    # Wall: 1 of 2 found and none invented, 1/2. Floor: 2 of 2, one invented, 2/3.
    counts = confusion(labels(WALL, WALL, FLOOR, FLOOR), labels(WALL, FLOOR, 1, 1))

    scores, released = scannet_scores(counts), released_gnesf_scores(counts)

    assert scores["miou"] == pytest.approx(7 / 12)
    assert scores["miou_of_20"] == pytest.approx(7 / 120)
    assert released["miou"] == pytest.approx(0.0583, abs=5e-5)
    assert scores["classes_scored"] == scores["classes_in_truth"] == 2
    assert scores["classes_absent"] == list(CLASS_NAMES[2:])
    # Accuracies: wall 1/2, floor 2/2, overall 3/4.
    assert scores["mean_accuracy"] == pytest.approx(3 / 4)
    assert scores["mean_accuracy_of_20"] == pytest.approx(3 / 40)
    assert released["mean_accuracy"] == pytest.approx(3 / 40)
    assert scores["overall_accuracy"] == pytest.approx(3 / 4)


def test_the_released_code_turns_void_predictions_into_wall():
    truth = labels(WALL, WALL, CHAIR, CHAIR, CHAIR, CHAIR, IGNORE)
    prediction = labels(WALL, IGNORE, CHAIR, CHAIR, IGNORE, WALL, IGNORE)

    released = released_gnesf_scores(confusion(truth, prediction))

    # Wall: both found, 2 chairs became wall: 2/4. Chair: 2 of 4.
    assert released["classes"][WALL]["iou"] == 2 / 4
    assert released["classes"][CHAIR]["iou"] == 2 / 4
    assert released["classes"][FLOOR]["iou"] is None
    assert released["miou"] == pytest.approx(1 / 20)


def test_a_hallucinated_class_scores_zero_and_is_named():
    counts = confusion(labels(WALL, WALL), labels(WALL, CABINET))

    scores = scannet_scores(counts)

    assert scores["miou"] == pytest.approx(1 / 4)  # wall 1/2, cabinet 0/1
    assert scores["miou_in_truth"] == pytest.approx(1 / 2)
    assert scores["classes_only_predicted"] == ["cabinet"]
    assert scores["classes"][CABINET]["iou"] == 0.0
    assert scores["classes"][CABINET]["accuracy"] is None


def test_scores_of_nothing_are_null_and_all_scores_are_json():
    nothing = np.zeros((21, 21), np.int64)
    truth, prediction = random_labels(4)

    for counts in (nothing, confusion(truth, prediction)):
        for scores in (scannet_scores(counts), released_gnesf_scores(counts)):
            assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    assert scannet_scores(nothing)["miou"] is None
    assert scannet_scores(nothing)["overall_accuracy"] is None
    assert released_gnesf_scores(nothing)["miou"] == 0.0


def test_points_are_counted_by_what_is_void():
    scores = scannet_scores(
        confusion(labels(WALL, CHAIR, IGNORE), labels(IGNORE, CHAIR, WALL))
    )

    assert scores["points"] == 2
    assert scores["points_without_truth"] == 1
    assert scores["points_void_prediction"] == 1


def test_labels_come_from_the_nearest_vertex_however_far():
    predicted = np.array([[0.0, 0, 0], [1.0, 0, 0]])
    targets = np.array([[0.4, 0, 0], [0.6, 0, 0], [-900.0, 5, 5]])

    transferred = transfer_labels(targets, predicted, labels(CHAIR, IGNORE))

    assert transferred.tolist() == [CHAIR, IGNORE, CHAIR]


def test_transferred_labels_equal_brute_force():
    rng = np.random.default_rng(5)
    predicted, targets = rng.random((300, 3)), rng.random((200, 3))
    predicted_labels = rng.integers(0, 20, 300).astype(np.uint8)
    distances = np.linalg.norm(targets[:, None] - predicted, axis=2)

    transferred = transfer_labels(targets, predicted, predicted_labels)

    np.testing.assert_array_equal(
        transferred, predicted_labels[distances.argmin(axis=1)]
    )


def test_an_empty_prediction_labels_nothing_and_scores_zero():
    truth = labels(WALL, CHAIR)

    transferred = transfer_labels(np.zeros((2, 3)), np.zeros((0, 3)), labels())
    scores = scannet_scores(confusion(truth, transferred))

    assert transferred.tolist() == [IGNORE, IGNORE]
    assert scores["miou"] == 0.0
    assert scores["points_void_prediction"] == 2
