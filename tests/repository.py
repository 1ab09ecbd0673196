"""Helpers of the tests: small inputs, expected errors, a repository to run commands in."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator, Tensor, nn

from stages.check import Params
from stages.images.dataset import Dataset
from stages.runtime.errors import UserError
from stages.runtime.params import FILE, read_params, validated
from stages.simclr.augmentation import augment
from stages.simclr.encoder import Encoder

ROOT = Path(__file__).parent.parent
RESULTS = ("metrics", "plots", "models", "data")
CHECKPOINTS = ".dvc/tmp/resume"
CPU = torch.device("cpu")
VIEW = partial(augment, min_area=0.3, jitter=0.5, grayscale=0.2, blur=0.5, flip=True)

CLASSES = ["ant", "bee", "cat"]  # of the small run
SMALL = {
    "data": "folder", "threads": 1, "batch_size": 8, "epochs": 2, "first_classes": 2, "linear.epochs": 2,
    "logreg.labels_per_class": "[6]", "logreg.draws": 2,
}  # fmt: skip


def write_images(folder: Path) -> None:
    """Three classes of 12 training and 6 test images that differ in brightness."""
    draw = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 6)):
        for number, name in enumerate(CLASSES):
            (folder / part / name).mkdir(parents=True)
            for image in range(count):
                pixels = (draw.normal(80 + 60 * number, 40, (32, 32, 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{image}.png")


def random_images(count: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=Generator().manual_seed(seed))


def trained_encoder(stem: str) -> Encoder:
    """An encoder whose BatchNorm weights and statistics are far from those of the start."""
    torch.manual_seed(0)
    encoder = Encoder("resnet18", stem)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    with torch.no_grad():
        for seed in range(3):
            encoder.train()(random_images(16, seed).permute(0, 3, 1, 2))
    return encoder


def images_of(dataset: Dataset) -> list[Tensor]:
    """Images for pretraining, for training the probes and for testing them."""
    unlabelled = [dataset.unlabelled.all()] if dataset.unlabelled else []
    train, test = dataset.train.images.all(), dataset.test.images.all()
    return [*(unlabelled or [train]), train, test]


def tar_of(members: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    """A compressed archive; members that are not files are links to ../evil without content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "../evil"
            info.size = len(data) if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def load_params(file: Path = FILE) -> Params:
    return validated(Params, read_params(file))


def refusal(action: Callable[..., object], *arguments: Any) -> str:
    """The message of the action's UserError, which must be one line; warnings are not allowed."""
    with warnings.catch_warnings(record=True) as warned, pytest.raises(UserError) as stopped:
        action(*arguments)
    assert [str(warning.message) for warning in warned] == []
    line = str(stopped.value)
    assert line.isprintable()  # which excludes line breaks
    return line


class Repository:
    def __init__(self, path: Path) -> None:
        self.path = path
        scripts = str(Path(sys.executable).parent)  # queue workers start `dvc` from the PATH
        identity = {
            f"GIT_{who}_{what}": "test@example.invalid" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
        }
        # The CPU, also where there is a GPU, because the bytes of a GPU are others. /bin/sh, because DVC runs stages in
        # $SHELL; unlike Bash, Debian's /bin/sh keeps running as the parent of a stage that `exec` does not start.
        others = {"PATH": f"{scripts}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": "", "SHELL": "/bin/sh"}
        self.environment = os.environ | identity | others

    @classmethod
    def of_working_tree(cls, path: Path) -> "Repository":
        """The files of the working tree, committed."""
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True
        ).stdout.decode()
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, path / name)
        repository = cls(path)
        repository.run("git init -q --initial-branch=main")
        repository.commit("as it is")
        return repository

    @classmethod
    def of_small_run(cls, folder: Path) -> "Repository":
        """A small run of the whole pipeline on a folder of images, committed."""
        write_images(folder / "images")
        (folder / "repository").mkdir()
        repository = cls.of_working_tree(folder / "repository")
        settings = " ".join(f"-S {key}={value}" for key, value in SMALL.items())
        repository.run(f"dvc exp run -q {settings} -S folder={folder}/images")
        repository.commit("small")
        return repository

    def copy(self, path: Path) -> "Repository":
        subprocess.run(["cp", "--archive", "--reflink=auto", self.path, path], check=True)
        return Repository(path)

    def run(self, command: str, fails: bool = False) -> str:
        done = subprocess.run(
            command, shell=True, cwd=self.path, env=self.environment, capture_output=True, text=True, timeout=600
        )
        output = done.stdout + done.stderr
        assert (done.returncode != 0) is fails, output
        return output

    def stages_run(self, command: str) -> list[str]:
        lines = self.run(command).splitlines()
        return [line.split("'")[1] for line in lines if line.startswith("Running stage")]

    def start(self, command: str) -> subprocess.Popen[str]:
        # Without a shell, so that dvc is our child and `wait` removes it: DVC's locks treat a zombie as alive.
        return subprocess.Popen(
            command.split(), cwd=self.path, env=self.environment, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def kill(
        self, command: str, when: Callable[[], bool], how: signal.Signals = signal.SIGKILL, alone: bool = False
    ) -> None:
        """Starts a command and sends the signal to its process group (or to it alone) as soon as `when()` is true."""
        process = self.start(command)
        while process.poll() is None and not when():
            time.sleep(0.01)
        with suppress(ProcessLookupError):
            (os.kill if alone else os.killpg)(process.pid, how)
        process.communicate()  # waits for all processes, because they share the output

    def checkpoints(self) -> list[Path]:
        return list((self.path / CHECKPOINTS).glob("*.state"))

    def commit(self, message: str) -> None:
        self.run(f"git add --all && git commit -q --message '{message}'")

    def json(self, command: str) -> Any:
        done = subprocess.run(command, shell=True, cwd=self.path, env=self.environment, capture_output=True, check=True)
        return json.loads(done.stdout)

    def bytes(self, *folders: str) -> dict[str, bytes]:
        files = (file for folder in folders for file in sorted((self.path / folder).rglob("*")) if file.is_file())
        return {str(file.relative_to(self.path)): file.read_bytes() for file in files}

    def is_clean(self) -> bool:
        """Whether git and DVC report no changes."""
        return self.run("git status --porcelain") == "" and "up to date" in self.run("dvc status")
