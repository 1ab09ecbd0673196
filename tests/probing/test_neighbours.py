"""Nearest neighbours compared with a double loop."""

import math

import numpy as np

from stages.probes.neighbours import Neighbours, nearest

RNG = np.random.default_rng(0)
X, QUERIES = RNG.normal(size=(40, 6)).astype(np.float32), RNG.normal(size=(15, 6)).astype(np.float32)
Y = np.arange(40) % 5


def by_cosine(query: list[float]) -> list[tuple[float, int]]:
    """Cosine and index of every row, the nearest first."""
    found = [
        (sum(a * b for a, b in zip(query, row, strict=True)) / math.hypot(*query) / math.hypot(*row), number)
        for number, row in enumerate(X.tolist())
    ]
    return sorted(found, reverse=True)


def test_the_votes_are_those_of_a_double_loop_over_cosines() -> None:
    def vote(query: list[float]) -> int:
        votes = [0.0] * 5
        for cosine, number in by_cosine(query)[:7]:
            votes[Y[number]] += math.exp(cosine / 0.07)
        return votes.index(max(votes))

    z = Neighbours(7).fit(X, Y).decision_function(QUERIES)
    assert z.argmax(1).tolist() == [vote(query) for query in QUERIES.tolist()]


def test_class_scores_are_logarithms_of_fractions_of_the_votes() -> None:
    np.testing.assert_allclose(np.exp(Neighbours(7).fit(X, Y).decision_function(QUERIES)).sum(1), 1)


def test_the_nearest_rows_come_first() -> None:
    expected = [[number for _, number in by_cosine(query)[:3]] for query in QUERIES.tolist()]
    assert nearest(X, QUERIES, 3).tolist() == expected


def test_if_there_are_fewer_images_than_nearest_ones_to_find_all_are_found() -> None:
    assert nearest(X[:5], QUERIES, 20).shape == (15, 5)
