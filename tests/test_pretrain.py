"""The stage `pretrain` on a few images: its outputs, errors and checkpoints."""

import io
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import chdir
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from ruamel.yaml import YAML
from torch import Generator

from stages import pretrain as stage
from stages.download import starting_weights
from stages.io.tensors import write_tensors
from stages.runtime.params import FILE, read_params, validated
from stages.simclr.checkpoint import Checkpoint, resumable
from stages.simclr.training import Metrics, train_epoch
from tests.repository import CPU, ROOT, VIEW, random_images, refusal

DEVICES = [CPU, *map(torch.device, ["cuda"] * torch.cuda.is_available())]


def run_stage(device: torch.device = CPU, count: int = 16) -> None:
    """Runs the stage on a few images for three epochs with batch size 8."""
    write_tensors(Path("data/unlabelled.safetensors"), {"images": random_images(count)})
    write_tensors(Path("data/starting_weights.safetensors"), starting_weights("resnet18", None, seed=0))
    params = validated(stage.Params, read_params(ROOT / FILE)).model_copy(update={"batch_size": 8, "epochs": 3})
    with resumable({}) as checkpoint:
        stage.pretrain(params, device, checkpoint)


def outputs() -> dict[str, bytes]:
    folders = ("data", "models", "metrics", "plots")
    return {str(path): path.read_bytes() for name in folders for path in Path(name).rglob("*.*")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The outputs of an uninterrupted run on the CPU."""
    with chdir(tmp_path_factory.mktemp("undisturbed")):
        run_stage()
        return outputs()


def test_example_views_are_uint8_images() -> None:
    shown = stage.example_views(random_images(8), VIEW, Generator())
    assert {name: (tuple(value.shape), value.dtype) for name, value in shown.items()} == {
        name: ((8, 32, 32, 3), torch.uint8) for name in ("images", "first", "second")
    }
    assert torch.equal(shown["images"], random_images(8))
    assert not torch.equal(shown["first"], shown["second"])


def test_too_few_images_for_two_batches_give_a_one_line_error(empty_folder: Path) -> None:
    line = refusal(partial(run_stage, count=15))
    assert line.startswith("params.yaml: batch_size = 8: 15 unlabelled images do not fill two batches")


def test_the_learning_rate_follows_a_cosine_down_to_a_fiftieth(undisturbed: dict[str, bytes]) -> None:
    table, lr = pd.read_csv(io.BytesIO(undisturbed["plots/data/pretrain.csv"])), 2e-4
    assert table.epoch.tolist() == [1, 1, 2, 2, 3, 3]
    expected = [lr / 50 + (lr - lr / 50) * (1 + math.cos(math.pi * (epoch - 1) / 3)) / 2 for epoch in table.epoch]
    assert table.lr.tolist() == pytest.approx(expected, abs=1e-9)


def test_pretraining_reads_no_labels() -> None:
    """It lists no file with labels; test_download.py checks that the file of images has none."""
    deps = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]["pretrain"]["deps"]
    of_data = [dep for dep in deps if dep.startswith("data/")]
    assert of_data == ["data/unlabelled.safetensors", "data/starting_weights.safetensors"]


@pytest.mark.parametrize(("epoch", "kept"), [(1, 0), (3, 2)])
def test_a_loss_that_is_not_finite_stops_the_stage_and_keeps_the_checkpoint_of_the_epoch_before(
    epoch: int, kept: int, empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*arguments: Any) -> list[Metrics]:
        epochs.append(train_epoch(*arguments))
        if len(epochs) == epoch:
            epochs[-1][0]["loss"] = torch.tensor(math.nan)
        return epochs[-1]

    def save_and_wait(checkpoint: Checkpoint, *arguments: Any, **parts: Any) -> None:
        save(checkpoint, *arguments, **parts)  # which skips an epoch while the one before is being written
        checkpoint.wait()

    epochs: list[list[Metrics]] = []
    save = Checkpoint.save
    monkeypatch.setattr(Checkpoint, "save", save_and_wait)
    monkeypatch.setattr(stage, "train_epoch", breaks)
    line = refusal(run_stage)
    assert line.startswith(f"epoch {epoch}, step 1: the loss is nan")
    assert (f"; the checkpoint of epoch {kept} is kept" in line) == (kept > 0)
    states = list(Path(".dvc/tmp/resume").glob("*.state"))
    assert [len(Checkpoint(path).restore()) for path in states] == [kept] * (kept > 0)
    assert not Path("models/simclr.safetensors").exists()


def test_missing_disk_space_is_reported_before_training(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**8))
    monkeypatch.setattr(stage, "train_epoch", None)
    assert re.match(r"models: 0\.\d\d GB are needed and 0\.10 GB are free", refusal(run_stage))
    assert not Path("models").exists()


@pytest.mark.parametrize("device", DEVICES)
def test_a_stopped_run_has_its_table_so_far_and_resumes_to_the_same_bytes(
    device: torch.device, undisturbed: dict[str, bytes], empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after each epoch and resumed; the table has a row per split for every epoch so far."""
    expected = undisturbed
    if device != CPU:
        Path("undisturbed").mkdir()
        with chdir("undisturbed"):
            run_stage(device)
            expected = outputs()

    def stops_at_the_second(*arguments: Any) -> list[Metrics]:
        epochs.append(1)
        if len(epochs) > 1:
            raise KeyboardInterrupt
        return train_epoch(*arguments)

    for done in (1, 2):
        epochs: list[int] = []
        with monkeypatch.context() as patch:
            patch.setattr(stage, "train_epoch", stops_at_the_second)
            assert f"the checkpoint of epoch {done} is kept" in refusal(run_stage, device)
        table = pd.read_csv("plots/data/pretrain.csv")
        assert list(zip(table.epoch, table.split, strict=True)) == [
            (epoch, split) for epoch in range(1, done + 1) for split in ("train", "heldout")
        ]
        metrics = json.loads(Path("metrics/pretrain.json").read_text())
        assert metrics["heldout_loss"] == table.loss.iloc[-1]
    run_stage(device)
    assert outputs() == expected


KILLED = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import tests.conftest  # sets the arithmetic and the number of threads
from tests.test_pretrain import run_stage
run_stage()
"""


def test_a_run_killed_while_it_writes_a_checkpoint_resumes_to_the_same_bytes(
    undisturbed: dict[str, bytes], empty_folder: Path
) -> None:
    training = subprocess.Popen([sys.executable, "-c", KILLED])
    while training.poll() is None and not list(Path(".dvc/tmp/resume").glob(".*.state.tmp")):
        time.sleep(0.001)
    training.kill()
    assert training.wait() == -signal.SIGKILL
    run_stage()
    assert outputs() == undisturbed
