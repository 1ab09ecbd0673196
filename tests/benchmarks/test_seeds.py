"""Mean and standard deviation over seeds."""

import io
import json
from unittest.mock import ANY

import numpy as np
import pandas as pd
import pytest

from benchmarks.seeds import over_seeds
from tests.repository import Repository

SHOWN = pd.read_csv(
    io.StringIO("""rev,State,logreg.first,seed,lr,mirror
workspace,,0.5,7,0.1,
main,,0.5,0,0.1,
a,,0.7,1,0.1,
b,Success,0.9,0,0.2,
c,,0.5,0,0.1,
d,Failed,,2,0.1,
e,Queued,,3,0.1,
f,Running,0.5,4,0.1,
g,,0.7,5,0.1,
""")
)
PARAMS = ["seed", "lr", "mirror"]


def test_runs_that_differ_only_in_the_seed_form_one_row_and_duplicates_count_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, second = over_seeds(SHOWN, PARAMS, ["logreg.first"]).to_dict("records")
    deviation = pytest.approx(0.2 / 2 * 2**0.5)  # of two values: half the difference times sqrt(2)
    assert first == {
        "lr": 0.1, "metric": "logreg.first", "seeds": 2, "mean": pytest.approx(0.6), "std": deviation, "min": 0.5,
        "max": 0.7,
    }  # fmt: skip
    assert (second["lr"], second["seeds"], second["mean"]) == (0.2, 1, 0.9)
    assert np.isnan(second["std"])
    assert capsys.readouterr().err == "left out, with the metrics of an earlier row: g\n"


def test_a_table_without_the_metrics_gives_an_error() -> None:
    with pytest.raises(SystemExit, match=r"^first\.gain: is not in the table"):
        over_seeds(SHOWN, PARAMS, ["first.gain"])


def test_the_output_of_dvc_exp_show_is_understood(finished: Repository) -> None:
    printed = io.StringIO(finished.run("dvc exp show --csv | python -m benchmarks.seeds"))
    table = pd.read_csv(printed).set_index("metric")
    assert table.loc["logreg.first"].to_dict() == {"seeds": 1, "mean": 1, "std": ANY, "min": 1, "max": 1}
    files = [
        json.loads((finished.path / f"metrics/{name}.json").read_text())
        for name in ("pretrain", "logreg", "linear", "neighbours")
    ]
    assert set(table.index) == {name for file in files for name in pd.json_normalize(file).columns}
