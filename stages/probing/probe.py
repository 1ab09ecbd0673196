"""What all probes share: labelled features go in, a record comes out.

Shapes: N images, D features, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedShuffleSplit


@dataclass(frozen=True)
class Split:
    """Labelled features of the training or the test images."""

    x: np.ndarray  # (N, D) float32
    y: np.ndarray  # (N,) class numbers

    def first(self, classes: int) -> "Split":
        kept = self.y < classes
        return self if kept.all() else self.subset(kept)

    def subset(self, rows: np.ndarray) -> "Split":
        return Split(self.x[rows], self.y[rows])


@dataclass(frozen=True)
class Probe:
    """A fitted probe, of whichever kind."""

    logits: Callable[[np.ndarray], np.ndarray]  # (N, D) features -> (N, K) class scores; their softmax: probabilities
    curve: list[dict[str, Any]] = field(default_factory=list)  # scores while it was fitted, by step and split
    validation: dict[float, float] = field(default_factory=dict)  # loss of each candidate for C
    parameters: dict[str, np.ndarray] = field(default_factory=dict)


def draw_labels(y: np.ndarray, per_class: int, seed: list[int]) -> np.ndarray:
    """Indices of so many random images of each class: (N,) class numbers -> (K * per_class,)."""
    order = np.random.default_rng(seed).permutation(len(y))
    return np.concatenate([order[y[order] == label][:per_class] for label in np.unique(y)])


def validation_split(y: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the images to fit and of those to validate on, a stratified `fraction`.

    ValueError if a class would be on one side only. scikit-learn itself looks only at how many images each side has:
    of 6 and 2, a quarter is two of the first class.
    """
    fit, held_out = next(StratifiedShuffleSplit(1, test_size=fraction, random_state=seed).split(y, y))
    if not len(np.unique(y[fit])) == len(np.unique(y[held_out])) == len(np.unique(y)):
        raise ValueError("a small class would be on one side only")
    return fit, held_out
