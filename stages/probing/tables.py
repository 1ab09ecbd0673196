"""Tables and metrics of the fitted probes.

Shapes: N images, K classes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax

from stages.probing.logreg import ChosenC
from stages.probing.neighbours import nearest
from stages.probing.probe import Probe, draw_labels
from stages.probing.scores import calibration_error, interval, paired_gain, rank_of_truth, scores

SHOWN_QUERIES, SHOWN_NEIGHBOURS = 6, 6


@dataclass(frozen=True)
class Result:
    probe: Probe
    scores: list[dict[str, Any]]  # a row per split
    curve: list[dict[str, Any]]  # a row per step and split; empty if the fit was not recorded
    correct: np.ndarray  # (N,) bool, of the test images


Results = dict[tuple[str, str, str], Result]  # by probe, classes and encoder


def score_row(split: str, z: np.ndarray, y: np.ndarray, train_y: np.ndarray) -> dict[str, Any]:
    found = scores(z, y)
    # An interval makes sense only for images that the probe has not seen.
    low, high = interval(found["accuracy"], len(y)) if split == "test" else (np.nan, np.nan)
    correct = rank_of_truth(z, y) <= 1
    return {
        "split": split,
        "images": len(y),
        "accuracy": found["accuracy"],
        "accuracy_low": low,
        "accuracy_high": high,
        "balanced_accuracy": pd.Series(correct).groupby(y).mean().mean(),
        "majority": float((y == np.bincount(train_y).argmax()).mean()),
        "top5": found["top5"],
        # Not finite if a true class got no votes from the nearest neighbours.
        "loss": found["loss"] if np.isfinite(found["loss"]) else np.nan,
        "calibration_error": calibration_error(softmax(z, axis=1).max(1), correct),
    }


def score_table(results: Results) -> pd.DataFrame:
    return pd.DataFrame(
        {"probe": probe, "classes": classes, "encoder": encoder, **row}
        for (probe, classes, encoder), result in results.items()
        for row in result.scores
    )


def gain_table(results: Results) -> pd.DataFrame:
    """The gain in accuracy of SimCLR's probe over that of each control on the same test images, with its interval."""
    rows = []
    for (probe, classes, control), result in results.items():
        if control != "simclr":
            gain, low, high = paired_gain(results[probe, classes, "simclr"].correct, result.correct)
            row = {"probe": probe, "classes": classes, "control": control}
            rows.append(row | {"gain": gain, "gain_low": low, "gain_high": high})
    return pd.DataFrame(rows)


def warnings_of(table: pd.DataFrame, choice: pd.DataFrame, C: list[float]) -> list[str]:
    """Reasons to doubt the results: one line each."""
    lines = [
        f"logreg, {row.classes}, {row.encoder}: C = {row.C:g} is at the edge of the range logreg.C; try a wider range"
        for row in choice[choice.chosen == 1].itertuples()
        if row.C in (min(C), max(C))
    ]
    tested = table[table.split == "test"]
    for (probe, classes), rows in tested.groupby(["probe", "classes"], sort=False):
        if (rows.accuracy_low <= rows.majority).all():
            fraction = rows.majority.iloc[0]
            lines.append(
                f"{probe}, {classes}: no encoder is significantly better than the most frequent class ({fraction:.1%})"
            )
    return lines


def headline(table: pd.DataFrame, gains: pd.DataFrame, first: str) -> dict[str, Any]:
    """The metrics to compare experiments: test accuracies, and SimCLR's gain over the best control."""
    metrics: dict[str, Any] = {}
    for name, probe, classes in (
        ("first", "logreg", first),
        ("all", "logreg", "all"),
        ("superclasses", "logreg", "superclasses"),
        ("linear", "linear", first),
        ("neighbours", "neighbours", "all"),
    ):
        tested = table[(table.probe == probe) & (table.classes == classes) & (table.split == "test")]
        if tested.empty:  # if there are no superclasses
            continue
        metrics[name] = dict(zip(tested.encoder, tested.accuracy, strict=True))
        least = gains[(gains.probe == probe) & (gains.classes == classes)].sort_values("gain").iloc[0]
        metrics[name] |= {each: float(least[each]) for each in ("gain", "gain_low", "gain_high")}
    return metrics


def curve_table(results: Results) -> pd.DataFrame:
    """Scores per step: an iteration of Newton's method, an epoch of the linear layer."""
    return pd.DataFrame(
        {"probe": probe, "classes": classes, "encoder": encoder, **row}
        for (probe, classes, encoder), result in results.items()
        for row in result.curve
    )


def choice_table(results: Results) -> pd.DataFrame:
    return pd.DataFrame(
        {"classes": classes, "encoder": encoder, "C": C, "loss": loss, "chosen": int(C == result.probe.C)}
        for (_, classes, encoder), result in results.items()
        if isinstance(result.probe, ChosenC)
        for C, loss in result.probe.validation.items()
    )


def label_efficiency(drawn: dict[tuple[str, int], list[float]], images: int, table: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy of all classes: a row per encoder, number of labelled images per class, and draw.

    The last number is that of all images, with a single row.
    """
    rows = [
        {"classes": "all", "encoder": encoder, "images_per_class": count, "draw": draw, "accuracy": accuracy}
        for (encoder, count), of_draws in drawn.items()
        for draw, accuracy in enumerate(of_draws, 1)
    ]
    every = table[(table.probe == "logreg") & (table.classes == "all") & (table.split == "test")]
    rows += [
        {"classes": "all", "encoder": encoder, "images_per_class": images, "draw": 1, "accuracy": accuracy}
        for encoder, accuracy in zip(every.encoder, every.accuracy, strict=True)
    ]
    return pd.DataFrame(rows)


def neighbour_table(features: dict[str, np.ndarray], encoders: list[str], names: list[str], seed: int) -> pd.DataFrame:
    """Random test images of different classes, and the nearest training images of each for every encoder."""
    fine = features["test_fine"]
    one_of_each = draw_labels(fine, 1, [seed])
    chosen = np.random.default_rng(seed).permutation(len(one_of_each))[:SHOWN_QUERIES]
    queries = one_of_each[np.sort(chosen)]
    rows = []
    for encoder in encoders:
        found = nearest(features[f"train_{encoder}"], features[f"test_{encoder}"][queries], SHOWN_NEIGHBOURS)
        for (query, rank), neighbour in np.ndenumerate(found):
            rows.append(
                {
                    "encoder": encoder,
                    "image": queries[query],
                    "class": names[fine[queries[query]]],
                    "rank": rank + 1,
                    "neighbour": neighbour,
                    "neighbour_class": names[features["train_fine"][neighbour]],
                }
            )
    return pd.DataFrame(rows)
