"""`dvc exp run`, the queue and the diffs."""

import re
import signal
import time
from pathlib import Path

import pytest
import vl_convert
from ruamel.yaml import YAML

from stages.__main__ import RESTORE_COMMAND
from tests.repository import RESULTS, ROOT, Repository


def test_a_queued_experiment_does_not_change_the_workspace_and_can_be_compared_undone_and_committed(
    repository: Repository, tmp_path: Path
) -> None:
    before = repository.bytes("metrics", "plots", "models")
    repository.run("dvc exp run --queue --name one -S neighbours=1")
    repository.run("dvc queue start")
    deadline = time.monotonic() + 240
    while "/one\n" not in repository.run("git for-each-ref refs/exps") and time.monotonic() < deadline:
        time.sleep(0.5)
    assert repository.stages_run("dvc queue logs one") == ["check", "fit-neighbours", "report"]
    assert repository.bytes("metrics", "plots", "models") == before
    assert repository.run("git status --porcelain") == ""
    every_table_is_drawn_once(repository, "one")
    repository.run("dvc exp apply one")
    assert repository.json("dvc params diff --json")["params.yaml"] == {
        "neighbours": {"old": 20, "new": 1, "diff": -19}
    }
    assert set(repository.json("dvc metrics diff --json")) == {"metrics/neighbours.json"}
    assert f"\n{RESTORE_COMMAND} " in (ROOT / "README.md").read_text()
    output = repository.run(RESTORE_COMMAND)
    assert "Stage 'fit-neighbours' is cached - skipping run" in output
    assert "Running stage" not in output
    assert repository.run("git status --porcelain") == ""
    assert repository.bytes("metrics", "plots", "models") == before

    repository.run("dvc exp apply one")
    repository.commit("one neighbour")
    [show] = re.findall("^dvc exp show .*", (ROOT / "README.md").read_text(), re.M)
    shown = repository.run(f"COLUMNS=110 {show} --no-pager")
    assert {"seed", "lr", "temperature", "linear.first", "logreg.first", "logreg.all"} <= set(shown.split())
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown  # which marks what did not fit
    repository.run(f"git clone -q . {tmp_path}/fresh")
    fresh = Repository(tmp_path / "fresh")
    assert fresh.stages_run("dvc repro --dry --allow-missing") == []
    assert set(fresh.json("dvc metrics diff --json HEAD~1")) == {"metrics/neighbours.json"}


def every_table_is_drawn_once(repository: Repository, revision: str) -> None:
    """By `dvc plots diff` with HEAD, with Vega but without the internet."""
    plots = repository.json(f"dvc plots diff HEAD {revision} --json")["data"]
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"].values()
    tables = [path for stage in stages for out in stage.get("plots", []) for path in out if path.endswith(".csv")]
    assert [path for path in plots for _ in plots[path] if path.endswith(".csv")] == tables
    for path in tables:
        assert plots[path][0]["revisions"] == ["HEAD", revision]
        picture = vl_convert.vegalite_to_svg(plots[path][0]["content"])
        assert re.search('aria-roledescription="(point|line mark)"', picture)


@pytest.mark.parametrize(
    "how",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_experiment_has_its_table_so_far_and_can_be_undone(
    repository: Repository, how: signal.Signals
) -> None:
    before = repository.bytes(*RESULTS)
    metrics = repository.path / "metrics/pretrain.json"  # written after the table

    def one_epoch_is_over() -> bool:
        written = metrics.exists() and metrics.read_bytes() != before["metrics/pretrain.json"]
        return written and bool(repository.checkpoints())

    # If only DVC is killed, the training must end, too.
    repository.kill("dvc exp run -S epochs=50", when=one_epoch_is_over, how=how, alone=how == signal.SIGKILL)
    assert repository.checkpoints()
    assert "epochs: 50" in (repository.path / "params.yaml").read_text()
    assert "models/simclr.safetensors" not in repository.bytes(*RESULTS)
    last = repository.json("dvc metrics show --json")[""]["data"]["metrics/pretrain.json"]["data"]["heldout_loss"]
    rows = (repository.path / "plots/data/pretrain.csv").read_text().splitlines()
    assert f",{last:.6g}," in rows[-1] + rows[-3]  # the epoch before, if it was stopped between the two files
    assert "index.html" in repository.run("dvc plots show")
    (repository.path / "plots/data/.pretrain.csv.tmp").touch()  # as after a kill during the write of this table
    assert repository.stages_run(RESTORE_COMMAND) == []
    (repository.path / "plots/data/.pretrain.csv.tmp").unlink()
    assert repository.bytes(*RESULTS) == before
    assert repository.run("git status --porcelain") == ""
