"""Mean and deviation over seeds."""

import io
import subprocess
import sys

import pandas as pd
import pytest

from benchmarks.seeds import over_seeds
from tests.repository import ROOT, Repository

SHOWN = pd.read_csv(
    io.StringIO("""rev,State,first.simclr,seed,lr,mirror
workspace,,0.5,7,0.1,
main,,0.5,0,0.1,
a,,0.7,1,0.1,
b,Success,0.9,0,0.2,
c,,0.5,0,0.1,
d,Failed,,2,0.1,
e,Queued,,3,0.1,
f,Running,0.5,4,0.1,
""")
)
PARAMS = ["seed", "lr", "mirror"]


def test_runs_that_differ_in_the_seed_alone_share_a_row_and_copies_count_once() -> None:
    assert over_seeds(SHOWN, PARAMS, ["first.simclr"]).to_dict("records") == [
        {"lr": 0.1, "seeds": 2, "first.simclr": "0.6 ± 0.14"},  # half the difference of 0.2, times the root of 2
        {"lr": 0.2, "seeds": 1, "first.simclr": "0.9"},
    ]


@pytest.mark.parametrize("name", ["first.simclr2", "lr"])
def test_what_is_no_metric_is_refused(name: str) -> None:
    with pytest.raises(SystemExit, match=f"^{name}: is no metric"):
        over_seeds(SHOWN, PARAMS, [name])


@pytest.mark.parametrize(("arguments", "given", "expected"), [([], "", "usage: "), (["first"], "", "no table on")])
def test_a_wrong_call_ends_in_one_line(arguments: list[str], given: str, expected: str) -> None:
    command = [sys.executable, "-m", "benchmarks.seeds", *arguments]
    done = subprocess.run(command, cwd=ROOT, input=given, capture_output=True, text=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert done.stderr.startswith(expected)


def test_what_dvc_shows_is_understood(finished: Repository) -> None:
    lines = finished.run("dvc exp show --csv | python -m benchmarks.seeds first.simclr first.gain").splitlines()
    assert lines[-1].split()[-2:] == ["1", "0"]  # a run alone has no deviation
