"""`dvc exp run`, the queue and the diffs."""

import re
import signal
import time
from pathlib import Path

import pytest
import vl_convert
from ruamel.yaml import YAML

from stages.__main__ import RESTORE_COMMAND
from tests.repository import CHROMIUM, RESULTS, ROOT, Repository, browse


def test_queued_experiments_do_not_change_the_workspace_and_can_be_compared_applied_and_undone(
    repository: Repository, tmp_path: Path
) -> None:
    before = repository.bytes("metrics", "plots", "models")
    repository.run("dvc exp run --queue -S 'neighbours=1,2'")
    repository.run("dvc queue start")
    for _ in range(60):
        status = repository.run("dvc queue status")
        if status.count("Success") == 2 or "Failed" in status:
            break
        time.sleep(4)  # `dvc queue status` itself takes seconds
    assert status.count("Success") == 2, status
    assert repository.bytes("metrics", "plots", "models") == before
    assert repository.run("git status --porcelain") == ""
    names = {}
    for name in repository.run("dvc exp list --name-only").split():
        if changed := repository.json(f"dvc params diff --json HEAD {name}")["params.yaml"].get("neighbours"):
            names[changed["new"]] = name
    log = repository.run(f"dvc queue logs {names[1]}")
    assert "Stage 'pretrain' didn't change, skipping" in log
    assert "Running stage 'fit-neighbours'" in log
    if CHROMIUM is not None:
        every_plot_is_drawn_once(repository, names[2], tmp_path)
    repository.run(f"dvc exp apply {names[1]}")
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


def every_plot_is_drawn_once(repository: Repository, revision: str, folder: Path) -> None:
    """Compares the revision with HEAD, without the internet."""
    vega = vl_convert.javascript_bundle(vl_version="5.20")  # DVC's default page loads it from the internet
    (folder / "page.html").write_text(f"<!doctype html>{{refresh_tag}}<script>{vega}</script>{{plot_divs}}")
    repository.run(f"dvc plots diff HEAD {revision} --html-template {folder}/page.html --out {folder}/plots")
    page = folder / "plots/index.html"
    dom, requested, errors = browse(page, folder)
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"].values()
    tables = [path for stage in stages for out in stage.get("plots", []) for path in out if path.endswith(".csv")]
    assert page.read_text().count("vegaEmbed('#") == len(tables)
    assert dom.count('class="marks"') == len(tables)
    assert (requested, errors) == ([], [])
    assert f'"rev": "{revision}"' in page.read_text()


def test_a_probe_parameter_reruns_only_the_probes_and_a_fresh_clone_can_compare_the_commits(
    repository: Repository, tmp_path: Path
) -> None:
    assert repository.stages_run("dvc exp run -S linear.lr=0.1") == ["check", "fit-linear", "report"]
    [show] = re.findall("^dvc exp show .*", (ROOT / "README.md").read_text(), re.M)
    shown = repository.run(f"COLUMNS=110 {show} --no-pager")
    assert {"seed", "lr", "epochs", "linear.first", "logreg.first", "logreg.all"} <= set(shown.split())
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown  # which marks what did not fit
    repository.commit("another rate")
    repository.run(f"git clone -q . {tmp_path}/fresh")
    fresh = Repository(tmp_path / "fresh")
    assert fresh.stages_run("dvc repro --dry --allow-missing") == []
    assert set(fresh.json("dvc metrics diff --json HEAD~1")) == {"metrics/linear.json"}


@pytest.mark.parametrize(
    "how",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_the_restore_command_in_messages_works_however_an_experiment_was_stopped(
    repository: Repository, how: signal.Signals
) -> None:
    before = repository.bytes(*RESULTS)
    repository.kill("dvc exp run -S epochs=50", when=lambda: bool(repository.checkpoints()), how=how)
    assert "epochs: 50" in (repository.path / "params.yaml").read_text()
    assert "models/simclr.safetensors" not in repository.bytes(*RESULTS)
    (repository.path / "plots/data/.pretrain.csv.tmp").touch()  # as after a kill during the write of this table
    assert repository.stages_run(RESTORE_COMMAND) == []
    (repository.path / "plots/data/.pretrain.csv.tmp").unlink()
    assert repository.bytes(*RESULTS) == before
    assert repository.is_clean()
