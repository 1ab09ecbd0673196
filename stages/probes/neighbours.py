"""Nearest neighbours: an evaluation of the features without any fitted parameters.

Shapes: N images, Q images to classify, D features, K classes.
"""

import numpy as np
from sklearn import config_context
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

TEMPERATURE = 0.07  # Wu et al. (2018), section 3.4
DISTANCE_MEMORY = 256  # MB; scikit-learn's default of 1024 applies to each of the probes that run at the same time


class Neighbours(KNeighborsClassifier):
    """The training images with the highest cosine similarity vote, each with weight exp(cosine / 0.07)."""

    def __init__(self, n_neighbors: int) -> None:
        super().__init__(n_neighbors, metric="cosine", weights=lambda distance: np.exp((1 - distance) / TEMPERATURE))

    def decision_function(self, x: np.ndarray) -> np.ndarray:
        """Logarithms of the fractions of the votes; -inf for a class without votes."""
        with config_context(working_memory=DISTANCE_MEMORY), np.errstate(divide="ignore"):
            return np.log(self.predict_proba(x))


def nearest(x: np.ndarray, queries: np.ndarray, count: int) -> np.ndarray:
    """Indices of the rows with the highest cosine similarity, in descending order: (N, D), (Q, D) -> (Q, count)."""
    return NearestNeighbors(n_neighbors=min(count, len(x)), metric="cosine").fit(x).kneighbors(
        queries, return_distance=False
    )  # fmt: skip
