"""The probes: what chooses C, what is reported, and with which uncertainty."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score
from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stages.probes import (
    Split,
    both_scores,
    draw_labels,
    few_label_accuracies,
    fit_linear,
    fit_logreg,
    fit_probe,
    gains,
    interval,
    paired_gain,
    validate_C,
)

GRID = [0.001, 0.01, 0.1, 1.0]


def clusters(count: int, classes: int = 4, spread: float = 1.0, seed: int = 0) -> Split:
    """Gaussian clusters in 16 dimensions around fixed centres."""
    stream = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, 16, generator=torch.Generator().manual_seed(99))
    y = torch.arange(count) % classes
    return Split(centres[y] + spread * torch.randn(count, 16, generator=stream), y)


def test_scores_are_sklearns() -> None:
    train, test = clusters(60, classes=7), clusters(40, classes=7, seed=1)
    weight = torch.randn(16, 7, generator=torch.Generator().manual_seed(0))
    result = both_scores(lambda x: x @ weight, train, test)
    for name, part in (("train", train), ("test", test)):
        p = (part.x @ weight).softmax(1).double().numpy()
        p /= p.sum(1, keepdims=True)
        assert result[f"{name}_accuracy"] == pytest.approx(accuracy_score(part.y, p.argmax(1)))
        assert result[f"{name}_top5"] == pytest.approx(top_k_accuracy_score(part.y, p, k=5))
        assert result[f"{name}_loss"] == pytest.approx(log_loss(part.y, p), rel=1e-5)


def test_top5_of_three_classes_is_certain() -> None:
    data = clusters(30, classes=3)
    assert both_scores(lambda x: x[:, :3], data, data)["test_top5"] == 1


def test_classes_that_cannot_be_told_apart_count_as_wrong() -> None:
    data = clusters(30, classes=3)
    assert both_scores(lambda x: torch.zeros(len(x), 3), data, data)["test_accuracy"] == 0


def test_chosen_c_is_that_of_scikit_learns_grid_search_on_the_same_split() -> None:
    noisy = clusters(120, spread=3.0)
    splitter = StratifiedShuffleSplit(1, test_size=0.25, random_state=0)
    standardised = StandardScaler().fit_transform(noisy.x.numpy())
    search = GridSearchCV(LogisticRegression(max_iter=1000), {"C": GRID}, cv=splitter, scoring="neg_log_loss")
    search.fit(standardised, noisy.y)
    probe = fit_probe(noisy, GRID[::-1], 0.25, 1000, seed=0)
    assert list(probe.validation) == GRID
    assert list(probe.validation.values()) == pytest.approx(-search.cv_results_["mean_test_score"])
    assert search.best_params_["C"] == probe.model.C


def test_a_probe_scores_raw_features_as_the_same_scikit_learn_pipeline_does() -> None:
    train, test = clusters(120, spread=3.0), clusters(40, spread=3.0, seed=1)
    probe = fit_probe(train, [0.1], 0.25, 1000, seed=0)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(train.x.numpy(), train.y)
    np.testing.assert_allclose(probe.logits(test.x).softmax(1), pipeline.predict_proba(test.x.numpy()), atol=1e-4)


def test_watching_a_fit_does_not_change_it() -> None:
    train, test = clusters(120, spread=3.0), clusters(40, spread=3.0, seed=1)
    watched, alone = (fit_probe(train, GRID, 0.25, 1000, seed=0, watched=split) for split in (test, None))
    assert (len(watched.curve), len(alone.curve)) == (watched.iterations, 0)
    assert watched.model.coef_.dtype == np.float32  # else it would take twice the time
    np.testing.assert_array_equal(watched.model.coef_, alone.model.coef_)


def test_with_few_labels_c_is_that_of_the_first_draw() -> None:
    draws = [clusters(40, spread=3.0, seed=seed) for seed in range(3)]
    test = clusters(200, spread=3.0, seed=9)
    chosen = [fit_probe(draw, GRID, 0.25, 1000, seed=0).model.C for draw in draws]
    assert len(set(chosen)) > 1  # else the others would not tell
    expected = [
        make_pipeline(StandardScaler(), LogisticRegression(C=chosen[0], max_iter=1000))
        .fit(draw.x.numpy(), draw.y)
        .score(test.x.numpy(), test.y)
        for draw in draws
    ]
    assert few_label_accuracies(draws, test, GRID, 0.25, 1000, seed=0) == pytest.approx(expected)


def test_a_split_that_cannot_hold_every_class_is_refused_in_one_line() -> None:
    with pytest.raises(SystemExit, match=r"logreg\.validation_fraction = 0\.2: 5 training images"):
        validate_C(clusters(5), GRID, 0.2, 100, seed=0)


def test_a_split_that_leaves_a_small_class_on_one_side_is_refused_too() -> None:
    uneven = Split(torch.randn(8, 3), torch.tensor([0] * 6 + [1] * 2))
    with pytest.raises(SystemExit, match="a small class would be on one side only"):
        validate_C(uneven, GRID, 0.25, 100, seed=0)


def test_curve_ends_at_the_fitted_model_and_reaches_the_known_optimum() -> None:
    train, test = clusters(200), clusters(80, seed=1)
    model, curve = fit_logreg(train, 0.1, 1000, test)
    assert [row["iteration"] for row in curve] == list(range(1, int(model.n_iter_[0]) + 1))
    assert curve[-1]["test_accuracy"] == pytest.approx(model.score(test.x.numpy(), test.y.numpy()))
    assert curve[-1]["train_loss"] < curve[0]["train_loss"]
    # At the optimum of C * sum(loss) + |w|^2 / 2 the gradient is zero.
    weight = torch.from_numpy(model.coef_).double().requires_grad_()
    loss = torch.nn.functional.cross_entropy(
        train.x.double() @ weight.T + torch.from_numpy(model.intercept_), train.y, reduction="sum"
    )
    (0.1 * loss + weight.square().sum() / 2).backward()
    assert weight.grad.abs().max() < 0.05


def test_float32_reaches_the_answer_of_float64() -> None:
    train, test = clusters(2000, classes=10, spread=3.0), clusters(500, classes=10, spread=3.0, seed=1)
    single, double = (
        LogisticRegression(C=0.1, max_iter=1000).fit(train.x.to(dtype).numpy(), train.y)
        for dtype in (torch.float32, torch.float64)
    )
    assert single.coef_.dtype == np.float32
    np.testing.assert_allclose(single.predict_proba(test.x.numpy()), double.predict_proba(test.x.double()), atol=2e-3)


def test_one_epoch_of_the_linear_layer_has_the_full_learning_rate() -> None:
    train = clusters(640)
    _, (row,) = fit_linear(train, train, batch_size=32, epochs=1, lr=0.05, weight_decay=0.0, seed=0)
    assert row["train_accuracy"] > 0.8


def test_scores_that_are_no_numbers_are_errors() -> None:
    data = clusters(30, classes=3)
    assert both_scores(lambda x: torch.full((len(x), 3), math.nan), data, data)["test_accuracy"] == 0


def test_a_linear_layer_that_diverges_ends_in_one_line() -> None:
    data = clusters(200)
    with pytest.raises(SystemExit, match=r"linear layer, epoch \d+: the loss is (nan|inf); a smaller") as stopped:
        fit_linear(data, data, batch_size=32, epochs=100, lr=10.0, weight_decay=1.0, seed=0)
    assert "\n" not in str(stopped.value.code)


def test_linear_layer_learns_and_repeats() -> None:
    train, test = clusters(200), clusters(80, seed=1)
    settings = {"batch_size": 32, "epochs": 10, "lr": 0.05, "weight_decay": 1e-3}
    layer, curve = fit_linear(train, test, **settings, seed=0)
    assert len(curve) == 10
    assert curve[-1]["test_accuracy"] > 0.9
    assert curve[-1]["test_accuracy"] == pytest.approx(accuracy_score(test.y, layer(test.x).argmax(1)))
    assert curve == fit_linear(train, test, **settings, seed=0)[1]
    assert curve != fit_linear(train, test, **settings, seed=1)[1]


def test_interval_is_wilsons() -> None:
    p, n, z = 0.6, 1000, 1.959964
    middle = (p + z**2 / 2 / n) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / 4 / n**2)
    assert interval(p, n) == pytest.approx(
        {"test_accuracy_low": middle - half, "test_accuracy_high": middle + half}, rel=1e-5
    )


def paired_answers(images: int, stream: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Two probes that are right on 70 and on 55 % of images, mostly the same ones; the true difference is 0.15."""
    p = torch.from_numpy(stream.random(images))
    return p < 0.7, (p < 0.5) | (p > 0.95)


