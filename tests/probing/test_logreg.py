"""Logistic regression: the choice of C, agreement with scikit-learn, convergence."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold

from stages.probes.logreg import (
    ChosenC,
    LogisticProbe,
    Scaling,
    has_converged,
    newton,
    validation_folds,
    validation_losses,
    warm_started_fits,
)
from stages.probing.probe import Curve, Split, draw_labels
from stages.probing.scores import scores
from tests.probing.data import clusters

GRID = [0.001, 0.01, 0.1, 1.0]
EXACT = {"solver": "newton-cholesky", "tol": 1e-8}  # another solver, with a much smaller tolerance than ours


def scaled(x: np.ndarray) -> np.ndarray:
    """Centred and divided by one number, so that the mean squared norm is the number of features."""
    centred = (x - x.mean(0)).astype(np.float64)
    norms = [float(row @ row) for row in centred]
    return centred / (sum(norms) / len(norms) / x.shape[1]) ** 0.5


def chosen(train: Split, C: list[float], choice_images: int = 100_000) -> ChosenC:
    return ChosenC(C, 100, seed=0, choice_images=choice_images).fit(train.x, train.y)


def test_scaling_preserves_the_ratios_of_the_features_and_zeros_of_dead_features() -> None:
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
        models = [LogisticRegression(C=c, **EXACT).fit(x[fit], noisy.y[fit]) for fit, _ in folds]
        losses = [log_loss(noisy.y[held], m.predict_proba(x[held])) for m, (_, held) in zip(models, folds, strict=True)]
        expected[c] = np.mean(losses)
    probe = chosen(noisy, GRID[::-1])
    assert list(probe.validation) == GRID
    assert probe.validation == pytest.approx(expected, abs=1e-3)
    assert min(expected, key=expected.__getitem__) == probe.C
    final = LogisticRegression(C=probe.C, **EXACT).fit(x, noisy.y).predict_proba(x)
    np.testing.assert_allclose(softmax(probe.decision_function(noisy.x), axis=1), final, atol=1e-3)


def test_validation_losses_of_20000_images_are_those_of_separate_fits() -> None:
    """With a warm start and many images, a loose tolerance would stop the fits at their starting point."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 20_000)
    scales = 10 ** np.linspace(0, -2, 32)  # as in real features, a few directions have most of the variance
    centres = 0.3 * rng.normal(size=(10, 32))
    train = Split(((centres[y] + rng.normal(size=(len(y), 32))) * scales).astype(np.float32), y)
    found, converged = validation_losses(train, [*GRID, 10.0], 100, seed=0)
    assert converged
    x = scaled(train.x)
    (fit, held_out), *_ = validation_folds(y, seed=0)
    expected = {}
    for c in found:
        model = LogisticRegression(C=c, **EXACT).fit(x[fit], y[fit])
        expected[c] = log_loss(y[held_out], model.predict_proba(x[held_out]))
    assert len(set(expected.values())) == len(found) == len(set(found.values()))
    assert found == pytest.approx(expected, abs=1e-3)


def test_every_warm_started_fit_does_at_least_one_iteration() -> None:
    train = clusters(2000, 10, spread=3.0)
    for model in warm_started_fits(train, [1e-4, 3e-4, *GRID], 100):
        assert model.n_iter_[0] > 0


def test_a_large_c_is_chosen_for_a_weak_signal_although_the_loss_rises_first() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(400) % 2
    signal = 0.06 * (2 * y - 1) + 0.021 * rng.normal(size=400)
    x = np.concatenate([rng.normal(size=(400, 60)), signal[:, None]], 1).astype(np.float32)
    losses, _ = validation_losses(Split(x, y), [0.001, 0.01, 0.1, 1.0, 10.0, 100.0], 100, seed=0)
    assert losses[0.1] > losses[0.01] > losses[0.001]
    assert min(losses, key=losses.__getitem__) == 100.0


@pytest.mark.parametrize("classes", [2, 4])
def test_a_probe_on_raw_features_equals_scikit_learn_on_scaled_features(classes: int) -> None:
    train, test = (clusters(120, classes, 3.0, seed) for seed in (0, 1))
    probe = LogisticProbe(0.1, 100).fit(train.x, train.y)
    model = LogisticRegression(C=0.1, **EXACT).fit(scaled(train.x), train.y)
    p = softmax(probe.decision_function(test.x), axis=1)
    np.testing.assert_allclose(p, model.predict_proba(Scaling(train.x)(test.x)), atol=1e-3)
    np.testing.assert_array_equal(test.x @ probe.weight.T + probe.bias, probe.decision_function(test.x))


