import math

import numpy as np
import pytest
from sklearn import metrics as reference

from components.report.mistakes import (
    calibration_bins,
    confusion_counts,
    expected_calibration_error,
    macro_recall,
    per_class_accuracy,
    sharpened,
    top_k_accuracy,
    worst_pairs,
)
from components.train.metrics import softmax
from tests.components.report.made import split

LABELS = ("ant", "bee", "cat")
TARGETS = np.array([0, 0, 0, 0, 1, 1], dtype=np.int64)
PROBABILITIES = np.array(
    [[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.4, 0.6, 0.0], [0.1, 0.0, 0.9], [0.0, 1.0, 0.0], [0.7, 0.3, 0.0]]
)
PREDICTED = PROBABILITIES.argmax(axis=1)


def test_counts_and_recall_are_those_of_scikit_learn() -> None:
    targets, probabilities = split(7, 200)
    predicted = probabilities.argmax(axis=1)
    counts = confusion_counts(7, targets, predicted)
    assert (counts == reference.confusion_matrix(targets, predicted)).all()
    classes = per_class_accuracy([str(label) for label in range(7)], targets, predicted)
    assert macro_recall(classes) == pytest.approx(reference.balanced_accuracy_score(targets, predicted))
    expected = reference.precision_score(targets, predicted, average=None)
    assert [entry.precision for entry in classes] == pytest.approx(list(expected))


def test_top_k_accuracy_is_that_of_scikit_learn() -> None:
    targets, probabilities = split(7, 200)
    for k in (1, 3, 6):
        assert top_k_accuracy(targets, probabilities, k) == reference.top_k_accuracy_score(targets, probabilities, k=k)


def test_a_class_without_images_has_no_accuracy_and_does_not_count() -> None:
    classes = per_class_accuracy(LABELS, TARGETS, PREDICTED)
    assert [(entry.num_images, entry.num_correct, entry.num_predicted) for entry in classes] == [
        (4, 1, 2),
        (2, 1, 3),
        (0, 0, 1),
    ]
    assert math.isnan(classes[2].accuracy)
    assert macro_recall(classes) == (1 / 4 + 1 / 2) / 2


def test_the_commonest_mistake_comes_first_with_its_surest_image_first() -> None:
    pairs = worst_pairs(LABELS, TARGETS, PROBABILITIES)
    assert [(pair.label, pair.predicted, pair.count, pair.num_images) for pair in pairs] == [
        ("ant", "bee", 2, 4),
        ("bee", "ant", 1, 2),
        ("ant", "cat", 1, 4),
    ]
    assert pairs[0].examples == (1, 2)


def test_a_perfect_classifier_confuses_nothing() -> None:
    assert worst_pairs(LABELS, TARGETS, np.eye(3)[TARGETS]) == []


def test_the_calibration_error_is_the_mean_distance_of_confidence_and_accuracy() -> None:
    """Four images at 0.9 of which three are right, and six at 0.5 of which three are: 0.4 * 0.15 + 0.6 * 0."""
    rows = [[0.9, 0.1]] * 4 + [[0.5 + 1e-9, 0.5 - 1e-9]] * 6
    targets = np.array([0, 0, 0, 1, 0, 0, 0, 1, 1, 1], dtype=np.int64)
    bins = calibration_bins(targets, np.array(rows))
    assert [entry.count for entry in bins] == [6, 4]
    assert expected_calibration_error(bins) == pytest.approx(0.06)


def test_a_probability_of_one_lies_in_the_last_stretch() -> None:
    (only,) = calibration_bins(TARGETS, np.eye(3)[TARGETS])
    assert (only.confidence, only.accuracy, only.count) == (1.0, 1.0, 6)


def test_a_temperature_does_to_probabilities_what_it_does_to_logits() -> None:
    logits = np.random.default_rng(0).normal(0, 5, (20, 4)).astype(np.float32)
    assert sharpened(softmax(logits), 2.5) == pytest.approx(softmax(logits / np.float32(2.5)), abs=1e-6)
    assert sharpened(np.array([[1.0, 0.0]]), 2.0).tolist() == [[1.0, 0.0]]
