"""Logistic regression by scikit-learn, on features that are centred and divided by one number.

Shapes: N images, D features, K classes.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn import config_context
from sklearn.callback import ScoringMonitor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from stages.probing.probe import Probe, Split, validation_folds
from stages.probing.scores import cross_entropy, scores

GPU = torch.device("cuda") if torch.cuda.is_available() else None
TOLERANCE = 5e-4  # of the fits that choose C: half the time, and no loss near the best moves by more than 0.005

# Pages of text; the stage says in a line which probe has not converged. A fit that only chooses C may stop before.
warnings.filterwarnings("ignore", category=ConvergenceWarning)
# It takes few images of many classes for numbers of a regression.
warnings.filterwarnings("ignore", message="The number of unique classes")

OnFit = Callable[[int], object]  # is told the work of a fit when it is done


def ignored(_: int) -> None:
    pass


def choice_work(train: Split, C: list[float], seed: int) -> int:
    """Of all fits of `validation_losses`."""
    return len(C) * sum(len(fit) for fit, _ in validation_folds(train.y, seed)) * train.classes


class Scaling:
    """x -> (x - mean) / scale, with one scale for all features: the mean squared norm becomes D.

    Not a scale for each feature: that would blow up the features of an untrained network that are dead or nearly
    constant (8 points of accuracy on an earlier sample; issue 15).
    """

    def __init__(self, x: np.ndarray) -> None:
        self.mean = x.mean(0)
        self.scale = np.sqrt(np.square(x - self.mean).mean()) or x.dtype.type(1)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return (x - self.mean) / self.scale

    def on_raw(self, model: LogisticRegression) -> tuple[np.ndarray, np.ndarray]:
        """The weight (K, D) and bias (K,) that give the model's class scores for features that are not scaled."""
        weight, bias = (torch.as_tensor(found).cpu().numpy() for found in (model.coef_, model.intercept_))
        if len(weight) == 1:  # of two classes, scikit-learn keeps only the second
            weight, bias = (np.concatenate([np.zeros_like(array), array]) for array in (weight, bias))
        weight = weight / self.scale
        return weight, bias - weight @ self.mean


def choose_and_fit(
    train: Split,
    C: list[float],
    max_iter: int,
    seed: int,
    choice_images: int,
    watched: Split | None = None,
    on_fit: OnFit = ignored,
) -> Probe:
    """Logistic regression with the C that has the lowest validation loss, fitted to all of the training set.

    choice_images: how many of its images C is chosen on, at most.
    """
    losses = validation_losses(train.at_most(choice_images, seed), C, max_iter, seed, on_fit)
    return replace(fit_logreg(train, best(losses), max_iter, watched), validation=losses)


def best(losses: dict[float, float]) -> float:
    return min(losses, key=losses.__getitem__)


def validation_losses(
    train: Split, C: list[float], max_iter: int, seed: int, on_fit: OnFit = ignored
) -> dict[float, float]:
    """The mean cross entropy (nats) of each C over the validation images of all folds, in ascending order.

    on_fit: is called after each fit.

    The loss and not the accuracy, which has ties and moves by whole images. The features are scaled as for the final
    fit, by all of `train`. Each fit starts from that of the smaller C.
    """
    scaling = Scaling(train.x)
    x = scaling(train.x)
    folds = [(Split(x[fit], train.y[fit]), train.subset(held_out)) for fit, held_out in validation_folds(train.y, seed)]
    models = [LogisticRegression(max_iter=max_iter, tol=TOLERANCE, warm_start=True) for _ in folds]
    losses: dict[float, float] = {}
    for c in sorted(C):
        z = []
        for model, (fold, held_out) in zip(models, folds, strict=True):
            fit(model.set_params(C=c), fold.x, fold.y)
            weight, bias = scaling.on_raw(model)
            on_fit(fold.work)
            z.append(held_out.x @ weight.T + bias)
        losses[c] = cross_entropy(np.concatenate(z), np.concatenate([held_out.y for _, held_out in folds]))
    return losses


def fit(model: LogisticRegression, x: np.ndarray, y: np.ndarray) -> None:
    """Where there is a GPU, on that, by scikit-learn's array API (not timed)."""
    if GPU is None:
        model.fit(x, y)
        return
    with config_context(array_api_dispatch=True):
        model.fit(torch.tensor(x, device=GPU), torch.tensor(y, device=GPU))


def fit_logreg(train: Split, C: float, max_iter: int, watched: Split | None = None) -> Probe:
    """Logistic regression on the whole training set.

    watched: a split to score after every iteration of L-BFGS, beside the training one, for the curve; it takes longer
    than the fit and has no influence on it.
    """
    scaling = Scaling(train.x)
    model = LogisticRegression(C=C, max_iter=max_iter)
    curve: list[dict[str, Any]] = []
    if watched is not None:

        def score(model: LogisticRegression, *_: Any) -> dict[str, float]:
            weight, bias = scaling.on_raw(model)
            for name, split in {"train": train, "test": watched}.items():
                curve.append({"split": name, **scores(split.x @ weight.T + bias, split.y)})
            return {}

        model.set_callbacks(ScoringMonitor(scoring=score))
    fit(model, scaling(train.x), train.y)
    weight, bias = scaling.on_raw(model)
    # scikit-learn scores the finished fit once more.
    iterations = int(model.n_iter_[0])
    return Probe(
        lambda x: x @ weight.T + bias,
        curve[: 2 * iterations],
        parameters={"weight": weight, "bias": bias},
        converged=iterations < max_iter,
    )


def fit_few_labels(
    draws: Sequence[Split], C: list[float], max_iter: int, seed: int, on_fit: OnFit = ignored
) -> list[Probe]:
    """A probe for each of several draws of equally many training images.

    C is chosen on the first draw and kept for the others: which one is best depends on the number of images more than
    on the draw, and choosing takes many times as long as fitting.
    """
    chosen = best(validation_losses(draws[0], C, max_iter, seed, on_fit))
    return [fit_logreg(train, chosen, max_iter) for train in draws]
