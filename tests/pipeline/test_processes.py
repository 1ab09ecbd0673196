"""The pipeline with several processes, which DVC starts with torchrun."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.repository import Repository

AGAIN = "dvc repro --force --single-item pretrain"


def workers(repository: Repository) -> list[int]:
    """Process ids of the training, in the order in which torchrun started the processes."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_text().split("\0")
            here = (entry / "cwd").readlink() == repository.path
        except OSError:  # it has ended, or belongs to another user
            continue
        if here and "stages" in words and "pretrain" in words and "-u" in words:
            found.append(int(entry.name))
    return sorted(found)


def set_processes(repository: Repository, count: int) -> None:
    launch = f"torchrun --standalone --nproc-per-node={count}"
    # More epochs, so that the training is still running after the first checkpoint.
    repository.run(f"sed -i 's/^launch: .*/launch: {launch}/; s/^epochs: .*/epochs: 4/' params.yaml")


def kill_one_and_resume(repository: Repository, which: int) -> None:
    training = repository.start(AGAIN)
    while training.poll() is None and not repository.checkpoints():
        time.sleep(0.01)
    running = workers(repository)
    os.kill(running[which], signal.SIGKILL)
    killed = time.monotonic()
    output, _ = training.communicate(timeout=300)
    assert time.monotonic() - killed < 60
    assert training.returncode != 0
    # Process 0 reports its checkpoint, unless it was killed itself.
    assert which == 0 or "the checkpoint of epoch" in output or "another process has ended" in output
    assert workers(repository) == []
    assert "resuming after epoch" in repository.run(AGAIN)
    assert repository.checkpoints() == []
    assert "up to date" in repository.run("dvc status pretrain")


def test_two_processes_survive_the_loss_of_one(repository: Repository) -> None:
    set_processes(repository, 2)
    kill_one_and_resume(repository, 1)


@pytest.mark.slow
def test_processes_end_with_a_torchrun_that_is_killed(repository: Repository) -> None:
    set_processes(repository, 2)
    repository.kill(AGAIN, when=lambda: bool(repository.checkpoints()))  # dvc and torchrun
    time.sleep(1)
    assert workers(repository) == []
    assert "resuming after epoch" in repository.run(AGAIN)


@pytest.mark.slow
@pytest.mark.parametrize("which", range(4))
def test_four_processes_survive_the_loss_of_any_one(which: int, repository: Repository) -> None:
    set_processes(repository, 4)
    repository.run("dvc repro pretrain")
    before = repository.bytes("metrics", "plots", "models")
    kill_one_and_resume(repository, which)
    assert repository.bytes("metrics", "plots", "models") == before


@pytest.mark.slow
def test_two_hosts_give_the_bytes_of_two_processes_or_report_differences(
    repository: Repository, tmp_path: Path
) -> None:
    """Two repositories at two addresses of this machine, with the commands of stages/HOSTS.md."""
    set_processes(repository, 2)
    repository.run("dvc repro pretrain")
    expected = repository.bytes("metrics", "models")
    repository.run("sed -i 's/^launch: .*/launch: torchrun/' params.yaml")
    other = repository.copy(tmp_path / "other")
    for number, host in enumerate((repository, other)):
        host.environment |= {
            "PET_NNODES": "2", "PET_NPROC_PER_NODE": "1", "PET_NODE_RANK": str(number),
            "PET_MASTER_ADDR": "127.0.0.2", "PET_MASTER_PORT": "29511",
        }  # fmt: skip

    other.run("sed -i 's/^lr: .*/lr: 0.5/' params.yaml")
    training = repository.start(AGAIN)
    message = "params.yaml: lr: differs between process 0 and process 1"
    assert message in other.run("torchrun -m stages pretrain", fails=True)
    output, _ = training.communicate(timeout=60)
    assert message in output

    other.run("sed -i 's/^lr: .*/lr: 2.0e-4/' params.yaml")
    training = repository.start(AGAIN)
    other.run("torchrun -m stages pretrain")
    output, _ = training.communicate(timeout=60)
    assert training.returncode == 0, output
    assert repository.bytes("metrics", "models") == expected
