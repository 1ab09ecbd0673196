"""The pipeline as a user runs it: real dvc commands in a repository of its own, on a small folder of images."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML
from test_report import CHROMIUM, browse

ROOT = Path(__file__).parent.parent
TINY = {
    "data": "folder", "batch_size": 8, "epochs": 2, "first_classes": 2, "linear.epochs": 2,
    "logreg.labels_per_class": "[6]", "logreg.draws": 2,
}  # fmt: skip
PLOTS_PAGE = ROOT / ".venv/plots.html"
RESULTS = ("metrics", "plots", "models", "data")


class Clone:
    """A repository with the working tree's files, where commands run as in a user's shell."""

    def __init__(self, path: Path) -> None:
        self.path = path
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True
        ).stdout.decode()
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, path / name)
        scripts = str(Path(sys.executable).parent)  # queue workers start a bare `dvc` from the PATH
        identity = {
            f"GIT_{who}_{what}": "test@example.invalid" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
        }
        self.environment = os.environ | identity | {"PATH": f"{scripts}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
        self.run("git init -q --initial-branch=main")
        self.commit("as it is")

    def run(self, command: str, fails: bool = False) -> str:
        done = subprocess.run(
            command, shell=True, cwd=self.path, env=self.environment, capture_output=True, text=True, timeout=300
        )
        output = done.stdout + done.stderr
        assert (done.returncode != 0) is fails, output
        return output

    def kill(self, command: str, when: Callable[[], bool]) -> None:
        """Starts a command and sends SIGKILL to it and all that it started, as soon as `when` says so."""
        # Without a shell: dvc must be our child, so that `wait` takes it away. To DVC's locks a zombie is alive.
        process = subprocess.Popen(
            command.split(), cwd=self.path, env=self.environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while process.poll() is None and not when():
            time.sleep(0.01)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def kept_states(self) -> list[Path]:
        return list((self.path / ".dvc/tmp/resume").glob("*.state"))

    def commit(self, message: str) -> None:
        self.run(f"git add --all && git commit -q --message '{message}'")

    def json(self, command: str) -> dict:
        done = subprocess.run(command, shell=True, cwd=self.path, env=self.environment, capture_output=True, check=True)
        return json.loads(done.stdout)

    def bytes(self, *folders: str) -> dict[str, bytes]:
        files = (file for folder in folders for file in sorted((self.path / folder).iterdir()))
        return {str(file.relative_to(self.path)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 12 training and 6 test images that differ in brightness."""
    images = tmp_path_factory.mktemp("images")
    draw = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 6)):
        for number, name in enumerate(("ant", "bee", "cat")):
            (images / part / name).mkdir(parents=True)
            for image in range(count):
                pixels = (draw.normal(80 + 60 * number, 40, (32, 32, 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(images / part / name / f"{image}.png")
    return images


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Clone:
    clone = Clone(tmp_path_factory.mktemp("clone"))
    settings = " ".join(f"-S {key}={value}" for key, value in TINY.items())
    clone.run(f"dvc exp run -q {settings} -S folder={images}")
    clone.commit("tiny")
    return clone


def test_a_second_repro_does_nothing_and_everything_is_clean(clone: Clone) -> None:
    assert "Data and pipelines are up to date" in clone.run("dvc repro")
    assert "Data and pipelines are up to date" in clone.run("dvc status")
    assert clone.run("git status --porcelain") == ""


def test_a_forced_repro_gives_the_same_bytes(clone: Clone) -> None:
    before = clone.bytes(*RESULTS)
    clone.run("dvc repro --force")
    assert clone.bytes(*RESULTS) == before


def test_a_killed_training_goes_on_after_its_last_epoch_and_ends_with_the_same_bytes(clone: Clone) -> None:
    before = clone.bytes("metrics", "plots", "models")
    again = "dvc repro --force --single-item pretrain"
    clone.kill(again, when=lambda: bool(clone.kept_states()))
    assert not (clone.path / "models/simclr.safetensors").exists()
    assert "going on after epoch" in clone.run(again)
    assert clone.bytes("metrics", "plots", "models") == before
    assert clone.kept_states() == []
    assert "Data and pipelines are up to date" in clone.run("dvc status")


@pytest.mark.slow
def test_a_pipeline_killed_at_twenty_random_moments_ends_with_the_same_bytes(clone: Clone) -> None:
    start = time.monotonic()
    clone.run("dvc exp run --force -S epochs=20")  # so that most of the time is training
    duration = time.monotonic() - start
    before = clone.bytes(*RESULTS)
    resumed = 0
    draw = np.random.default_rng(0)
    for number in range(20):
        # Without the lock file and the cache, DVC can neither skip a stage nor restore its outputs.
        clone.run("rm -rf dvc.lock .dvc/cache data models")
        if number % 2:
            end = time.monotonic() + draw.uniform(0, duration)
            clone.kill("dvc repro", when=lambda end=end: time.monotonic() >= end)
        else:  # in the training, which is short beside the start of seven processes
            pause = draw.uniform(0, 0.5)
            clone.kill("dvc repro", when=lambda pause=pause: bool(clone.kept_states()) and not time.sleep(pause))
        resumed += len(clone.kept_states())
        output = clone.run("dvc repro")
        assert clone.bytes(*RESULTS) == before, output
        assert clone.kept_states() == []
    print(f"{resumed} of 20 moments were in the training and went on from a kept epoch")
    assert resumed > 0
    clone.run("git reset -q --hard && dvc repro")
    assert clone.run("git status --porcelain") == ""


def test_code_edited_during_a_run_is_not_recorded(clone: Clone) -> None:
    lock = (clone.path / "dvc.lock").read_bytes()
    edited = clone.path / "stages/augment.py"
    code = edited.read_text()
    training = subprocess.Popen(
        "dvc repro --force --single-item pretrain", shell=True, cwd=clone.path, env=clone.environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    while training.poll() is None and not clone.kept_states():
        time.sleep(0.01)
    edited.write_text(code + "# later\n")
    output, _ = training.communicate(timeout=300)
    edited.write_text(code)
    assert training.returncode != 0
    assert "stages/augment.py: changed while the stage pretrain ran" in output
    assert (clone.path / "dvc.lock").read_bytes() == lock
    assert "going on after epoch 2" in clone.run("dvc repro --force --single-item pretrain")
    assert clone.run("git status --porcelain") == ""


def test_an_experiment_shows_in_the_diffs_and_the_way_back_comes_from_the_run_cache(clone: Clone) -> None:
    output = clone.run("dvc exp run -S lr=1e-3")
    assert "Stage 'download' didn't change, skipping" in output
    assert "Running stage 'pretrain'" in output
    assert clone.json("dvc params diff --json")["params.yaml"]["lr"] == {"old": 0.0002, "new": 0.001, "diff": 0.0008}
    changed = clone.json("dvc metrics diff --json")
    assert changed["metrics/pretrain.json"]["train_loss"]["diff"] != 0
    assert "metrics/logreg.json" in changed
    clone.run("touch params.yaml && git checkout -q params.yaml")
    output = clone.run("dvc repro")
    assert "Stage 'pretrain' is cached - skipping run" in output
    assert "Running stage" not in output
    assert clone.run("git status --porcelain") == ""


def test_a_probe_parameter_refits_the_probe_alone(clone: Clone) -> None:
    output = clone.run("dvc exp run -S logreg.max_iter=5")
    ran = [line for line in output.splitlines() if line.startswith("Running stage")]
    assert ran == [f"Running stage '{stage}':" for stage in ("check", "fit-logreg", "evaluate", "report")]
    clone.run("touch params.yaml && git checkout -q . && dvc checkout -q")


def test_a_sweep_through_the_queue(clone: Clone) -> None:
    before = set(clone.run("dvc exp list --name-only").split())
    # Both train with the same parameters, so that the second finds the encoder of the first in the run cache.
    clone.run("dvc exp run --queue -S temperature=0.5 -S 'linear.lr=0.1,0.5'")
    clone.run("dvc queue start")
    for _ in range(100):
        status = clone.run("dvc queue status")
        if status.count("Success") == 2 or "Failed" in status:
            break
        time.sleep(2)
    assert status.count("Success") == 2, status
    new = set(clone.run("dvc exp list --name-only").split()) - before
    rates = set()
    for name in new:
        change = clone.json(f"dvc params diff --json HEAD {name}")["params.yaml"]
        assert change["temperature"]["new"] == 0.5
        rates.add(change["linear.lr"]["new"])
        changed = clone.json(f"dvc metrics diff --json HEAD {name}")
        assert {"metrics/pretrain.json", "metrics/linear.json"} <= changed.keys()
    assert rates == {0.1, 0.5}


def test_an_experiment_in_a_temporary_directory_leaves_the_workspace_alone(clone: Clone) -> None:
    before = clone.bytes("metrics", "plots", "models")
    output = clone.run("dvc exp run --temp --name aside -S linear.epochs=3")
    assert "aside" in output
    assert clone.bytes("metrics", "plots", "models") == before
    assert clone.run("git status --porcelain") == ""
    changed = clone.json("dvc params diff --json HEAD aside")["params.yaml"]
    assert changed["linear.epochs"]["new"] == 3


def test_a_new_image_reruns_the_download(clone: Clone, images: Path) -> None:
    added = images / "train" / "ant" / "new.png"
    shutil.copy(images / "train" / "ant" / "0.png", added)
    assert "changed deps" in clone.run("dvc status download")
    added.unlink()
    assert "Data and pipelines are up to date" in clone.run("dvc status download")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("lr=abc", "params.yaml: lr = 'abc' (str): input should be a valid number"),
        ("batch_size=1", "params.yaml: batch_size = 1 (int): input should be greater than or equal to 2"),
        ("batch_size=30", "params.yaml: batch_size = 30: 36 unlabelled images do not fill two batches"),
        ("first_classes=4", "params.yaml: first_classes = 4: the data have 3 classes"),
        ("logreg.validation_fraction=0.01", "params.yaml: logreg.validation_fraction = 0.01: 36 training images"),
    ],
)
def test_a_mistake_fails_in_one_line_and_nothing_is_lost(clone: Clone, change: str, expected: str) -> None:
    before = clone.bytes(*RESULTS)
    output = clone.run(f"dvc exp run -S {change}", fails=True)
    assert expected in output
    assert "Traceback" not in output
    # The first stage failed, so that no other one's outputs have been deleted.
    del before["data/checked.txt"]
    assert clone.bytes(*RESULTS) == before
    # The touch is for git, which compares whole seconds and sizes: DVC writes params.yaml twice in a second, and git
    # then does not see a change to a value of the same length.
    clone.run("touch params.yaml && git checkout params.yaml")
    assert "Running stage" not in clone.run("dvc repro")
    assert "Data and pipelines are up to date" in clone.run("dvc status")


def test_a_change_to_a_picture_draws_the_report_again_and_nothing_else(clone: Clone) -> None:
    drawn = clone.path / "stages/figures.py"
    code = drawn.read_text()
    drawn.write_text(code.replace("SIZE = (5.6, 3.7)", "SIZE = (5.7, 3.7)"))
    output = clone.run("dvc repro")
    drawn.write_text(code)
    assert [line for line in output.splitlines() if line.startswith("Running stage")] == ["Running stage 'report':"]
    clone.run("git checkout -q . && dvc checkout -q")


@pytest.mark.skipif(CHROMIUM is None or not PLOTS_PAGE.exists(), reason="needs Debian's chromium, and make's page")
def test_every_plot_of_a_comparison_is_drawn_without_the_internet(clone: Clone, tmp_path: Path) -> None:
    clone.run("dvc exp run -q --temp --name warmer -S temperature=0.5")
    clone.run(f"dvc plots diff HEAD warmer --html-template {PLOTS_PAGE} --out {tmp_path}/plots")
    page = tmp_path / "plots/index.html"
    dom, requested, errors = browse(page, tmp_path)
    expected = page.read_text().count("vegaEmbed('#")
    assert expected >= len(YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["plots"])
    assert dom.count('class="marks"') == expected
    assert (requested, errors) == ([], [])
    assert '"rev": "warmer"' in page.read_text()


def test_metrics_differ_between_commits_in_a_fresh_clone_without_the_cache(clone: Clone, tmp_path: Path) -> None:
    clone.run("dvc exp run -S linear.lr=0.1")
    clone.commit("another rate")
    clone.run(f"git clone -q . {tmp_path}/fresh")
    done = subprocess.run(
        "dvc metrics diff --json HEAD~1", shell=True, cwd=tmp_path / "fresh", env=clone.environment,
        capture_output=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["metrics/linear.json"]["simclr.train_loss"]["diff"] != 0
