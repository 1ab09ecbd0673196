"""Mean and standard deviation of metrics over seeds, which DVC does not give.

    dvc exp show --csv | python -m benchmarks.seeds first.simclr first.gain

Prints a row for all runs, of commits and of experiments, whose parameters differ in the seed alone.
"""

import sys

import pandas as pd

from stages.files.params import load_params

USAGE = "usage: dvc exp show --csv | python -m benchmarks.seeds METRIC [METRIC ...]"


def main() -> None:
    metrics = sys.argv[1:]
    if not metrics or sys.stdin.isatty():
        sys.exit(USAGE)
    params = pd.json_normalize(load_params().model_dump()).columns.tolist()
    try:
        shown = pd.read_csv(sys.stdin)
    except ValueError as error:
        sys.exit(f"no table on the standard input ({error}); {USAGE}")
    print(over_seeds(shown, params, metrics).to_string(index=False))


def over_seeds(shown: pd.DataFrame, params: list[str], metrics: list[str]) -> pd.DataFrame:
    """A row per setting of the parameters but for the seed, with those that differ between rows.

    shown: a row per run, as `dvc exp show --csv` has them. A run that is there twice (in a commit and as an experiment)
    counts once; what has not succeeded, or lies uncommitted in the workspace, does not count. Exits where a metric is
    none.
    """
    unknown = [name for name in metrics if name not in shown or name in params]
    if unknown:
        sys.exit(f"{unknown[0]}: is no metric; `dvc metrics show` has their names")
    succeeded = shown["State"].isna() | (shown["State"] == "Success") if "State" in shown else True
    runs = shown[(shown["rev"] != "workspace") & succeeded].drop_duplicates(params)
    runs = runs[runs[metrics].notna().all(axis=1)]
    setting = [name for name in params if name != "seed"]
    differing = [name for name in setting if runs[name].nunique(dropna=False) > 1]
    rows = []
    for _, group in runs.groupby(setting, sort=False, dropna=False):
        values = group[metrics].astype(float)
        mean, deviation = values.mean(), values.std()
        cells = {name: f"{mean[name]:.4g}" for name in metrics}
        if len(group) > 1:
            cells = {name: f"{cell} ± {deviation[name]:.2g}" for name, cell in cells.items()}
        rows.append({**group[differing].iloc[0], "seeds": len(group), **cells})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
