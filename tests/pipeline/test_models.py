"""The trained models outside the repository: fetched by DVC, and used on pictures."""

import csv
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors import safe_open

from stages.io.tensors import open_tensors
from tests.repository import Repository

METADATA = {
    "simclr": {"format", "architecture", "backbone", "stem", "input", "image_size", "features", "data", "training"},
    "initial": {"format", "architecture", "backbone", "stem", "input", "image_size", "features", "data"},
    "classifier": {"format", "architecture", "classes"},
    "onnx": {"format", "input", "image_size", "pixel_range", "classes", "encoder", "classifier"},
}
TRAINING = {
    *("augment", "backbone", "batch_size", "epochs", "lr", "projection_dim", "same_bytes", "seed", "stem"),
    *("temperature", "threads", "weight_decay"),
}


def test_the_exported_model_has_the_accuracy_of_its_probe(
    finished: Repository, repository: Repository, tmp_path: Path
) -> None:
    """On the pictures of the test set, in a folder that has only the model."""
    elsewhere = Repository(tmp_path)
    elsewhere.environment |= {"PYTHONPATH": str(repository.path)}
    repository.run("git tag --annotate --message first simclr@v1.0.0")
    elsewhere.run(f"dvc artifacts get {repository.path} simclr")
    images = finished.path.parent / "images/test"
    printed = elsewhere.run(f"python -m stages predict --model simclr.onnx --csv {images}")
    rows = list(csv.DictReader(line for line in printed.partition("predicting:")[0].splitlines()))
    assert len(rows) == 18
    accuracy = np.mean([row["class"] == Path(row["file"]).parent.name for row in rows])
    metrics = repository.json("dvc metrics show --json")[""]["data"]["metrics/logreg.json"]["data"]
    assert accuracy == pytest.approx(metrics["logreg"]["all"], abs=1e-6)


def test_model_metadata_describe_the_model_and_have_no_hash_of_code(finished: Repository) -> None:
    models = finished.path / "models"
    found = {name: open_tensors(models / f"{name}.safetensors")[1] for name in ("simclr", "initial", "classifier")}
    exported = {entry.key: entry.value for entry in onnx.load(models / "simclr.onnx").metadata_props}
    found["onnx"] = json.loads(exported.pop("notes"))
    assert exported == {}
    assert {name: set(metadata) for name, metadata in found.items()} == METADATA
    assert set(found["simclr"]["training"]) == TRAINING
    with safe_open(models / "simclr.safetensors", framework="np") as file:
        assert set(file.metadata()) == {"notes"}


def test_the_readme_command_fetches_models_of_any_commit(repository: Repository, tmp_path: Path) -> None:
    Repository(tmp_path).run(f"dvc get {repository.path} models/simclr.onnx --rev main --out got.onnx")
    assert (tmp_path / "got.onnx").read_bytes() == (repository.path / "models/simclr.onnx").read_bytes()
