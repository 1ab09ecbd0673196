"""Every backbone equals torchvision's ResNet; it trains, extracts and exports."""

import copy
import math
from functools import cache
from typing import get_args

import numpy as np
import onnxruntime
import pytest
import torch
import torchvision
from torch import Generator, Tensor, nn
from torch.optim import AdamW

from stages.export import PictureModel, as_onnx
from stages.features.extraction import extract
from stages.runtime.params import Backbone
from stages.simclr.encoder import BACKBONES, Encoder, TinyMapConv2d
from stages.simclr.model import SimCLR
from stages.simclr.training import TrainingStep
from tests.repository import CPU, VIEW, random_images, refusal

FEATURES = {"resnet18": 512, "resnet34": 512, "resnet50": 2048}


def pixels(count: int) -> Tensor:
    return random_images(count).permute(0, 3, 1, 2)


def test_the_parameter_allows_every_backbone() -> None:
    assert set(get_args(Backbone)) == set(BACKBONES) == set(FEATURES)


@pytest.mark.parametrize(("backbone", "training"), [("resnet18", True), *((name, False) for name in FEATURES)])
def test_every_backbone_equals_torchvisions_network(backbone: str, training: bool) -> None:
    """Parameter names, initial weights for a seed, features, gradients and BatchNorm's statistics."""
    torch.manual_seed(0)
    stock = torchvision.models.get_model(backbone)
    after = torch.get_rng_state()
    torch.manual_seed(0)
    encoder = Encoder(backbone, "imagenet").train(training)
    assert torch.equal(after, torch.get_rng_state())
    stock.fc = nn.Identity()
    ours, theirs = encoder.state_dict(), stock.train(training).state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert encoder.features == FEATURES[backbone]
    convolutions = [each for each in encoder.modules() if isinstance(each, nn.Conv2d) and each.kernel_size == (3, 3)]
    assert {type(each) for each in convolutions} == {TinyMapConv2d}
    features, expected = encoder(pixels(16)), stock(pixels(16) / 255)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)
    features.square().mean().backward()
    expected.square().mean().backward()
    for (name, parameter), reference in zip(encoder.named_parameters(), stock.parameters(), strict=True):
        assert (parameter.grad - reference.grad).abs().max() <= 1e-3 * reference.grad.abs().max(), name
    for buffer, reference in zip(encoder.buffers(), stock.buffers(), strict=True):
        torch.testing.assert_close(buffer, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (2, 2), (1, 3), (4, 1), (3, 2)])
def test_the_convolution_on_tiny_maps_equals_pytorchs(size: tuple[int, int], stride: int) -> None:
    torch.manual_seed(0)
    tiny, stock = (layer(3, 5, 3, stride, padding=1).double() for layer in (TinyMapConv2d, nn.Conv2d))
    stock.load_state_dict(tiny.state_dict())
    x = torch.randn(4, 3, *size, dtype=torch.float64)
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    outputs = [layer(given) for layer, given in zip((tiny, stock), inputs, strict=True)]
    torch.testing.assert_close(*outputs)
    weights = torch.randn_like(outputs[1])
    for output in outputs:
        (output * weights).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    for ours, theirs in zip(tiny.parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_torchvisions_weights_are_loaded_except_for_the_stem_of_cifar(stem: str) -> None:
    encoder = Encoder("resnet18", stem)
    own = copy.deepcopy(encoder.state_dict())
    state = {name: value + 1 for name, value in torchvision.models.resnet18().state_dict().items()}
    encoder.load_torchvision(state)
    kept = ("conv1.", "bn1.") if stem == "cifar" else ()
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, (own if name.startswith(kept) else state)[name]), name
    for other in ("resnet34", "resnet50"):
        assert "those of another backbone" in refusal(Encoder(other, stem).load_torchvision, state)


@cache
def two_steps(backbone: str, stem: str) -> tuple[Encoder, list[float], list[str]]:
    """The encoder after two steps, the losses, and the names of unchanged tensors."""
    torch.manual_seed(0)
    model = SimCLR(backbone, stem, 16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = AdamW(model.parameters(), lr=1e-3, fused=True)
    step = TrainingStep(model, optimizer, VIEW, 0.5, Generator().manual_seed(0))
    losses = [step(random_images(8).repeat(2, 1, 1, 1))["loss"].item() for _ in range(2)]
    unchanged = [name for name, value in model.state_dict().items() if torch.equal(value, before[name])]
    return model.encoder.eval(), losses, unchanged


@pytest.mark.parametrize(("backbone", "stem"), [*((each, "imagenet") for each in FEATURES), ("resnet18", "cifar")])
def test_two_steps_change_every_weight_and_extraction_uses_the_trained_backbone(backbone: str, stem: str) -> None:
    encoder, losses, unchanged = two_steps(backbone, stem)
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
    assert unchanged == []
    with torch.inference_mode():
        expected = encoder(pixels(6))
    torch.testing.assert_close(extract(encoder, random_images(6), CPU).all(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_an_exported_resnet50_predicts_the_same_as_pytorch() -> None:
    """test_export.py exports a ResNet-18, which has the same blocks as a ResNet-34."""
    encoder = copy.deepcopy(two_steps("resnet50", "imagenet")[0])
    encoder.set_3x3_convolutions(nn.Conv2d)
    rng = Generator().manual_seed(0)
    model = PictureModel(encoder, torch.randn(3, 2048, generator=rng), torch.randn(3, generator=rng), 32).eval()
    session = onnxruntime.InferenceSession(as_onnx(model, {}))
    pictures = random_images(3)[:, :20]
    with torch.inference_mode():
        for found, expected in zip(session.run(None, {"images": pictures.numpy()}), model(pictures), strict=True):
            np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-3)
