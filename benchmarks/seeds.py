"""Mean and standard deviation of all metrics over seeds, which DVC does not compute.

    dvc exp show --csv | python -m benchmarks.seeds

Prints a CSV table with a row per metric for all runs (commits and experiments) whose parameters differ only in the
seed. The seed changes all draws: the sample, the initial weights, the order, the views, the probes' folds.
"""

import json
import sys
from pathlib import Path

import pandas as pd

from stages.check import Params
from stages.runtime.params import read_params, validated

USAGE = "usage: dvc exp show --csv | python -m benchmarks.seeds"


def main() -> None:
    if sys.argv[1:] or sys.stdin.isatty():
        sys.exit(USAGE)
    files = [json.loads(path.read_text()) for path in sorted(Path("metrics").glob("*.json"))]
    metrics = [name for file in files for name in pd.json_normalize(file).columns]
    params = pd.json_normalize(validated(Params, read_params()).model_dump()).columns.tolist()
    try:
        shown = pd.read_csv(sys.stdin)
    except ValueError as error:
        sys.exit(f"no table on the standard input ({error}); {USAGE}")
    print(over_seeds(shown, params, metrics).to_csv(index=False, float_format="%.6g", lineterminator="\n"), end="")


def over_seeds(shown: pd.DataFrame, params: list[str], metrics: list[str]) -> pd.DataFrame:
    """A row per metric and setting of the parameters without the seed; it has the parameters that differ between rows.

    shown: the output of `dvc exp show --csv`, a row per run. A run that is listed twice (as a commit and as an
    experiment) counts once. Failed runs and the uncommitted workspace do not count, and neither do runs whose probes
    have the metrics of an earlier row: for a run of some stages only, DVC shows the metrics of the commit before it.
    Exits if a metric is missing.
    """
    unknown = [name for name in metrics if name not in shown]
    if unknown:
        sys.exit(f"{unknown[0]}: is not in the table on the standard input; {USAGE}")
    succeeded = shown["State"].isna() | (shown["State"] == "Success") if "State" in shown else True
    runs = shown[(shown["rev"] != "workspace") & succeeded].drop_duplicates(params)
    runs = runs[runs[metrics].notna().any(axis=1)]
    repeated = runs.duplicated([name for name in metrics if "." in name])
    if repeated.any():
        print(f"left out, with the metrics of an earlier row: {', '.join(runs.rev[repeated])}", file=sys.stderr)
    runs = runs[~repeated]
    if runs.empty:
        sys.exit(f"no run in the table on the standard input has succeeded; {USAGE}")
    setting = [name for name in params if name != "seed"]
    differing = [name for name in setting if runs[name].nunique(dropna=False) > 1]
    tables = []
    for _, group in runs.groupby(setting, sort=False, dropna=False):
        values = group[metrics].dropna(axis=1, how="all").astype(float)  # a folder may have no superclasses
        found = values.agg(["mean", "std", "min", "max"]).T.rename_axis("metric").reset_index()
        tables.append(found.assign(seeds=len(group), **group[differing].iloc[0]))
    columns = [*differing, "metric", "seeds", "mean", "std", "min", "max"]
    return pd.concat(tables, ignore_index=True)[columns]


if __name__ == "__main__":
    main()
