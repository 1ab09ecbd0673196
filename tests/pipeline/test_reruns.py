"""What reruns after a change: what a stage lists is the unit of invalidation, and equal results end the chain there."""

import json
from pathlib import Path

import onnx
from safetensors import safe_open

from stages.io.tensors import open_tensors
from tests.repository import RESULTS, Repository

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


def append(file: Path, line: str) -> None:
    file.write_text(f"{file.read_text()}{line}\n")


def test_a_comment_in_the_training_loop_reruns_pretraining_alone_which_gives_the_same_bytes(
    repository: Repository,
) -> None:
    before = repository.bytes(*RESULTS)
    append(repository.path / "stages/simclr/training.py", "# A comment.")
    assert repository.stages_run("dvc repro") == ["pretrain"]
    assert repository.bytes(*RESULTS) == before


def test_a_comment_in_the_figures_reruns_the_report_alone(repository: Repository) -> None:
    append(repository.path / "stages/reporting/figures.py", "# A comment.")
    assert repository.stages_run("dvc repro") == ["report"]


def test_a_new_probe_parameter_reruns_the_check_and_the_probes_alone(repository: Repository) -> None:
    before = repository.bytes(*RESULTS)
    append(repository.path / "stages/probing/params.py", "    ridge: NonNegative = 1.0")  # the last class is FitParams
    assert repository.stages_run("dvc repro") == ["check", "fit-logreg"]
    assert repository.bytes(*RESULTS) == before


def test_metadata_of_models_say_what_they_are_and_hold_no_hash_of_code(finished: Repository) -> None:
    models = finished.path / "models"
    found = {name: open_tensors(models / f"{name}.safetensors")[1] for name in ("simclr", "initial", "classifier")}
    exported = {entry.key: entry.value for entry in onnx.load(models / "simclr.onnx").metadata_props}
    found["onnx"] = json.loads(exported.pop("notes"))
    assert exported == {}
    assert {name: set(metadata) for name, metadata in found.items()} == METADATA
    assert set(found["simclr"]["training"]) == TRAINING
    with safe_open(models / "simclr.safetensors", framework="np") as file:
        assert set(file.metadata()) == {"notes"}
