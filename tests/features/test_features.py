"""Frozen features, raw pixels as their control, and t-SNE maps."""

import numpy as np
import pytest
import torch
from torch import nn

from stages.features.extraction import extract, folded
from stages.features.maps import tsne
from stages.features.pixels import pixel_components
from tests.repository import CPU, random_images, trained_encoder


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_features_are_those_of_the_encoder_in_evaluation_mode(stem: str) -> None:
    encoder = trained_encoder(stem)
    features = extract(encoder, random_images(5), CPU).all()
    with torch.inference_mode():
        expected = encoder.eval()(random_images(5).permute(0, 3, 1, 2))
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def test_extraction_does_not_change_the_encoder_and_features_do_not_depend_on_the_other_images() -> None:
    encoder = trained_encoder("imagenet")
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    features = extract(encoder, random_images(6), CPU).all()
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
    assert encoder.training
    assert not features.requires_grad
    others = torch.cat([random_images(6)[:1], random_images(5, 1)])
    assert torch.equal(extract(encoder, others, CPU).all()[0], features[0])


def test_folding_removes_every_batchnorm() -> None:
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded(trained_encoder("imagenet")).modules())


def test_pixel_components_preserve_distances_and_are_sorted_by_variance() -> None:
    # 20 centred images span 19 dimensions, so 19 components are enough.
    train, test = (part.all() for part in pixel_components(random_images(20), random_images(5, 1), 512))
    assert (train.shape, test.shape) == ((20, 512), (5, 512))
    pixels, of_test = (images.flatten(1).double() / 255 for images in (random_images(20), random_images(5, 1)))
    torch.testing.assert_close(torch.cdist(train, train).double(), torch.cdist(pixels, pixels), rtol=1e-3, atol=1e-3)
    # Distances between test images are preserved in the space that the training images span.
    centred = pixels - pixels.mean(0)
    on_train = (of_test - pixels.mean(0)) @ torch.linalg.pinv(centred) @ centred
    torch.testing.assert_close(torch.cdist(test, test).double(), torch.cdist(on_train, on_train), rtol=1e-3, atol=1e-3)
    assert (train.std(0).diff() < 1e-4).all()
    assert (train[:, 19:] == 0).all()


def test_larger_images_are_averaged_before_their_components_are_taken() -> None:
    small = [random_images(20), random_images(5, 1)]
    blocks = [part.repeat_interleave(3, 1).repeat_interleave(3, 2) for part in small]
    for expected, found in zip(pixel_components(*small, 16), pixel_components(*blocks, 16), strict=True):
        torch.testing.assert_close(found.all().abs(), expected.all().abs(), rtol=1e-3, atol=1e-4)


def test_components_come_from_the_training_images_alone() -> None:
    train, _ = pixel_components(random_images(20), random_images(5, 1), 512)
    again, _ = pixel_components(random_images(20), random_images(7, 2), 512)
    assert torch.equal(train.all(), again.all())


def test_a_map_separates_distant_groups_and_is_deterministic() -> None:
    groups = torch.arange(60) % 2
    x = torch.randn(60, 8, generator=torch.Generator().manual_seed(0)) + 20 * torch.eye(8)[groups]
    points = tsne(x, seed=0)
    distances = torch.cdist(points, points).fill_diagonal_(torch.inf)
    assert (groups[distances.argmin(1)] == groups).all()
    np.testing.assert_array_equal(points, tsne(x, seed=0))


def test_a_map_of_equal_features_is_one_point() -> None:
    assert torch.equal(tsne(torch.ones(12, 8), seed=0), torch.zeros(12, 2))
