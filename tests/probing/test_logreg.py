"""Logistic regression: what chooses C, and that the fit is scikit-learn's."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stages.probing.logreg import best, choose_and_fit, few_label_accuracies, fit_logreg, validation_losses
from stages.probing.probe import Split, draw_labels, validation_split
from stages.probing.scores import log_softmax, scores
from tests.probing.data import clusters

GRID = [0.001, 0.01, 0.1, 1.0]


def test_chosen_c_is_that_of_a_loop_over_the_candidates_on_a_stratified_split() -> None:
    noisy = clusters(120, spread=3.0)
    x = StandardScaler().fit_transform(noisy.x)
    fit_x, held_x, fit_y, held_y = train_test_split(x, noisy.y, test_size=0.25, stratify=noisy.y, random_state=0)
    models = {c: LogisticRegression(C=c, max_iter=1000).fit(fit_x, fit_y) for c in GRID}
    expected = {c: log_loss(held_y, model.predict_proba(held_x)) for c, model in models.items()}
    probe = choose_and_fit(noisy, GRID[::-1], 0.25, 1000, seed=0)
    assert list(probe.validation) == GRID
    assert probe.validation == pytest.approx(expected)
    chosen = min(expected, key=expected.__getitem__)
    assert best(probe.validation) == chosen
    final = LogisticRegression(C=chosen, max_iter=1000).fit(x, noisy.y)
    np.testing.assert_allclose(probe.parameters["weight"], final.coef_, rtol=1e-5)


@pytest.mark.parametrize("classes", [2, 4])
def test_a_probe_scores_raw_features_as_the_same_scikit_learn_pipeline_does(classes: int) -> None:
    train, test = (clusters(120, classes, 3.0, seed) for seed in (0, 1))
    probe = choose_and_fit(train, [0.1], 0.25, 1000, seed=0)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(train.x, train.y)
    np.testing.assert_allclose(np.exp(log_softmax(probe.logits(test.x))), pipeline.predict_proba(test.x), atol=1e-4)


def test_watching_a_fit_does_not_change_it_and_the_curve_ends_at_it() -> None:
    train, test = clusters(120, spread=3.0), clusters(40, spread=3.0, seed=1)
    watched, alone = (fit_logreg(train, 0.1, 1000, split) for split in (test, None))
    assert alone.curve == []
    assert watched.parameters["weight"].dtype == np.float32  # else it would take twice the time
    np.testing.assert_array_equal(watched.parameters["weight"], alone.parameters["weight"])
    reference = LogisticRegression(C=0.1, max_iter=1000).fit(StandardScaler().fit_transform(train.x), train.y)
    assert [row["split"] for row in watched.curve] == ["train", "test"] * int(reference.n_iter_[0])
    assert watched.curve[-1]["accuracy"] == scores(watched.logits(test.x), test.y)["accuracy"]
    assert watched.curve[-2]["loss"] < watched.curve[0]["loss"]


def test_the_fit_reaches_the_known_optimum() -> None:
    train = clusters(200)
    probe = fit_logreg(train, 0.1, 1000)
    x = StandardScaler().fit_transform(train.x.astype(np.float64))
    p = np.exp(log_softmax(probe.logits(train.x).astype(np.float64)))
    # At the optimum of C * sum(loss) + |w|^2 / 2 the gradient is zero.
    gradient = 0.1 * (p - np.eye(4)[train.y]).T @ x + probe.parameters["weight"]
    assert np.abs(gradient).max() < 0.05


def test_float32_reaches_the_answer_of_float64() -> None:
    train, test = (clusters(count, 10, 3.0, seed) for count, seed in ((2000, 0), (500, 1)))
    single = fit_logreg(train, 0.1, 1000)
    double = fit_logreg(Split(train.x.astype(np.float64), train.y), 0.1, 1000)
    assert (single.parameters["weight"].dtype, double.parameters["weight"].dtype) == (np.float32, np.float64)
    p, q = (np.exp(log_softmax(probe.logits(test.x.astype(dtype)))) for probe, dtype in
            ((single, np.float32), (double, np.float64)))  # fmt: skip
    np.testing.assert_allclose(p, q, atol=2e-3)


def test_with_few_labels_c_is_that_of_the_first_draw() -> None:
    draws = [clusters(40, spread=3.0, seed=seed) for seed in range(3)]
    test = clusters(200, spread=3.0, seed=9)
    chosen = [best(validation_losses(draw, GRID, 0.25, 1000, seed=0)) for draw in draws]
    assert len(set(chosen)) > 1  # else the others would not tell
    expected = [
        make_pipeline(StandardScaler(), LogisticRegression(C=chosen[0], max_iter=1000))
        .fit(draw.x, draw.y)
        .score(test.x, test.y)
        for draw in draws
    ]
    assert few_label_accuracies(draws, test, GRID, 0.25, 1000, seed=0) == pytest.approx(expected)


def test_a_split_that_cannot_hold_every_class_is_refused_in_one_line() -> None:
    with pytest.raises(SystemExit, match=r"logreg\.validation_fraction = 0\.2: 5 training images"):
        validation_losses(clusters(5), GRID, 0.2, 100, seed=0)


def test_a_split_that_leaves_a_small_class_on_one_side_is_refused_too() -> None:
    uneven = Split(np.random.default_rng(0).normal(size=(8, 3)), np.array([0] * 6 + [1] * 2))
    with pytest.raises(SystemExit, match="a small class would be on one side only"):
        validation_losses(uneven, GRID, 0.25, 100, seed=0)


def test_a_validation_split_is_stratified_and_holds_every_image_once() -> None:
    y = np.repeat([0, 1, 2], [40, 20, 20])
    fit, held_out = validation_split(y, 0.25, seed=0)
    assert np.bincount(y[held_out]).tolist() == [10, 5, 5]
    assert sorted([*fit, *held_out]) == list(range(80))


def test_labels_are_drawn_by_class_and_by_seed() -> None:
    y = np.random.default_rng(0).permutation([0] * 30 + [2] * 7 + [1] * 50)
    drawn = draw_labels(y, 5, [0, 1])
    assert np.bincount(y[drawn]).tolist() == [5, 5, 5]
    assert len(np.unique(drawn)) == 15
    np.testing.assert_array_equal(drawn, draw_labels(y, 5, [0, 1]))
    assert (drawn != draw_labels(y, 5, [0, 2])).any()
