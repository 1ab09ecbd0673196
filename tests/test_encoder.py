"""The encoder is torchvision's ResNet-18, computed faster."""

import copy
from functools import partial

import pytest
import torch
import torchvision
from torch import nn

from benchmarks.textbook import info_nce_loss
from stages.augment import augment
from stages.contrastive import projection_head
from stages.encoder import Encoder, TinyMapConv2d
from stages.extract_features import extract, folded
from stages.pretrain import contrast, embed
from stages.sample import generate_sample


def pixels(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def twins() -> tuple[Encoder, nn.Module]:
    """Our encoder and torchvision's, with the same weights."""
    torch.manual_seed(0)
    stock = torchvision.models.resnet18()
    encoder = Encoder("imagenet")
    encoder.load_torchvision(stock.state_dict())
    stock.fc = nn.Identity()
    return encoder, stock


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("height", [1, 2, 3, 4])
@pytest.mark.parametrize("width", [1, 2, 3])
def test_tiny_map_convolution_is_the_convolution(height: int, width: int, stride: int, bias: bool) -> None:
    torch.manual_seed(0)
    tiny = TinyMapConv2d(3, 5, 3, stride, padding=1, bias=bias).double()
    stock = nn.Conv2d(3, 5, 3, stride, padding=1, bias=bias).double()
    stock.load_state_dict(tiny.state_dict())
    x = torch.randn(4, 3, height, width, dtype=torch.float64)
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    outputs = [layer(given) for layer, given in zip((tiny, stock), inputs, strict=True)]
    torch.testing.assert_close(*outputs)
    weights = torch.randn_like(outputs[1])
    for output in outputs:
        (output * weights).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    torch.testing.assert_close(tiny.weight.grad, stock.weight.grad)


def test_state_dict_is_torchvisions() -> None:
    encoder, stock = twins()
    ours, theirs = encoder.state_dict(), stock.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("training", [True, False])
def test_features_and_gradients_are_torchvisions(training: bool) -> None:
    encoder, stock = twins()
    encoder.train(training)
    stock.train(training)
    x = pixels(16).permute(0, 3, 1, 2)
    ours, theirs = encoder(x), stock(x / 255)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    ours.square().mean().backward()
    theirs.square().mean().backward()
    for (name, parameter), reference in zip(encoder.named_parameters(), stock.parameters(), strict=True):
        scale = reference.grad.abs().max()
        assert (parameter.grad - reference.grad).abs().max() <= 1e-3 * scale, name
    for ours, theirs in zip(encoder.buffers(), stock.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_twenty_steps_lose_what_stock_modules_and_the_tutorials_loss_do() -> None:
    """In double precision: AdamW's first steps amplify the rounding of single precision, so that there stock modules
    in another memory format differ from themselves by half a per cent."""
    encoder, stock = twins()
    head = projection_head(512, 128)
    ours, theirs = nn.Sequential(encoder, head).double(), nn.Sequential(stock, copy.deepcopy(head)).double()
    optimizers = [torch.optim.AdamW(model.parameters(), lr=2e-4, weight_decay=1e-4) for model in (ours, theirs)]
    stream = torch.Generator().manual_seed(0)
    images = generate_sample(0).unlabelled
    view = partial(augment, min_area=0.08, jitter=0.5, grayscale=0.2, blur=0.5, flip=True)
    for batch in torch.randint(len(images), (20, 16), generator=stream):
        views = view(images[batch].repeat(2, 1, 1, 1), stream).double()
        loss, _ = contrast(embed(ours, images[batch], lambda _images, _stream, views=views: views, stream), 0.07)
        reference = info_nce_loss(theirs(views / 255), 0.07)
        assert loss.item() == pytest.approx(reference.item(), rel=1e-9)
        for term, optimizer in zip((loss, reference), optimizers, strict=True):
            optimizer.zero_grad()
            term.backward()
            optimizer.step()


def test_integer_and_float_pixels_are_scaled_alike() -> None:
    encoder = twins()[0].eval()
    x = pixels(2).permute(0, 3, 1, 2)
    assert torch.equal(encoder(x), encoder(x.float()))


def test_cifar_stem_keeps_the_resolution_and_its_own_first_layer() -> None:
    torch.manual_seed(0)
    encoder = Encoder("cifar")
    own = copy.deepcopy(encoder.state_dict())
    state = {name: value + 1 for name, value in torchvision.models.resnet18().state_dict().items()}
    encoder.load_torchvision(state)
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, (own if name.startswith(("conv1.", "bn1.")) else state)[name]), name
    sizes = []
    encoder.layer1.register_forward_hook(lambda _layer, _given, output: sizes.append(output.shape))
    assert encoder(pixels(2).permute(0, 3, 1, 2)).shape == (2, 512)
    assert sizes == [(2, 64, 32, 32)]


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_extraction_with_batch_norm_folded_in_gives_the_encoders_features(stem: str) -> None:
    torch.manual_seed(0)
    encoder = Encoder(stem)
    for _ in range(3):  # statistics unlike those of a new network
        encoder(pixels(32).permute(0, 3, 1, 2))
    for norm in (module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
    features = extract(encoder, pixels(8), torch.device("cpu"))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded(encoder).modules())
    with torch.inference_mode():
        expected = encoder.eval()(pixels(8).permute(0, 3, 1, 2))
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def test_feature_of_an_image_ignores_its_batch_mates() -> None:
    encoder = twins()[0]
    images = pixels(6)
    others = torch.cat([images[:1], pixels(5, seed=1)])
    cpu = torch.device("cpu")
    assert torch.equal(extract(encoder, images, cpu)[0], extract(encoder, others, cpu)[0])


def test_extraction_leaves_weights_and_statistics_bit_identical() -> None:
    encoder = twins()[0].train()
    before = copy.deepcopy(encoder.state_dict())
    features = extract(encoder, pixels(4), torch.device("cpu"))
    assert features.shape == (4, 512)
    assert not features.requires_grad
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