def test_paired_interval_holds_the_true_difference_19_times_out_of_20() -> None:
    stream = np.random.default_rng(0)
    found = [paired_gain(*paired_answers(200, stream)) for _ in range(2000)]
    held = [gain["test_accuracy_low"] <= 0.15 <= gain["test_accuracy_high"] for gain in found]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)
    assert np.mean([gain["test_accuracy"] for gain in found]) == pytest.approx(0.15, abs=0.005)


def test_paired_interval_is_that_of_a_bootstrap_over_images() -> None:
    ours, control = paired_answers(1000, np.random.default_rng(1))
    gain = paired_gain(ours, control)
    difference = ours.numpy().astype(float) - control.numpy()
    again = np.random.default_rng(2).choice(difference, (4000, 1000)).mean(1)
    assert gain["test_accuracy"] == pytest.approx(difference.mean())
    expected = np.quantile(again, [0.025, 0.975])
    assert [gain["test_accuracy_low"], gain["test_accuracy_high"]] == pytest.approx(expected, abs=0.004)


def test_the_same_answers_are_no_gain() -> None:
    right = torch.arange(100) < 60
    gain = paired_gain(right, right)
    assert gain["test_accuracy"] == 0
    assert gain["test_accuracy_low"] == pytest.approx(-gain["test_accuracy_high"])


def test_gains_are_over_every_other_encoder_and_change_sign_with_the_sides() -> None:
    ours, control = paired_answers(100, np.random.default_rng(3))
    there, back = gains({"pixels": control, "simclr": ours}), gains({"pixels": ours, "simclr": control})
    assert there.keys() == {"pixels"}
    assert there["pixels"]["test_accuracy_low"] == pytest.approx(-back["pixels"]["test_accuracy_high"])


def test_labels_are_drawn_by_class_and_by_seed() -> None:
    y = torch.tensor([0] * 30 + [2] * 7 + [1] * 50)[torch.randperm(87, generator=torch.Generator().manual_seed(0))]
    drawn = draw_labels(y, 5, [0, 1])
    assert y[drawn].bincount().tolist() == [5, 5, 5]
    assert len(drawn.unique()) == 15
    assert torch.equal(drawn, draw_labels(y, 5, [0, 1]))
    assert not torch.equal(drawn, draw_labels(y, 5, [0, 2]))
