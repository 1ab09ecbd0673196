"""dvc.yaml, params.yaml, the packages of stages/, the committed tables and the pages are consistent."""

import ast
import json
import os
import re
import shutil
import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import modify_yaml
from ruamel.yaml import YAML

from tests.repository import ROOT

PIPELINE = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())
STAGES = PIPELINE["stages"]
PARAMS = YAML(typ="safe").load((ROOT / "params.yaml").read_text())


def tracked() -> list[str]:
    return subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()


def imports(file: Path) -> set[Path]:
    """The modules of stages/ that a file imports directly."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stages"):
            found.add(ROOT / f"{(node.module or '').replace('.', '/')}.py")
    assert all(module.is_file() for module in found), "write: from stages.x.y import z"
    return found


def reachable(file: Path) -> set[Path]:
    """The file, and all modules of stages/ that it needs."""
    return {file}.union(*(reachable(module) for module in imports(file)))


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_what_the_stage_imports(stage: str) -> None:
    """Each imported module is covered by a listed file or folder, and nothing else is listed."""
    scripts = (ROOT / "stages/__main__.py", ROOT / f"stages/{stage.replace('-', '_')}.py")
    used = {str(module.relative_to(ROOT)) for script in scripts for module in reachable(script)}
    listed = [dep for dep in STAGES[stage]["deps"] if dep.startswith("stages/")]
    covers = {dep: {module for module in used if module == dep or module.startswith(f"{dep}/")} for dep in listed}
    assert set().union(*covers.values()) == used
    assert all(covers.values())


def test_packages_do_not_import_scripts_and_there_are_no_circular_imports() -> None:
    modules = [ROOT / path for path in tracked() if re.fullmatch(r"stages/.*\.py", path) and (ROOT / path).exists()]
    for module in modules:
        assert not any(module in reachable(imported) for imported in imports(module)), f"a circle through {module}"
        if module.parent.name != "stages":
            assert not any(imported.parent.name == "stages" for imported in imports(module)), f"{module}: upwards"


@pytest.mark.parametrize("stage", [stage for stage in STAGES if "params.yaml" not in STAGES[stage]["deps"]])
def test_params_are_the_fields_of_the_scripts_params(stage: str) -> None:
    script = import_module(f"stages.{stage.replace('-', '_')}")
    params = STAGES[stage].get("params", [])
    assert params == sorted(script.Params.model_fields)
    assert ("${folder}" in STAGES[stage]["deps"]) is ("folder" in params)  # a new image reruns the stage


def test_every_parameter_is_read_by_a_stage_or_its_command() -> None:
    in_commands = {name for stage in STAGES.values() for name in re.findall(r"\$\{(\w+)\}", stage["cmd"])}
    assert in_commands.union(*(stage.get("params", []) for stage in STAGES.values())) == set(PARAMS)


def test_dvc_keeps_the_formatting_of_params_yaml_and_dvc_yaml(tmp_path: Path) -> None:
    """`dvc exp run -S` and `dvc freeze` rewrite these files."""
    params, pipeline = (Path(shutil.copy(ROOT / name, tmp_path)) for name in ("params.yaml", "dvc.yaml"))
    apply_overrides(params, ["seed=0"])
    with modify_yaml(pipeline):
        pass
    assert params.read_text() == (ROOT / "params.yaml").read_text()
    assert pipeline.read_text() == (ROOT / "dvc.yaml").read_text(), "`dvc freeze report && dvc unfreeze report` does it"


def test_a_clone_has_the_same_bytes_with_git_set_to_windows_line_endings(tmp_path: Path) -> None:
    clone = ["git", "clone", "-q", "-c", "core.autocrlf=true", ROOT, tmp_path / "clone"]
    subprocess.run(clone, check=True, capture_output=True)
    texts = [path for path in (tmp_path / "clone").rglob("*") if path.suffix in (".py", ".yaml", ".csv", ".json")]
    assert texts
    assert not any(b"\r\n" in path.read_bytes() for path in texts)


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # of `make test`
    return subprocess.run(["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def test_an_environment_is_made_anew_where_it_was_moved_and_only_with_a_python_that_works(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    (clone / ".venv").mkdir(parents=True)
    for name in ("Makefile", "requirements.lock"):
        shutil.copy(ROOT / name, clone)
    (clone / ".venv/installed").write_text(f"{clone.resolve()}/.venv\n")
    assert make(clone, "--question", ".venv/installed").returncode == 0
    moved = clone.rename(tmp_path / "moved")
    assert make(moved, "--question", ".venv/installed").returncode == 1
    for version in ("3.10", "3.15"):
        done = make(moved, "repro", f"PYTHON=echo {version} #")
        assert done.returncode != 0
        assert done.stdout.endswith("is not Python 3.11 to 3.14; use another one: make PYTHON=python3.12\n")
    assert (moved / ".venv/installed").exists()


def outs(stage: str) -> list[tuple[str, dict[str, Any]]]:
    kinds = (STAGES[stage].get(kind, []) for kind in ("outs", "metrics", "plots"))
    return [(out, {}) if isinstance(out, str) else next(iter(out.items())) for listed in kinds for out in listed]


TABLES = {path: options for stage in STAGES for path, options in outs(stage) if path.startswith("plots/data/")}


def test_metrics_and_plots_are_in_git_and_other_outs_are_not() -> None:
    in_git = set(tracked())
    paths = [path for stage in STAGES for path, _ in outs(stage)]
    for stage in STAGES:
        for path, options in outs(stage):
            shown = path.startswith(("metrics/", "plots/"))
            assert options.get("cache", True) is not shown, path
            assert (path in in_git) is shown, path
    of_several_runs = "metrics/seeds.csv"
    assert {path for path in in_git if path.startswith(("metrics/", "plots/"))} <= {*paths, of_several_runs}
    of_one_run = [json.loads((ROOT / path).read_text()) for path in paths if path.startswith("metrics/")]
    names = {name for metrics in of_one_run for name in pd.json_normalize(metrics).columns}
    if PARAMS["data"] == "sample":
        assert set(pd.read_csv(ROOT / of_several_runs).metric) <= names


@pytest.mark.parametrize("path", TABLES)
def test_every_table_has_one_plot_whose_template_uses_its_columns(path: str) -> None:
    options = TABLES[path]
    assert "plots" not in PIPELINE  # a table listed there would be drawn a second time
    template = (ROOT / f".dvc/plots/{options['template']}.json").read_text()
    given = {anchor: options[anchor] for anchor in ("x", "y") if anchor in options}
    for anchor, column in given.items():
        template = template.replace(f"<DVC_METRIC_{anchor.upper()}>", column)
    assert not re.search("<DVC_METRIC_[XY]>", template)
    made = {"value", "rev", "split"}.union(  # not every table has splits
        *(re.findall(r"\w+", names) for names in re.findall(r'"as": (\[.*?\]|".*?")', template))
    )
    used = re.findall(r'"field": "(\w+)"|datum\.(\w+)', template)
    drawn = {name for pair in used for name in pair if name} - made
    columns = set(pd.read_csv(ROOT / path, nrows=0).columns)
    assert {*given.values(), *drawn} <= columns
    assert "step" not in drawn or given["x"] == "step"  # otherwise DVC replaces the column by row numbers
    assert "rev" in template


def test_stages_and_outputs_have_descriptions_and_artifacts_are_outputs() -> None:
    assert [stage for stage in STAGES if "desc" not in STAGES[stage]] == []
    described = {path for stage in STAGES for path, options in outs(stage) if "desc" in options}
    assert described == {path for stage in STAGES for path, _ in outs(stage)}
    assert {artifact["path"] for artifact in PIPELINE["artifacts"].values()} <= described


PAGES = [path for path in tracked() if path.endswith(".md")]


@pytest.mark.parametrize("page", PAGES)
def test_pages_name_files_tests_commands_and_parameters_that_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    tests = "".join(file.read_text() for file in (ROOT / "tests").rglob("*.py"))
    assert all(f"def {name}(" in tests for name in re.findall(r"`(test_\w+)`", text))
    named = re.findall(r"`((?:tests|stages|benchmarks)/[\w./]+)`", text)
    for name in named + re.findall(r"\]\((?!http|#)([^)]+)\)", text):
        assert (ROOT / name).exists() or ((ROOT / page).parent / name).exists(), name
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"\bmake (\w+)`", text)) | set(re.findall(r"^make (\w+)", text, re.M)) <= targets
    for key in re.findall(r"-S '?([\w.]+)=", text):
        value = PARAMS
        for part in key.split("."):
            value = value[part]
