"""Mean and deviation over seeds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stages.spread import flat, runs, table

ROOT = Path(__file__).parent.parent


def revision(seed: int, lr: float, accuracy: float, rev: str = "x", error: dict | None = None) -> dict:
    return {
        "rev": rev,
        "error": error,
        "data": {
            "params": {"params.yaml": {"data": {"seed": seed, "lr": lr, "logreg": {"draws": 5}}}},
            "metrics": {"metrics/logreg.json": {"data": {"first": {"simclr": accuracy}}}},
        },
        "experiments": None,
    }


def experiment(*revisions: dict, state: str | None = None) -> dict:
    return {"revs": list(revisions), "executor": {"state": state} if state else None, "name": "some-name"}


SHOWN = [
    revision(7, 0.1, 0.5, rev="workspace"),  # edited, and not run
    revision(0, 0.1, 0.5)
    | {
        "experiments": [
            experiment(revision(1, 0.1, 0.7)),
            experiment(revision(0, 0.2, 0.9), state="success"),
            experiment(revision(0, 0.1, 0.5)),
            experiment(revision(2, 0.1, 0.5), state="failed"),
            experiment(revision(3, 0.1, 0.5), state="queued"),
            experiment(revision(4, 0.1, 0.5, error={"msg": "broken"})),
        ]
    },
]
METRIC = "metrics/logreg.json:first.simclr"


def test_runs_that_differ_in_the_seed_alone_share_a_row_and_copies_count_once() -> None:
    assert table(list(runs(SHOWN)), [METRIC]) == [
        "| lr | seeds | first.simclr |",
        "| --- | --- | --- |",
        "| 0.1 | 2 | 0.6 ± 0.14 |",  # half the difference of 0.2, times the root of 2
        "| 0.2 | 1 | 0.9 |",
    ]


def test_nested_names_have_dots() -> None:
    assert flat({"a": {"b": {"c": 1}}, "d": [2]}) == {"a.b.c": 1, "d": [2]}


def test_a_metric_that_no_run_has_is_refused_with_those_there_are() -> None:
    with pytest.raises(SystemExit, match=r"^metrics/x\.json:y: is a metric of no run; there are metrics/logreg"):
        table(list(runs(SHOWN)), ["metrics/x.json:y"])


@pytest.mark.parametrize(
    ("arguments", "given", "expected"),
    [([], "[]", "usage: "), (["first"], "[]", "usage: "), ([METRIC], "no", "no JSON on the standard input")],
)
def test_a_wrong_call_ends_in_one_line(arguments: list[str], given: str, expected: str) -> None:
    command = [sys.executable, "-m", "stages.spread", *arguments]
    done = subprocess.run(command, cwd=ROOT, input=given, capture_output=True, text=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert done.stderr.startswith(expected)


def test_the_command_prints_the_table() -> None:
    command = [sys.executable, "-m", "stages.spread", METRIC]
    done = subprocess.run(command, cwd=ROOT, input=json.dumps(SHOWN), capture_output=True, text=True, check=True)
    assert "| 0.1 | 2 | 0.6 ± 0.14 |" in done.stdout
