"""`python -m stages NAME` is the only place with side effects; every module can be imported and used in a notebook."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from stages import __main__ as entry_point
from stages import check
from stages.__main__ import RESTORE_COMMAND
from stages.runtime.arithmetic import THREAD_VARIABLES, environment_variables, has_avx2
from stages.runtime.errors import UserError
from stages.runtime.params import FILE, read_params
from tests.repository import ROOT, refusal

MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "stages").rglob("*.py")
    if path.name != "__init__.py"
)
VARIABLES = list(environment_variables({}, compatible=True))
# Without the variables, which conftest.py sets for the tests.
BARE = {name: value for name, value in os.environ.items() if name not in VARIABLES}


def python(*arguments: str, at: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that finds the packages of this working tree."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=at, env=BARE | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )


def prints(script: str) -> str:
    done = python("-c", script)
    assert done.returncode == 0, done.stderr
    return done.stdout


NOTEBOOK = """
import numpy, pandas, torch
from stages.features.extraction import extract
from stages.images.sample import draw
from stages.probes.neighbours import Neighbours
from stages.simclr.augmentation import augment
from stages.simclr.loss import cosine_similarities, nt_xent
from stages.simclr.model import SimCLR

rng, classes = torch.manual_seed(0), torch.arange(10).repeat(20)
images, model = draw(classes, 32, rng), SimCLR("resnet18", "imagenet", 128)
views = augment(images.repeat(2, 1, 1, 1), rng, min_area=0.08, jitter=0.5, grayscale=0.2, blur=0.5, flip=True)
loss = nt_xent(cosine_similarities(model(views)), temperature=0.07)
train, test = extract(model.encoder, images, torch.device("cpu")).all().numpy().reshape(2, 100, -1)
probe = Neighbours(5).fit(train, classes[:100].numpy())
accuracy = (probe.decision_function(test).argmax(1) == classes[100:].numpy()).mean()
print(loss.item(), views.mean().item(), train.std(), accuracy)
"""


def test_every_module_can_be_imported_in_a_notebook_in_any_order_and_used_in_ten_lines() -> None:
    """After the numeric libraries, whose settings do not change: a loss, views, features and a probe."""
    assert len(MODULES) > 30
    imports = "\n".join(f"import {name}" for name in random.Random(0).sample(MODULES, len(MODULES)))
    set_up = f"[os.environ.get(name) for name in {VARIABLES}], torch.get_num_threads()"
    before = f"import os, numpy, torch, pandas\nbefore = {set_up}"
    unchanged, results = prints(f"{before}\n{imports}\nprint(before == ({set_up}))\n{NOTEBOOK}").splitlines()
    assert unchanged == "True"
    loss, pixel, deviation, accuracy = map(float, results.split())
    assert 3 < loss < 20  # the logarithm of 399 candidates is 6.0
    assert 50 < pixel < 200
    assert deviation > 0
    assert 0.1 < accuracy <= 1  # better than chance


RECORDER = """
import json, os, runpy, sys

class Recorder:
    def find_spec(self, name, *_):
        if name in ("numpy", "torch", "scipy", "sklearn"):  # the environment that the first of them would read
            print(json.dumps(dict(os.environ)))
            sys.stdout.flush()
            os._exit(0)

