"""Tables and metrics of a probe for every task and encoder.

Shapes: N images, K classes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from stages.io.writing import write_metrics, write_table
from stages.probing.scores import interval, paired_gain, rank_of_truth, scores

TABLES = Path("plots/data")


@dataclass(frozen=True)
class Result:
    probe: Any  # fitted, with the attributes of its own class
    scores: list[dict[str, Any]]  # a row per split
    curve: list[dict[str, Any]]  # a row per step (iteration or epoch) and split; empty if the fit was not recorded
    correct: np.ndarray  # (N,) bool, of the test images
    y: np.ndarray  # (N,) classes of the test images


Results = dict[tuple[str, str], Result]  # by classes (the task) and encoder


def write_results(probe: str, results: Results) -> None:
    """Writes the tables plots/data/<probe>/{scores,gains,fits}.csv and the metrics."""
    gains = gain_table(probe, results)
    write_table(TABLES / probe / "scores.csv", rows_of(probe, results, "scores"))
    write_table(TABLES / probe / "gains.csv", gains)
    if any(result.curve for result in results.values()):
        write_table(TABLES / probe / "fits.csv", rows_of(probe, results, "curve"))
    write_metrics(Path(f"metrics/{probe}.json"), {probe: headline(results, gains)})


def score_row(split: str, z: np.ndarray, y: np.ndarray, train_y: np.ndarray) -> dict[str, Any]:
    found = scores(z, y)
    # An interval makes sense only for images that the probe has not seen.
    low, high = interval(found["accuracy"], len(y)) if split == "test" else (np.nan, np.nan)
    return {
        "split": split,
        "images": len(y),
        "accuracy": found["accuracy"],
        "accuracy_low": low,
        "accuracy_high": high,
        "balanced_accuracy": balanced_accuracy(rank_of_truth(z, y) <= 1, y),
        "majority": float((y == np.bincount(train_y).argmax()).mean()),
        "top5": found["top5"],
        # Not finite if a true class got no votes from the nearest neighbours.
        "loss": found["loss"] if np.isfinite(found["loss"]) else np.nan,
    }


def rows_of(probe: str, results: Results, part: Literal["scores", "curve"]) -> pd.DataFrame:
    return pd.DataFrame(
        {"probe": probe, "classes": classes, "encoder": encoder, **row}
        for (classes, encoder), result in results.items()
        for row in getattr(result, part)
    )


def gain_table(probe: str, results: Results) -> pd.DataFrame:
    """The gain in accuracy of SimCLR's features over each control on the same test images, with its interval."""
    rows = []
    for (classes, control), result in results.items():
        if control != "simclr":
            gain, low, high = paired_gain(results[classes, "simclr"].correct, result.correct)
            row = {"probe": probe, "classes": classes, "control": control}
            rows.append(row | {"gain": gain, "gain_low": low, "gain_high": high})
    return pd.DataFrame(rows)


def headline(results: Results, gains: pd.DataFrame) -> dict[str, float]:
    """The metrics to compare experiments, by task: SimCLR's test accuracy and its gain over the best control.

    If the classes differ in size, also the balanced accuracy: the mean over the classes.
    """
    metrics = {}
    for (classes, encoder), result in results.items():
        if encoder == "simclr":
            metrics[classes] = float(result.correct.mean())
            metrics[f"{classes}_gain"] = float(gains[gains.classes == classes].gain.min())
            sizes = np.unique_counts(result.y).counts
            if sizes.min() < sizes.max():
                metrics[f"{classes}_balanced"] = balanced_accuracy(result.correct, result.y)
    return metrics


def balanced_accuracy(correct: np.ndarray, y: np.ndarray) -> float:
    return float(pd.Series(correct).groupby(y).mean().mean())
