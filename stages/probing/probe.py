"""Common to all probes, which have scikit-learn's interface: labelled features, class scores, curves.

Shapes: N images, D features, K classes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.probing.scores import scores


def class_scores(probe: Any, x: np.ndarray) -> np.ndarray:
    """Any fitted classifier of scikit-learn, (N, D) features -> (N, K) scores, whose softmax are probabilities.

    Also for two classes, for which scikit-learn's `decision_function` gives one score.
    """
    if not hasattr(probe, "decision_function"):
        with np.errstate(divide="ignore"):  # -inf at probability 0
            return np.log(probe.predict_proba(x))
    z = probe.decision_function(x)
    return np.stack([np.zeros_like(z), z], 1) if z.ndim == 1 else z


@dataclass(frozen=True)
class Split:
    """Labelled features of the training or the test images."""

    x: np.ndarray  # (N, D) float32
    y: np.ndarray  # (N,) class numbers

    @property
    def classes(self) -> int:
        return int(self.y.max()) + 1

    def first(self, classes: int) -> "Split":
        kept = self.y < classes
        return self if kept.all() else self.subset(kept)

    def subset(self, rows: np.ndarray) -> "Split":
        return Split(self.x[rows], self.y[rows])

    def at_most(self, images: int, seed: int) -> "Split":
        """About `images` random images, the same fraction of each class (at least two); all if there are fewer."""
        if len(self.y) <= images:
            return self
        per_class = np.maximum(2, np.bincount(self.y) * images // len(self.y))
        return self.subset(draw_labels(self.y, per_class, [seed]))


class Curve:
    """Scores of a probe while it is fitted: a row per step and split."""

    def __init__(self, train: Split, test: Split) -> None:
        self.splits = {"train": train, "test": test}
        self.rows: list[dict[str, Any]] = []

    def add(self, step: int, probe: Any) -> None:
        for name, split in self.splits.items():
            self.rows.append({"step": step, "split": name, **scores(class_scores(probe, split.x), split.y)})


def draw_labels(y: np.ndarray, per_class: int | np.ndarray, seed: list[int]) -> np.ndarray:
    """Indices of random images of each class. y: (N,) class numbers; per_class: one number, or one per class (K,)."""
    order = np.random.default_rng(seed).permutation(len(y))
    counts = np.broadcast_to(per_class, y.max() + 1)
    return np.concatenate([order[y[order] == label][: counts[label]] for label in np.unique(y)])
