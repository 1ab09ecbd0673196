"""The embedded sample."""

import colorsys

import numpy as np
import pytest
import torch

from stages.images.dataset import Sizes
from stages.images.sample import COARSE_NAMES, COARSE_OF_FINE, FINE_NAMES, draw, generate_sample, hsv_to_rgb
from stages.images.sizes import SAMPLE


def test_same_seed_same_images_other_seed_others() -> None:
    first, again, other = (
        (sample.unlabelled, sample.train.images, sample.test.images) for sample in map(generate_sample, (0, 0, 1))
    )
    for part in range(3):
        assert (first[part] == again[part]).all()
        assert (first[part] != other[part]).any((1, 2, 3)).all()


def test_the_whole_sample_has_the_known_size_100_balanced_classes_and_no_image_twice() -> None:
    sample = generate_sample(0)
    for part in (sample.train, sample.test):
        assert np.bincount(part.fine).tolist() == [50] * 100
        assert np.bincount(part.coarse).tolist() == [250] * 20
    assert Sizes(len(sample.unlabelled), np.bincount(sample.train.fine).tolist(), len(sample.test.images)) == SAMPLE
    images = np.concatenate([sample.unlabelled, sample.train.images, sample.test.images])
    assert (images.shape[1:], images.dtype) == ((32, 32, 3), np.uint8)
    assert len({image.tobytes() for image in images}) == len(images)


def test_five_fine_classes_in_each_superclass_share_its_shape() -> None:
    assert torch.bincount(COARSE_OF_FINE).tolist() == [5] * 20
    assert len(set(FINE_NAMES)) == 100
    for name, coarse in zip(FINE_NAMES, COARSE_OF_FINE, strict=True):
        assert name.split()[1] == COARSE_NAMES[coarse].split()[1]


def test_first_ten_classes_differ_in_shape_and_in_hue() -> None:
    hues, shapes = zip(*(name.split() for name in FINE_NAMES[:10]), strict=True)
    assert len(set(hues)) == len(set(shapes)) == 10


def test_colours_are_those_of_hsv() -> None:
    hsv = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.tensor([colorsys.hsv_to_rgb(*row) for row in hsv.tolist()])
    torch.testing.assert_close(hsv_to_rgb(*hsv.T), expected)


@pytest.mark.parametrize("fine", [0, 3, 99])
def test_what_is_drawn_has_the_hue_of_its_class(fine: int) -> None:
    """Averaged over many images, what stands out from the gray ground has the class's hue."""
    images = draw(torch.full((300,), fine), torch.Generator().manual_seed(0)).double().mean((0, 1, 2))
    hue = colorsys.rgb_to_hsv(*(images / 255).tolist())[0]
    names = ("red", "orange", "lime", "green", "mint", "cyan", "azure", "indigo", "purple", "pink")
    expected = names.index(FINE_NAMES[fine].split()[0]) / 10
    assert abs((hue - expected + 0.5) % 1 - 0.5) < 0.02
