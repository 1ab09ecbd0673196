"""The generated sample."""

import colorsys
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stages.images.params import UNLABELLED_IMAGES
from stages.images.sample import COARSE_NAMES, COARSE_OF_FINE, FINE_NAMES, HUES, draw, generate_sample, hue_to_rgb
from tests.repository import images_of


def test_same_seed_same_images_other_seed_others() -> None:
    streams = [generate_sample(seed, 32).unlabelled for seed in (0, 0, 1)]
    first, again, other = (next(iter(images.chunks)) for images in streams if images)
    assert (first == again).all()
    assert (first != other).flatten(1).any(1).all()


def test_the_whole_sample_has_the_known_size_100_balanced_classes_and_no_image_twice() -> None:
    sample = generate_sample(0, 32)
    for part in (sample.train, sample.test):
        assert np.bincount(part.fine).tolist() == [50] * 100
        assert np.bincount(part.coarse).tolist() == [250] * 20
    parts = images_of(sample)
    assert len(parts[0]) == UNLABELLED_IMAGES["sample"]
    images = torch.cat(parts).numpy()
    assert (images.shape[1:], images.dtype) == ((32, 32, 3), np.uint8)
    assert len({image.tobytes() for image in images}) == len(images)


def test_a_superclass_is_five_classes_whose_light_ink_differs_from_the_dark_one_by_the_same_hue() -> None:
    assert torch.bincount(COARSE_OF_FINE).tolist() == [5] * 20
    assert len(set(FINE_NAMES)) == 100
    for name, coarse in zip(FINE_NAMES, COARSE_OF_FINE, strict=True):
        light, dark = (hue_to_rgb(torch.tensor([HUES.index(hue) / 10])) for hue in name.split(" and dark "))
        difference = light - dark
        superclass = COARSE_NAMES[coarse]
        assert (difference.norm().item() > 1.4) == superclass.startswith("much")  # inks are of length 1
        named = hue_to_rgb(torch.tensor([HUES.index(superclass.split()[-1]) / 10]))
        if difference.norm() > 0:  # within half a step of the circle
            assert torch.cosine_similarity(difference, named) > math.cos(math.pi / 10) - 1e-5


def test_the_first_ten_classes_differ_in_both_hues() -> None:
    lights, darks = zip(*(name.split(" and dark ") for name in FINE_NAMES[:10]), strict=True)
    assert len(set(lights)) == len(set(darks)) == 10


def test_hues_are_of_length_1_without_brightness_and_those_of_hsv() -> None:
    colours = hue_to_rgb(torch.arange(10) / 10)
    torch.testing.assert_close(colours.sum(1), torch.zeros(10), atol=1e-6, rtol=0)
    torch.testing.assert_close(colours.norm(dim=1), torch.ones(10))
    for number, colour in enumerate(colours.tolist()):
        hue = colorsys.rgb_to_hsv(*(0.5 + 0.1 * part for part in colour))[0]
        assert abs((hue - number / 10 + 0.5) % 1 - 0.5) < 0.02


def test_with_more_pixels_the_textures_are_the_same() -> None:
    small, large = (draw(torch.arange(20), side, torch.Generator().manual_seed(0)).float() for side in (32, 96))
    averaged = F.avg_pool2d(large.permute(0, 3, 1, 2), 3).permute(0, 2, 3, 1)
    assert (averaged - small).abs().mean() < 6  # of 255: noise has a deviation of 5, and edges are sharper


@pytest.fixture(scope="module")
def images() -> dict[int, np.ndarray]:
    """Many images of a few classes, in [0, 1]."""
    stream = torch.Generator().manual_seed(0)
    return {fine: draw(torch.full((600,), fine), 32, stream).numpy() / 255 for fine in (0, 3, 47, 99)}


def test_colours_add_up_to_gray_in_every_class_and_at_every_pixel(images: dict[int, np.ndarray]) -> None:
    for of_class in images.values():
        colour = of_class - of_class.mean(-1, keepdims=True)
        assert np.abs(colour.mean((0, 1, 2))).max() < 0.003
        standard_error = colour.std(0) / len(colour) ** 0.5
        assert (np.abs(colour.mean(0)) < 5 * standard_error).all()


def test_light_areas_have_the_hue_of_the_light_ink_and_dark_ones_of_the_dark_in_every_crop(
    images: dict[int, np.ndarray],
) -> None:
    for fine, of_class in images.items():
        expected = [HUES.index(hue) / 10 for hue in FINE_NAMES[fine].split(" and dark ")]
        crops = of_class[:, 8:24, 4:20]  # a quarter of the area
        for hue, brightest in zip(expected, (True, False), strict=True):
            fractions = []
            for crop in crops.reshape(len(crops), -1, 3):
                order = crop.mean(1).argsort()
                area = order[-40:] if brightest else order[:40]  # of 256 pixels
                found = colorsys.rgb_to_hsv(*crop[area].mean(0))[0]
                fractions.append(abs((found - hue + 0.5) % 1 - 0.5) < 0.1)
            assert np.mean(fractions) > 0.9


def test_a_third_of_the_area_is_light_a_third_dark(images: dict[int, np.ndarray]) -> None:
    """Light areas are brighter than the middle by the contrast, dark ones darker by as much."""
    gray = np.concatenate(list(images.values())).mean(-1)
    centred = (gray - gray.mean((1, 2), keepdims=True)) / gray.std((1, 2), keepdims=True)
    # Two equal outer thirds and a middle one: +-c and 0, of deviation c * sqrt(2/3).
    assert [np.mean(centred > 0.6), np.mean(centred < -0.6)] == pytest.approx([1 / 3, 1 / 3], abs=0.03)
