"""The batched augmentation compared with torchvision's transforms of single images."""

import math

import pytest
import torch
from scipy.stats import ks_2samp
from torchvision.transforms import ColorJitter, GaussianBlur, RandomApply, RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

from stages.simclr.augmentation import adjust_colour, augment, crop_boxes, gaussian_blur, resized_crop, turn_hue

NOTHING = {"min_area": 1.0, "jitter": 0.0, "grayscale": 0.0, "blur": 0.0, "flip": False}
DEFAULTS = {"min_area": 0.08, "jitter": 0.5, "grayscale": 0.2, "blur": 0.5, "flip": True}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth_images(count: int, side: int = 32) -> torch.Tensor:
    """(count, 3, side, side) in 60..190, so that factors near 1 keep them in 0..255."""
    small = torch.rand(count, 3, 4, 4, generator=rng())
    return 60 + 130 * torch.nn.functional.interpolate(small, size=side, mode="bilinear")


def bytes_of(count: int, side: int = 32) -> torch.Tensor:
    return smooth_images(count, side).round().to(torch.uint8).permute(0, 2, 3, 1)


def copies(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One small image, as bytes many times and as floats once."""
    image = bytes_of(1, side=8)
    return image.expand(count, -1, -1, -1), image[0].permute(2, 0, 1).float()


def fraction(happened: torch.Tensor) -> float:
    return happened.float().mean().item()


def test_flip_mirrors_half_of_the_images_and_changes_nothing_else() -> None:
    images, image = copies(2000)
    views = augment(images, rng(), **NOTHING | {"flip": True})
    mirrored, same = ((views - x).abs().amax((1, 2, 3)) < 0.01 for x in (image.flip(2), image))
    assert bool((mirrored ^ same).all())
    assert fraction(mirrored) == pytest.approx(0.5, abs=0.05)


def test_every_image_of_a_batch_gets_a_different_view_and_the_seed_determines_it() -> None:
    images = bytes_of(1).expand(16, -1, -1, -1)
    views = augment(images, rng(), **DEFAULTS)
    differences = (views[:, None] - views[None]).abs().amax((2, 3, 4)) + 1e3 * torch.eye(16)
    assert differences.min() > 1
    assert torch.equal(views, augment(images, rng(), **DEFAULTS))
    assert views.min() >= 0
    assert views.max() <= 255


def test_crop_boxes_have_torchvisions_distribution() -> None:
    side = 2000  # large, because torchvision rounds boxes to whole pixels
    left, top, width, height = crop_boxes(4000, 0.08, rng())
    torch.manual_seed(0)
    image = torch.empty(1, side, side)
    theirs = torch.tensor(
        [RandomResizedCrop.get_params(image, scale=[0.08, 1.0], ratio=[3 / 4, 4 / 3]) for _ in range(4000)]
    )
    their_top, their_left, their_height, their_width = theirs.T / side
    for ours, reference in (
        (left, their_left), (top, their_top), (width * height, their_width * their_height),
        ((width / height).log(), (their_width / their_height).log()),
    ):  # fmt: skip
        assert ks_2samp(ours.numpy(), reference.numpy()).pvalue > 0.001
    assert bool((left >= 0).all() and (top >= 0).all())
    assert bool((left + width <= 1 + 1e-6).all() and (top + height <= 1 + 1e-6).all())


def test_a_mirrored_crop_is_the_crop_mirrored() -> None:
    x = smooth_images(2)
    box = tuple(torch.full((2,), side) for side in (0.1, 0.3, 0.4, 0.5))
    plain, mirrored = (resized_crop(x, box, torch.full((2,), value)) for value in (False, True))
    torch.testing.assert_close(mirrored, plain.flip(3), rtol=0, atol=1e-2)


def test_resized_crop_equals_torchvisions_inside_the_box() -> None:
    x = smooth_images(3)
    boxes = [(4, 8, 16, 24), (0, 0, 32, 32), (10, 2, 20, 15)]  # left, top, width, height in pixels
    ours = resized_crop(x, tuple(torch.tensor(side) / 32 for side in zip(*boxes, strict=True)), torch.zeros(3) > 0)
    for image, view, (left, top, width, height) in zip(x, ours, boxes, strict=True):
        theirs = tv.resized_crop(image, top, left, height, width, [32, 32], antialias=True)
        # At the edge, torchvision repeats the border of the box; we interpolate with the next pixel of the image.
        torch.testing.assert_close(view[:, 2:-2, 2:-2], theirs[:, 2:-2, 2:-2], rtol=0, atol=0.1)


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.3])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_colour_factors_equal_torchvisions(name: str, factor: float) -> None:
    x = smooth_images(4)
    factors = {key: torch.ones(4) for key in ("brightness", "contrast", "saturation")}
    factors[name] *= factor
    theirs = getattr(tv, f"adjust_{name}")(x / 255, factor) * 255
    torch.testing.assert_close(adjust_colour(x, **factors), theirs, rtol=0, atol=0.2)


@pytest.mark.parametrize("turn", [-0.3, -0.1, 0.0, 0.1, 0.45])
def test_the_hue_shift_equals_torchvisions(turn: float) -> None:
    x = torch.rand(4, 3, 8, 8, generator=rng()) * 255
    x[0, :, 0] = 100.0  # gray pixels have no hue
    theirs = tv.adjust_hue(x / 255, turn) * 255
    torch.testing.assert_close(turn_hue(x, torch.full((4,), turn)), theirs, rtol=0, atol=0.01)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 2.0])
@pytest.mark.parametrize(("side", "kernel"), [(32, 3), (64, 7), (96, 9), (224, 23)])
def test_blur_equals_torchvisions_with_a_kernel_of_a_tenth_of_the_side(side: int, kernel: int, sigma: float) -> None:
    x = torch.rand(4, 3, side, side, generator=rng()) * 255
    theirs = tv.gaussian_blur(x, [kernel, kernel], [sigma, sigma])
    torch.testing.assert_close(gaussian_blur(x, torch.full((4,), sigma)), theirs, rtol=0, atol=0.01)


def test_a_fifth_of_the_images_becomes_gray() -> None:
    gray = augment(copies(3000)[0], rng(), **NOTHING | {"grayscale": 0.2})
    assert fraction((gray[:, 0] - gray[:, 2]).abs().amax((1, 2)) < 0.01) == pytest.approx(0.2, abs=0.03)


def test_colour_distortion_has_torchvisions_distribution() -> None:
    """Value, chroma and hue of a plain colour in the middle of the range, where clamping has no effect."""
    count, colour = 1500, torch.tensor([150, 120, 100], dtype=torch.uint8)
    ours = augment(colour.expand(count, 8, 8, 3), rng(), **NOTHING | {"jitter": 0.5})[:, :, 0, 0]
    torch.manual_seed(0)
    theirs_for_one = RandomApply([ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8)
    image = (colour / 255)[:, None, None].expand(3, 8, 8)
    theirs = 255 * torch.stack([theirs_for_one(image)[:, 0, 0] for _ in range(count)])
    for statistic in (
        lambda rgb: rgb.amax(1),
        lambda rgb: rgb.amax(1) - rgb.amin(1),
        lambda rgb: torch.atan2(math.sqrt(3) * (rgb[:, 1] - rgb[:, 2]), 2 * rgb[:, 0] - rgb[:, 1] - rgb[:, 2]),
    ):
        # A fifth is unchanged, so both have the same value there, up to rounding.
        a, b = (statistic(rgb).double().round(decimals=3).numpy() for rgb in (ours, theirs))
        assert ks_2samp(a, b).pvalue > 0.01


def test_blur_has_torchvisions_distribution() -> None:
    count = 1500
    noise = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8, generator=rng())
    ours = augment(noise.expand(count, -1, -1, -1), rng(), **NOTHING | {"blur": 0.5})
    torch.manual_seed(0)
    theirs_for_one = RandomApply([GaussianBlur(3, (0.1, 2.0))], p=0.5)
    image = noise.permute(2, 0, 1).float()
    theirs = torch.stack([theirs_for_one(image) for _ in range(count)])
    # The remaining contrast falls with sigma.
    a, b = (x.var((1, 2, 3)).double().round().numpy() for x in (ours, theirs))
    assert ks_2samp(a, b).pvalue > 0.01
