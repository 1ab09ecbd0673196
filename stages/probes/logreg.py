"""Logistic regression with scikit-learn, on features that are centred and divided by one number.

Shapes: N images, D features, K classes.
"""

import math
import warnings
from collections.abc import Iterator
from typing import Self

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from stages.probing.probe import Curve, Split, class_scores
from stages.probing.scores import cross_entropy

FOLDS = 5
VALIDATION_IMAGES = 2000

# `has_converged` measures convergence, and the stage prints one line about it.
warnings.filterwarnings("ignore", category=ConvergenceWarning)
warnings.filterwarnings("ignore", message=".*[Ll]ine [Ss]earch")
# scikit-learn takes the labels of few images of many classes for a regression target.
warnings.filterwarnings("ignore", message="The number of unique classes")


def tolerance(C: float) -> float:
    """A fit ends when no component of the gradient of the mean loss exceeds this bound.

    It falls with C, because the optimum is flatter: the same gradient occurs farther away from it. `python -m
    benchmarks.logreg` measures how far the losses are from those of the optimum.
    """
    return min(2e-4, 1.5e-5 / C**0.5)


class Scaling:
    """x -> (x - mean) / scale, with one scale for all features, so that the mean squared norm is D.

    A scale per feature would amplify the dead and nearly constant features of an untrained network, which lowered the
    accuracy of that control by 8 points.
    """

    def __init__(self, x: np.ndarray) -> None:
        self.mean = x.mean(0)
        self.scale = np.sqrt(np.square(x - self.mean).mean()) or x.dtype.type(1)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return (x - self.mean) / self.scale

    def for_unscaled(self, model: LogisticRegression) -> tuple[np.ndarray, np.ndarray]:
        """Weight (K, D) and bias (K,) that give the model's class scores for unscaled features."""
        weight, bias = model.coef_, model.intercept_
        if len(weight) == 1:  # with two classes, scikit-learn has only the second
            weight, bias = (np.concatenate([np.zeros_like(array), array]) for array in (weight, bias))
        weight = weight / self.scale
        return weight, bias - weight @ self.mean


def newton(C: float, max_iter: int) -> LogisticRegression:
    """Newton's method keeps only the weights from one iteration to the next, so a warm start continues a fit."""
    return LogisticRegression(C=C, tol=tolerance(C), max_iter=max_iter, solver="newton-cg", warm_start=True)


def has_converged(model: LogisticRegression, x: np.ndarray, y: np.ndarray) -> bool:
    """Whether the gradient of the mean loss is within the model's tolerance, up to rounding."""
    error = model.predict_proba(x)
    error[np.arange(len(y)), y] -= 1
    error = error[:, -len(model.coef_) :]  # with two classes, scikit-learn fits only the second
    gradient = max(np.abs(error.T @ x + model.coef_ / model.C).max(), np.abs(error.sum(0)).max())
    return bool(gradient / len(y) <= 1.1 * model.tol)


class LogisticProbe:
    """Logistic regression with a given C.

    curve: collects the scores after every iteration; it does not change the fit.
    """

    def __init__(self, C: float, max_iter: int, curve: Curve | None = None) -> None:
        self.C, self.max_iter, self.curve = C, max_iter, curve

    def fit(self, x: np.ndarray, y: np.ndarray) -> Self:
        scaling = Scaling(x)
        scaled = scaling(x)
        model = newton(self.C, 1)
        for step in range(1, self.max_iter + 1):
            model.fit(scaled, y)
            self.weight, self.bias = scaling.for_unscaled(model)
            if model.n_iter_[0] == 0:
                break
            if self.curve:
                self.curve.add(step, self)
        self.converged = has_converged(model, scaled, y)
        return self

    def decision_function(self, x: np.ndarray) -> np.ndarray:
        return x @ self.weight.T + self.bias


class ChosenC(LogisticProbe):
    """Logistic regression with the C that has the lowest validation loss, fitted to all images.

    choice_images: the maximal number of images on which C is chosen.
    """

    def __init__(
        self, candidates: list[float], max_iter: int, seed: int, choice_images: int, curve: Curve | None = None
    ) -> None:
        super().__init__(math.nan, max_iter, curve)
        self.candidates, self.seed, self.choice_images = candidates, seed, choice_images

    def fit(self, x: np.ndarray, y: np.ndarray) -> Self:
        chosen_on = Split(x, y).at_most(self.choice_images, self.seed)
        self.validation, choice_converged = validation_losses(chosen_on, self.candidates, self.max_iter, self.seed)
        self.C = min(self.validation, key=self.validation.__getitem__)
        super().fit(x, y)
        self.converged &= choice_converged
        return self


def validation_losses(train: Split, C: list[float], max_iter: int, seed: int) -> tuple[dict[float, float], bool]:
    """The mean cross entropy (nats) over the validation images of all folds, by C in ascending order.

    Also returns whether all fits have converged. The loss is used instead of the accuracy, which has ties. The features
    are scaled by all of `train`.
    """
    x = Scaling(train.x)(train.x)
    folds = validation_folds(train.y, seed)
    images = sum(len(held_out) for _, held_out in folds)
    losses, converged = dict.fromkeys(sorted(C), 0.0), True
    for fit, held_out in folds:
        fold, y = Split(x[fit], train.y[fit]), train.y[held_out]
        for c, model in zip(losses, warm_started_fits(fold, list(losses), max_iter), strict=True):
            converged &= has_converged(model, fold.x, fold.y)
            losses[c] += cross_entropy(class_scores(model, x[held_out]), y) * len(y) / images
    return losses, converged


def warm_started_fits(train: Split, C: list[float], max_iter: int) -> Iterator[LogisticRegression]:
    """The same model, fitted with each C in ascending order.

    The weights are nearly linear in log(C), so each fit starts where the last two point to. This saves 30 % of the work
    of a start from the last one.
    """
    model = newton(C[0], max_iter)
    before = last = None
    for c in C:
        if before and last:
            (c0, *weights0), (c1, *weights1) = before, last
            step = math.log(c / c1) / math.log(c1 / c0)
            model.coef_, model.intercept_ = (b + step * (b - a) for a, b in zip(weights0, weights1, strict=True))
        model.set_params(C=c, tol=tolerance(c)).fit(train.x, train.y)
        yield model
        before, last = last, (c, model.coef_, model.intercept_)


def validation_folds(y: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each fold, the indices of the images to fit and of those to validate on.

    Five stratified folds, or fewer if a class has fewer images, so that every part has every class (each class needs
    two images). If there are many images, only as many folds as are needed to validate on 2,000: more folds reduce the
    spread between splits, which is small already (with 100 validation images it is 2.3 points of accuracy).
    """
    count = min(FOLDS, int(np.bincount(y)[np.unique(y)].min()))
    folds = list(StratifiedKFold(count, shuffle=True, random_state=seed).split(y, y))
    return folds[: math.ceil(VALIDATION_IMAGES / (len(y) / count))]
