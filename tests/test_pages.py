"""The pages and the committed results say what is so."""

import io
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from tests.repository import ROOT

STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
PARAMS = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
README = (ROOT / "README.md").read_text()
PAGES = [
    ROOT / name
    for name in ("README.md", "stages/README.md", "stages/HOSTS.md", "benchmarks/README.md", "tests/README.md")
]


def test_metrics_are_few_enough_to_read() -> None:
    contents = [json.loads(file.read_text()) for file in (ROOT / "metrics").glob("*.json")]
    assert sum(len(pd.json_normalize(content).columns) for content in contents) <= 40


def test_each_chosen_c_lies_inside_the_range() -> None:
    table, C = committed_table("choice_of_C"), PARAMS["logreg"]["C"]
    chosen = table[table.chosen == 1]
    classes = chosen.classes.map({"first": PARAMS["first_classes"], "all": 100, "superclasses": 20})
    # Features that know next to nothing are best ignored, so that they guess: the best C is 0.
    guesses = chosen.loss > np.log(classes) - 0.005
    assert (chosen.C.between(min(C), max(C), inclusive="neither") | guesses).all()
    assert set(chosen[guesses].encoder) <= {"pixels"}


def test_readme_shows_the_stages_in_order() -> None:
    dag = re.search(r"```text\n(check.*?)```", README, re.S)
    assert dag
    assert re.findall(r"[a-z][a-z-]+", dag[1]) == list(STAGES)


def committed_table(name: str) -> pd.DataFrame:
    """That of HEAD: after `make repro` on another processor, the workspace has others."""
    show = ["git", "show", f"HEAD:plots/data/{name}.csv"]
    return pd.read_csv(io.BytesIO(subprocess.run(show, cwd=ROOT, capture_output=True, check=True).stdout))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_name_files_tests_commands_and_parameters_that_exist(page: Path) -> None:
    text = page.read_text()
    tests = "".join(file.read_text() for file in (ROOT / "tests").rglob("*.py"))
    assert all(f"def {name}(" in tests for name in re.findall(r"`(test_\w+)`", text))
    named = re.findall(r"`((?:tests|stages|benchmarks)/[\w./]+)`", text)
    for name in named + re.findall(r"\]\((?!http|#)([^)]+)\)", text):
        assert (ROOT / name).exists() or (page.parent / name).exists(), name
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"\bmake (\w+)`", text)) | set(re.findall(r"^make (\w+)", text, re.M)) <= targets
    for key in re.findall(r"-S '?([\w.]+)=", text):
        value = PARAMS
        for part in key.split("."):
            value = value[part]


def test_ci_runs_the_readmes_test_command() -> None:
    assert "make test" in README
    assert "make test" in (ROOT / ".ci" / "run").read_text()
