"""The time of `fit-logreg`, and how far its fits are from the optimum: `python -m benchmarks.logreg` after `dvc repro`.

The stage runs again on data/features.safetensors. Then the fits of all classes are repeated in float64 until no
component of the gradient of the mean loss exceeds 1e-8. Last, C is chosen for the first classes with scikit-learn's own
search, too. On the photographs this takes half an hour on 2 cores.
"""

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegressionCV
from threadpoolctl import threadpool_limits

from benchmarks import memory
from stages import fit_logreg
from stages.probes import logreg
from stages.probes.logreg import LogisticProbe, Scaling, tolerance, validation_folds, validation_losses
from stages.probing.evaluation import FrozenFeatures
from stages.probing.probe import Split, class_scores
from stages.probing.scores import scores
from stages.probing.tables import TABLES
from stages.runtime.params import read_params, validated

GRADIENT = 1e-8
MAX_ITER = 1000


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        memory.set_up(Path(name), {})
        (Path(name) / "data").symlink_to(memory.ROOT / "data")
        os.chdir(name)
        params = validated(fit_logreg.Params, read_params())
        features = FrozenFeatures(params.first_classes)
        start = time.perf_counter()
        seconds = seconds_by_fit(params)
        elapsed = time.perf_counter() - start
        choice = pd.read_csv(TABLES / "logreg/choice_of_C.csv").query("classes == 'all'")
        test = pd.read_csv(TABLES / "logreg/scores.csv").query("classes == 'all' and split == 'test'")

    def optimum(encoder: str) -> tuple[dict[float, float], dict[str, float]]:
        chosen = float(choice[(choice.encoder == encoder) & (choice.chosen == 1)].C.iloc[0])
        return optimal_fits(*features.splits("all", encoder), chosen, params)

    with mock.patch.object(logreg, "tolerance", lambda _: GRADIENT), ThreadPoolExecutor(params.threads) as pool:
        optima = dict(zip(features.encoders, pool.map(optimum, features.encoders), strict=True))

    print(f"\n{elapsed:.0f} s; seconds of one thread, {params.threads} of which ran:\n")
    print_table(seconds[features.encoders], 0)
    print("\nValidation losses:\n")
    losses = choice.pivot_table(index="C", columns="encoder", values="loss")
    of_optima = {encoder: pd.Series(by_C) for encoder, (by_C, _) in optima.items()}
    pairs = {(e, what): table[e] for e in features.encoders for what, table in (("", losses), ("optimum", of_optima))}
    print_table(pd.DataFrame(pairs), 4)
    print("\nTest images:\n")
    optimal = pd.DataFrame({encoder: scored for encoder, (_, scored) in optima.items()}).T.add_suffix(", optimum")
    columns = [f"{score}{of}" for score in ("loss", "accuracy") for of in ("", ", optimum")]
    print_table(test.set_index("encoder").join(optimal)[columns], 4)
    print("\nSeconds to choose C for the first classes, with one thread:\n")
    trains = {encoder: features.splits(next(iter(features.tasks)), encoder)[0] for encoder in features.encoders}
    search = {encoder: seconds_of_choice(train, params) for encoder, train in trains.items()}
    print_table(pd.DataFrame(search, index=["LogisticRegressionCV", "ours"]).T, 1)


def seconds_by_fit(params: fit_logreg.Params) -> pd.DataFrame:
    """Runs the stage. Processor seconds of its fits: a row per task, a column per encoder. Each fit has one thread."""
    rows: list[tuple[str, str, float]] = []
    submit = ThreadPoolExecutor.submit

    def timed_submit(pool: ThreadPoolExecutor, run: Callable[..., Any], *args: Any) -> Future[Any]:
        def timed() -> Any:
            start = time.thread_time()
            result, line = run(*args)
            *task, encoder = line.partition(":")[0].split(", ")
            rows.append((task[-1] if task[0] == "logreg" else "few labels", encoder, time.thread_time() - start))
            return result, line

        return submit(pool, timed)

    with mock.patch.object(ThreadPoolExecutor, "submit", timed_submit):
        fit_logreg.main(params)
    table = pd.DataFrame(rows, columns=["task", "encoder", "seconds"])
    return table.pivot_table(index="task", columns="encoder", values="seconds", aggfunc="sum")


def optimal_fits(
    train: Split, test: Split, C: float, params: fit_logreg.Params
) -> tuple[dict[float, float], dict[str, float]]:
    """Validation losses by C, and the test scores of the final fit with the given C."""
    train, test = (Split(split.x.astype(np.float64), split.y) for split in (train, test))
    chosen_on = train.at_most(params.logreg.choice_images, params.seed)
    losses, converged = validation_losses(chosen_on, params.logreg.C, MAX_ITER, params.seed)
    probe = LogisticProbe(C, MAX_ITER).fit(train.x, train.y)
    assert converged and probe.converged
    return losses, scores(class_scores(probe, test.x), test.y)


def seconds_of_choice(train: Split, params: fit_logreg.Params) -> tuple[float, float]:
    """Seconds to choose C with scikit-learn's search and with ours, to the same losses within 0.001."""
    C = sorted(params.logreg.C)
    search = LogisticRegressionCV(
        Cs=C,
        l1_ratios=(0,),
        cv=validation_folds(train.y, params.seed),
        scoring="neg_log_loss",
        tol=tolerance(max(C)),  # what the largest C needs; there is one bound for all
        max_iter=10_000,
        refit=False,
        use_legacy_attributes=False,
    )
    with threadpool_limits(1):
        start = time.perf_counter()
        search.fit(Scaling(train.x)(train.x).astype(np.float64), train.y)
        between = time.perf_counter()
        losses, _ = validation_losses(train, C, params.logreg.max_iter, params.seed)
        end = time.perf_counter()
    np.testing.assert_allclose(list(losses.values()), -search.scores_.mean(0).ravel(), rtol=0, atol=1e-3)
    return between - start, end - between


def print_table(table: pd.DataFrame, digits: int) -> None:
    names = [", ".join(filter(None, name)) if isinstance(name, tuple) else name for name in table.columns]
    print(f"| | {' | '.join(names)} |\n|---|{'---:|' * len(names)}")
    for name, *values in table.itertuples():
        print(f"| {name} | {' | '.join(f'{value:.{digits}f}' for value in values)} |")


if __name__ == "__main__":
    main()
