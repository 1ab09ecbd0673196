"""Logistic regression: what chooses C, and that the fit is scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold

from stages.probing import logreg
from stages.probing.logreg import (
    Scaling,
    best,
    choice_work,
    choose_and_fit,
    fit_few_labels,
    fit_logreg,
    validation_losses,
)
from stages.probing.probe import Split, draw_labels, validation_folds
from stages.probing.scores import log_softmax, scores
from tests.probing.data import clusters

GRID = [0.001, 0.01, 0.1, 1.0]


def scaled(x: np.ndarray) -> np.ndarray:
    """Centred, and divided by one number, so that the mean squared norm is the number of features."""
    centred = x - x.mean(0)
    norms = [float(row @ row) for row in centred]
    return centred / (sum(norms) / len(norms) / x.shape[1]) ** 0.5


def test_scaling_keeps_the_ratios_of_the_features_and_dead_ones_at_zero() -> None:
    x = clusters(200).x * np.array([0, 1e-4, 1, 10] * 4, np.float32)
    np.testing.assert_allclose(Scaling(x)(x), scaled(x), rtol=1e-4, atol=1e-6)
    assert (Scaling(x)(x).std(0)[::4] == 0).all()
    assert (Scaling(np.ones((5, 3), np.float32))(np.ones((5, 3), np.float32)) == 0).all()


def test_chosen_c_is_that_of_a_double_loop_over_the_candidates_and_five_stratified_folds() -> None:
    noisy = clusters(120, spread=3.0)
    x = scaled(noisy.x)
    folds = list(StratifiedKFold(5, shuffle=True, random_state=0).split(x, noisy.y))
    expected = {}
    for c in GRID:
        models = [LogisticRegression(C=c, max_iter=1000).fit(x[fit], noisy.y[fit]) for fit, _ in folds]
        losses = [log_loss(noisy.y[held], m.predict_proba(x[held])) for m, (_, held) in zip(models, folds, strict=True)]
        expected[c] = np.mean(losses)
    probe = choose_and_fit(noisy, GRID[::-1], 1000, seed=0, choice_images=1000)
    assert list(probe.validation) == GRID
    assert probe.validation == pytest.approx(expected, rel=1e-3)  # each fit starts at the one before
    chosen = min(expected, key=expected.__getitem__)
    assert best(probe.validation) == chosen
    final = LogisticRegression(C=chosen, max_iter=1000).fit(x, noisy.y)
    np.testing.assert_allclose(
        probe.logits(noisy.x) - probe.logits(noisy.x).mean(1, keepdims=True), final.decision_function(x), atol=1e-3
    )


def test_a_weak_signal_behind_strong_noise_is_found_though_the_loss_rises_first() -> None:
    stream = np.random.default_rng(0)
    y = np.arange(400) % 2
    signal = 0.06 * (2 * y - 1) + 0.021 * stream.normal(size=400)
    x = np.concatenate([stream.normal(size=(400, 60)), signal[:, None]], 1).astype(np.float32)
    losses = validation_losses(Split(x, y), [0.001, 0.01, 0.1, 1.0, 10.0, 100.0], 1000, seed=0)
    assert losses[0.1] > losses[0.01] > losses[0.001]
    assert best(losses) == 100.0


@pytest.mark.parametrize("classes", [2, 4])
def test_a_probe_scores_raw_features_as_scikit_learn_does_scaled_ones(classes: int) -> None:
    train, test = (clusters(120, classes, 3.0, seed) for seed in (0, 1))
    probe = choose_and_fit(train, [0.1], 1000, seed=0, choice_images=1000)
    both = scaled(np.concatenate([train.x, train.x]))[:120]
    model = LogisticRegression(C=0.1, max_iter=1000).fit(both, train.y)
    on_test = Scaling(train.x)(test.x)
    np.testing.assert_allclose(np.exp(log_softmax(probe.logits(test.x))), model.predict_proba(on_test), atol=1e-4)
    z = test.x @ probe.parameters["weight"].T + probe.parameters["bias"]
    np.testing.assert_array_equal(z, probe.logits(test.x))


def test_watching_a_fit_does_not_change_it_and_the_curve_ends_at_it() -> None:
    train, test = clusters(120, spread=3.0), clusters(40, spread=3.0, seed=1)
    watched, alone = (fit_logreg(train, 0.1, 1000, split) for split in (test, None))
    assert alone.curve == []
    assert watched.parameters["weight"].dtype == np.float32  # else it would take twice the time
    np.testing.assert_array_equal(watched.parameters["weight"], alone.parameters["weight"])
    reference = LogisticRegression(C=0.1, max_iter=1000).fit(Scaling(train.x)(train.x), train.y)
    assert [row["split"] for row in watched.curve] == ["train", "test"] * int(reference.n_iter_[0])
    assert watched.curve[-1]["accuracy"] == scores(watched.logits(test.x), test.y)["accuracy"]
    assert watched.curve[-2]["loss"] < watched.curve[0]["loss"]


def test_the_fit_reaches_the_known_optimum() -> None:
    train = clusters(200)
    probe = fit_logreg(train, 0.1, 1000)
    x = scaled(train.x.astype(np.float64))
    p = np.exp(log_softmax(probe.logits(train.x).astype(np.float64)))
    # At the optimum of C * sum(loss) + |w|^2 / 2 the gradient is zero; w is the weight of scaled features.
    gradient = 0.1 * (p - np.eye(4)[train.y]).T @ x + probe.parameters["weight"] * Scaling(train.x).scale
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
    chosen = [best(validation_losses(draw, GRID, 1000, seed=0)) for draw in draws]
    assert len(set(chosen)) > 1  # else the others would not tell
    models = [LogisticRegression(C=chosen[0], max_iter=1000).fit(scaled(draw.x), draw.y) for draw in draws]
    expected = [m.score(Scaling(draw.x)(test.x), test.y) for m, draw in zip(models, draws, strict=True)]
    found = fit_few_labels(draws, GRID, 1000, seed=0)
    assert [float((p.logits(test.x).argmax(1) == test.y).mean()) for p in found] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("per_class", "folds"),
    [([40, 20, 20], 5), ([6, 2], 2), ([2, 2, 2, 2], 2), ([500] * 50, 1), ([100] * 100, 3)],
)  # fmt: skip
def test_folds_hold_every_class_and_validate_on_each_image_once_or_on_5000(per_class: list[int], folds: int) -> None:
    y = np.repeat(np.arange(len(per_class)), per_class)
    found = validation_folds(y, seed=0)
    assert len(found) == folds
    assert all(sorted([*fit, *held_out]) == list(range(len(y))) for fit, held_out in found)
    assert all(len(np.unique(y[part])) == len(per_class) for fold in found for part in fold)
    validated = np.concatenate([held_out for _, held_out in found])
    assert len(np.unique(validated)) == len(validated) >= min(len(y), 5000)


def test_labels_are_drawn_by_class_and_by_seed() -> None:
    y = np.random.default_rng(0).permutation([0] * 30 + [2] * 7 + [1] * 50)
    drawn = draw_labels(y, 5, [0, 1])
    assert np.bincount(y[drawn]).tolist() == [5, 5, 5]
    assert len(np.unique(drawn)) == 15
    np.testing.assert_array_equal(drawn, draw_labels(y, 5, [0, 1]))
    assert (drawn != draw_labels(y, 5, [0, 2])).any()


def test_c_is_chosen_on_no_more_images_than_allowed_and_all_are_fitted() -> None:
    noisy = clusters(400, spread=3.0)
    few = noisy.at_most(80, seed=0)
    assert np.bincount(few.y).tolist() == [20] * 4
    assert noisy.at_most(400, seed=0) is noisy
    probe = choose_and_fit(noisy, GRID, 1000, seed=0, choice_images=80)
    assert probe.validation == validation_losses(few, GRID, 1000, seed=0)
    whole = fit_logreg(noisy, best(probe.validation), 1000)
    np.testing.assert_array_equal(probe.logits(noisy.x), whole.logits(noisy.x))


def test_the_work_that_is_reported_is_the_work_that_was_foreseen() -> None:
    noisy = clusters(120, spread=3.0)
    done: list[int] = []
    validation_losses(noisy, GRID, 1000, seed=0, on_fit=done.append)
    assert sum(done) == choice_work(noisy, GRID, seed=0)


def test_by_the_array_api_as_on_a_gpu_the_fit_and_its_curve_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = clusters(90), clusters(60, seed=1)
    plain = fit_logreg(train, 0.1, 100, test)
    monkeypatch.setattr(logreg, "GPU", torch.device("cpu"))
    found = fit_logreg(train, 0.1, 100, test)
    for name, array in plain.parameters.items():
        np.testing.assert_allclose(found.parameters[name], array, rtol=1e-3, atol=1e-4)
    assert [row["accuracy"] for row in found.curve[-2:]] == [row["accuracy"] for row in plain.curve[-2:]]
    losses = validation_losses(train, [0.01, 0.1], 100, seed=0)
    monkeypatch.undo()
    assert losses == pytest.approx(validation_losses(train, [0.01, 0.1], 100, seed=0), rel=1e-3)
