"""Nearest neighbours, calibration and mistakes against slow versions of their definitions."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix

from stages.evaluate import (
    confidently_wrong,
    confused_pairs,
    expected_calibration_error,
    fit_knn,
    per_class,
    project,
    readable_classes,
    reliability,
    some_of_each_class,
)

STREAM = np.random.default_rng(0)
TRUTH = torch.from_numpy(STREAM.integers(0, 4, 200))
PREDICTED = torch.where(torch.from_numpy(STREAM.random(200)) < 0.6, TRUTH, torch.from_numpy(STREAM.integers(0, 4, 200)))
CONFIDENCE = torch.from_numpy(STREAM.random(200)).float()
NAMES = ["ant", "bee", "cat", "dog"]


def test_neighbours_vote_as_in_a_double_loop_over_cosines() -> None:
    stream = torch.Generator().manual_seed(0)
    x, queries = torch.randn(40, 6, generator=stream), torch.randn(15, 6, generator=stream)
    y = torch.stack([torch.arange(40) % 5, torch.arange(40) % 2], dim=1)

    def vote(query: list[float], target: int) -> int:
        cosines = [
            sum(a * b for a, b in zip(query, row, strict=True)) / math.hypot(*query) / math.hypot(*row)
            for row in x.tolist()
        ]
        votes = [0.0] * 5
        for cosine, label in sorted(zip(cosines, y[:, target].tolist(), strict=True), reverse=True)[:7]:
            votes[label] += math.exp(cosine / 0.07)
        return votes.index(max(votes))

    predicted = fit_knn(x, y, 7).predict(queries.numpy())
    assert predicted.tolist() == [[vote(query, 0), vote(query, 1)] for query in queries.tolist()]


def test_more_neighbours_than_images_are_all_of_them() -> None:
    assert fit_knn(torch.randn(5, 3), torch.zeros(5, 2), 20).n_neighbors == 5


def test_calibration_error_is_the_weighted_distance_in_bins_of_a_fifteenth() -> None:
    right = PREDICTED == TRUTH
    error, seen = 0.0, 0
    for number in range(15):
        inside = [i for i, p in enumerate(CONFIDENCE.tolist()) if number / 15 < p <= (number + 1) / 15]
        if inside:
            accuracy = sum(bool(right[i]) for i in inside) / len(inside)
            confidence = sum(float(CONFIDENCE[i]) for i in inside) / len(inside)
            error += len(inside) / 200 * abs(accuracy - confidence)
            seen += 1
    bins = reliability(CONFIDENCE, right)
    assert len(bins) == seen
    assert sum(row["images"] for row in bins) == 200
    assert expected_calibration_error(bins) == pytest.approx(error, rel=1e-5)


def test_a_probe_that_is_always_sure_and_half_right_is_wrong_by_half() -> None:
    bins = reliability(torch.ones(10), torch.arange(10) < 5)
    assert expected_calibration_error(bins) == pytest.approx(0.5)


def test_confused_pairs_and_accuracies_are_those_of_scikit_learns_confusion_matrix() -> None:
    matrix = confusion_matrix(TRUTH, PREDICTED)
    pairs = confused_pairs(TRUTH, PREDICTED, NAMES)
    assert sum(pair["images"] for pair in pairs) == matrix.sum() - np.trace(matrix)
    assert [pair["images"] for pair in pairs] == sorted((pair["images"] for pair in pairs), reverse=True)
    for pair in pairs:
        row, column = NAMES.index(pair["actual"]), NAMES.index(pair["predicted"])
        assert pair["images"] == matrix[row, column]
        assert pair["share"] == pytest.approx(matrix[row, column] / matrix[row].sum())
    rows = per_class(TRUTH, PREDICTED, NAMES)
    assert [row["rank"] for row in rows] == [1, 2, 3, 4]
    assert [row["accuracy"] for row in rows] == pytest.approx(sorted(np.diag(matrix) / matrix.sum(1)))


def test_a_class_without_test_images_has_no_accuracy() -> None:
    assert [row["class"] for row in per_class(torch.tensor([0, 2]), torch.tensor([0, 1]), NAMES)] == ["cat", "ant"]


def test_the_surest_mistakes_come_first() -> None:
    wrong = confidently_wrong(CONFIDENCE, PREDICTED, TRUTH, 5)
    expected = sorted((-p, i) for i, p in enumerate(CONFIDENCE.tolist()) if PREDICTED[i] != TRUTH[i])[:5]
    assert wrong.tolist() == [i for _, i in expected]
    assert len(confidently_wrong(CONFIDENCE, TRUTH, TRUTH, 5)) == 0


def test_up_to_twenty_classes_are_shown_themselves_and_more_as_superclasses() -> None:
    fine = torch.arange(24)
    numbers = [str(n) for n in range(24)]
    few = readable_classes(fine[:20], fine[:20] // 5, numbers[:20], list("abcd"), [])
    assert few == (numbers[:20], list(range(20)))
    assert readable_classes(fine, fine // 6, numbers, list("abcd"), []) == (list("abcd"), [n // 6 for n in range(24)])


def test_of_many_classes_without_superclasses_the_worst_are_shown() -> None:
    numbers = [str(n) for n in range(24)]
    names, of_fine = readable_classes(torch.arange(24), torch.arange(24), numbers, numbers, numbers[::-1])
    assert names == [*numbers[:4:-1], "all others"]
    assert [names[of_fine[n]] for n in (23, 5, 4, 0)] == ["23", "5", "all others", "all others"]


def test_shown_images_are_of_different_classes() -> None:
    shown = some_of_each_class(TRUTH, 3, seed=0)
    assert len(TRUTH[shown].unique()) == 3
    assert len(some_of_each_class(TRUTH, 9, seed=0)) == 4


def test_a_map_keeps_far_groups_apart_and_is_the_same_again() -> None:
    groups = torch.arange(60) % 2
    x = torch.randn(60, 8, generator=torch.Generator().manual_seed(0)) + 20 * torch.eye(8)[groups]
    points = project(x, seed=0)
    distances = torch.cdist(points, points).fill_diagonal_(torch.inf)
    assert (groups[distances.argmin(1)] == groups).all()
    assert torch.equal(points, project(x, seed=0))


def test_a_map_of_equal_features_is_one_point() -> None:
    assert torch.equal(project(torch.ones(12, 8), seed=0), torch.zeros(12, 2))
