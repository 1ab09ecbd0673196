"""What the pipeline trained, used elsewhere: fetched by DVC, and run on someone's pictures."""

import csv
from pathlib import Path

import numpy as np
import pytest

from tests.repository import Repository


def test_the_exported_model_is_right_as_often_as_its_probe(
    finished: Repository, repository: Repository, tmp_path: Path
) -> None:
    """In another directory, with nothing but the file, on the pictures of the test set."""
    elsewhere = Repository(tmp_path)
    elsewhere.environment |= {"PYTHONPATH": str(repository.path)}
    repository.run("git tag --annotate --message first simclr@v1.0.0")
    elsewhere.run(f"dvc artifacts get {repository.path} simclr")
    images = finished.path.parent / "images/test"
    said = elsewhere.run(f"python -m stages predict --model simclr.onnx --csv {images}")
    rows = list(csv.DictReader(line for line in said.partition("predicting:")[0].splitlines()))
    assert len(rows) == 18
    right = np.mean([row["class"] == Path(row["file"]).parent.name for row in rows])
    metrics = repository.json("dvc metrics show --json")[""]["data"]["metrics/probes.json"]["data"]
    assert right == pytest.approx(metrics["all"]["simclr"], abs=1e-6)


def test_models_of_any_commit_are_fetched_as_the_readme_says(repository: Repository, tmp_path: Path) -> None:
    expected = (repository.path / "models/simclr.onnx").read_bytes()
    elsewhere = Repository(tmp_path)
    elsewhere.run(f"dvc get {repository.path} models/simclr.onnx --rev main --out got.onnx")
    assert (tmp_path / "got.onnx").read_bytes() == expected
    script = f"import dvc.api; f = dvc.api.open('models/simclr.onnx', '{repository.path}', 'main', mode='rb'); "
    script += "print(len(f.__enter__().read()))"
    assert elsewhere.run(f'python -c "{script}"').split()[-1] == str(len(expected))
