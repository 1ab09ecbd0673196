"""What all sources of images share."""

from array import array

import numpy as np
import torch

from stages.images.dataset import image_stream, seen_before, with_digests
from tests.repository import random_images


def digests(images: torch.Tensor) -> np.ndarray:
    found = array("Q")
    passed = with_digests(image_stream(len(images), 32, images.split(3)), found).all()
    assert torch.equal(passed, images)
    return np.array(found)


def test_test_images_with_the_pixels_of_a_training_image_or_of_an_earlier_test_image_were_seen_before() -> None:
    different = random_images(8)
    train, test = different[:4], different[[4, 1, 5, 4, 6, 3, 4]]
    assert seen_before(digests(test), digests(train)).tolist() == [False, True, False, True, False, True, True]
    test[1, 31, 31, 2] ^= 1
    assert not seen_before(digests(test), digests(train))[1]
