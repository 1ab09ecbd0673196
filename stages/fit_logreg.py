"""Stage `fit-logreg`: probes on the frozen features of every encoder. Test images are never used for selection.

1. logreg: logistic regression for the first classes, all classes and superclasses; C is chosen by cross-validation on
   the training images. For all classes also with few labels, drawn several times.
2. linear: the linear layer of the reference experiment, for the first classes.
3. neighbours: votes of the nearest training images, for all classes and superclasses.

dvc.yaml describes the outputs. models/classifier.safetensors is the logistic regression of all classes on SimCLR's
features: scores are weight @ h + bias.
"""

from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from stages.io.metadata import FORMAT
from stages.io.tensors import write_tensors
from stages.io.writing import write_metrics, write_table
from stages.probing.evaluation import FrozenFeatures, concurrent_jobs, few_label_jobs, probe_jobs, run_concurrently
from stages.probing.params import FitParams as Params
from stages.probing.predictions import prediction_table
from stages.probing.tables import (
    choice_table,
    curve_table,
    gain_table,
    headline,
    label_efficiency,
    neighbour_table,
    score_table,
    warnings_of,
)

FEATURES = Path("data/features.safetensors")
TABLES = Path("plots/data")


def main(params: Params) -> None:
    # One thread per matrix product, and several probes side by side: faster (see `make bench`), and the results do not
    # depend on the number of probes.
    torch.set_num_threads(1)
    threadpool_limits(1)
    features = FrozenFeatures(FEATURES, params.first_classes)
    fits, few_label_fits = probe_jobs(features, params), few_label_jobs(features, params)
    largest, _ = features.splits("all", "simclr")
    found = run_concurrently(fits + few_label_fits, concurrent_jobs(largest, params.threads))
    results = {job.key: found[job.key] for job in fits}
    few_label_accuracies = {job.key: found[job.key] for job in few_label_fits}

    table, gains, choice = score_table(results), gain_table(results), choice_table(results)
    for line in warnings_of(table, choice, params.logreg.C):
        print(line)
    first = "first" if "first" in features.tasks else "all"
    write_metrics(Path("metrics/probes.json"), headline(table, gains, first))
    write_table(TABLES / "scores.csv", table)
    write_table(TABLES / "gains.csv", gains)
    write_table(TABLES / "fits.csv", curve_table(results))
    write_table(TABLES / "choice_of_C.csv", choice)
    arrays, names = features.arrays, features.fine_names
    images = len(arrays["train_fine"]) // len(names)
    write_table(TABLES / "label_efficiency.csv", label_efficiency(few_label_accuracies, images, table))
    classifier = results["logreg", "all", "simclr"].probe
    z = classifier.decision_function(arrays["test_simclr"])
    predictions = prediction_table(z, arrays["test_fine"], arrays["test_coarse"], names, features.coarse_names)
    write_table(TABLES / "predictions.csv", predictions)
    shown = neighbour_table(arrays, features.before_and_after, names, params.seed)
    write_table(Path("data/neighbours.csv"), shown)
    write_tensors(
        Path("models/classifier.safetensors"),
        {"weight": torch.from_numpy(classifier.weight), "bias": torch.from_numpy(classifier.bias)},
        {
            "format": FORMAT,
            "architecture": "logistic regression: softmax(weight @ features + bias)",
            "classes": names,
        },
    )
