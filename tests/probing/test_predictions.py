"""The table of predictions, and the groups of classes in it."""

import numpy as np
import pytest
from scipy.special import softmax

from stages.probing.predictions import prediction_table

NUMBERS = [str(number) for number in range(24)]
FINE = np.arange(24)


def scores_for(predicted: np.ndarray, classes: int) -> np.ndarray:
    return 5.0 * np.eye(classes)[predicted]


def test_a_row_has_the_class_the_prediction_and_its_probability() -> None:
    z = np.random.default_rng(0).normal(size=(4, 3))
    table = prediction_table(z, np.array([0, 1, 2, 2]), np.array([0, 1, 2, 2]), list("abc"), list("abc"))
    assert table.actual.tolist() == list("abcc")
    assert table.predicted.tolist() == ["abc"[best] for best in z.argmax(1)]
    assert table.confidence.tolist() == pytest.approx(softmax(z, axis=1).max(1))
    assert table.image.tolist() == [0, 1, 2, 3]
    assert table.actual_group.tolist() == table.actual.tolist()


def test_more_than_twenty_classes_are_grouped_by_superclass() -> None:
    table = prediction_table(scores_for((FINE + 6) % 24, 24), FINE, FINE // 6, NUMBERS, list("abcd"))
    assert table.actual_group.tolist() == ["abcd"[n // 6] for n in FINE]
    assert table.predicted_group.tolist() == ["abcd"[n // 6] for n in (FINE + 6) % 24]


def test_without_superclasses_the_worst_of_many_classes_are_separate_groups() -> None:
    # The predictions are correct for the first 5 classes and wrong for the last 19.
    predicted = np.where(FINE < 5, FINE, 0)
    table = prediction_table(scores_for(predicted, 24), FINE, FINE, NUMBERS, NUMBERS)
    assert table.actual_group.tolist() == ["all others"] * 5 + NUMBERS[5:]
