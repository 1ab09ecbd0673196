"""Scores and intervals compared with scikit-learn, formulas and simulations."""

import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score

from stages.probing.scores import interval, paired_gain, scores

RNG = np.random.default_rng(0)
Z, Y = RNG.normal(size=(60, 7)).astype(np.float32), np.arange(60) % 7


def test_scores_equal_scikit_learns() -> None:
    p = np.exp(Z.astype(np.float64))
    p /= p.sum(1, keepdims=True)
    assert scores(Z, Y) == pytest.approx(
        {"accuracy": accuracy_score(Y, p.argmax(1)), "top5": top_k_accuracy_score(Y, p, k=5), "loss": log_loss(Y, p)},
        rel=1e-5,
    )


def test_large_scores_do_not_overflow() -> None:
    assert scores(np.array([[1000.0, 0.0], [0.0, 1000.0]]), np.array([0, 0]))["loss"] == pytest.approx(500)


def test_top5_accuracy_of_three_classes_is_one() -> None:
    assert scores(Z[:, :3], Y % 3)["top5"] == 1


@pytest.mark.parametrize("constant", [0.0, math.nan])
def test_ties_and_nan_scores_count_as_errors(constant: float) -> None:
    assert scores(np.full((30, 3), constant), np.arange(30) % 3)["accuracy"] == 0


def test_interval_is_wilsons() -> None:
    p, n, z = 0.6, 1000, 1.959964
    middle = (p + z**2 / 2 / n) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / 4 / n**2)
    assert interval(p, n) == pytest.approx((middle - half, middle + half), rel=1e-5)


def paired_answers(images: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two probes with accuracies 0.7 and 0.55, mostly on the same images; the true difference is 0.15."""
    p = rng.random(images)
    return p < 0.7, (p < 0.5) | (p > 0.95)


def test_the_paired_interval_covers_the_true_difference_in_95_percent_of_cases() -> None:
    rng = np.random.default_rng(0)
    found = [paired_gain(*paired_answers(200, rng)) for _ in range(2000)]
    assert np.mean([low <= 0.15 <= high for _, low, high in found]) == pytest.approx(0.95, abs=0.015)
    assert np.mean([gain for gain, *_ in found]) == pytest.approx(0.15, abs=0.005)


def test_swapping_the_probes_changes_the_sign_of_the_gain() -> None:
    ours, control = paired_answers(1000, np.random.default_rng(1))
    gain, low, high = paired_gain(ours, control)
    assert paired_gain(control, ours) == pytest.approx((-gain, -high, -low))


def test_equal_predictions_give_zero_gain() -> None:
    gain, low, high = paired_gain(np.arange(100) < 60, np.arange(100) < 60)
    assert (gain, low) == (0, pytest.approx(-high))
