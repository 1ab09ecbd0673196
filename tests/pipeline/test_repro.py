"""`dvc repro`: repeated, killed and edited runs, and mistakes."""

import time

import numpy as np
import pytest

from stages.__main__ import RESTORE_COMMAND
from tests.repository import RESULTS, Repository, write_images


@pytest.mark.slow  # test_same_bytes.py compares with the bytes of other machines
def test_a_forced_repro_gives_the_same_bytes(repository: Repository) -> None:
    before = repository.bytes(*RESULTS)
    repository.run("dvc repro --force")
    assert repository.bytes(*RESULTS) == before


def test_images_tracked_by_dvc_are_available_to_a_temporary_experiment(repository: Repository) -> None:
    write_images(repository.path / "images")
    repository.run("dvc add -q images")
    assert repository.run("git status --porcelain") == "A  images.dvc\n"
    repository.commit("images")
    assert "36 unlabelled images" in repository.run("dvc exp run --temp -S folder=images download")


def test_code_edited_during_a_run_is_not_recorded(repository: Repository) -> None:
    # More epochs, so that the training is still running after the first checkpoint.
    repository.run("sed -i 's/^epochs: .*/epochs: 4/' params.yaml")
    lock = (repository.path / "dvc.lock").read_bytes()
    edited = repository.path / "stages/simclr/augmentation.py"
    code = edited.read_text()
    training = repository.start("dvc repro --force --single-item pretrain")
    while training.poll() is None and not repository.checkpoints():
        time.sleep(0.01)
    edited.write_text(code + "# later\n")
    output, _ = training.communicate(timeout=300)
    edited.write_text(code)
    assert training.returncode != 0
    assert "stages/simclr/augmentation.py: changed while the stage pretrain ran" in output
    assert (repository.path / "dvc.lock").read_bytes() == lock
    assert repository.checkpoints()  # of the run with the code as it was before


def test_a_mistake_gives_a_one_line_error_and_what_is_lost_can_be_restored(repository: Repository) -> None:
    def results() -> dict[str, bytes]:  # without the output of `check`
        return {name: found for name, found in repository.bytes(*RESULTS).items() if not name.endswith("checked.txt")}

    before = results()
    for change, expected in (  # found by `check` and by `download`
        ("lr=abc", "params.yaml: lr = 'abc' (str): input should be a valid number"),
        ("lr=2.0e-4 -S data=cifar -S mirror=/nowhere", "/nowhere/cifar-10-python.tar.gz: not found"),
    ):
        output = repository.run(f"dvc exp run -S {change}", fails=True)
        assert expected in output
        assert "Traceback" not in output
        assert (results() == before) is ("params.yaml: " in expected)
        assert RESTORE_COMMAND in output
    assert repository.stages_run(RESTORE_COMMAND) == []
    assert results() == before
    assert repository.run("git status --porcelain") == ""


@pytest.mark.slow
def test_a_pipeline_killed_at_twenty_random_times_ends_with_the_same_bytes(repository: Repository) -> None:
    start = time.monotonic()
    repository.run("dvc exp run --force -S epochs=20")  # so that most of the time is training
    duration = time.monotonic() - start
    before = repository.bytes(*RESULTS)
    resumed = 0
    draw = np.random.default_rng(0)
    for number in range(20):
        # Without the lock file and the cache, DVC can neither skip a stage nor restore its outputs.
        repository.run("rm -rf dvc.lock .dvc/cache data models")
        if number % 2:
            end = time.monotonic() + draw.uniform(0, duration)
            repository.kill("dvc repro", when=lambda end=end: time.monotonic() >= end)
        else:  # during the training, which is short compared with the start of six processes
            repository.kill("dvc repro", when=lambda: bool(repository.checkpoints()) and draw.random() < 0.05)
        resumed += len(repository.checkpoints())
        output = repository.run("dvc repro")
        assert repository.bytes(*RESULTS) == before, output
        assert repository.checkpoints() == []
    print(f"{resumed} of 20 kills were during the training, which resumed from a checkpoint")
    assert resumed > 0
