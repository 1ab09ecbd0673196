"""A stage whose inputs change while it runs does not succeed."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages.provenance import fingerprints, unchanged

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def copy_of_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "stages", tmp_path / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("data/unlabelled.safetensors", "data/resnet18.safetensors", "images/cat/1.png"):
        Path(tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Path(tmp_path / name).write_bytes(b"as it was")
    monkeypatch.chdir(tmp_path)


def edit(name: str, old: str, new: str) -> None:
    text = Path(name).read_text()
    assert old in text
    Path(name).write_text(text.replace(old, new))


def test_a_stage_that_nothing_disturbs_succeeds() -> None:
    with unchanged("pretrain"):
        pass


@pytest.mark.parametrize(
    ("stage", "name", "old", "new"),
    [
        ("pretrain", "stages/augment.py", "CROP_TRIES = 10", "CROP_TRIES = 11"),
        ("pretrain", "data/unlabelled.safetensors", "was", "is!"),
        ("download", "stages/sample.py", "import", "import  "),
    ],
)
def test_a_changed_file_is_named(stage: str, name: str, old: str, new: str) -> None:
    with pytest.raises(SystemExit, match=f"^{name}: changed while the stage {stage} ran"), unchanged(stage):
        edit(name, old, new)


def test_code_edited_while_python_still_imports_is_noticed() -> None:
    stage = subprocess.Popen([sys.executable, "-m", "stages.check"], stderr=subprocess.PIPE, text=True)
    time.sleep(0.3)  # importing takes seconds
    Path("stages/cifar.py").write_text(Path("stages/cifar.py").read_text() + "# later\n")
    _, said = stage.communicate(timeout=60)
    assert stage.returncode == 1
    assert said.startswith("stages/cifar.py: changed while the stage check ")


def test_the_start_of_a_process_is_between_its_launch_and_its_first_statement() -> None:
    script = "import time; now = time.time(); from stages.provenance import process_start; print(now, process_start())"
    launched = time.time()
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    now, started = map(float, said.split())
    assert launched - 0.02 <= started <= now + 0.02


def test_a_changed_parameter_is_named() -> None:
    with pytest.raises(SystemExit, match=r"^params\.yaml: lr: changed while"), unchanged("pretrain"):
        edit("params.yaml", "lr: 2.0e-4", "lr: 3.0e-4")


def test_a_new_image_in_the_folder_is_noticed() -> None:
    with pytest.raises(SystemExit, match=r"^images: changed while"), unchanged("download"):
        Path("images/cat/2.png").write_bytes(b"new")


def test_a_file_that_disappears_is_noticed() -> None:
    with pytest.raises(SystemExit, match=r"^data/resnet18\.safetensors: changed while"), unchanged("pretrain"):
        Path("data/resnet18.safetensors").unlink()


def test_what_the_stage_does_not_read_may_change() -> None:
    before = fingerprints("pretrain")
    edit("params.yaml", "max_iter: 1000", "max_iter: 900")
    edit("stages/figures.py", "import", "import  ")
    assert fingerprints("pretrain") == before


def test_a_failure_of_the_stage_is_its_own() -> None:
    with pytest.raises(ZeroDivisionError), unchanged("pretrain"):
        edit("stages/augment.py", "CROP_TRIES = 10", "CROP_TRIES = 11")
        raise ZeroDivisionError
