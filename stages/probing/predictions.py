"""The table of predictions for all test images, for the figures of confusion, calibration and mistakes.

Shapes: N images, K classes.
"""

import numpy as np
import pandas as pd
from scipy.special import softmax

MAX_GROUPS = 20  # a larger confusion matrix is not readable


def prediction_table(
    z: np.ndarray, fine: np.ndarray, coarse: np.ndarray, fine_names: list[str], coarse_names: list[str]
) -> pd.DataFrame:
    """A row per image: its class, the predicted class, the confidence, and the groups of both classes.

    z (N, K) class scores; fine, coarse (N,) true class and superclass. There are at most 20 groups, for the figures:
    the classes; if there are more classes, the superclasses; if there are none or too many superclasses, the classes
    with the lowest accuracy, and one group for all others.
    """
    names = np.array(fine_names)
    predicted = z.argmax(1)
    group = np.array(_groups(fine, coarse, predicted, fine_names, coarse_names))
    return pd.DataFrame(
        {
            "image": np.arange(len(fine)),
            "actual": names[fine],
            "predicted": names[predicted],
            "confidence": softmax(z, axis=1).max(1),
            "actual_group": group[fine],
            "predicted_group": group[predicted],
        }
    )


def _groups(
    fine: np.ndarray, coarse: np.ndarray, predicted: np.ndarray, fine_names: list[str], coarse_names: list[str]
) -> list[str]:
    """The name of the group of each class."""
    if len(fine_names) <= MAX_GROUPS:
        return fine_names
    if coarse_names != fine_names and len(coarse_names) <= MAX_GROUPS:
        superclass = dict(zip(fine.tolist(), coarse.tolist(), strict=True))
        return [coarse_names[superclass[label]] for label in range(len(fine_names))]
    accuracy = pd.Series(predicted == fine).groupby(fine).mean().sort_values(kind="stable")
    worst = set(accuracy.index[: MAX_GROUPS - 1])
    return [name if label in worst else "all others" for label, name in enumerate(fine_names)]
