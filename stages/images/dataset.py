"""What every source of images (`sample`, `cifar`, `folder`) delivers.

Shapes: N images of S x S pixels, S the parameter `image_size`.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Labelled:
    images: np.ndarray  # (N, S, S, 3) uint8, RGB
    fine: np.ndarray  # (N,) int64, index into Dataset.fine_names
    coarse: np.ndarray  # (N,) int64, index into Dataset.coarse_names


@dataclass(frozen=True)
class Dataset:
    unlabelled: np.ndarray  # (N, S, S, 3) uint8, for pretraining
    train: Labelled  # for the probes
    test: Labelled
    fine_names: list[str]
    coarse_names: list[str]  # the superclasses; the fine names where there are none


def seen_before(test: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Which test images have the pixels of a training image or of an earlier test image: (N, ...), (M, ...) -> (N,)."""
    seen = {_digest(image) for image in train}
    found = np.zeros(len(test), bool)
    for number, image in enumerate(test):
        pixels = _digest(image)
        found[number] = pixels in seen
        seen.add(pixels)
    return found


def _digest(image: np.ndarray) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()


@dataclass(frozen=True)
class Sizes:
    """How many images a source delivers."""

    unlabelled: int
    train: list[int]  # of each fine class
    test: int

    def bytes(self, side: int) -> int:
        """Of all of them with `side` x `side` pixels."""
        return (self.unlabelled + sum(self.train) + self.test) * side * side * 3


def scaled(square: Image.Image, side: int) -> np.ndarray:
    """A square RGB image as (side, side, 3) uint8."""
    return np.array(square.resize((side, side), Image.Resampling.BICUBIC))
