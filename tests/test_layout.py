"""dvc.yaml and params.yaml say what is so, and the rooms of stages/ are as they should be."""

import ast
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import modify_yaml
from ruamel.yaml import YAML

from stages.files.params import load_params
from tests.repository import ROOT

PIPELINE = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())
STAGES = PIPELINE["stages"]
PARAMS = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
SCRIPTS = {f"stages/{stage.replace('-', '_')}.py" for stage in STAGES}
COMMAND = "stages/predict.py"  # for users; no stage
SET_UP = "stages/__init__.py"  # imported before every other module


def tracked() -> list[str]:
    return subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()


def imports(file: Path) -> set[Path]:
    """The local modules that a file imports itself."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            assert not any(name.name.startswith("stages") for name in node.names), "write: from stages.x.y import z"
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stages"):
            path = (node.module or "").replace(".", "/")
            found.add(ROOT / (SET_UP if path == "stages" else f"{path}.py"))
    assert all(module.is_file() for module in found), "write: from stages.x.y import z"
    return found


def reachable(file: Path) -> set[Path]:
    """The file, and the local modules that it imports, directly or not."""
    return {file}.union(*(reachable(module) for module in imports(file)))


def unit(module: Path) -> str:
    """What a stage lists for a module: a script itself, else its room."""
    path = module.relative_to(ROOT)
    return str(path if path.parent.name == "stages" else path.parent)


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_script_and_exactly_the_rooms_that_it_imports_from(stage: str) -> None:
    listed = {dep for dep in STAGES[stage]["deps"] if dep.startswith("stages/")}
    used = {SET_UP} | {unit(module) for module in reachable(ROOT / f"stages/{stage.replace('-', '_')}.py")}
    assert listed == used


def test_stages_holds_the_scripts_and_rooms_whose_modules_import_downwards_without_a_circle() -> None:
    modules = {path for path in tracked() if path.startswith("stages/") and path.endswith(".py")}
    assert {path for path in modules if path.count("/") == 1} == {*SCRIPTS, COMMAND, SET_UP}
    modules.remove(SET_UP)
    arrows = {(unit(ROOT / path), unit(module)) for path in modules for module in imports(ROOT / path)}
    assert not any(target in SCRIPTS for _, target in arrows)
    order: list[str] = []  # rooms of which all that they import from stand before
    rooms = {name for arrow in arrows for name in arrow} - SCRIPTS - {COMMAND, SET_UP}
    while rooms - set(order):
        free = [
            room for room in sorted(rooms - set(order)) if {b for a, b in arrows if a == room} <= {room, SET_UP, *order}
        ]
        assert free, f"a circle among {rooms - set(order)}"
        order += free
    for path in modules - SCRIPTS - {COMMAND}:
        assert ROOT / path not in set().union(*map(reachable, imports(ROOT / path))), f"a circle through {path}"
        assert "def main(" not in (ROOT / path).read_text()


def params_read(file: Path) -> set[str]:
    """The top-level keys that a script reads, as `params.key`."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if isinstance(node, ast.Name) and node.id == "params" and parts:
            names.add(parts[-1])
    return names


@pytest.mark.parametrize("stage", [stage for stage in STAGES if "params.yaml" not in STAGES[stage]["deps"]])
def test_params_are_exactly_those_that_the_script_reads(stage: str) -> None:
    assert set(STAGES[stage].get("params", [])) == params_read(ROOT / f"stages/{stage.replace('-', '_')}.py")


def test_every_parameter_is_read_by_some_stage_or_its_command_and_commented() -> None:
    in_commands = {name for stage in STAGES.values() for name in re.findall(r"\$\{(\w+)\}", stage["cmd"])}
    assert in_commands.union(*(stage.get("params", []) for stage in STAGES.values())) == set(PARAMS)
    for line in (ROOT / "params.yaml").read_text().splitlines():
        if line and not line.startswith("#") and not line.endswith(":") and not line.strip().startswith("- "):
            assert "#" in line, line


def test_dvc_changes_nothing_in_its_files_but_what_it_is_told_to(tmp_path: Path) -> None:
    """`dvc exp run -S` and `dvc freeze` write them anew."""
    params, pipeline = (Path(shutil.copy(ROOT / name, tmp_path)) for name in ("params.yaml", "dvc.yaml"))
    apply_overrides(params, ["seed=0"])
    with modify_yaml(pipeline):
        pass
    assert params.read_text() == (ROOT / "params.yaml").read_text()
    assert pipeline.read_text() == (ROOT / "dvc.yaml").read_text()
    assert len(pipeline.read_text().splitlines()) <= 170


def test_a_clone_has_the_same_bytes_where_git_writes_windows_line_ends(tmp_path: Path) -> None:
    clone = ["git", "clone", "-q", "-c", "core.autocrlf=true", ROOT, tmp_path / "clone"]
    subprocess.run(clone, check=True, capture_output=True)
    texts = [path for path in tracked() if path.endswith((".py", ".yaml", ".csv", ".json"))]
    assert len(texts) > 100
    assert not any(b"\r\n" in (tmp_path / "clone" / path).read_bytes() for path in texts)


def test_the_committed_parameters_are_valid() -> None:
    assert load_params(ROOT / "params.yaml").data == "sample"


def outs(stage: str) -> list[tuple[str, dict[str, Any]]]:
    kinds = (STAGES[stage].get(kind, []) for kind in ("outs", "metrics", "plots"))
    return [(out, {}) if isinstance(out, str) else next(iter(out.items())) for listed in kinds for out in listed]


TABLES = {path: options for stage in STAGES for path, options in outs(stage) if path.startswith("plots/data/")}


@pytest.mark.parametrize("stage", STAGES)
def test_everything_has_a_description(stage: str) -> None:
    assert STAGES[stage]["desc"]
    assert all(options["desc"] for _, options in outs(stage))


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


@pytest.mark.parametrize("path", TABLES)
def test_a_table_is_drawn_once_by_a_template_of_columns_that_it_has(path: str) -> None:
    options = TABLES[path]
    assert "plots" not in PIPELINE  # where it would be drawn a second time
    template = (ROOT / f".dvc/plots/{options['template']}.json").read_text()
    given = {anchor: options[anchor] for anchor in ("x", "y") if anchor in options}
    for anchor, column in given.items():
        template = template.replace(f"<DVC_METRIC_{anchor.upper()}>", column)
    assert not re.search("<DVC_METRIC_[XY]>", template)
    made = set(re.findall(r'"as": \[?"(\w+)"', template)) | {"value", "rev"}
    drawn = set(re.findall(r'"field": "(\w+)"', template)) - made
    columns = set(pd.read_csv(ROOT / path, nrows=0).columns)
    assert {*given.values(), *drawn} <= columns
    assert "step" not in drawn or given["x"] == "step"  # or DVC numbers the rows and calls that step
    assert "rev" in template


def test_artifacts_are_outputs() -> None:
    paths = {path for stage in STAGES for path, _ in outs(stage)}
    assert {artifact["path"] for artifact in PIPELINE["artifacts"].values()} <= paths
