"""Artificial features for the probes."""

import numpy as np

from stages.probing.probe import Split


def clusters(count: int, classes: int = 4, spread: float = 1.0, seed: int = 0) -> Split:
    """Gaussian clusters in 16 dimensions around fixed centres."""
    y = np.arange(count) % classes
    centres = np.random.default_rng(99).normal(size=(classes, 16))
    x = centres[y] + spread * np.random.default_rng(seed).normal(size=(count, 16))
    return Split(x.astype(np.float32), y)
