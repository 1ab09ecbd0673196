"""What all probes share: labelled features go in, a record comes out.

Shapes: N images, D features, K classes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedKFold

FOLDS = 5
VALIDATED = 5000  # images


@dataclass(frozen=True)
class Split:
    """Labelled features of the training or the test images."""

    x: np.ndarray  # (N, D) float32
    y: np.ndarray  # (N,) class numbers

    @property
    def classes(self) -> int:
        return int(self.y.max()) + 1

    @property
    def work(self) -> int:
        """Images times classes: what the time of a fit grows with."""
        return len(self.y) * self.classes

    def first(self, classes: int) -> "Split":
        kept = self.y < classes
        return self if kept.all() else self.subset(kept)

    def subset(self, rows: np.ndarray) -> "Split":
        return Split(self.x[rows], self.y[rows])

    def at_most(self, images: int, seed: int) -> "Split":
        """About so many random images, equally many of each class where there are more, at least two."""
        if len(self.y) <= images:
            return self
        per_class = max(2, images // self.classes)
        return self.subset(draw_labels(self.y, per_class, [seed]))


@dataclass(frozen=True)
class Probe:
    """A fitted probe, of whichever kind."""

    logits: Callable[[np.ndarray], np.ndarray]  # (N, D) features -> (N, K) class scores; their softmax: probabilities
    curve: list[dict[str, Any]] = field(default_factory=list)  # scores while it was fitted, by step and split
    validation: dict[float, float] = field(default_factory=dict)  # loss of each candidate for C
    parameters: dict[str, np.ndarray] = field(default_factory=dict)
    converged: bool = True


def draw_labels(y: np.ndarray, per_class: int, seed: list[int]) -> np.ndarray:
    """Indices of so many random images of each class: (N,) class numbers -> (K * per_class,)."""
    order = np.random.default_rng(seed).permutation(len(y))
    return np.concatenate([order[y[order] == label][:per_class] for label in np.unique(y)])


def validation_folds(y: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Indices of the images to fit and of those to validate on, for each fold.

    Five stratified folds, fewer where a class has fewer images, so that every part holds every class (each must have
    two). Of many images only as many folds as it takes to validate on 5,000, because the loss of so many is known well
    enough: its spread over splits is what folds are for (2.3 points of accuracy, for one split of 100 images).
    """
    count = min(FOLDS, int(np.bincount(y)[np.unique(y)].min()))
    folds = list(StratifiedKFold(count, shuffle=True, random_state=seed).split(y, y))
    return folds[: math.ceil(VALIDATED / (len(y) / count))]
