"""Logistic regression by scikit-learn, on features that are centred and divided by one number.

Shapes: N images, D features, K classes.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from stages.probing.probe import Curve, Split, class_scores
from stages.probing.scores import cross_entropy

OnFit = Callable[[float], object]
FOLDS = 5
VALIDATED = 2000  # images

# Pages of text; `converged` measures what they are about, and the stage prints it in a line.
warnings.filterwarnings("ignore", category=ConvergenceWarning)
warnings.filterwarnings("ignore", message="Line Search failed")
# It takes few images of many classes for numbers of a regression.
warnings.filterwarnings("ignore", message="The number of unique classes")


def tolerance(C: float) -> float:
    """The bound on the gradient of the mean loss at which a fit ends: no validation loss is off by more than 0.001.

    A larger C has the flatter optimum: there the same gradient is left farther away from it.
    """
    return min(2e-4, 2e-5 / C**0.5)


def fit_work(images: int, classes: int, C: float) -> float:
    """What the time of a fit grows with; the power of C was measured from 0.0001 to 1."""
    return images * classes * C**0.3


class Scaling:
    """x -> (x - mean) / scale, with one scale for all features: the mean squared norm becomes D.

    Not a scale for each feature: that would blow up the features of an untrained network that are dead or nearly
    constant, which cost it 8 points of accuracy.
    """

    def __init__(self, x: np.ndarray) -> None:
        self.mean = x.mean(0)
        self.scale = np.sqrt(np.square(x - self.mean).mean()) or x.dtype.type(1)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return (x - self.mean) / self.scale

    def on_raw(self, model: LogisticRegression) -> tuple[np.ndarray, np.ndarray]:
        """The weight (K, D) and bias (K,) that give the model's class scores for features that are not scaled."""
        weight, bias = model.coef_, model.intercept_
        if len(weight) == 1:  # of two classes, scikit-learn keeps only the second
            weight, bias = (np.concatenate([np.zeros_like(array), array]) for array in (weight, bias))
        weight = weight / self.scale
        return weight, bias - weight @ self.mean


def newton(C: float, max_iter: int) -> LogisticRegression:
    """Newton's method keeps nothing from one iteration to the next, so that a warm start continues a fit exactly."""
    return LogisticRegression(C=C, tol=tolerance(C), max_iter=max_iter, solver="newton-cg", warm_start=True)


def has_converged(model: LogisticRegression, x: np.ndarray, y: np.ndarray) -> bool:
    """Whether the gradient of the mean loss lies within the model's tolerance, but for rounding."""
    error = model.predict_proba(x)
    error[np.arange(len(y)), y] -= 1
    error = error[:, -len(model.coef_) :]  # of two classes, scikit-learn fits only the second
    gradient = max(np.abs(error.T @ x + model.coef_ / model.C).max(), np.abs(error.sum(0)).max())
    return bool(gradient / len(y) <= 1.1 * model.tol)


class LogisticProbe:
    """Logistic regression with a given C.

    curve: gets the scores after every iteration; the fit is the same with and without it.
    """

    def __init__(self, C: float, max_iter: int, curve: Curve | None = None) -> None:
        self.C, self.max_iter, self.curve = C, max_iter, curve

    def fit(self, x: np.ndarray, y: np.ndarray) -> Self:
        scaling = Scaling(x)
        scaled = scaling(x)
        model = newton(self.C, 1)
        for step in range(1, self.max_iter + 1):
            model.fit(scaled, y)
            self.weight, self.bias = scaling.on_raw(model)
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

    choice_images: how many of them C is chosen on, at most. on_fit: gets the work of each fit that chooses.
    """

    def __init__(
        self,
        candidates: list[float],
        max_iter: int,
        seed: int,
        choice_images: int,
        curve: Curve | None = None,
        on_fit: OnFit = lambda _: None,
    ) -> None:
        super().__init__(math.nan, max_iter, curve)
        self.candidates, self.seed, self.choice_images, self.on_fit = candidates, seed, choice_images, on_fit

    def fit(self, x: np.ndarray, y: np.ndarray) -> Self:
        chosen_on = Split(x, y).at_most(self.choice_images, self.seed)
        self.validation, choice_converged = validation_losses(
            chosen_on, self.candidates, self.max_iter, self.seed, self.on_fit
        )
        self.C = min(self.validation, key=self.validation.__getitem__)
        super().fit(x, y)
        self.converged &= choice_converged
        return self


def validation_losses(
    train: Split, C: list[float], max_iter: int, seed: int, on_fit: OnFit = lambda _: None
) -> tuple[dict[float, float], bool]:
    """The mean cross entropy (nats) of each C over the validation images of all folds, in ascending order.

    Also whether all fits have converged. The loss and not the accuracy, which has ties and moves by whole images. The
    features are scaled as for the final fit, by all of `train`. Each fit starts from that of the smaller C.
    """
    x = Scaling(train.x)(train.x)
    folds = [
        (Split(x[fit], train.y[fit]), Split(x[held_out], train.y[held_out]))
        for fit, held_out in validation_folds(train.y, seed)
    ]
    models = [newton(1.0, max_iter) for _ in folds]
    losses, converged = {}, True
    for c in sorted(C):
        z = []
        for model, (fold, held_out) in zip(models, folds, strict=True):
            model.set_params(C=c, tol=tolerance(c)).fit(fold.x, fold.y)
            converged &= has_converged(model, fold.x, fold.y)
            on_fit(fit_work(len(fold.y), fold.classes, c))
            z.append(class_scores(model, held_out.x))
        losses[c] = cross_entropy(np.concatenate(z), np.concatenate([held_out.y for _, held_out in folds]))
    return losses, converged


def validation_folds(y: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Indices of the images to fit and of those to validate on, for each fold.

    Five stratified folds, fewer where a class has fewer images, so that every part holds every class (each must have
    two). Of many images only as many folds as it takes to validate on 2,000, because the loss of so many is known well
    enough: its spread over splits is what folds are for (2.3 points of accuracy, for one split of 100 images).
    """
    count = min(FOLDS, int(np.bincount(y)[np.unique(y)].min()))
    folds = list(StratifiedKFold(count, shuffle=True, random_state=seed).split(y, y))
    return folds[: math.ceil(VALIDATED / (len(y) / count))]


def choice_work(train: Split, C: list[float], seed: int, choice_images: int) -> float:
    """Of all fits that choose C."""
    chosen_on = train.at_most(choice_images, seed)
    images = sum(len(fit) for fit, _ in validation_folds(chosen_on.y, seed))
    return sum(fit_work(images, train.classes, c) for c in C)


def fit_few_labels(
    draws: Sequence[Split], C: list[float], max_iter: int, seed: int, choice_images: int, on_fit: OnFit = lambda _: None
) -> list[LogisticProbe]:
    """A probe for each of several draws of equally many training images.

    C is chosen on the first draw and kept for the others: which one is best depends on the number of images more than
    on the draw, and choosing takes many times as long as fitting.
    """
    first = ChosenC(C, max_iter, seed, choice_images, on_fit=on_fit).fit(draws[0].x, draws[0].y)
    return [first, *(LogisticProbe(first.C, max_iter).fit(train.x, train.y) for train in draws[1:])]
