"""A stage whose inputs change while it runs does not succeed."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages.files.inputs import IGNORED, fingerprints, inputs_must_not_change
from stages.files.params import FILE

ROOT = Path(__file__).parents[2]
PIPELINE = """
stages:
  train:
    deps: [train.py, room, data.bin, "${folder}"]
    params: [lr, augment]
"""


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / FILE, tmp_path)
    for name in ("train.py", "room/inner/model.py", "room/__pycache__/a.pyc", "data.bin", "examples/images/cat/1.png"):
        write(name, "as it was")
        os.utime(name, (0, 0))  # long before this process began
    write("dvc.yaml", PIPELINE)


def write(name: str, content: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(content)


def edit_params(old: str, new: str) -> None:
    assert old in FILE.read_text()
    write(str(FILE), FILE.read_text().replace(old, new))


CHANGES = [
    ("train.py", lambda: write("train.py", "as it is!")),
    ("room/inner/model.py", lambda: write("room/inner/model.py", "as it is!")),
    ("room/inner/model.py", lambda: Path("room/inner/model.py").unlink()),
    ("room/new.py", lambda: write("room/new.py", "")),
    ("data.bin", lambda: write("data.bin", "as it is!")),
    ("data.bin", lambda: Path("data.bin").unlink()),
    ("examples/images", lambda: write("examples/images/cat/1.png", "as it was")),  # by its time
    ("examples/images", lambda: write("examples/images/cat/2.png", "new")),
    ("params.yaml: lr", lambda: edit_params("lr: 2.0e-4", "lr: 3.0e-4")),
    ("params.yaml: augment", lambda: edit_params("blur: 0.5", "blur: 0.6")),
]


@pytest.mark.parametrize(("name", "change"), CHANGES)
def test_what_changes_while_the_stage_runs_is_named(name: str, change: Callable[[], None]) -> None:
    with pytest.raises(SystemExit, match=f"^{name}: changed while the stage"), inputs_must_not_change("train"):
        change()


def test_what_the_stage_does_not_read_may_change() -> None:
    before = fingerprints("train")
    with inputs_must_not_change("train"):
        edit_params("max_iter: 1000", "max_iter: 900")
        write("other.py", "")
        write("room/__pycache__/a.pyc", "compiled again")
        write("room/.b.csv.tmp", "not yet all of it")
        os.utime("room/inner/model.py", (1, 1))
    assert fingerprints("train") == before


def test_a_failure_of_the_stage_is_its_own() -> None:
    with pytest.raises(ZeroDivisionError), inputs_must_not_change("train"):
        write("train.py", "")
        raise ZeroDivisionError


def test_code_edited_before_the_stage_began_but_after_its_process_is_noticed() -> None:
    """Python may have imported it as it was before."""
    write("room/inner/model.py", "as it was")
    late = pytest.raises(SystemExit, match=r"^room/inner/model\.py: changed while the stage train started")
    with late, inputs_must_not_change("train"):
        pytest.fail("the stage ran")


def test_code_with_a_time_to_come_does_not_stop_a_stage_for_ever() -> None:
    """As a file server whose clock runs ahead gives it."""
    tomorrow = time.time() + 24 * 3600
    os.utime("room/inner/model.py", (tomorrow, tomorrow))
    with inputs_must_not_change("train"):
        pass


def test_the_start_of_a_process_is_between_its_launch_and_its_first_statement() -> None:
    script = "import time; now = time.time(); from stages.files.inputs import *; print(now, process_start())"
    launched = time.time()
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    now, started = map(float, done.stdout.split())
    assert launched - 0.02 <= started <= now + 0.02


@pytest.mark.parametrize("folder", ['"a\\0b"', "x" * 300])
def test_a_folder_of_an_impossible_name_leads_to_one_line_or_none(folder: str) -> None:
    edit_params("folder: examples/images", f"folder: {folder}")
    try:
        fingerprints("train")
    except SystemExit as stopped:
        assert str(stopped.code).startswith("params.yaml: folder = ")


def test_what_dvc_leaves_out_is_left_out() -> None:
    lines = (ROOT / ".dvcignore").read_text().splitlines()
    assert tuple(line for line in lines if not line.startswith("#")) == IGNORED


def test_every_stage_runs_under_this_guard() -> None:
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    for stage, options in stages.items():
        script = ROOT / f"{options['cmd'].rpartition(' ')[2].replace('.', '/')}.py"
        assert f'inputs_must_not_change("{stage}")' in script.read_text()
