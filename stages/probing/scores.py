"""Scores of a probe, with confidence intervals.

Shapes: N images, K classes.
"""

import math

import numpy as np
from scipy.special import log_softmax
from scipy.stats import binomtest, norm

CONFIDENCE = 0.95


def scores(z: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Accuracy, top-5 accuracy and mean cross entropy (nats) of class scores (N, K) for the true classes (N,)."""
    rank = rank_of_truth(z, y)
    return {"accuracy": float((rank <= 1).mean()), "top5": float((rank <= 5).mean()), "loss": cross_entropy(z, y)}


def rank_of_truth(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The rank of the true class among the scores (N, K), 1 at best: (N,). A NaN or a tie counts as an error."""
    return (~(z < np.take_along_axis(z, y[:, None], 1))).sum(1)


def cross_entropy(z: np.ndarray, y: np.ndarray) -> float:
    """Mean cross entropy (nats), in float64 from the class scores, because float32 is too coarse near probability 1."""
    return -float(np.take_along_axis(log_softmax(z.astype(np.float64), axis=1), y[:, None], 1).mean())


def interval(accuracy: float, images: int) -> tuple[float, float]:
    """The 95 % interval of an accuracy over a number of test images (Wilson's score interval)."""
    low, high = binomtest(round(accuracy * images), images).proportion_ci(CONFIDENCE, method="wilson")
    return float(low), float(high)


def paired_gain(correct: np.ndarray, correct_of_control: np.ndarray) -> tuple[float, float, float]:
    """The difference in accuracy of two probes on the same N test images, with its 95 % interval.

    correct, correct_of_control: (N,) bool. Agresti and Min (2005): a Wald interval for paired proportions after adding
    half an image to each cell of the 2 x 2 table. It is narrower than the intervals of the two accuracies suggest,
    because only images on which the probes differ contribute.
    """
    images = len(correct) + 2
    won, lost = (float((a & ~b).sum()) + 0.5 for a, b in ((correct, correct_of_control), (correct_of_control, correct)))
    middle = (won - lost) / images
    half = float(norm.ppf(0.5 + CONFIDENCE / 2)) * math.sqrt(won + lost - (won - lost) ** 2 / images) / images
    return (won - lost) / len(correct), max(-1.0, middle - half), min(1.0, middle + half)
