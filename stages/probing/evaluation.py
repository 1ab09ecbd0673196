"""Fits a probe for every task and encoder, several at the same time, and scores it on the test images."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from stages.io.tensors import open_tensors
from stages.probing.probe import Curve, Split, class_scores
from stages.probing.scores import rank_of_truth
from stages.probing.tables import Result, Results, score_row, write_results
from stages.runtime.errors import UserError
from stages.runtime.machine import free_memory
from stages.runtime.progress import progress_bar

FEATURES = Path("data/features.safetensors")


class Task(NamedTuple):
    labels: str  # fine or coarse
    classes: int  # the number of classes, from the first on


class FrozenFeatures:
    """Features of every encoder, and labels. Raises UserError if an encoder gives all images the same features."""

    def __init__(self, first_classes: int | None = None) -> None:
        tensors, metadata = open_tensors(FEATURES)
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
                    f"{FEATURES}: features of {encoder} are the same for all training images; check that they differ"
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


def tasks_of(fine_names: list[str], coarse_names: list[str], first_classes: int | None) -> dict[str, Task]:
    """The tasks by name; no task `first` if that is all classes, and no `superclasses` if there are none."""
    tasks = {"first": Task("fine", first_classes)} if first_classes and first_classes < len(fine_names) else {}
    tasks["all"] = Task("fine", len(fine_names))
    return tasks if coarse_names == fine_names else tasks | {"superclasses": Task("coarse", len(coarse_names))}


Jobs = Mapping[Any, Callable[[], tuple[Any, str]]]  # by key: fits and scores a probe; gives a result and a line


def evaluate(
    name: str,
    features: FrozenFeatures,
    tasks: Sequence[str],
    make: Callable[[Curve | None], Any],
    threads: int,
    scores_train: bool = True,
) -> Results:
    """Fits and scores the probe `name` for every task and encoder, and writes its tables and metrics.

    tasks: those that the data do not have are skipped; if all are skipped, the task is `all`. make: returns a new
    probe. scores_train: whether to score the training images, too (not for nearest neighbours, where each is its own).
    """

    def run(classes: str, encoder: str) -> tuple[Result, str]:
        train, test = features.splits(classes, encoder)
        watched = encoder in features.before_and_after and classes != "superclasses"
        curve = Curve(train, test) if watched else None
        probe = make(curve).fit(train.x, train.y)
        z = class_scores(probe, test.x)
        correct = rank_of_truth(z, test.y) <= 1
        unseen = features.unseen(classes)
        on_test = score_row("test", z, test.y, train.y) | {
            "images_new": int(unseen.sum()),
            "accuracy_new": float(correct[unseen].mean()) if unseen.any() else np.nan,
        }
        of_train = [score_row("train", class_scores(probe, train.x), train.y, train.y)] if scores_train else []
        result = Result(probe, [*of_train, on_test], curve.rows if curve else [], correct, test.y)
        return result, f"{name}, {classes}, {encoder}: test accuracy {correct.mean():.1%}"

    keys = product([each for each in tasks if each in features.tasks] or ["all"], features.encoders)
    results = run_concurrently(name, {key: partial(run, *key) for key in keys}, features, threads)
    write_results(name, results)
    return results


def run_concurrently(name: str, jobs: Jobs, features: FrozenFeatures, threads: int) -> dict[Any, Any]:
    """The results by key, in the order of the jobs."""
    # One thread per matrix product, and several probes side by side: faster, and the results do not depend on
    # the number of probes.
    torch.set_num_threads(1)
    threadpool_limits(1)
    found = {}
    largest, _ = features.splits("all", "simclr")
    pool, progress = ThreadPoolExecutor(concurrent_jobs(largest, threads)), progress_bar(name, len(jobs), "probes")
    with pool, progress:
        # After an error or Ctrl-C, `map` cancels the jobs that have not started.
        for key, (result, line) in zip(jobs, pool.map(lambda run: run(), jobs.values()), strict=True):
            found[key] = result
            progress.write(line)
            progress.update()
    return found


def concurrent_jobs(largest: Split, threads: int) -> int:
    """The number of probes that fit into the free memory, at most one per thread."""
    images, features = largest.x.shape
    # Scaled features and those of a fold, in float32; class scores in float32 and, for curves, in float64.
    needed = images * (4 * 3 * features + 32 * largest.classes)
    return max(1, min(threads, free_memory() // needed))
