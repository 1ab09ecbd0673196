"""The probes: what may choose C, what is reported, and that the saved classifier is the fitted one."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score
from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit
from sklearn.preprocessing import StandardScaler

from stages import fit_logreg as stage
from stages.files import read_tensors, write_tensors
from stages.fit_logreg import Probe, Split, choose_C, fit_linear, fit_logreg, gain, interval, save_classifier, scores

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
    result = scores(lambda x: x @ weight, train, test)
    for name, part in (("train", train), ("test", test)):
        p = (part.x @ weight).softmax(1).double().numpy()
        p /= p.sum(1, keepdims=True)
        assert result[f"{name}_accuracy"] == pytest.approx(accuracy_score(part.y, p.argmax(1)))
        assert result[f"{name}_top5"] == pytest.approx(top_k_accuracy_score(part.y, p, k=5))
        assert result[f"{name}_loss"] == pytest.approx(log_loss(part.y, p), rel=1e-5)


def test_top5_of_three_classes_is_certain() -> None:
    data = clusters(30, classes=3)
    assert scores(lambda x: x[:, :3], data, data)["test_top5"] == 1


def test_classes_that_cannot_be_told_apart_count_as_wrong() -> None:
    data = clusters(30, classes=3)
    assert scores(lambda x: torch.zeros(len(x), 3), data, data)["test_accuracy"] == 0


def test_chosen_c_is_that_of_scikit_learns_grid_search_on_the_same_split() -> None:
    noisy = clusters(120, spread=3.0)
    splitter = StratifiedShuffleSplit(1, test_size=0.25, random_state=0)
    search = GridSearchCV(LogisticRegression(max_iter=1000), {"C": GRID}, cv=splitter).fit(noisy.x.numpy(), noisy.y)
    best, accuracy = choose_C(noisy, GRID, 0.25, 1000, seed=0)
    assert len(set(search.cv_results_["mean_test_score"])) > 1
    assert best == search.best_params_["C"]
    assert accuracy == pytest.approx(search.best_score_)


def test_a_tie_goes_to_the_strongest_regularisation() -> None:
    easy = clusters(80, spread=0.01)
    assert choose_C(easy, [1.0, 0.1, 10.0], 0.25, 1000, seed=0) == (0.1, 1.0)


def test_a_split_that_cannot_hold_every_class_is_refused_in_one_line() -> None:
    with pytest.raises(SystemExit, match=r"logreg\.validation_fraction = 0\.2: 5 training images"):
        choose_C(clusters(5), GRID, 0.2, 100, seed=0)


def test_curve_ends_at_the_fitted_model_and_reaches_the_known_optimum() -> None:
    train, test = clusters(200), clusters(80, seed=1)
    model, curve = fit_logreg(train, test, 0.1, 1000)
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
    (row,) = fit_linear(train, train, batch_size=32, epochs=1, lr=0.05, weight_decay=0.0, seed=0)
    assert row["train_accuracy"] > 0.8


def test_scores_that_are_no_numbers_are_errors() -> None:
    data = clusters(30, classes=3)
    assert scores(lambda x: torch.full((len(x), 3), math.nan), data, data)["test_accuracy"] == 0


def test_linear_layer_learns_and_repeats() -> None:
    train, test = clusters(200), clusters(80, seed=1)
    settings = {"batch_size": 32, "epochs": 10, "lr": 0.05, "weight_decay": 1e-3}
    curve = fit_linear(train, test, **settings, seed=0)
    assert len(curve) == 10
    assert curve[-1]["test_accuracy"] > 0.9
    assert curve == fit_linear(train, test, **settings, seed=0)
    assert curve != fit_linear(train, test, **settings, seed=1)


def test_interval_is_wilsons() -> None:
    p, n, z = 0.6, 1000, 1.959964
    middle = (p + z**2 / 2 / n) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / 4 / n**2)
    assert interval(p, n) == pytest.approx(
        {"test_accuracy_low": middle - half, "test_accuracy_high": middle + half}, rel=1e-5
    )


def test_gain_is_after_minus_before() -> None:
    before, after = ({"train_accuracy": a, "test_accuracy": b} for a, b in ((0.5, 0.4), (0.7, 0.65)))
    assert gain({"initial": before, "simclr": after}) == pytest.approx({"train_accuracy": 0.2, "test_accuracy": 0.25})


@pytest.mark.parametrize("classes", [2, 4])
def test_saved_classifier_predicts_what_the_fitted_one_does(
    classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = clusters(100, classes=classes)
    scaler = StandardScaler().fit(data.x.numpy())
    x = torch.from_numpy(scaler.transform(data.x.numpy()))
    model, curve = fit_logreg(Split(x, data.y), Split(x, data.y), 0.1, 1000)
    save_classifier(Probe(scaler, model, curve, {}), {})
    saved = read_tensors(Path("models/classifier.safetensors"))[0]
    logits = (data.x - saved["mean"]) / saved["scale"] @ saved["weight"].double().T + saved["bias"]
    np.testing.assert_allclose(logits.softmax(1), model.predict_proba(x.numpy()), atol=1e-5)


def test_chosen_c_and_the_fitted_classifier_ignore_test_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole stage, run twice with different test labels: everything but the test scores is the same."""
    metrics, classifiers = [], []
    for shift in (0, 1):
        folder = tmp_path / str(shift)
        folder.mkdir()
        monkeypatch.chdir(folder)
        (folder / "params.yaml").write_bytes((Path(__file__).parent.parent / "params.yaml").read_bytes())
        train, test = clusters(200, classes=10, spread=2.0), clusters(100, classes=10, spread=2.0, seed=1)
        for which in ("initial", "simclr"):
            tensors = {
                "train_features": train.x, "train_fine": train.y,
                "test_features": test.x, "test_fine": (test.y + shift) % 10,
            }  # fmt: skip
            names = {"fine_names": [str(number) for number in range(10)]}
            write_tensors(folder / f"features/{which}.safetensors", tensors, names)
        stage.main()
        metrics.append((folder / "metrics/logreg.json").read_text())
        classifiers.append((folder / "models/classifier.safetensors").read_bytes())
    assert classifiers[0] == classifiers[1]
    assert metrics[0] != metrics[1]
    kept = [[line for line in text.splitlines() if '"test_' not in line] for text in metrics]
    assert kept[0] == kept[1]
