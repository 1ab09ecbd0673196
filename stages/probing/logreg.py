"""Logistic regression on standardised features, by scikit-learn.

Shapes: N images, D features, K classes.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.callback import ScoringMonitor
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import StandardScaler

from stages.probing.probe import Probe, Split, validation_split
from stages.probing.scores import scores


def choose_and_fit(
    train: Split,
    C: list[float],
    validation_fraction: float,
    max_iter: int,
    seed: int,
    watched: Split | None = None,
) -> Probe:
    """Logistic regression with the C that has the lowest validation loss, fitted to all of the training set."""
    losses = validation_losses(train, C, validation_fraction, max_iter, seed)
    return replace(fit_logreg(train, best(losses), max_iter, watched), validation=losses)


def best(losses: dict[float, float]) -> float:
    return min(losses, key=losses.__getitem__)


def validation_losses(
    train: Split, C: list[float], validation_fraction: float, max_iter: int, seed: int
) -> dict[float, float]:
    """The mean cross entropy (nats) of each C, in ascending order, on a stratified split of the training set.

    The loss and not the accuracy, which has ties and moves by whole images. The features are standardised as for the
    final fit, with the mean and deviation of all of `train`. Exits if the split cannot hold every class.
    """
    try:
        split = validation_split(train.y, validation_fraction, seed)
    except ValueError as error:
        sys.exit(
            f"params.yaml: logreg.validation_fraction = {validation_fraction}: {len(train.y)} training images cannot "
            f"be split so that both parts hold every class ({error})"
        )
    model = LogisticRegression(max_iter=max_iter)
    search = GridSearchCV(model, {"C": sorted(C)}, scoring="neg_log_loss", cv=[split], refit=False)
    search.fit(StandardScaler().fit_transform(train.x), train.y)
    return dict(zip(sorted(C), (-search.cv_results_["mean_test_score"]).tolist(), strict=True))


def fit_logreg(train: Split, C: float, max_iter: int, watched: Split | None = None) -> Probe:
    """Logistic regression on the whole training set.

    watched: a split to score after every iteration of L-BFGS, beside the training one, for the curve; it takes longer
    than the fit and has no influence on it.
    """
    scaler = StandardScaler().fit(train.x)
    x = scaler.transform(train.x)
    model = LogisticRegression(C=C, max_iter=max_iter)
    curve: list[dict[str, Any]] = []
    if watched is None:
        model.fit(x, train.y)
    else:
        watched_x = scaler.transform(watched.x)

        def score(model: LogisticRegression, *_: Any) -> dict[str, float]:
            weight, bias = weights_of(model)
            for split, (features, y) in {"train": (x, train.y), "test": (watched_x, watched.y)}.items():
                curve.append({"split": split, **scores(features @ weight.T + bias, y)})
            return {}

        model.set_callbacks(ScoringMonitor(scoring=score)).fit(x, train.y)
        curve = curve[: 2 * int(model.n_iter_[0])]  # scikit-learn scores the finished fit once more

    weight, bias = weights_of(model)
    parameters = {"mean": scaler.mean_.astype(np.float32), "scale": scaler.scale_.astype(np.float32)}
    return Probe(
        lambda x: scaler.transform(x) @ weight.T + bias, curve, parameters=parameters | {"weight": weight, "bias": bias}
    )


def few_label_accuracies(
    draws: Sequence[Split], test: Split, C: list[float], validation_fraction: float, max_iter: int, seed: int
) -> list[float]:
    """Test accuracy of a probe for each of several draws of equally many training images.

    C is chosen on the first draw and kept for the others: which one is best depends on the number of images more than
    on the draw, and choosing takes four times as long as fitting.
    """
    chosen = best(validation_losses(draws[0], C, validation_fraction, max_iter, seed))
    return [scores(fit_logreg(train, chosen, max_iter).logits(test.x), test.y)["accuracy"] for train in draws]


def weights_of(model: LogisticRegression) -> tuple[np.ndarray, np.ndarray]:
    """(K, D) and (K,): a row and a number for each class, whose softmax is the model's probability."""
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # of two classes, scikit-learn keeps only the second
        return np.concatenate([np.zeros_like(weight), weight]), np.concatenate([np.zeros_like(bias), bias])
    return weight, bias
