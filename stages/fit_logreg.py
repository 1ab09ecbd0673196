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

from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from threadpoolctl import threadpool_limits

from stages.io.metadata import FORMAT
from stages.io.tensors import open_tensors, write_tensors
from stages.io.writing import write_metrics, write_table
from stages.probing.linear import fit_linear
from stages.probing.logreg import choice_work, choose_and_fit, fit_few_labels
from stages.probing.neighbours import fit_neighbours
from stages.probing.params import FitParams as Params
from stages.probing.predictions import prediction_table
from stages.probing.probe import Split, draw_labels
from stages.probing.scores import rank_of_truth, scores
from stages.probing.tables import (
    Result,
    choice_table,
    fit_table,
    gain_table,
    headline,
    label_efficiency,
    neighbour_table,
    score_row,
    score_table,
    warnings_of,
)
from stages.runtime.errors import UserError
from stages.runtime.progress import progress_bar

FEATURES = Path("data/features.safetensors")
TABLES = Path("plots/data")
Task = tuple[str, int]  # fine or coarse labels, and how many of the classes, from the first


def main(params: Params) -> None:
    # One thread for each matrix product, and the probes side by side: faster (see `make bench`), and no result depends
    # on how many there are.
    torch.set_num_threads(1)
    threadpool_limits(1)
    tensors, names = open_tensors(FEATURES)
    features = {name: rows.mapped() for name, rows in tensors.items()}
    fine_names, coarse_names, encoders = names["fine_names"], names["coarse_names"], names["encoders"]
    for encoder in encoders:
        if (features[f"train_{encoder}"] == features[f"train_{encoder}"][0]).all():
            raise UserError(
                f"{FEATURES}: features of {encoder} are the same for all training images; are the images, too?"
            )
    tasks = tasks_of(fine_names, coarse_names, params.first_classes)
    first = "first" if "first" in tasks else "all"
    C, choice_images = params.logreg.C, params.logreg.choice_images
    choosing: dict[str, Any] = {"C": C, "max_iter": params.logreg.max_iter, "seed": params.seed}
    stopped = f" stopped by max_iter = {params.logreg.max_iter}, not yet converged"
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
                fitted = choose_and_fit(
                    train, **choosing, choice_images=choice_images, watched=watch, on_fit=progress.update
                )
            case "linear":
                fitted = fit_linear(train, test, **params.linear.model_dump(), seed=params.seed)
            case _:
                fitted = fit_neighbours(train, params.neighbours)
        # Of the training images, each is its own nearest neighbour.
        scored = {"test": test} if probe == "neighbours" else {"train": train, "test": test}
        z = {name: fitted.logits(split.x) for name, split in scored.items()}
        rows = [score_row(name, z[name], split.y, train.y) for name, split in scored.items()]
        right = rank_of_truth(z["test"], test.y) <= 1
        progress.update(train.work)
        cut_short = "" if fitted.converged else f", of a fit{stopped}"
        progress.write(f"{probe}, {classes}, {encoder}: {right.mean():.1%} of the test images{cut_short}")
        new = ~features["test_seen"][features[f"test_{tasks[classes][0]}"] < tasks[classes][1]]
        rows[-1] |= {"images_new": int(new.sum()), "accuracy_new": float(right[new].mean()) if new.any() else np.nan}
        return Result(fitted, rows, right)

    def few_labels(encoder: str, per_class: int) -> list[float]:
        _, test = splits("all", encoder)
        draws = [drawn_labels(encoder, per_class, number) for number in range(params.logreg.draws)]
        fitted = fit_few_labels(draws, **choosing, on_fit=progress.update)
        if cut_short := sum(not probe.converged for probe in fitted):
            progress.write(f"{per_class} labels of each class, {encoder}: {cut_short} of {len(fitted)} fits{stopped}")
        return [scores(probe.logits(test.x), test.y)["accuracy"] for probe in fitted]

    def drawn_labels(encoder: str, per_class: int, number: int) -> Split:
        train, _ = splits("all", encoder)
        # The encoder is not in the seed, so that every encoder gets the same images.
        return train.subset(draw_labels(train.y, per_class, [params.seed, per_class, number]))

    kinds = [("logreg", classes) for classes in tasks] + [("linear", first)]
    kinds += [("neighbours", classes) for classes in tasks if classes != "first"]
    fits = [(*kind, encoder) for kind, encoder in product(kinds, encoders)]
    enough = np.bincount(features["train_fine"]).min()
    counts = [count for count in sorted(set(params.logreg.labels_per_class)) if count < enough]
    few = list(product(encoders, counts))

    def work(probe: str, classes: str, encoder: str) -> int:
        train, _ = splits(classes, encoder)
        chosen = choice_work(train.at_most(choice_images, params.seed), C, params.seed) if probe == "logreg" else 0
        return chosen + train.work

    total = sum(work(*job) for job in fits) + sum(
        choice_work(drawn_labels(*job, number=0), C, params.seed) for job in few
    )
    progress = progress_bar("probes", total)
    largest, _ = splits("all", "simclr")
    threads = ThreadPoolExecutor(at_once(largest, params.threads))
    try:
        of_fits = threads.map(lambda job: fit(*job), fits)
        of_few = threads.map(lambda job: few_labels(*job), few)
        results = dict(zip(fits, of_fits, strict=True))
        drawn = dict(zip(few, of_few, strict=True))
    finally:
        threads.shutdown(cancel_futures=True)  # so that a failure or Ctrl-C waits for what runs, not for all
        progress.close()

    table, gains, choice = score_table(results), gain_table(results), choice_table(results)
    for line in warnings_of(table, choice, C):
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
    metadata = {
        "format": FORMAT,
        "architecture": "logistic regression: softmax(weight @ features + bias)",
        "classes": fine_names,
    }
    write_tensors(Path("models/classifier.safetensors"), classifier, metadata)


def at_once(largest: Split, threads: int) -> int:
    """How many probes the free memory is enough for, at most one for each thread."""
    images, features = largest.x.shape
    # The scaled features, and those of up to five folds; the class scores, of a watched fit also in float64.
    needed = images * (4 * 6 * features + 32 * largest.classes)
    return max(1, min(threads, psutil.virtual_memory().available // needed))


def tasks_of(fine_names: list[str], coarse_names: list[str], first_classes: int) -> dict[str, Task]:
    """What there is to classify: no first classes where those are all, no superclasses where there are none."""
    tasks = {"first": ("fine", first_classes)} if first_classes < len(fine_names) else {}
    tasks["all"] = ("fine", len(fine_names))
    return tasks if coarse_names == fine_names else tasks | {"superclasses": ("coarse", len(coarse_names))}
