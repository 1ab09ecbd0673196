"""`dvc repro`: which stages run, and that repeated, killed and edited runs give the same bytes."""

import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from stages.__main__ import RESTORE_COMMAND
from tests.repository import RESULTS, Repository, write_images


def test_a_second_repro_does_nothing_and_everything_is_clean(repository: Repository) -> None:
    assert "Data and pipelines are up to date" in repository.run("dvc repro")
    assert repository.is_clean()


@pytest.mark.slow  # test_same_bytes.py compares with the bytes of other machines
def test_a_forced_repro_gives_the_same_bytes(repository: Repository) -> None:
    before = repository.bytes(*RESULTS)
    repository.run("dvc repro --force")
    assert repository.bytes(*RESULTS) == before


def test_a_new_image_reruns_the_download(repository: Repository, tmp_path: Path) -> None:
    write_images(tmp_path / "own")
    repository.run(f"sed -i 's|^folder: .*|folder: {tmp_path}/own|' params.yaml && dvc commit -q -f")
    assert "up to date" in repository.run("dvc status download")
    shutil.copy(tmp_path / "own/train/ant/0.png", tmp_path / "own/train/ant/new.png")
    assert "changed deps" in repository.run("dvc status download")


def test_images_tracked_by_dvc_are_available_to_a_temporary_experiment(repository: Repository) -> None:
    write_images(repository.path / "images")
    repository.run("dvc add -q images")
    assert repository.run("git status --porcelain") == "A  images.dvc\n"
    repository.commit("images")
    assert "36 unlabelled images" in repository.run("dvc exp run --temp -S folder=images download")


def test_a_killed_training_has_its_table_so_far_and_resumes_to_the_same_bytes(
    repository: Repository,
) -> None:
    before = repository.bytes("metrics", "plots", "models")
    again = "dvc repro --force --single-item pretrain"
    table = repository.path / "plots/data/pretrain.csv"
    metrics = repository.path / "metrics/pretrain.json"  # written after the table

    def one_epoch_is_over() -> bool:
        return metrics.exists() and metrics.read_bytes() != before["metrics/pretrain.json"]

    repository.kill(again, when=one_epoch_is_over)
    assert not (repository.path / "models/simclr.safetensors").exists()
    so_far = table.read_bytes()
    assert so_far.count(b"heldout") >= 1
    assert before["plots/data/pretrain.csv"].startswith(so_far)
    last = repository.json("dvc metrics show --json")[""]["data"]["metrics/pretrain.json"]["data"]["heldout_loss"]
    assert f",{last:.6g},".encode() in so_far.splitlines()[-1]
    assert "index.html" in repository.run("dvc plots show")
    kept = repository.checkpoints()  # empty if the kill came before the first checkpoint was complete
    assert ("resuming after epoch " in repository.run(again)) == bool(kept)
    assert repository.bytes("metrics", "plots", "models") == before
    assert repository.checkpoints() == []
    assert repository.is_clean()


def test_code_edited_during_a_run_is_not_recorded(repository: Repository) -> None:
    # More epochs, so that the training is still running after the first checkpoint.
    repository.run("sed -i 's/^epochs: .*/epochs: 8/' params.yaml")
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
    assert "resuming after epoch " in repository.run("dvc repro --force --single-item pretrain")


def test_a_mistake_gives_a_one_line_error_and_what_is_lost_can_be_restored(repository: Repository) -> None:
    def results() -> dict[str, bytes]:  # without the output of `check`
        return {name: found for name, found in repository.bytes(*RESULTS).items() if not name.endswith("checked.txt")}

    before = results()
    for change, expected in (
        ("lr=abc", "params.yaml: lr = 'abc' (str): input should be a valid number"),
        ("data=cifar -S mirror=/nowhere", "/nowhere/cifar-10-python.tar.gz: not found"),  # found by `download`
    ):
        output = repository.run(f"dvc exp run -S {change}", fails=True)
        assert expected in output
        assert "Traceback" not in output
        assert (results() == before) is ("params.yaml: " in expected)
        assert RESTORE_COMMAND in output
        assert repository.stages_run(RESTORE_COMMAND) == []
        assert results() == before
    assert repository.is_clean()


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
