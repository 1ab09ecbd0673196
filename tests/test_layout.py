"""dvc.yaml, params.yaml and the README say what is so."""

import ast
import csv
import json
import re
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages.params import load_params

ROOT = Path(__file__).parent.parent
PIPELINE = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())
STAGES = PIPELINE["stages"]
PARAMS = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
README = (ROOT / "README.md").read_text()


def script(stage: str) -> Path:
    return ROOT / "stages" / f"{stage.replace('-', '_')}.py"


def imported(file: Path) -> set[Path]:
    """The local modules that a file imports, directly or not, and the file."""
    found = {file}
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            assert not any(name.name.startswith("stages") for name in node.names), "write: from stages.x import y"
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stages"):
            assert node.module != "stages", "write: from stages.x import y"
            found |= imported(ROOT / f"{node.module.replace('.', '/')}.py")
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_exactly_the_modules_that_the_script_imports(stage: str) -> None:
    listed = {ROOT / dep for dep in STAGES[stage]["deps"] if dep.endswith(".py")}
    assert listed == imported(script(stage))


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
    assert set(STAGES[stage].get("params", [])) == params_read(script(stage))


def test_every_parameter_is_read_by_some_stage_and_commented() -> None:
    assert set().union(*(stage.get("params", []) for stage in STAGES.values())) == set(PARAMS)
    for line in (ROOT / "params.yaml").read_text().splitlines():
        if line and not line.startswith("#") and not line.endswith(":"):
            assert "#" in line, line


def test_the_committed_parameters_are_valid() -> None:
    assert load_params(ROOT / "params.yaml").data == "sample"


def outs(stage: str) -> list[tuple[str, dict]]:
    return [
        next(iter(out.items()))
        for kind in ("outs", "metrics", "plots")
        for out in STAGES[stage].get(kind, [])
    ]  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
def test_everything_has_a_description(stage: str) -> None:
    assert STAGES[stage]["desc"]
    assert all(options["desc"] for _, options in outs(stage))


def test_metrics_and_plots_are_in_git_and_other_outs_are_not() -> None:
    tracked = set(subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines())
    for stage in STAGES:
        for path, options in outs(stage):
            in_git = path.startswith(("metrics/", "plots/"))
            assert options.get("cache", True) is not in_git, path
            assert (path in tracked) is in_git, path


def test_plots_draw_columns_that_exist() -> None:
    drawn = [(path, options["x"], columns) for plot in PIPELINE["plots"] for options in plot.values()
             for path, columns in options["y"].items()]  # fmt: skip
    drawn += [
        (path, options["x"], options["y"]) for stage in STAGES for path, options in outs(stage) if path.endswith(".csv")
    ]
    assert len(drawn) > len(PIPELINE["plots"])
    for path, x, columns in drawn:
        with (ROOT / path).open() as file:
            header = next(csv.reader(file))
        assert {x, *([columns] if isinstance(columns, str) else columns)} <= set(header), path


def test_the_report_depends_on_every_curve() -> None:
    curves = {path for stage in STAGES for path, _ in outs(stage) if path.endswith(".csv")}
    assert curves == {dep for dep in STAGES["report"]["deps"] if dep.endswith(".csv")}


def test_artifacts_are_outputs() -> None:
    paths = {path for stage in STAGES for path, _ in outs(stage)}
    assert {artifact["path"] for artifact in PIPELINE["artifacts"].values()} <= paths


def test_readme_tree_is_what_is_in_git() -> None:
    tree = re.search(r"```text\n(dvc\.yaml.*?)```", README, re.S)
    assert tree
    shown, folder = set(), ""
    for line in tree[1].splitlines():
        name = line.split()[0]
        folder = "" if not line.startswith(" ") else folder
        shown.add(folder + name)
        if name.endswith("/"):
            folder = name
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    visible = [path for path in tracked if not path.startswith(".")]
    for path in visible:
        inside = path.split("/", 1)[0] + "/" if "/" in path else ""
        # A folder may be described as a whole; if any of its files is named, all must be.
        named = [name for name in shown if name.startswith(inside) and name != inside] if inside else []
        assert path in shown if (not inside or named) else inside in shown, path
    for name in shown:
        assert (ROOT / name).exists(), name


def test_readme_shows_the_stages_in_order() -> None:
    dag = re.search(r"```text\n(check.*?)```", README, re.S)
    assert dag
    assert re.findall(r"[a-z][a-z-]+", dag[1]) == list(STAGES)


def committed_metrics(name: str) -> dict:
    """Those of HEAD: after `make repro` on another processor, the workspace has others."""
    show = ["git", "show", f"HEAD:metrics/{name}.json"]
    return json.loads(subprocess.run(show, cwd=ROOT, capture_output=True, check=True).stdout)


def test_readme_table_shows_the_committed_metrics() -> None:
    logreg, linear, evaluate = (committed_metrics(name) for name in ("logreg", "linear", "evaluate"))
    table = re.search(r"^\| probe \| raw pixels .*?\n\n", README, re.M | re.S)
    assert table
    results = (
        logreg["first"], logreg["all"], logreg["coarse"], linear, evaluate["knn_fine"], evaluate["knn_coarse"]
    )  # fmt: skip
    for row, result in zip(table[0].strip().splitlines()[2:], results, strict=True):
        expected = [
            f"{100 * scores['test_accuracy']:.1f} % "
            f"({100 * scores['test_accuracy_low']:.1f} to {100 * scores['test_accuracy_high']:.1f})"
            for scores in (result[encoder] for encoder in ("pixels", "initial", "simclr"))
        ]
        for control in ("pixels", "initial"):
            gain = result["gain"][control]
            low, high = (f"{100 * gain[f'test_accuracy_{end}']:+.1f}" for end in ("low", "high"))
            expected.append(f"{100 * gain['test_accuracy']:+.1f} ({low} to {high})")
        assert [cell.strip() for cell in row.split("|")[2:-1]] == expected


def test_readme_names_tests_that_exist() -> None:
    tests = "".join(file.read_text() for file in (ROOT / "tests").glob("*.py"))
    named = re.findall(r"`(test_\w+)`", README)
    assert named
    assert all(f"def {name}(" in tests for name in named)
    assert all((ROOT / name).is_file() for name in re.findall(r"`(tests/\w+\.py)`", README))


def test_readme_commands_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"\bmake (\w+)", README)) <= targets
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    for key in re.findall(r"-S '?([\w.]+)=", README):
        value = PARAMS
        for part in key.split("."):
            value = value[part]
