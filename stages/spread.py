"""No stage, but a command: mean and standard deviation of metrics over seeds, which DVC does not give.

    dvc exp show --json | python -m stages.spread metrics/logreg.json:first.simclr.test_accuracy

Reads the experiments of `dvc exp show` and prints a row for all those whose parameters differ in the seed alone.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from statistics import fmean, stdev
from typing import Any

USAGE = "usage: dvc exp show --json | python -m stages.spread FILE:METRIC [FILE:METRIC ...]"


def main() -> None:
    metrics = sys.argv[1:]
    if not metrics or sys.stdin.isatty() or any(":" not in metric for metric in metrics):
        sys.exit(USAGE)
    try:
        shown = json.load(sys.stdin)
    except ValueError as error:
        sys.exit(f"no JSON on the standard input ({error}); {USAGE}")
    print("\n".join(table(list(runs(shown)), metrics)))


def runs(shown: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, float]]]:
    """Parameters and metrics of every finished run, by dotted names: of commits and of experiments."""
    for baseline in shown:
        # What has not succeeded shows the metrics of its commit, the workspace parameters that may not have run yet.
        succeeded = [
            revision
            for each in baseline["experiments"] or []
            if (each["executor"] or {}).get("state", "success") == "success"
            for revision in each["revs"]
        ]
        for revision in [baseline, *succeeded]:
            data = revision["data"]
            if revision["rev"] == "workspace" or revision["error"] or not data["metrics"]:
                continue
            params = flat(data["params"]["params.yaml"]["data"])
            values: dict[str, float] = {}
            for file, content in data["metrics"].items():
                values |= {f"{file}:{name}": value for name, value in flat(content.get("data") or {}).items()}
            yield params, values


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    result: dict[str, Any] = {}
    for name, value in nested.items():
        result |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return result


def table(runs: list[tuple[dict[str, Any], dict[str, float]]], metrics: list[str]) -> list[str]:
    """Markdown: a row per setting of the parameters but for the seed, with those that differ between rows.

    A run that is there twice (in a commit and as an experiment) counts once. Exits if a metric is in no run.
    """
    for metric in metrics:
        if not any(metric in values for _, values in runs):
            known = sorted({name for _, values in runs for name in values})
            sys.exit(f"{metric}: is a metric of no run; there are {', '.join(known) or 'none'}")
    groups: dict[str, dict[int, dict[str, float]]] = defaultdict(dict)
    for params, values in runs:
        setting = json.dumps({name: value for name, value in params.items() if name != "seed"}, sort_keys=True)
        groups[setting].setdefault(params["seed"], values)  # the newest comes first
    settings = [json.loads(setting) for setting in groups]
    names = sorted({name for setting in settings for name in setting})
    differing = [name for name in names if len({json.dumps(setting.get(name)) for setting in settings}) > 1]
    rows = [[*differing, "seeds", *(metric.split(":", 1)[1] for metric in metrics)]]
    for setting, seeds in zip(settings, groups.values(), strict=True):
        cells = [summary([values[metric] for values in seeds.values() if metric in values]) for metric in metrics]
        rows.append([*(str(setting.get(name, "-")) for name in differing), str(len(seeds)), *cells])
    rows.insert(1, ["---"] * len(rows[0]))
    return [f"| {' | '.join(row)} |" for row in rows]


def summary(values: list[float]) -> str:
    if not values:
        return "-"
    return f"{fmean(values):.4g}" if len(values) == 1 else f"{fmean(values):.4g} ± {stdev(values):.2g}"


if __name__ == "__main__":
    main()
