"""The encoder is torchvision's ResNet-18, computed faster."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from stages.simclr.encoder import Encoder, TinyMapConv2d


def pixels(count: int) -> torch.Tensor:
    stream = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=stream)


def twins() -> tuple[Encoder, nn.Module]:
    """Our encoder and torchvision's, from the same seed."""
    torch.manual_seed(0)
    stock = torchvision.models.resnet18()
    stock.fc = nn.Identity()
    torch.manual_seed(0)
    return Encoder("resnet18", "imagenet"), stock


def test_a_seed_gives_torchvisions_network_and_the_same_random_numbers_after_it() -> None:
    encoder, stock = twins()
    ours, theirs = encoder.state_dict(), stock.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    after = torch.get_rng_state()
    torch.manual_seed(0)
    torchvision.models.resnet18()
    assert torch.equal(after, torch.get_rng_state())


@pytest.mark.parametrize("training", [True, False])
def test_features_and_gradients_are_torchvisions(training: bool) -> None:
    encoder, stock = (network.train(training) for network in twins())
    ours, theirs = encoder(pixels(16)), stock(pixels(16) / 255)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    ours.square().mean().backward()
    theirs.square().mean().backward()
    for (name, parameter), reference in zip(encoder.named_parameters(), stock.parameters(), strict=True):
        scale = reference.grad.abs().max()
        assert (parameter.grad - reference.grad).abs().max() <= 1e-3 * scale, name
    for ours, theirs in zip(encoder.buffers(), stock.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (2, 2), (1, 3), (4, 1), (3, 2)])
def test_tiny_map_convolution_is_the_convolution(size: tuple[int, int], stride: int, bias: bool) -> None:
    torch.manual_seed(0)
    tiny = TinyMapConv2d(3, 5, 3, stride, padding=1, bias=bias).double()  # with a bias, as after folding BatchNorm
    stock = nn.Conv2d(3, 5, 3, stride, padding=1, bias=bias).double()
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


def test_integer_and_float_pixels_are_scaled_alike() -> None:
    encoder = twins()[0].eval()
    assert torch.equal(encoder(pixels(2)), encoder(pixels(2).float()))


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_torchvisions_weights_are_taken_over_but_for_the_stem_of_cifar(stem: str) -> None:
    encoder = Encoder("resnet18", stem)
    own = copy.deepcopy(encoder.state_dict())
    state = {name: value + 1 for name, value in torchvision.models.resnet18().state_dict().items()}
    encoder.load_torchvision(state)
    kept = ("conv1.", "bn1.") if stem == "cifar" else ()
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, (own if name.startswith(kept) else state)[name]), name


def test_cifar_stem_keeps_the_resolution() -> None:
    encoder, sizes = Encoder("resnet18", "cifar"), []
    encoder.layer1.register_forward_hook(lambda _layer, _given, output: sizes.append(output.shape))
    assert encoder(pixels(2)).shape == (2, 512)
    assert sizes == [(2, 64, 32, 32)]