def test_recording_a_curve_does_not_change_the_fit_and_the_curve_ends_at_its_score() -> None:
    train, test = clusters(120, spread=3.0), clusters(40, spread=3.0, seed=1)
    curve = Curve(train, test)
    watched, alone = (LogisticProbe(0.1, 100, each).fit(train.x, train.y) for each in (curve, None))
    assert watched.weight.dtype == np.float32  # float64 would take twice the time
    np.testing.assert_array_equal(watched.weight, alone.weight)
    steps = int(newton(0.1, 100).fit(Scaling(train.x)(train.x), train.y).n_iter_[0])
    assert [(row["step"], row["split"]) for row in curve.rows] == [
        (step, split) for step in range(1, steps + 1) for split in ("train", "test")
    ]
    assert curve.rows[-1]["accuracy"] == scores(watched.decision_function(test.x), test.y)["accuracy"]
    assert curve.rows[-2]["loss"] < curve.rows[0]["loss"]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # pytest undoes the module's own filter
@pytest.mark.parametrize("classes", [2, 10])
def test_convergence_is_measured_by_the_gradient(classes: int) -> None:
    train = clusters(2000, classes, 3.0)
    x = Scaling(train.x)(train.x)
    finished = newton(0.1, 100).fit(x, train.y)
    assert has_converged(finished, x, train.y)
    assert not has_converged(newton(0.1, 1).fit(x, train.y), x, train.y)
    finished.coef_[0, 0] += 1e-2
    assert not has_converged(finished, x, train.y)
    assert LogisticProbe(0.1, 100).fit(train.x, train.y).converged
    assert not LogisticProbe(0.1, 1).fit(train.x, train.y).converged
    assert not ChosenC(GRID, 1, 0, 1000).fit(train.x, train.y).converged


@pytest.mark.parametrize(
    ("per_class", "folds"),
    [([40, 20, 20], 5), ([6, 2], 2), ([2, 2, 2, 2], 2), ([500] * 50, 1), ([50] * 100, 2)],
)  # fmt: skip
def test_folds_have_every_class_and_validate_each_image_once_or_2000_images(per_class: list[int], folds: int) -> None:
    y = np.repeat(np.arange(len(per_class)), per_class)
    found = validation_folds(y, seed=0)
    assert len(found) == folds
    assert all(sorted([*fit, *held_out]) == list(range(len(y))) for fit, held_out in found)
    assert all(len(np.unique(y[part])) == len(per_class) for fold in found for part in fold)
    validated = np.concatenate([held_out for _, held_out in found])
    assert len(np.unique(validated)) == len(validated) >= min(len(y), 2000)


def test_labels_are_drawn_by_class_and_by_seed() -> None:
    y = np.random.default_rng(0).permutation([0] * 30 + [2] * 7 + [1] * 50)
    drawn = draw_labels(y, 5, [0, 1])
    assert np.bincount(y[drawn]).tolist() == [5, 5, 5]
    assert len(np.unique(drawn)) == 15
    np.testing.assert_array_equal(drawn, draw_labels(y, 5, [0, 1]))
    assert (drawn != draw_labels(y, 5, [0, 2])).any()


def test_c_is_chosen_on_at_most_choice_images_and_the_final_fit_uses_all() -> None:
    noisy = clusters(400, spread=3.0)
    few = noisy.at_most(80, seed=0)
    assert np.bincount(few.y).tolist() == [20] * 4
    assert noisy.at_most(400, seed=0) is noisy
    unequal = Split(np.zeros((400, 1), np.float32), np.repeat([0, 1, 2], [300, 98, 2]))
    assert np.bincount(unequal.at_most(40, seed=0).y).tolist() == [30, 9, 2]
    probe = chosen(noisy, GRID, choice_images=80)
    assert probe.validation == validation_losses(few, GRID, 100, seed=0)[0]
    whole = LogisticProbe(probe.C, 100).fit(noisy.x, noisy.y)
    np.testing.assert_array_equal(probe.decision_function(noisy.x), whole.decision_function(noisy.x))
