"""Fits and scores every probe for every task and encoder, several at the same time."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stages.io.tensors import open_tensors
from stages.probing.logreg import LogisticProbe, OnFit, choice_work, fit_few_labels, fit_work
from stages.probing.params import FitParams
from stages.probing.probe import Curve, Split, class_scores, draw_labels
from stages.probing.registry import PROBES
from stages.probing.scores import rank_of_truth, scores
from stages.probing.tables import Result, score_row
from stages.runtime.errors import UserError
from stages.runtime.machine import free_memory
from stages.runtime.progress import progress_bar


class Task(NamedTuple):
    labels: str  # fine or coarse
    classes: int  # the number of classes, from the first on


class FrozenFeatures:
    """Features of every encoder, and labels. Raises UserError if an encoder gives all images the same features."""

    def __init__(self, path: Path, first_classes: int) -> None:
        tensors, metadata = open_tensors(path)
        self.arrays = {name: rows.mapped() for name, rows in tensors.items()}
        self.encoders: list[str] = metadata["encoders"]
        self.before_and_after = ["imagenet" if "imagenet" in self.encoders else "untrained", "simclr"]
        self.fine_names: list[str] = metadata["fine_names"]
        self.coarse_names: list[str] = metadata["coarse_names"]
        self.tasks = tasks_of(self.fine_names, self.coarse_names, first_classes)
        for encoder in self.encoders:
            of_train = self.arrays[f"train_{encoder}"]
            if (of_train == of_train[0]).all():
                raise UserError(
                    f"{path}: features of {encoder} are the same for all training images; check that the images differ"
                )

    def splits(self, classes: str, encoder: str) -> tuple[Split, Split]:
        """The training and the test images of a task."""
        task = self.tasks[classes]
        train, test = (
            Split(self.arrays[f"{part}_{encoder}"], self.arrays[f"{part}_{task.labels}"]) for part in ("train", "test")
        )
        return train.first(task.classes), test.first(task.classes)

    def unseen(self, classes: str) -> np.ndarray:
        """Which test images of a task are not duplicates of earlier images: (N,) bool."""
        task = self.tasks[classes]
        return ~self.arrays["test_seen"][self.arrays[f"test_{task.labels}"] < task.classes]

    def draws(self, encoder: str, per_class: int, count: int, seed: int) -> list[Split]:
        """`count` random draws of `per_class` training images, the same for every encoder."""
        train, _ = self.splits("all", encoder)
        return [train.subset(draw_labels(train.y, per_class, [seed, per_class, draw])) for draw in range(count)]


def tasks_of(fine_names: list[str], coarse_names: list[str], first_classes: int) -> dict[str, Task]:
    """The tasks by name; no task `first` if that is all classes, and no `superclasses` if there are none."""
    tasks = {"first": Task("fine", first_classes)} if first_classes < len(fine_names) else {}
    tasks["all"] = Task("fine", len(fine_names))
    return tasks if coarse_names == fine_names else tasks | {"superclasses": Task("coarse", len(coarse_names))}


class Job(NamedTuple):
    """One probe to fit and to score."""

    key: tuple
    work: float  # proportional to its estimated time
    run: Callable[[OnFit], tuple[Any, str]]  # reports its work; returns a result and a line for the log


def probe_jobs(features: FrozenFeatures, params: FitParams) -> list[Job]:
    """Every probe for every task and encoder. Keys: probe, classes (the task), encoder."""
    jobs = []
    for name, entry in PROBES.items():
        for classes in [each for each in entry.classes if each in features.tasks] or ["all"]:
            for encoder in features.encoders:
                key = (name, classes, encoder)
                train, _ = features.splits(classes, encoder)
                work = final_work(train) + (choice(train, params) if name == "logreg" else 0)
                jobs.append(Job(key, work, partial(evaluate, *key, features, params)))
    return jobs


def evaluate(
    name: str, classes: str, encoder: str, features: FrozenFeatures, params: FitParams, on_fit: OnFit
) -> tuple[Result, str]:
    train, test = features.splits(classes, encoder)
    watched = encoder in features.before_and_after and classes != "superclasses"
    curve = Curve(train, test) if watched else None
    probe = PROBES[name].make(params, curve, on_fit).fit(train.x, train.y)
    on_fit(final_work(train))
    z = class_scores(probe, test.x)
    correct = rank_of_truth(z, test.y) <= 1
    unseen = features.unseen(classes)
    on_test = score_row("test", z, test.y, train.y) | {
        "images_new": int(unseen.sum()),
        "accuracy_new": float(correct[unseen].mean()) if unseen.any() else np.nan,
    }
    rows = [on_test]
    if PROBES[name].scores_train:
        rows.insert(0, score_row("train", class_scores(probe, train.x), train.y, train.y))
    line = f"{name}, {classes}, {encoder}: test accuracy {correct.mean():.1%}"
    if isinstance(probe, LogisticProbe) and not probe.converged:
        line += f", not converged (max_iter = {params.logreg.max_iter})"
    return Result(probe, rows, curve.rows if curve else [], correct), line


def few_label_jobs(features: FrozenFeatures, params: FitParams) -> list[Job]:
    """Logistic regression of all classes with few labels. Keys: encoder, labelled images per class."""
    jobs = []
    fewest = np.bincount(features.arrays["train_fine"]).min()
    for encoder in features.encoders:
        for per_class in sorted(count for count in set(params.logreg.labels_per_class) if count < fewest):
            key = (encoder, per_class)
            drawn = features.draws(*key, count=1, seed=params.seed)[0]
            jobs.append(Job(key, choice(drawn, params), partial(few_labels, *key, features, params)))
    return jobs


def few_labels(
    encoder: str, per_class: int, features: FrozenFeatures, params: FitParams, on_fit: OnFit
) -> tuple[list[float], str]:
    """The test accuracy with each draw of the labelled images."""
    logreg = params.logreg
    _, test = features.splits("all", encoder)
    draws = features.draws(encoder, per_class, logreg.draws, params.seed)
    probes = fit_few_labels(draws, logreg.C, logreg.max_iter, params.seed, logreg.choice_images, on_fit)
    accuracies = [scores(class_scores(probe, test.x), test.y)["accuracy"] for probe in probes]
    line = f"{per_class} labels per class, {encoder}: test accuracy {np.mean(accuracies):.1%}"
    if stopped := sum(not probe.converged for probe in probes):
        line += f", {stopped} of {len(probes)} fits not converged (max_iter = {logreg.max_iter})"
    return accuracies, line


def final_work(train: Split) -> float:
    """The work of the final fit, for a typical C."""
    return fit_work(len(train.y), train.classes, 0.01)


def choice(train: Split, params: FitParams) -> float:
    """The work of choosing C."""
    return choice_work(train, params.logreg.C, params.seed, params.logreg.choice_images)


def run_concurrently(jobs: list[Job], threads: int) -> dict[tuple, Any]:
    """The results by key, in the order of the jobs; the longest jobs start first."""
    found = {}
    pool = ThreadPoolExecutor(threads)
    with progress_bar("probes", sum(job.work for job in jobs)) as progress:
        try:
            running = {pool.submit(job.run, progress.update): job for job in sorted(jobs, key=lambda job: -job.work)}
            for done in as_completed(running):
                found[running[done].key], line = done.result()
                progress.write(line)
        finally:
            pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C, only running jobs are waited for
    return {job.key: found[job.key] for job in jobs}


def concurrent_jobs(largest: Split, threads: int) -> int:
    """The number of probes that fit into the free memory, at most one per thread."""
    images, features = largest.x.shape
    # Scaled features and those of up to five folds, in float32; class scores in float32 and, for curves, in float64.
    needed = images * (4 * 6 * features + 32 * largest.classes)
    return max(1, min(threads, free_memory() // needed))
