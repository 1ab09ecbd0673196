"""Stage `fit-logreg`: probes on the frozen features of every encoder. The test images are scored and choose nothing.

1. logreg: logistic regression for the first classes, for all and for the superclasses; C is chosen by folds of the
   training images. For all classes also with few labels, drawn several times.
2. linear: the source experiment's linear layer, for the first classes.
3. neighbours: the nearest training images vote, for all classes and for the superclasses.

Reads   data/features.safetensors
Writes  metrics/probes.json               accuracies, and what SimCLR gains over the best control
        plots/data/scores.csv             every probe: a row per probe, classes, encoder and split
        plots/data/gains.csv              what SimCLR gains: a row per probe, classes and control
        plots/data/fits.csv               scores during a fit, of the encoder before and after SimCLR
        plots/data/choice_of_C.csv        validation loss of each candidate
        plots/data/label_efficiency.csv   accuracy with few labels, a row per draw
        plots/data/predictions.csv        what the logistic regression of all classes on SimCLR's features says
        data/neighbours.csv               some test images and their nearest training images, for the report
        models/classifier.safetensors     that logistic regression: scores are weight @ h + bias
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits

from stages import check_arithmetic
from stages.files.inputs import inputs_must_not_change
from stages.files.params import load_params
from stages.files.tensors import read_tensors, write_tensors
from stages.files.writing import write_metrics, write_table
from stages.probing.linear import fit_linear
from stages.probing.logreg import best, choose_and_fit, few_label_accuracies
from stages.probing.neighbours import fit_neighbours, nearest
from stages.probing.predictions import prediction_table
from stages.probing.probe import Probe, Split, draw_labels
from stages.probing.scores import (
    balanced_accuracy,
    calibration_error,
    interval,
    log_softmax,
    paired_gain,
    rank_of_truth,
    scores,
)

FEATURES = Path("data/features.safetensors")
TABLES = Path("plots/data")
AT_ONCE = 4  # probes at most; each holds its own standardised features
SHOWN_QUERIES, SHOWN_NEIGHBOURS = 6, 6

Task = tuple[str, int]  # fine or coarse labels, and how many of the classes, from the first


@dataclass(frozen=True)
class Result:
    fitted: Probe
    scores: list[dict[str, Any]]  # a row per split
    right: np.ndarray  # (N,) bool, of the test images


Results = dict[tuple[str, str, str], Result]  # of a probe, classes and an encoder


def main() -> None:
    params = load_params()
    check_arithmetic(params.threads, params.same_bytes)
    # One thread for each matrix product, and the probes side by side: faster (see `make bench`), and no result depends
    # on how many there are.
    torch.set_num_threads(1)
    threadpool_limits(1)
    tensors, notes = read_tensors(FEATURES)
    features = {name: tensor.numpy() for name, tensor in tensors.items()}
    fine_names, coarse_names, encoders = notes["fine_names"], notes["coarse_names"], notes["encoders"]
    for encoder in encoders:
        if (features[f"train_{encoder}"] == features[f"train_{encoder}"][0]).all():
            sys.exit(f"{FEATURES}: features of {encoder} are the same for all training images; are the images, too?")
    tasks = tasks_of(fine_names, coarse_names, params.first_classes)
    first = "first" if "first" in tasks else "all"
    choosing = params.logreg.model_dump(include={"C", "max_iter"}) | {"seed": params.seed}
    watched = encoders[-2:]  # before and after SimCLR

    def splits(classes: str, encoder: str) -> tuple[Split, Split]:
        labels, count = tasks[classes]
        train, test = (Split(features[f"{part}_{encoder}"], features[f"{part}_{labels}"]) for part in ("train", "test"))
        return train.first(count), test.first(count)

    def fit(probe: str, classes: str, encoder: str) -> Result:
        train, test = splits(classes, encoder)
        match probe:
            case "logreg":
                watch = test if encoder in watched and classes != "superclasses" else None
                fitted = choose_and_fit(train, **choosing, watched=watch)
            case "linear":
                fitted = fit_linear(train, test, **params.linear.model_dump(), seed=params.seed)
            case _:
                fitted = fit_neighbours(train, params.neighbours)
        # Of the training images, each is its own nearest neighbour.
        scored = {"test": test} if probe == "neighbours" else {"train": train, "test": test}
        z = {name: fitted.logits(split.x) for name, split in scored.items()}
        rows = [score_row(name, z[name], split.y, train.y) for name, split in scored.items()]
        right = rank_of_truth(z["test"], test.y) <= 1
        new = ~features["test_seen"][features[f"test_{tasks[classes][0]}"] < tasks[classes][1]]
        rows[-1] |= {"images_new": int(new.sum()), "accuracy_new": float(right[new].mean()) if new.any() else np.nan}
        return Result(fitted, rows, right)

    def few_labels(encoder: str, per_class: int) -> list[float]:
        train, test = splits("all", encoder)
        # The encoder is not in the seed, so that every encoder gets the same images.
        seeds = [[params.seed, per_class, draw] for draw in range(params.logreg.draws)]
        draws = [train.subset(draw_labels(train.y, per_class, seed)) for seed in seeds]
        return few_label_accuracies(draws, test, **choosing)

    kinds = [("logreg", classes) for classes in tasks] + [("linear", first)]
    kinds += [("neighbours", classes) for classes in tasks if classes != "first"]
    fits = [(*kind, encoder) for kind, encoder in product(kinds, encoders)]
    enough = np.bincount(features["train_fine"]).min()
    counts = [count for count in sorted(set(params.logreg.labels_per_class)) if count < enough]
    few = list(product(encoders, counts))
    threads = ThreadPoolExecutor(min(AT_ONCE, params.threads))
    try:
        of_fits = threads.map(lambda job: fit(*job), fits)
        of_few = threads.map(lambda job: few_labels(*job), few)
        results = dict(zip(fits, of_fits, strict=True))
        drawn = dict(zip(few, of_few, strict=True))
    finally:
        threads.shutdown(cancel_futures=True)  # so that a failure or Ctrl-C waits for what runs, not for all

    table, gains, choice = score_table(results), gain_table(results), choice_table(results)
    for line in warnings_of(table, choice, params.logreg.C):
        print(line)
    write_metrics(Path("metrics/probes.json"), headline(table, gains, first))
    write_table(TABLES / "scores.csv", table)
    write_table(TABLES / "gains.csv", gains)
    write_table(TABLES / "fits.csv", fit_table(results, watched))
    write_table(TABLES / "choice_of_C.csv", choice)
    images = len(features["train_fine"]) // len(fine_names)
    write_table(TABLES / "label_efficiency.csv", label_efficiency(drawn, images, table))
    of_all = results["logreg", "all", "simclr"].fitted
    z = of_all.logits(features["test_simclr"])
    predictions = prediction_table(z, features["test_fine"], features["test_coarse"], fine_names, coarse_names)
    write_table(TABLES / "predictions.csv", predictions)
    write_table(Path("data/neighbours.csv"), neighbour_table(features, watched, fine_names, params.seed))
    classifier = {name: torch.from_numpy(array) for name, array in of_all.parameters.items()}
    write_tensors(Path("models/classifier.safetensors"), classifier, {"fine_names": fine_names})


def tasks_of(fine_names: list[str], coarse_names: list[str], first_classes: int) -> dict[str, Task]:
    """What there is to classify: no first classes where those are all, no superclasses where there are none."""
    tasks = {"first": ("fine", first_classes)} if first_classes < len(fine_names) else {}
    tasks["all"] = ("fine", len(fine_names))
    return tasks if coarse_names == fine_names else tasks | {"superclasses": ("coarse", len(coarse_names))}


def score_row(split: str, z: np.ndarray, y: np.ndarray, train_y: np.ndarray) -> dict[str, Any]:
    found = scores(z, y)
    # The interval is about images that the probe has not seen.
    low, high = interval(found["accuracy"], len(y)) if split == "test" else (np.nan, np.nan)
    confidence = np.exp(log_softmax(z).max(1))
    right = rank_of_truth(z, y) <= 1
    return {
        "split": split,
        "images": len(y),
        "accuracy": found["accuracy"],
        "accuracy_low": low,
        "accuracy_high": high,
        "balanced_accuracy": balanced_accuracy(right, y),
        "majority": float((y == np.bincount(train_y).argmax()).mean()),
        "top5": found["top5"],
        # Not finite where a true class has none of the neighbours' votes.
        "loss": found["loss"] if np.isfinite(found["loss"]) else np.nan,
        "calibration_error": calibration_error(confidence, right),
    }


def score_table(results: Results) -> pd.DataFrame:
    return pd.DataFrame(
        {"probe": probe, "classes": classes, "encoder": encoder, **row}
        for (probe, classes, encoder), result in results.items()
        for row in result.scores
    )


def gain_table(results: Results) -> pd.DataFrame:
    """How much more often SimCLR's probe is right than each control's on the same test images, with the interval."""
    rows = []
    for (probe, classes, control), result in results.items():
        if control != "simclr":
            gain, low, high = paired_gain(results[probe, classes, "simclr"].right, result.right)
            row = {"probe": probe, "classes": classes, "control": control}
            rows.append(row | {"gain": gain, "gain_low": low, "gain_high": high})
    return pd.DataFrame(rows)


def warnings_of(table: pd.DataFrame, choice: pd.DataFrame, C: list[float]) -> list[str]:
    """What one should know before one believes the numbers, a line each."""
    lines = [
        f"logreg, {row.classes}, {row.encoder}: C = {row.C:g} is at the edge of logreg.C; a wider range may be better"
        for row in choice[choice.chosen == 1].itertuples()
        if row.C in (min(C), max(C))
    ]
    tested = table[table.split == "test"]
    for (probe, classes), rows in tested.groupby(["probe", "classes"], sort=False):
        if (rows.accuracy_low <= rows.majority).all():
            share = rows.majority.iloc[0]
            lines.append(
                f"{probe}, {classes}: no encoder is shown to be better than the most frequent class ({share:.1%})"
            )
    return lines


def headline(table: pd.DataFrame, gains: pd.DataFrame, first: str) -> dict[str, Any]:
    """The numbers that one compares between experiments: test accuracies, and the gain over the best control."""
    metrics: dict[str, Any] = {}
    for name, probe, classes in (
        ("first", "logreg", first),
        ("all", "logreg", "all"),
        ("superclasses", "logreg", "superclasses"),
        ("linear", "linear", first),
        ("neighbours", "neighbours", "all"),
    ):
        tested = table[(table.probe == probe) & (table.classes == classes) & (table.split == "test")]
        if tested.empty:  # there are no superclasses
            continue
        metrics[name] = dict(zip(tested.encoder, tested.accuracy, strict=True))
        least = gains[(gains.probe == probe) & (gains.classes == classes)].sort_values("gain").iloc[0]
        metrics[name] |= {each: float(least[each]) for each in ("gain", "gain_low", "gain_high")}
    return metrics


def fit_table(results: Results, encoders: list[str]) -> pd.DataFrame:
    """Scores per step: an iteration of L-BFGS, an epoch of the linear layer."""
    return pd.DataFrame(
        {"probe": probe, "classes": classes, "encoder": encoder, "step": number // 2 + 1, **row}
        for (probe, classes, encoder), result in results.items()
        if encoder in encoders
        for number, row in enumerate(result.fitted.curve)
    )


def choice_table(results: Results) -> pd.DataFrame:
    return pd.DataFrame(
        {"classes": classes, "encoder": encoder, "C": C, "loss": loss, "chosen": int(best(validation) == C)}
        for (_, classes, encoder), result in results.items()
        for validation in [result.fitted.validation]
        for C, loss in validation.items()
    )


def label_efficiency(drawn: dict[tuple[str, int], list[float]], images: int, table: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy of all classes: a row per encoder, number of labelled images of each class and draw of them.

    Where all images are labelled, the last number, there is nothing to draw and one row.
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
    """A random test image of each of some random classes, and the training images nearest to it for each encoder."""
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


if __name__ == "__main__":
    with inputs_must_not_change("fit-logreg"):
        main()
