"""Sums and means of the saved tables for the report, made by pandas.

`predictions` has a row per test image: image, actual, predicted, confidence, actual_group, predicted_group.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

BINS = 15  # of the calibration, as Guo et al. (2017)

# What the page calls encoders and probes, in this order.
ENCODERS = {"pixels": "raw pixels", "untrained": "untrained", "imagenet": "ImageNet", "simclr": "SimCLR"}
IN_A_SENTENCE = {
    "pixels": "raw pixels",
    "untrained": "features of the untrained network",
    "imagenet": "features of the network with ImageNet's weights",
}
PROBES = {"logreg": "logistic regression", "linear": "linear layer", "neighbours": "nearest neighbours"}


# Columns that are text, even if a class is called 7 or nan.
TEXT = ("actual", "actual_group", "class", "classes", "control", "encoder", "neighbour_class", "predicted",
        "predicted_group", "probe", "split", "superclass")  # fmt: skip


def read_table(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path, dtype=dict.fromkeys(TEXT, str), keep_default_na=False, na_values=[""])
    return table.fillna(dict.fromkeys(TEXT, ""))


def results_of(scores: pd.DataFrame, gains: pd.DataFrame, classes: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """What the main table shows: a row per probe and classes. classes: what the page calls them."""
    rows = {}
    for (probe, name), of_probe in scores.groupby(["probe", "classes"], sort=False):
        test, train = (of_probe[of_probe.split == split].set_index("encoder") for split in ("test", "train"))
        of_gains = gains[(gains.probe == probe) & (gains.classes == name)].set_index("control")
        rows[f"{PROBES[probe]}, {classes[name]}"] = {
            "classes": name,
            "test": test.to_dict("index"),
            "gain": of_gains.to_dict("index"),
            "train": train.accuracy.to_dict(),
            "majority": test.majority.iloc[0],
        }
    return rows


def answer(scores: pd.DataFrame, gains: pd.DataFrame, efficiency: pd.DataFrame) -> str:
    """What the run has shown, in a sentence or two: logistic regression of all classes, SimCLR and the best control.

    A difference counts where its paired 95 % interval does not hold zero. Few labels are said to be enough where with
    so many and with more of them SimCLR was in every draw at least as good as the control with all labels, and the
    control itself in no draw.
    """
    of_all = scores[(scores.probe == "logreg") & (scores.classes == "all")].set_index(["split", "encoder"])
    accuracy = of_all.loc["test"].accuracy
    control = accuracy.drop("simclr").idxmax()
    gain = gains[(gains.probe == "logreg") & (gains.classes == "all")].set_index("control").loc[control]
    best, labels = IN_A_SENTENCE[control], int(of_all.loc[("train", "simclr"), "images"])
    result = (
        f"logistic regression on SimCLR's features is right for {100 * accuracy.simclr:.1f} % of the test images, "
        f"against {100 * accuracy[control]:.1f} %: {points(gain.gain)} points "
        f"(95 % interval {points(gain.gain_low)} to {points(gain.gain_high)})."
    )
    if gain.gain_high < 0:
        said = f"{best[0].upper()}{best[1:]} are better than SimCLR's features: with all"
    elif gain.gain_low <= 0:
        said = f"Between SimCLR's features and {best} these test images show no difference: with all"
    else:
        enough = _enough(efficiency, accuracy, control)
        few = f"With {enough} labelled images of each class SimCLR's features do what {best} need all for. "
        said = f"{few if enough else ''}With all"
    return f"{said} {labels} labelled images, {result}"


def _enough(efficiency: pd.DataFrame, accuracy: pd.Series, control: str) -> int | None:
    """How few labelled images of each class are enough for SimCLR to do what a control needs all for."""
    drawn = efficiency[efficiency.images_per_class < efficiency.images_per_class.max()]
    draws = drawn.groupby(["encoder", "images_per_class"]).accuracy.agg(["min", "max"])
    if drawn.empty or (draws.loc[control, "max"] >= accuracy[control]).any():
        return None
    worst = draws.loc["simclr", "min"]
    return next((int(count) for count in worst.index if (worst.loc[count:] >= accuracy[control]).all()), None)


def points(fraction: float) -> str:
    return f"{100 * fraction:+.1f}".replace("-", "\N{MINUS SIGN}")


def reliability(predictions: pd.DataFrame) -> pd.DataFrame:
    """A row per non-empty bin of confidence (equal widths): mean confidence, accuracy, number of images."""
    correct = predictions.predicted == predictions.actual
    bins = np.ceil(predictions.confidence * BINS).clip(1, BINS)
    table = pd.DataFrame({"confidence": predictions.confidence, "accuracy": correct, "images": 1}).groupby(bins)
    return table.agg({"confidence": "mean", "accuracy": "mean", "images": "sum"})


def accuracy_of_classes(predictions: pd.DataFrame) -> pd.Series:
    """Test accuracy of every class that has test images, the lowest first."""
    correct = predictions.predicted == predictions.actual
    return correct.groupby(predictions.actual).mean().sort_values(kind="stable")


def confused_pairs(predictions: pd.DataFrame, count: int) -> list[dict[str, Any]]:
    """Actual and wrongly predicted class, the most frequent pair first; fraction: of the images of the actual class."""
    wrong = predictions[predictions.predicted != predictions.actual]
    pairs = wrong.groupby(["actual", "predicted"]).size().sort_values(ascending=False, kind="stable")
    table = pairs.iloc[:count].rename("images").reset_index()
    table["fraction"] = table.images / table.actual.map(predictions.actual.value_counts()).astype(float)
    return table.to_dict("records")


def surest_mistakes(predictions: pd.DataFrame, count: int) -> pd.DataFrame:
    """The wrong images with the highest confidence, in its order."""
    wrong = predictions[predictions.predicted != predictions.actual]
    return wrong.sort_values("confidence", ascending=False, kind="stable").iloc[:count]


def groups(predictions: pd.DataFrame) -> list[str]:
    """The names of all groups of classes, in alphabetical order but for a last one that holds the rest."""
    names = set(predictions.actual_group) | set(predictions.predicted_group)
    return sorted(names, key=lambda name: (name == "all others", name))
