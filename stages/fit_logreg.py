"""Stage `fit-logreg`: linear probes on the frozen features of every encoder.

1. scikit-learn's LogisticRegression, for all classes, for the first ones and for the superclasses. C is chosen on a
   split of the training set; the test set is scored and never chosen on.
2. Label efficiency: the same for all classes, with few training images per class, drawn several times (C is chosen
   on the first draw).
3. The source experiment's own linear layer on the plain features of the first classes: mini-batches, AdamW, the
   learning rate divided by ten at 60 % and at 80 % of the epochs.

Reads   data/features.safetensors
Writes  metrics/logreg.json, metrics/linear.json     scores of every encoder, and what SimCLR gains over the others
        plots/logreg_{all,first}_{initial,simclr}.csv  loss and accuracy, a row per L-BFGS iteration
        plots/linear_{initial,simclr}.csv              the same, a row per epoch
        plots/logreg_C.csv                             validation loss of all classes, a row per candidate for C
        plots/label_efficiency.csv                     test accuracy, a row per number of training images of each class
        models/classifier.safetensors                  the probe of all classes on SimCLR features
        models/predictions.safetensors                 class scores of the test images, all classes, every encoder
"""

import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from stages.files import read_tensors, write_csv, write_json, write_tensors
from stages.params import load_params
from stages.probes import (
    Probe,
    Scores,
    Split,
    both_scores,
    draw_labels,
    few_label_accuracies,
    fit_linear,
    fit_probe,
    gains,
    interval,
    rank_of_truth,
    weights_of,
)
from stages.provenance import unchanged

FEATURES = Path("data/features.safetensors")
CURVES = ("initial", "simclr")  # the encoders whose fits are drawn
AT_ONCE = 4  # probes at most; each holds its own standardised features

Task = tuple[str, int]  # fine or coarse labels, and how many of the classes, from the first
Parts = tuple[Split, Split]  # train, test


def main() -> None:
    params = load_params()
    tensors, notes = read_tensors(FEATURES)
    encoders = notes["encoders"]
    for encoder in encoders:
        of_train, of_test = (tensors[f"{part}_{encoder}"] for part in ("train", "test"))
        if not (bool(of_train.isfinite().all()) and bool(of_test.isfinite().all())):
            sys.exit(f"{FEATURES}: features of {encoder} are no numbers; `dvc repro -f extract-features` makes it anew")
        if bool((of_train == of_train[0]).all()):
            sys.exit(f"{FEATURES}: features of {encoder} are the same for all training images; are the images, too?")
    tasks = tasks_of(notes["fine_names"], notes["coarse_names"], params.first_classes)
    settings = params.logreg.model_dump(include={"C", "validation_fraction", "max_iter"}) | {"seed": params.seed}

    def parts(task: Task, encoder: str) -> Parts:
        labels, count = task
        train, test = (Split(tensors[f"{part}_{encoder}"], tensors[f"{part}_{labels}"]) for part in ("train", "test"))
        return train.first(count), test.first(count)

    def probe(task: Task, encoder: str) -> Probe:
        train, test = parts(task, encoder)
        watch = encoder in CURVES and task in (tasks["all"], tasks["first"])
        return fit_probe(train, **settings, watched=test if watch else None)

    def few_labels(encoder: str, per_class: int) -> list[float]:
        train, test = parts(tasks["all"], encoder)
        # The encoder is not in the seed, so that every encoder gets the same images.
        seeds = [[params.seed, per_class, draw] for draw in range(params.logreg.draws)]
        return few_label_accuracies(
            [train.subset(draw_labels(train.y, per_class, seed)) for seed in seeds], test, **settings
        )

    def linear(encoder: str) -> tuple[nn.Linear, list[Scores]]:
        return fit_linear(*parts(tasks["first"], encoder), **params.linear.model_dump(), seed=params.seed)

    enough = min(tensors["train_fine"].bincount().tolist())
    counts = [count for count in sorted(set(params.logreg.labels_per_class)) if count < enough]
    probe_jobs = list(product(dict.fromkeys(tasks.values()), encoders))  # equal tasks are fitted once
    few_jobs = list(product(encoders, counts))
    threads = ThreadPoolExecutor(min(AT_ONCE, os.cpu_count() or 1))
    try:
        of_probes = threads.map(lambda job: probe(*job), probe_jobs)
        of_few = threads.map(lambda job: few_labels(*job), few_jobs)
        of_layers = threads.map(linear, encoders)
        probes = dict(zip(probe_jobs, of_probes, strict=True))
        accuracies = dict(zip(few_jobs, of_few, strict=True))
        layers = dict(zip(encoders, of_layers, strict=True))
    finally:
        threads.shutdown(cancel_futures=True)  # so that a failure or Ctrl-C waits for what runs, not for all

    metrics = {}
    for name, task in tasks.items():
        of_task = {encoder: probes[task, encoder] for encoder in encoders}
        metrics[name] = compare({encoder: (each.logits, *parts(task, encoder)) for encoder, each in of_task.items()})
        for encoder, each in of_task.items():
            C = each.model.C
            metrics[name][encoder] |= {"C": C, "validation_loss": each.validation[C], "iteration": each.iterations}
    write_json(Path("metrics/logreg.json"), metrics)
    for name, encoder in product(("all", "first"), CURVES):
        write_csv(Path(f"plots/logreg_{name}_{encoder}.csv"), probes[tasks[name], encoder].curve)

    of_all = {encoder: probes[tasks["all"], encoder] for encoder in encoders}
    write_csv(
        Path("plots/logreg_C.csv"),
        [
            {"C": C} | {encoder: of_all[encoder].validation[C] for encoder in encoders}
            for C in of_all["simclr"].validation
        ],
    )
    every_image = {encoder: metrics["all"][encoder]["test_accuracy"] for encoder in encoders}
    images = len(tensors["train_fine"]) // len(notes["fine_names"])
    write_csv(Path("plots/label_efficiency.csv"), label_efficiency(accuracies, images, every_image))
    save_classifier(of_all["simclr"], notes)
    scores = {encoder: each.logits(tensors[f"test_{encoder}"]) for encoder, each in of_all.items()}
    write_tensors(Path("models/predictions.safetensors"), scores)

    for encoder in CURVES:
        write_csv(Path(f"plots/linear_{encoder}.csv"), layers[encoder][1])
    first = {encoder: (layer, *parts(tasks["first"], encoder)) for encoder, (layer, _) in layers.items()}
    write_json(Path("metrics/linear.json"), compare(first))


