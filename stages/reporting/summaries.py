"""Summaries of the saved tables for the report.

`predictions` has a row per test image: image, actual, predicted, confidence, actual_group, predicted_group.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

BINS = 15  # of the reliability diagram, as in Guo et al. (2017)

# Names of encoders and probes in the report, in this order.
ENCODERS = {"pixels": "raw pixels", "untrained": "untrained", "imagenet": "ImageNet", "simclr": "SimCLR"}
CONTROL_PHRASES = {
    "pixels": "raw pixels",
    "untrained": "features of the untrained network",
    "imagenet": "features of the network with ImageNet's weights",
}
PROBE_TITLES = {"logreg": "logistic regression", "linear": "linear layer", "neighbours": "nearest neighbours"}

# Text columns, even if a class is called 7 or nan.
TEXT_COLUMNS = ("actual", "actual_group", "class", "classes", "control", "encoder", "neighbour_class", "predicted",
        "predicted_group", "probe", "split", "superclass")  # fmt: skip


def read_table(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path, dtype=dict.fromkeys(TEXT_COLUMNS, str), keep_default_na=False, na_values=[""])
    return table.fillna(dict.fromkeys(TEXT_COLUMNS, ""))


def read_probe_tables(name: str, folder: Path = Path("plots/data")) -> pd.DataFrame:
    """The rows of the table `name` of every probe."""
    files = sorted(folder.glob(f"*/{name}.csv"))
    ordered = sorted(files, key=lambda file: [*PROBE_TITLES, file.parent.name].index(file.parent.name))
    return pd.concat([read_table(file) for file in ordered], ignore_index=True)


def results_of(scores: pd.DataFrame, gains: pd.DataFrame, classes: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The rows of the main table by title: one per probe and classes. classes: names of the classes in the report."""
    rows = {}
    for (probe, name), of_probe in scores.groupby(["probe", "classes"], sort=False):
        test, train = (of_probe[of_probe.split == split].set_index("encoder") for split in ("test", "train"))
        of_gains = gains[(gains.probe == probe) & (gains.classes == name)].set_index("control")
        rows[f"{PROBE_TITLES.get(probe, probe)}, {classes[name]}"] = {
            "probe": probe,
            "classes": name,
            "test": test.to_dict("index"),
            "gain": of_gains.to_dict("index"),
            "train": train.accuracy.to_dict(),
            "majority": test.majority.iloc[0],
            "is_informative": test.accuracy_low.max() > test.majority.iloc[0],
        }
    return rows


def conclusion(scores: pd.DataFrame, gains: pd.DataFrame, efficiency: pd.DataFrame) -> str:
    """One or two sentences that compare SimCLR with the best control, by logistic regression of all classes.

    A difference is significant if its paired 95 % interval excludes zero. A smaller number of labels is reported if,
    with this number and every larger one, SimCLR was at least as good in every draw as the control with all labels,
    and the control itself reached that in no draw.
    """
    of_all = scores[(scores.probe == "logreg") & (scores.classes == "all")].set_index(["split", "encoder"])
    accuracy = of_all.loc["test"].accuracy
    control = accuracy.drop("simclr").idxmax()
    gain = gains[(gains.probe == "logreg") & (gains.classes == "all")].set_index("control").loc[control]
    best, labels = CONTROL_PHRASES[control], int(of_all.loc[("train", "simclr"), "images"])
    result = (
        f"logistic regression classifies {100 * accuracy.simclr:.1f} % of the test images correctly with SimCLR's "
        f"features and {100 * accuracy[control]:.1f} % with {best}: {points(gain.gain)} points "
        f"(95 % interval {points(gain.gain_low)} to {points(gain.gain_high)})."
    )
    if gain.gain_high < 0:
        start = f"{best[0].upper()}{best[1:]} are better than SimCLR's features: with all"
    elif gain.gain_low <= 0:
        start = f"These test images show no significant difference between SimCLR's features and {best}: with all"
    else:
        count = _sufficient_labels(efficiency, accuracy, control)
        few = f"With {count} labelled images per class, SimCLR's features are as good as {best} with all of them. "
        start = f"{few if count else ''}With all"
    return f"{start} {labels} labelled images, {result}"


def verdict(pretrain: pd.DataFrame, candidates: int) -> str:
    """Whether pretraining was healthy: in the last epoch, the held-out loss is below chance and the top-1 accuracy at
    least twice chance, because a small held-out set can exceed chance by luck.

    candidates: other views of a batch, one of which is the positive.
    """
    last = pretrain[pretrain.split == "heldout"].iloc[-1]
    chance, ratio = math.log(candidates), candidates * last.top1
    return (
        f"Pretraining was {'' if last.loss < chance and ratio >= 2 else 'not '}healthy: on held-out images, the loss "
        f"ended at {last.loss:.2f} (chance: ln {candidates} = {chance:.2f}), and the top-1 accuracy at "
        f"{100 * last.top1:.1f} %, {ratio:.1f} times chance (1/{candidates})."
    )


def _sufficient_labels(efficiency: pd.DataFrame, accuracy: pd.Series, control: str) -> int | None:
    """The smallest number of labelled images per class with which SimCLR matches a control with all labelled images."""
    drawn = efficiency[efficiency.images_per_class < efficiency.images_per_class.max()]
    draws = drawn.groupby(["encoder", "images_per_class"]).accuracy.agg(["min", "max"])
    if drawn.empty or (draws.loc[control, "max"] >= accuracy[control]).any():
        return None
    worst = draws.loc["simclr", "min"]
    return next((int(count) for count in worst.index if (worst.loc[count:] >= accuracy[control]).all()), None)


def points(fraction: float) -> str:
    return f"{100 * fraction:+.1f}".replace("-", "\N{MINUS SIGN}")


def reliability(predictions: pd.DataFrame) -> pd.DataFrame:
    """A row per non-empty bin of confidence (equal width): mean confidence, accuracy, number of images."""
    correct = predictions.predicted == predictions.actual
    bins = np.ceil(predictions.confidence * BINS).clip(1, BINS)
    table = pd.DataFrame({"confidence": predictions.confidence, "accuracy": correct, "images": 1}).groupby(bins)
    return table.agg({"confidence": "mean", "accuracy": "mean", "images": "sum"})


def accuracy_of_classes(predictions: pd.DataFrame) -> pd.Series:
    """Test accuracy of every class that has test images, the lowest first."""
    correct = predictions.predicted == predictions.actual
    return correct.groupby(predictions.actual).mean().sort_values(kind="stable")


def confused_pairs(predictions: pd.DataFrame, count: int) -> list[dict[str, Any]]:
    """The most frequent pairs of actual and wrongly predicted class; fraction: of the images of the actual class."""
    wrong = predictions[predictions.predicted != predictions.actual]
    pairs = wrong.groupby(["actual", "predicted"]).size().sort_values(ascending=False, kind="stable")
    table = pairs.iloc[:count].rename("images").reset_index()
    table["fraction"] = table.images / table.actual.map(predictions.actual.value_counts()).astype(float)
    return table.to_dict("records")


def surest_mistakes(predictions: pd.DataFrame, count: int) -> pd.DataFrame:
    """The misclassified images with the highest confidence, the highest first."""
    wrong = predictions[predictions.predicted != predictions.actual]
    return wrong.sort_values("confidence", ascending=False, kind="stable").iloc[:count]


def groups(predictions: pd.DataFrame) -> list[str]:
    """The names of all groups of classes in alphabetical order, with `all others` at the end."""
    names = set(predictions.actual_group) | set(predictions.predicted_group)
    return sorted(names, key=lambda name: (name == "all others", name))
