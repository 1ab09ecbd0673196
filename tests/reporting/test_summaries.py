"""Summaries of the tables, compared with slow versions and scikit-learn."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix

from stages.reporting.summaries import (
    accuracy_of_classes,
    conclusion,
    confused_pairs,
    groups,
    read_table,
    reliability,
    surest_mistakes,
    verdict,
)

RNG = np.random.default_rng(0)
NAMES = np.array(["ant", "bee", "cat", "dog"])
ACTUAL = RNG.integers(0, 4, 200)
PREDICTED = np.where(RNG.random(200) < 0.6, ACTUAL, RNG.integers(0, 4, 200))
PREDICTIONS = pd.DataFrame(
    {
        "image": np.arange(200), "actual": NAMES[ACTUAL], "predicted": NAMES[PREDICTED],
        "confidence": RNG.random(200), "actual_group": NAMES[ACTUAL], "predicted_group": NAMES[PREDICTED],
    }
)  # fmt: skip
CORRECT = PREDICTIONS.assign(predicted=lambda rows: rows.actual)


def test_the_reliability_table_has_15_bins_of_confidence() -> None:
    table = reliability(PREDICTIONS)
    expected = []
    for number in range(15):
        inside = [i for i, p in enumerate(PREDICTIONS.confidence) if number / 15 < p <= (number + 1) / 15]
        if inside:
            correct = sum(ACTUAL[i] == PREDICTED[i] for i in inside)
            expected.append(
                [sum(PREDICTIONS.confidence[i] for i in inside) / len(inside), correct / len(inside), len(inside)]
            )
    np.testing.assert_allclose(table.to_numpy(), expected)


def test_confused_pairs_and_accuracies_are_those_of_scikit_learns_confusion_matrix() -> None:
    matrix = confusion_matrix(ACTUAL, PREDICTED)
    pairs = confused_pairs(PREDICTIONS, 100)
    assert sum(pair["images"] for pair in pairs) == matrix.sum() - np.trace(matrix)
    assert [pair["images"] for pair in pairs] == sorted((pair["images"] for pair in pairs), reverse=True)
    for pair in pairs:
        row, column = (list(NAMES).index(pair[name]) for name in ("actual", "predicted"))
        assert pair["images"] == matrix[row, column]
        assert pair["fraction"] == pytest.approx(matrix[row, column] / matrix[row].sum())
    accuracies = accuracy_of_classes(PREDICTIONS)
    assert accuracies.to_dict() == pytest.approx(dict(zip(NAMES, np.diag(matrix) / matrix.sum(1), strict=True)))
    assert accuracies.is_monotonic_increasing


def test_the_surest_mistakes_come_first() -> None:
    expected = sorted((-p, i) for i, p in enumerate(PREDICTIONS.confidence) if PREDICTED[i] != ACTUAL[i])[:5]
    assert surest_mistakes(PREDICTIONS, 5).image.tolist() == [i for _, i in expected]


def test_if_all_predictions_are_correct_there_are_no_confused_pairs_and_no_mistakes() -> None:
    assert confused_pairs(CORRECT, 5) == []
    assert len(surest_mistakes(CORRECT, 5)) == 0


def test_the_group_all_others_comes_last() -> None:
    table = pd.DataFrame({"actual_group": ["zebra", "all others"], "predicted_group": ["bee", "bee"]})
    assert groups(table) == ["bee", "zebra", "all others"]


def test_empty_numbers_are_read_as_nan_and_class_names_as_text(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("actual,loss\n7,0.5\nnan,\n,1\n")
    table = read_table(tmp_path / "x.csv")
    assert table.actual.tolist() == ["7", "nan", ""]
    assert table.loss.tolist() == [0.5, pytest.approx(float("nan"), nan_ok=True), 1]


def concluded(accuracy: float, low: float, high: float, with_twenty: float, pixels_with_twenty: float = 0.2) -> str:
    """The conclusion for SimCLR's accuracy, with 50 % for raw pixels and 40 % for the untrained network."""
    keys = {"probe": "logreg", "classes": "all"}
    accuracies = {"pixels": 0.5, "untrained": 0.4, "simclr": accuracy}
    scores = pd.DataFrame(
        {**keys, "encoder": name, "split": split, "accuracy": a, "images": 250}
        for name, a in accuracies.items()
        for split in ("train", "test")
    )
    gains = pd.DataFrame(
        {**keys, "control": name, "gain": accuracy - accuracies[name], "gain_low": low, "gain_high": high}
        for name in ("pixels", "untrained")
    )
    efficiency = pd.DataFrame(
        {"encoder": encoder, "images_per_class": count, "accuracy": a}
        for encoder, drawn in {
            "pixels": ((10, 0.1), (20, pixels_with_twenty), (20, 0.1), (50, 0.5)),
            "simclr": ((10, 0.9), (10, 0.3), (20, with_twenty), (20, 0.9), (50, accuracy)),
        }.items()
        for count, a in drawn
    )
    return conclusion(scores, gains, efficiency)


def test_the_conclusion_names_the_best_control_and_the_number_of_labels_that_matches_it_in_every_draw() -> None:
    whole = (
        "With all 250 labelled images, logistic regression classifies 70.0 % of the test images correctly with "
        "SimCLR's features and 50.0 % with raw pixels: +20.0 points (95 % interval +15.0 to +25.0)."
    )
    few = "With 20 labelled images per class, SimCLR's features are as good as raw pixels with all of them. "
    assert concluded(0.7, 0.15, 0.25, with_twenty=0.5) == few + whole
    assert concluded(0.7, 0.15, 0.25, with_twenty=0.49) == whole
    assert concluded(0.7, 0.15, 0.25, with_twenty=0.5, pixels_with_twenty=0.5) == whole  # pixels need only 20, too


def test_the_conclusion_reports_if_a_control_wins_or_no_difference_is_significant() -> None:
    assert concluded(0.4, -0.15, -0.05, 0.5).startswith("Raw pixels are better than SimCLR's features: with all 250 ")
    assert concluded(0.51, -0.01, 0.03, 0.5).startswith("These test images show no significant difference between Sim")


def test_the_verdict_compares_held_out_loss_and_accuracy_with_chance() -> None:
    last = {"split": ["train", "heldout"] * 2, "loss": [9, 9, 1, 5.0], "top1": [0, 0, 1, 0.0195695]}
    assert verdict(pd.DataFrame(last), 511) == (
        "Pretraining was healthy: on held-out images, the loss ended at 5.00 (chance: ln 511 = 6.24), and the top-1 "
        "accuracy at 2.0 %, 10.0 times chance (1/511)."
    )
    for worse in ({"loss": [9, 9, 1, 6.3]}, {"top1": [0, 0, 1, 0.0038]}):
        assert verdict(pd.DataFrame(last | worse), 511).startswith("Pretraining was not healthy: ")
