"""The state that a stopped training run goes on from."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from stages.resume import State, kept_state

ROWS = [{"epoch": 1.0, "loss": 1 / 3}, {"epoch": 2.0, "loss": 1e-300}]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)


def model(seed: int) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(3, 2)


def interrupted_run(decides: dict[str, str]) -> Path:
    """A run that is stopped after two epochs; where its state is."""
    with pytest.raises(ZeroDivisionError), kept_state(decides) as kept:
        kept.save(ROWS, model=model(1))
        raise ZeroDivisionError
    return kept.path


def test_a_stopped_run_finds_its_rows_and_its_weights_again_bit_for_bit() -> None:
    interrupted_run({"lr": "1"})
    other = model(2)
    with kept_state({"lr": "1"}) as kept:
        assert kept.restore(model=other) == ROWS
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), model(1).parameters(), strict=True))


def test_another_experiment_does_not_find_it() -> None:
    interrupted_run({"lr": "1"})
    with kept_state({"lr": "2"}) as kept:
        assert kept.restore(model=model(2)) == []


def test_success_deletes_it() -> None:
    path = interrupted_run({})
    with kept_state({}):
        assert path.exists()
    assert list(path.parent.iterdir()) == []


def test_success_is_one_even_if_somebody_cleared_the_states_meanwhile() -> None:
    with kept_state({}) as kept:
        shutil.rmtree(kept.path.parent)
        kept.save(ROWS, model=model(1))
    assert list(kept.path.parent.iterdir()) == []


def test_it_lies_in_the_users_repository_even_if_dvc_runs_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "repository"))
    assert interrupted_run({}).parent == tmp_path / "repository/.dvc/tmp/resume"


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied"])
def test_a_damaged_state_is_reported_and_ignored(damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = interrupted_run({})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"cut": content[:-10], "flipped": content, "emptied": b""}[damage])
    other = model(2)
    with kept_state({}) as kept:
        assert kept.restore(model=other) == []
    assert "is damaged and ignored" in capsys.readouterr().err
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), model(2).parameters(), strict=True))


def test_the_same_run_twice_at_once_is_refused_in_one_line() -> None:
    with kept_state({}), pytest.raises(SystemExit, match="the same training is running"), kept_state({}):
        pass


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_one_line_that_says_what_is_kept(sent: signal.Signals, tmp_path: Path) -> None:
    script = (
        "import time, torch; from stages.resume import kept_state\n"
        "with kept_state({}) as kept:\n"
        "    kept.save([{}, {}], model=torch.nn.Linear(1, 1)); print(flush=True); time.sleep(60)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-c", script]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    process.stdout.readline()
    process.send_signal(sent)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert said.startswith("stopped; the state after epoch 2 is kept in .dvc/tmp/resume/")
    assert len(said.splitlines()) == 1
    assert State(next((tmp_path / ".dvc/tmp/resume").glob("*.state"))).restore(model=nn.Linear(1, 1)) == [{}, {}]


def test_a_stop_before_the_first_epoch_is_over_says_that_nothing_is_kept() -> None:
    with pytest.raises(SystemExit, match="nothing is kept"), kept_state({}):
        signal.raise_signal(signal.SIGTERM)


def test_a_stop_before_a_kept_state_is_read_says_where_it_is() -> None:
    path = interrupted_run({})
    with pytest.raises(SystemExit, match=f"the state after an earlier stop is kept in {path}"), kept_state({}):
        signal.raise_signal(signal.SIGTERM)