sys.meta_path.insert(0, Recorder())
sys.argv = ["stages", sys.argv[1]]
runpy.run_module("stages", run_name="__main__", alter_sys=True)
"""


@pytest.mark.skipif(not has_avx2(), reason="the processor has no AVX2")
@pytest.mark.parametrize("name", ["pretrain", "extract-features", "fit-logreg", "predict"])
def test_the_variables_are_set_before_a_numeric_library_is_imported(name: str) -> None:
    done = python("-c", RECORDER, name)
    assert done.returncode == 0, done.stderr
    environment = json.loads(done.stdout.splitlines()[-1])
    threads = str(read_params(ROOT / FILE)["threads"])
    compatible = name in ("extract-features", "fit-logreg")
    expected = dict.fromkeys(THREAD_VARIABLES, threads) | {
        "MKL_CBWR": "COMPATIBLE" if compatible else "AVX2,STRICT",
        "ATEN_CPU_CAPABILITY": "avx2",
        "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    assert {name: environment.get(name) for name in expected} == expected


def test_check_computes_nothing_and_imports_no_numeric_library(folder: Path) -> None:
    (folder / "examples/images").mkdir(parents=True)
    done = python("-c", RECORDER, "check", at=folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(not has_avx2(), reason="the processor has no AVX2")
def test_a_library_that_ignores_its_variable_is_reported_and_a_single_core_runs_all_threads() -> None:
    script = (
        "import os; from stages.runtime.arithmetic import fix_arithmetic, verify_arithmetic\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "fix_arithmetic('pretrain', {})\n"
        "os.environ['ATEN_CPU_CAPABILITY'] = 'default'\n"
        "import numpy, threadpoolctl\n"
        "try: verify_arithmetic(2, True)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
        "print({each['num_threads'] for each in threadpoolctl.threadpool_info()})"
    )
    error, threads = prints(script).splitlines()
    assert error.startswith("UserError torch uses DEFAULT instead of AVX2")
    assert threads == "{2}"


@pytest.mark.parametrize(("starter", "expected"), [("SHELL", 0), ("DVC_STAGE", 9), ("TORCHELASTIC_RUN_ID", 9)])
def test_a_stage_ends_with_dvc_or_torchrun_but_not_with_a_shell(starter: str, expected: int) -> None:
    """tests/pipeline/test_experiments.py kills DVC."""
    script = (
        f"import ctypes, os; os.environ['{starter}'] = ''\n"
        "from stages.__main__ import end_with_dvc\n"
        "end_with_dvc()\n"
        "found = ctypes.c_int(-1)\n"
        "ctypes.CDLL(None).prctl(2, ctypes.byref(found))\n"  # PR_GET_PDEATHSIG
        "print(found.value)"
    )
    assert prints(script) == f"{expected}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with only dvc.yaml and params.yaml."""
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    return tmp_path


@pytest.mark.parametrize("arguments", [(), ("train",), ("__main__",), ("../check",), ("simclr.training",)])
def test_an_unknown_stage_name_gives_one_line_with_all_names(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["stages", *arguments])
    line = refusal(entry_point.main)
    assert line.startswith("usage: python -m stages NAME; NAME is one of: check, download, pretrain")
    assert line.endswith("report, predict")


@pytest.mark.parametrize("missing", ["dvc.yaml", "params.yaml"])
def test_outside_the_repository_the_error_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    (folder / missing).unlink()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["stages", "pretrain"])
    with pytest.raises(UserError, match=f"^{missing}: not found; run from the root of the repository"):
        entry_point.main()


def test_every_mistake_gets_one_line_and_the_last_line_tells_how_to_undo_it_outside_the_queue(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder / "params.yaml"
    content = file.read_text().replace("epochs: 25 ", "epochs: ten").replace("flip: true", "flip: 1")
    file.write_text(content.replace("stem:", "step:"))
    done = python("-m", "stages", "check", at=folder)
    assert (done.returncode, done.stdout) == (1, "")
    *mistakes, advice = done.stderr.splitlines()
    assert sorted(line.split()[1] for line in mistakes) == ["augment.flip", "epochs", "stem", "step"]
    assert all(line.startswith("params.yaml: ") for line in mistakes)
    assert advice == f"(to go back to the committed parameters and results: `{RESTORE_COMMAND}`)"
    monkeypatch.setenv("DVC_ROOT", str(folder.parent))  # in the queue, the stage runs in a copy of the repository
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["stages", "check"])
    with pytest.raises(UserError) as in_a_copy:
        entry_point.main()
    assert str(in_a_copy.value).splitlines() == mistakes


def test_ctrl_c_gives_one_line_and_the_command_that_undoes_the_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["stages", "check"])

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "main", interrupted)
    with pytest.raises(UserError, match=f"^stopped\n.*{RESTORE_COMMAND}"):
        entry_point.main()
