"""Nearest neighbours: a second opinion on the features that fits nothing.

Shapes: N images, Q images to classify, D features, K classes.
"""

import numpy as np
from sklearn import config_context
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from stages.probing.probe import Probe, Split

TEMPERATURE = 0.07  # Wu et al. (2018), section 3.4
DISTANCES = 256  # MB of them at once; scikit-learn's own 1024 would count for each of the probes side by side


def fit_neighbours(train: Split, neighbours: int) -> Probe:
    """The nearest training images by cosine vote, each with exp(cosine / 0.07)."""
    model = KNeighborsClassifier(
        min(neighbours, len(train.x)), metric="cosine", weights=lambda distance: np.exp((1 - distance) / TEMPERATURE)
    ).fit(train.x, train.y)

    def logits(x: np.ndarray) -> np.ndarray:
        # A class without a vote has a score of minus infinity.
        with config_context(working_memory=DISTANCES), np.errstate(divide="ignore"):
            return np.log(model.predict_proba(x))

    return Probe(logits)


def nearest(x: np.ndarray, queries: np.ndarray, count: int) -> np.ndarray:
    """Indices of the rows that are nearest by cosine, the nearest first: (N, D), (Q, D) -> (Q, count)."""
    return NearestNeighbors(n_neighbors=min(count, len(x)), metric="cosine").fit(x).kneighbors(
        queries, return_distance=False
    )  # fmt: skip
