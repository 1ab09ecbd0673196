"""The checkpoint from which a stopped training run resumes."""

import errno
import fcntl
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from stages.runtime.errors import UserError
from stages.simclr import checkpoint as checkpoint_module
from stages.simclr.checkpoint import Checkpoint, resumable

HISTORY = [{"epoch": 1, "train": {"loss": 1 / 3}}, {"epoch": 2, "train": {"loss": 1e-300}}]


@pytest.fixture(autouse=True)
def ignored_signals(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In an empty folder, with signals ignored as in a background job of a shell."""
    monkeypatch.delenv("DVC_ROOT", raising=False)
    before = {sent: signal.signal(sent, signal.SIG_IGN) for sent in (signal.SIGINT, signal.SIGTERM)}
    yield
    for sent, handler in before.items():
        signal.signal(sent, handler)


def model(seed: int) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(3, 2)


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def interrupted_run(run: dict[str, str]) -> Path:
    """Stops a run after two epochs; returns the path of its checkpoint."""
    trained = model(1)
    with pytest.raises(ZeroDivisionError), resumable(run) as checkpoint:
        checkpoint.save(HISTORY, model=trained)
        trained.weight.data.zero_()  # changes after `save` must not change the checkpoint
        raise ZeroDivisionError
    return checkpoint.path


def test_a_stopped_run_restores_its_history_and_its_exact_weights_and_another_run_does_not() -> None:
    interrupted_run({"lr": "1"})
    other = model(2)
    with resumable({"lr": "2"}) as checkpoint:
        assert checkpoint.restore(model=other) == []
    with resumable({"lr": "1"}) as checkpoint:
        assert checkpoint.restore(model=other) == HISTORY
        assert checkpoint.epochs == 2
    assert same_weights(other, model(1))


def test_training_does_not_wait_for_a_slow_disk_and_skips_checkpoints_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk_is_free = threading.Event()

    def slow_write(path: Path, content: bytes) -> None:
        disk_is_free.wait()
        path.write_bytes(content)

    monkeypatch.setattr(checkpoint_module, "write_bytes", slow_write)
    checkpoint = Checkpoint(Path("x.state"))
    checkpoint.save(HISTORY[:1], model=model(1))
    checkpoint.save(HISTORY, model=model(2))
    assert checkpoint.epochs == 0
    disk_is_free.set()
    checkpoint.wait()
    assert checkpoint.epochs == 1
    assert Checkpoint(Path("x.state")).restore(model=model(3)) == HISTORY[:1]
    checkpoint.save(HISTORY, model=model(2))
    checkpoint.wait()
    assert Checkpoint(Path("x.state")).restore(model=model(3)) == HISTORY


def test_a_checkpoint_that_cannot_be_written_gives_a_one_line_error() -> None:
    with pytest.raises(UserError, match=r"x\.state: cannot be written"), resumable({}) as checkpoint:
        checkpoint.path = Path("a file/x.state")
        Path("a file").touch()
        checkpoint.save(HISTORY, model=model(1))


def test_success_deletes_the_checkpoint_even_if_its_folder_was_deleted_meanwhile() -> None:
    path = interrupted_run({})
    with resumable({}) as checkpoint:
        assert path.exists()
        shutil.rmtree(path.parent)
        checkpoint.save(HISTORY, model=model(1))
    assert list(path.parent.iterdir()) == []


def test_the_checkpoint_is_in_the_users_repository_even_if_dvc_runs_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "repository"))
    assert interrupted_run({}).parent == tmp_path / "repository/.dvc/tmp/resume"


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied"])
def test_a_damaged_checkpoint_is_reported_and_ignored(damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = interrupted_run({})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"cut": content[:-10], "flipped": content, "emptied": b""}[damage])
    other = model(2)
    with resumable({}) as checkpoint:
        assert checkpoint.restore(model=other) == []
    assert "is damaged and will be ignored" in capsys.readouterr().err
    assert same_weights(other, model(2))


def test_a_second_process_with_the_same_run_gets_a_one_line_error() -> None:
    with resumable({}), pytest.raises(UserError, match="the same training is running"), resumable({}):
        pass


def test_a_file_system_without_locks_is_reported_and_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with resumable({}) as checkpoint:
        checkpoint.save(HISTORY, model=model(1))
    assert "cannot be locked ([Errno 37] No locks available)" in capsys.readouterr().out


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_with_one_line_that_names_the_checkpoint(sent: signal.Signals) -> None:
    def stopped(saves: bool) -> str:
        with pytest.raises(UserError) as error, resumable({}) as checkpoint:
            if saves:
                checkpoint.save(HISTORY, model=model(1))
            signal.raise_signal(sent)
        assert "\n" not in str(error.value)
        return str(error.value)

    path = interrupted_run({})
    assert f"the checkpoint of an earlier run is kept in {path}" in stopped(saves=False)
    path.unlink()
    assert "there is no checkpoint" in stopped(saves=False)
    assert stopped(saves=True).startswith(f"stopped; the checkpoint of epoch 2 is kept in {path}")
    with resumable({}) as again:
        assert again.restore(model=model(2)) == HISTORY
