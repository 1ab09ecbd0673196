"""A stage fails if its inputs change while it runs."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.runtime.errors import UserError
from stages.runtime.inputs import IGNORED, fingerprints, inputs_must_not_change, read_pipeline
from stages.runtime.params import FILE
from tests.repository import ROOT

PIPELINE = """
stages:
  train:
    deps: [train.py, package, data.bin, "${folder}"]
    params: [lr, augment]
"""


FILES = ("train.py", "package/inner/model.py", "package/__pycache__/a.pyc", "data.bin", "examples/images/cat/1.png")


@pytest.fixture(autouse=True)
def repository(empty_folder: Path) -> None:
    shutil.copy(ROOT / FILE, empty_folder)
    for name in FILES:
        write(name, "as it was")
    write("dvc.yaml", PIPELINE)


def write(name: str, content: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(content)


def edit_params(old: str, new: str) -> None:
    assert old in FILE.read_text()
    write(str(FILE), FILE.read_text().replace(old, new))


CHANGES = [
    ("train.py", lambda: write("train.py", "as it is!")),
    ("package/inner/model.py", lambda: write("package/inner/model.py", "as it is!")),
    ("package/inner/model.py", lambda: Path("package/inner/model.py").unlink()),
    ("package/new.py", lambda: write("package/new.py", "")),
    ("data.bin", lambda: write("data.bin", "as it is!")),
    ("data.bin", lambda: Path("data.bin").unlink()),
    ("examples/images", lambda: write("examples/images/cat/1.png", "as it was")),  # only the time changes
    ("examples/images", lambda: write("examples/images/cat/2.png", "new")),
    ("params.yaml: lr", lambda: edit_params("lr: 2.0e-4", "lr: 3.0e-4")),
    ("params.yaml: augment", lambda: edit_params("blur: 0.5", "blur: 0.6")),
]


@pytest.mark.parametrize(("name", "change"), CHANGES)
def test_inputs_that_change_while_the_stage_runs_are_reported(name: str, change: Callable[[], None]) -> None:
    changed = pytest.raises(UserError, match=f"^{name}: changed while the stage")
    with changed, inputs_must_not_change("train", read_pipeline()["train"]):
        change()


def test_files_and_parameters_that_the_stage_does_not_read_may_change() -> None:
    before = fingerprints(read_pipeline()["train"])
    with inputs_must_not_change("train", read_pipeline()["train"]):
        edit_params("max_iter: 100 ", "max_iter: 90 ")
        write("other.py", "")
        write("package/__pycache__/a.pyc", "compiled again")
        write("package/.b.csv.tmp", "not yet all of it")
        os.utime("package/inner/model.py", (1, 1))
    assert fingerprints(read_pipeline()["train"]) == before


def test_an_exception_of_the_stage_is_not_replaced() -> None:
    with pytest.raises(ZeroDivisionError), inputs_must_not_change("train", read_pipeline()["train"]):
        write("train.py", "")
        raise ZeroDivisionError


@pytest.mark.parametrize("folder", ['"a\\0b"', "x" * 300])
def test_a_folder_with_an_invalid_name_gives_at_most_a_one_line_error(folder: str) -> None:
    edit_params("folder: examples/images", f"folder: {folder}")
    try:
        fingerprints(read_pipeline()["train"])
    except UserError as stopped:
        assert str(stopped).startswith("params.yaml: folder = ")


def test_the_ignored_files_are_those_of_dvcignore() -> None:
    lines = (ROOT / ".dvcignore").read_text().splitlines()
    assert tuple(line for line in lines if not line.startswith("#")) == IGNORED
