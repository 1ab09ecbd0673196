"""The trained models outside the repository: fetched by DVC, and used on pictures."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors import safe_open

from stages.io.tensors import open_tensors
from tests.repository import RESULTS, ROOT, Repository

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


def test_the_shared_model_has_the_accuracy_of_its_probe(
    finished: Repository, repository: Repository, tmp_path: Path
) -> None:
    """Shared by the commands in stages/HOSTS.md; on the pictures of the test set, where there is only the model."""
    repository.run(f"git init -q --bare -b main {tmp_path}/git && git remote add origin {tmp_path}/git")
    repository.run("git push -q --set-upstream origin main")
    _, text = (ROOT / "stages/HOSTS.md").read_text().split("## A shared remote")
    text = text.replace(" REPOSITORY", f" {tmp_path}/git").replace(" REV", " simclr@v1.0.0")
    *share, get = re.findall(r"^(?:dvc remote add|dvc push|git commit|dvc artifacts).*", text, re.M)
    for command in share:
        repository.run(command.replace(" URL", f" {tmp_path}/storage"))
    repository.run(f"git clone -q . {tmp_path}/fresh")
    fresh = Repository(tmp_path / "fresh")
    fresh.run("dvc pull --run-cache")
    assert fresh.is_clean()
    assert fresh.bytes(*RESULTS) == repository.bytes(*RESULTS)
    elsewhere = Repository(tmp_path / "elsewhere")
    elsewhere.path.mkdir()
    elsewhere.environment |= {"PYTHONPATH": str(repository.path)}
    elsewhere.run(get)
    [of_any_commit] = re.findall(r"dvc get .*", get)
    elsewhere.run(f"{of_any_commit} --out again.onnx")
    model = (repository.path / "models/simclr.onnx").read_bytes()
    assert elsewhere.bytes(".") == {"simclr.onnx": model, "again.onnx": model}
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
