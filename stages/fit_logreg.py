"""Stage `fit-logreg`: logistic regression on the frozen features of every encoder.

For the first classes, all classes and superclasses; for all classes also with few labels, drawn several times. C is
chosen on training images that are left out of the fit; test images are never used for selection. dvc.yaml describes the
outputs. models/classifier.safetensors is the probe of all classes on SimCLR's features: scores are weight @ h + bias.
"""

from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from stages.io.tensors import FORMAT, write_tensors
from stages.io.writing import write_table
from stages.probes.logreg import ChosenC, LogisticProbe
from stages.probing.evaluation import FrozenFeatures, Jobs, evaluate, run_concurrently
from stages.probing.params import LogregParams as Params
from stages.probing.predictions import prediction_table
from stages.probing.probe import Curve, class_scores, draw_labels
from stages.probing.scores import scores
from stages.probing.tables import TABLES, Results

NOT_CONVERGED = "not converged; try a higher logreg.max_iter or a smaller C"


def main(params: Params) -> None:
    features = FrozenFeatures(params.first_classes)
    tasks = ["first", "all", "superclasses"]
    results = evaluate("logreg", features, tasks, partial(chosen_c, params), params.threads)
    with_few_labels = run_concurrently("few labels", few_label_jobs(features, params), features, params.threads)
    for line in warnings_of(results, params):
        print(line)
    write_table(TABLES / "logreg/choice_of_C.csv", choice_table(results))
    write_table(TABLES / "logreg/label_efficiency.csv", label_efficiency(with_few_labels, results, features))
    arrays, names = features.arrays, features.fine_names
    classifier = results["all", "simclr"].probe
    z = classifier.decision_function(arrays["test_simclr"])
    predictions = prediction_table(z, arrays["test_fine"], arrays["test_coarse"], names, features.coarse_names)
    write_table(TABLES / "logreg/predictions.csv", predictions)
    write_tensors(
        Path("models/classifier.safetensors"),
        {"weight": torch.from_numpy(classifier.weight), "bias": torch.from_numpy(classifier.bias)},
        {
            "format": FORMAT,
            "architecture": "logistic regression: softmax(weight @ features + bias)",
            "classes": names,
        },
    )


def chosen_c(params: Params, curve: Curve | None = None) -> ChosenC:
    logreg = params.logreg
    return ChosenC(logreg.C, logreg.max_iter, params.seed, logreg.choice_images, curve)


def few_label_jobs(features: FrozenFeatures, params: Params) -> Jobs:
    """Logistic regression of all classes with few labels. Keys: encoder, labelled images per class."""
    fewest = np.bincount(features.arrays["train_fine"]).min()
    counts = sorted(count for count in set(params.logreg.labels_per_class) if count < fewest)
    return {key: partial(few_labels, *key, features, params) for key in product(features.encoders, counts)}


def few_labels(encoder: str, per_class: int, features: FrozenFeatures, params: Params) -> tuple[list[float], str]:
    """The test accuracy with each draw of the labelled images, which are the same for every encoder.

    C is chosen on the first draw and kept for the others, because choosing takes many times as long as fitting.
    """
    logreg = params.logreg
    train, test = features.splits("all", encoder)
    drawn = (draw_labels(train.y, per_class, [params.seed, per_class, draw]) for draw in range(logreg.draws))
    first, *others = (train.subset(rows) for rows in drawn)
    chosen = chosen_c(params).fit(first.x, first.y)
    probes = [chosen, *(LogisticProbe(chosen.C, logreg.max_iter).fit(draw.x, draw.y) for draw in others)]
    accuracies = [scores(class_scores(probe, test.x), test.y)["accuracy"] for probe in probes]
    line = f"{per_class} labels per class, {encoder}: test accuracy {np.mean(accuracies):.1%}"
    if stopped := sum(not probe.converged for probe in probes):
        line += f", {stopped} of {len(probes)} fits {NOT_CONVERGED}"
    return accuracies, line


def choice_table(results: Results) -> pd.DataFrame:
    return pd.DataFrame(
        {"classes": classes, "encoder": encoder, "C": C, "loss": loss, "chosen": int(C == result.probe.C)}
        for (classes, encoder), result in results.items()
        for C, loss in result.probe.validation.items()
    )


def label_efficiency(
    drawn: dict[tuple[str, int], list[float]], results: Results, features: FrozenFeatures
) -> pd.DataFrame:
    """Test accuracy of all classes: a row per encoder, number of labelled images per class, and draw.

    The last number is that of all images, with a single row.
    """
    all_images = len(features.arrays["train_fine"]) // len(features.fine_names)
    of_all = {
        (name, all_images): [result.correct.mean()] for (classes, name), result in results.items() if classes == "all"
    }
    return pd.DataFrame(
        {"classes": "all", "encoder": encoder, "images_per_class": count, "draw": draw, "accuracy": accuracy}
        for (encoder, count), of_draws in (drawn | of_all).items()
        for draw, accuracy in enumerate(of_draws, 1)
    )


def warnings_of(results: Results, params: Params) -> list[str]:
    """Reasons to doubt the fits: one line each."""
    lines, logreg = [], params.logreg
    for (classes, encoder), result in results.items():
        name = f"logreg, {classes}, {encoder}"
        if not result.probe.converged:
            lines.append(f"{name}: {NOT_CONVERGED}")
        if result.probe.C in (min(logreg.C), max(logreg.C)):
            lines.append(f"{name}: C = {result.probe.C:g} is at the edge of the range logreg.C; try a wider range")
    return lines
