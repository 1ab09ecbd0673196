"""The exported model agrees with the pipeline, has metadata, and loads into other libraries."""

import json
import re
import tomllib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
import torchvision
from huggingface_hub import ModelCard
from PIL import Image
from torch import nn

from stages.export import PictureModel, as_onnx
from stages.images.folder import read_image
from stages.io.tensors import FORMAT, read_tensors
from stages.reporting.summaries import read_probe_tables
from stages.simclr.encoder import load_encoder
from tests.repository import CLASSES, ROOT, Repository, random_images, trained_encoder

SIZES = [(32, 32), (33, 47), (31, 200), (480, 360), (1, 1), (64, 1)]


@pytest.fixture(scope="module")
def exported(finished: Repository) -> Path:
    return finished.path / "models"


@pytest.fixture(scope="module")
def model(exported: Path) -> PictureModel:
    """The exported model in PyTorch."""
    encoder, _ = load_encoder(exported / "simclr.safetensors")
    encoder.set_3x3_convolutions(nn.Conv2d)
    classifier, _ = read_tensors(exported / "classifier.safetensors")
    return PictureModel(encoder, classifier["weight"], classifier["bias"], 32).eval()


def picture(height: int, width: int) -> np.ndarray:
    """A smooth image, like a photograph."""
    coarse = np.random.default_rng(height + width).integers(0, 256, (-(-height // 8), -(-width // 8), 3), np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))


def test_the_exported_model_agrees_with_pytorch_and_closely_with_the_pipeline_at_any_picture_size(
    model: PictureModel, exported: Path, tmp_path: Path
) -> None:
    session = onnxruntime.InferenceSession(exported / "simclr.onnx")
    for size in SIZES:
        pixels = picture(*size)
        features, probabilities = session.run(None, {"images": pixels[None]})
        with torch.inference_mode():
            expected, expected_probabilities = model(torch.from_numpy(pixels[None]))
            np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-3)
            np.testing.assert_allclose(probabilities, expected_probabilities, atol=1e-3)
            # Pillow rounds after each direction of the scaling, so some pixels differ by 1 of 255.
            Image.fromarray(pixels).save(tmp_path / "x.png")
            by_pillow = read_image(tmp_path / "x.png", 32)
            _, of_pipeline = model(torch.from_numpy(by_pillow[None]))
        np.testing.assert_allclose(probabilities, of_pipeline, atol=0.03)


def test_a_batch_of_pictures_gives_the_results_of_single_pictures(exported: Path) -> None:
    session = onnxruntime.InferenceSession(exported / "simclr.onnx")
    several = np.stack([picture(40, 50), 255 - picture(40, 50)])
    together, *alone = (session.run(["probabilities"], {"images": each})[0] for each in (several, *several[:, None]))
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-5)
    np.testing.assert_allclose(together.sum(1), 1, rtol=1e-5)


def test_export_is_deterministic_and_its_metadata_describe_the_model_without_local_paths(
    model: PictureModel, exported: Path
) -> None:
    content = (exported / "simclr.onnx").read_bytes()
    (entry,) = onnx.load_from_string(content).metadata_props
    metadata = json.loads(entry.value)
    assert as_onnx(model, metadata) == content
    assert not any(str(path).encode() in content for path in (ROOT, exported.parent))
    assert (metadata["format"], metadata["image_size"], metadata["classes"]) == (FORMAT, 32, CLASSES)
    assert metadata["encoder"]["training"]["lr"] == 0.0002


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_the_encoder_gives_the_same_features_in_torchvision_and_timm(stem: str) -> None:
    encoder = trained_encoder(stem)
    stock = torchvision.models.resnet18()
    stock.fc = nn.Identity()
    if stem == "cifar":
        stock.conv1, stock.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    stock.load_state_dict(encoder.state_dict())
    others = [stock.eval()]
    if stem == "imagenet":
        others.append(timm.create_model("resnet18", num_classes=0).eval())
        others[1].load_state_dict(encoder.state_dict())
    pixels = random_images(5).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = encoder.eval()(pixels)
        for other in others:
            torch.testing.assert_close(other(pixels / 255), expected, rtol=1e-3, atol=1e-3)


def test_hugging_face_reads_the_card_and_its_numbers_are_those_of_the_tables(exported: Path) -> None:
    card = ModelCard.load(exported / "README.md")
    results = {result.task_name: result.metric_value for result in card.data.eval_results}
    table = read_probe_tables("scores", exported.parent / "plots/data")
    tested = table[(table.encoder == "simclr") & (table.split == "test")]
    first = tested[(tested.probe == "logreg") & (tested.classes == "first")]
    assert results["logistic regression, first 2 classes"] == first.accuracy.item()
    assert sorted(results.values()) == sorted(tested.accuracy)
    assert card.data.library_name == "onnx"
    assert card.data.license == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"].lower()
    assert "| lr | `0.0002` |" in card.text


def test_the_code_in_the_card_runs(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(exported)
    names = {"images": picture(40, 50)[None]}
    blocks = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.S)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, names)
    assert (names["features"].shape, names["classes"]) == ((1, 512), CLASSES)
    assert isinstance(names["model"], nn.Module)
