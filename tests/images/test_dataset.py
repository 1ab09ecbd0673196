"""What all sources of images share."""

import numpy as np

from stages.images.dataset import seen_before


def test_test_images_with_the_pixels_of_a_training_image_or_of_an_earlier_test_image_were_seen_before() -> None:
    different = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    train, test = different[:4], different[[4, 1, 5, 4, 6, 3, 4]]
    assert seen_before(test, train).tolist() == [False, True, False, True, False, True, True]
    test[1, 31, 31, 2] ^= 1
    assert not seen_before(test, train)[1]
