"""Every backbone is torchvision's, trains, extracts and exports; the schedule; what pretraining sees."""

import copy
import math
from functools import cache
from pathlib import Path
from typing import get_args

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
import torchvision
from ruamel.yaml import YAML
from torch import Generator, Tensor, nn
from torch.optim import AdamW

from stages import pretrain as stage
from stages.download import starting_weights, write_dataset
from stages.export import PictureModel, as_onnx
from stages.features.extraction import extract
from stages.images.dataset import Dataset, Labelled, image_stream
from stages.io.tensors import open_tensors, write_tensors
from stages.runtime.params import FILE, Backbone
from stages.simclr.checkpoint import resumable
from stages.simclr.encoder import BACKBONES, Encoder, TinyMapConv2d
from stages.simclr.model import SimCLR
from stages.simclr.training import TrainingStep
from tests.repository import CPU, ROOT, VIEW, load_params, random_images

FEATURES = {"resnet18": 512, "resnet34": 512, "resnet50": 2048}


def planes(count: int) -> Tensor:
    return random_images(count).permute(0, 3, 1, 2)


def torchvisions(backbone: str) -> nn.Module:
    torch.manual_seed(0)
    network = torchvision.models.get_model(backbone)
    network.fc = nn.Identity()
    return network


def ours(backbone: str) -> Encoder:
    torch.manual_seed(0)
    return Encoder(backbone, "imagenet")


def two_steps(backbone: str, stem: str) -> tuple[SimCLR, list[float], list[str]]:
    """The model after two steps, their losses, and the names of the tensors that they did not change."""
    torch.manual_seed(0)
    model = SimCLR(backbone, stem, 16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = AdamW(model.parameters(), lr=1e-3, fused=True)
    step = TrainingStep(model, optimizer, VIEW, 0.5, Generator().manual_seed(0))
    losses = [step(random_images(8).repeat(2, 1, 1, 1))["loss"].item() for _ in range(2)]
    return model, losses, [name for name, value in model.state_dict().items() if torch.equal(value, before[name])]


@cache
def trained(backbone: str) -> Encoder:
    return two_steps(backbone, "imagenet")[0].encoder.eval()


def test_the_parameter_offers_every_backbone() -> None:
    assert set(get_args(Backbone)) == set(BACKBONES) == set(FEATURES)


@pytest.mark.parametrize("backbone", FEATURES)
def test_a_backbone_is_torchvisions_network(backbone: str) -> None:
    """Its names, the initial weights of a seed, features and gradients."""
    encoder, stock = ours(backbone), torchvisions(backbone)
    mine, theirs = encoder.state_dict(), stock.state_dict()
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert encoder.features == FEATURES[backbone]
    convolutions = [each for each in encoder.modules() if isinstance(each, nn.Conv2d) and each.kernel_size == (3, 3)]
    assert {type(each) for each in convolutions} == {TinyMapConv2d}
    features, expected = encoder.eval()(planes(8)), stock.eval()(planes(8) / 255)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)
    features.square().mean().backward()
    expected.square().mean().backward()
    for (name, parameter), reference in zip(encoder.named_parameters(), stock.parameters(), strict=True):
        assert (parameter.grad - reference.grad).abs().max() <= 1e-3 * reference.grad.abs().max(), name


@pytest.mark.parametrize(("backbone", "stem"), [*((each, "imagenet") for each in FEATURES), ("resnet18", "cifar")])
def test_two_steps_change_every_weight_of_a_backbone(backbone: str, stem: str) -> None:
    model, losses, unchanged = two_steps(backbone, stem)
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
    assert unchanged == []
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())


@pytest.mark.parametrize("backbone", FEATURES)
def test_extracted_features_are_those_that_a_trained_backbone_computes(backbone: str) -> None:
    encoder = trained(backbone)
    features = extract(encoder, random_images(6), CPU).all()
    assert features.shape == (6, FEATURES[backbone])
    with torch.inference_mode():
        torch.testing.assert_close(features, encoder(planes(6)), rtol=1e-3, atol=1e-3)


def test_an_exported_resnet50_predicts_what_pytorch_does() -> None:
    """test_export.py exports a ResNet-18, which has a ResNet-34's blocks."""
    encoder = copy.deepcopy(trained("resnet50"))
    encoder.set_3x3_convolutions(nn.Conv2d)
    rng = Generator().manual_seed(0)
    weight, bias = torch.randn(3, 2048, generator=rng), torch.randn(3, generator=rng)
    model = PictureModel(encoder, weight, bias, 32).eval()
    session = onnxruntime.InferenceSession(as_onnx(model, {}))
    for height, width in ((32, 32), (20, 45)):
        pictures = torch.randint(0, 256, (3, height, width, 3), dtype=torch.uint8, generator=rng)
        features, probabilities = session.run(None, {"images": pictures.numpy()})
        with torch.inference_mode():
            expected = model(pictures)
        assert features.shape == (3, 2048)
        np.testing.assert_allclose(features, expected[0].numpy(), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(probabilities, expected[1].numpy(), atol=1e-3)


def test_the_learning_rate_of_every_epoch_is_a_cosine_down_to_a_fiftieth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs, lr = 5, 1e-3
    monkeypatch.chdir(tmp_path)
    write_tensors(Path("data/unlabelled.safetensors"), {"images": random_images(8)})
    write_tensors(Path("data/starting_weights.safetensors"), starting_weights("resnet18", None, seed=0))
    changed = {"batch_size": 4, "epochs": epochs, "lr": lr, "threads": 1}
    with resumable({}) as checkpoint:
        stage.pretrain(load_params(ROOT / FILE).model_copy(update=changed), CPU, checkpoint)
    table = pd.read_csv("plots/data/pretrain.csv")
    for epoch, of_epoch in table.groupby("epoch"):
        expected = lr / 50 + (lr - lr / 50) * (1 + math.cos(math.pi * (int(epoch) - 1) / epochs)) / 2
        assert of_epoch.lr.tolist() == pytest.approx([expected] * 2, abs=1e-9)
    assert sorted(set(table.epoch)) == [1, 2, 3, 4, 5]


def test_pretraining_sees_no_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither does the stage list a file of labels, nor does what it reads hold any."""
    pretrain = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]["pretrain"]
    assert [dep for dep in pretrain["deps"] if dep.startswith("data/")] == [
        "data/unlabelled.safetensors",
        "data/starting_weights.safetensors",
    ]
    monkeypatch.chdir(tmp_path)

    def labelled() -> Labelled:
        numbers = np.arange(4)
        return Labelled(image_stream(4, 32, [random_images(4)]), numbers, numbers)

    for unlabelled in (image_stream(6, 32, [random_images(6)]), None):  # None: the images of the training set
        write_dataset(Dataset(unlabelled, labelled(), labelled(), list("abcd"), list("abcd")), "folder")
        tensors, metadata = open_tensors(Path("data/unlabelled.safetensors"))
        assert list(tensors) == ["images"]
        assert metadata == {"data": "folder"}