def tasks_of(fine_names: list[str], coarse_names: list[str], first_classes: int) -> dict[str, Task]:
    """A folder's superclasses are its classes, and its first ones may be all of them: then the tasks are equal."""
    every = ("fine", len(fine_names))
    return {
        "all": every,
        "first": ("fine", min(first_classes, len(fine_names))),
        "coarse": every if coarse_names == fine_names else ("coarse", len(coarse_names)),
    }


def compare(probes: Mapping[str, tuple[Callable[[Tensor], Tensor], Split, Split]]) -> dict[str, Any]:
    """The scores of every encoder's probe, and what SimCLR gains over each other one on the same test images."""
    metrics: dict[str, Any] = {}
    right = {}
    for encoder, (logits, train, test) in probes.items():
        scores = both_scores(logits, train, test)
        metrics[encoder] = scores | interval(scores["test_accuracy"], len(test.y))
        right[encoder] = rank_of_truth(logits(test.x), test.y) <= 1
    return metrics | {"gain": gains(right)}


def label_efficiency(
    accuracies: Mapping[tuple[str, int], list[float]], images: int, every_image: Scores
) -> list[dict[str, float | str]]:
    """A row per number of images of each class: mean and standard deviation over the draws, for every encoder.

    accuracies: of (encoder, images of each class), for each draw. every_image: with all `images` of each class, where
    there is nothing to draw, so that row, the last, has no deviation.
    """
    rows: list[dict[str, float | str]] = []
    for count in dict.fromkeys(per_class for _, per_class in accuracies):
        row: dict[str, float | str] = {"images_per_class": count}
        for encoder in every_image:
            drawn = accuracies[encoder, count]
            row |= {encoder: fmean(drawn), f"{encoder}_sd": stdev(drawn)}
        rows.append(row)
    last: dict[str, float | str] = {"images_per_class": images}
    for encoder, accuracy in every_image.items():
        last |= {encoder: accuracy, f"{encoder}_sd": ""}
    return [*rows, last]


def save_classifier(probe: Probe, notes: dict[str, Any]) -> None:
    """Class scores of features h are weight @ ((h - mean) / scale) + bias."""
    weight, bias = weights_of(probe.model)
    mean, scale = (torch.from_numpy(array).float() for array in (probe.scaler.mean_, probe.scaler.scale_))
    tensors = {"mean": mean, "scale": scale, "weight": weight, "bias": bias}
    write_tensors(Path("models/classifier.safetensors"), tensors, {"fine_names": notes["fine_names"]})


if __name__ == "__main__":
    # One thread for each matrix product, and the probes side by side: faster (see `make bench`), and the result does
    # not depend on the number of cores.
    torch.set_num_threads(1)
    with threadpool_limits(1), unchanged("fit-logreg"):
        main()
