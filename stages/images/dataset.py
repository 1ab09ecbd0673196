"""What every source of images (`sample`, `cifar`, `folder`) delivers."""

from dataclasses import dataclass

import numpy as np

SIDE = 32  # pixels; images are (N, SIDE, SIDE, 3) uint8, RGB


@dataclass(frozen=True)
class Labelled:
    images: np.ndarray  # (N, 32, 32, 3) uint8
    fine: np.ndarray  # (N,) int64, index into Dataset.fine_names
    coarse: np.ndarray  # (N,) int64, index into Dataset.coarse_names


@dataclass(frozen=True)
class Dataset:
    unlabelled: np.ndarray  # (N, 32, 32, 3) uint8, for pretraining
    train: Labelled  # for the probes
    test: Labelled
    fine_names: list[str]
    coarse_names: list[str]  # the superclasses; the fine names where there are none


def seen_before(test: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Which test images have the pixels of a training image or of an earlier test image: (N, ...), (M, ...) -> (N,)."""
    seen = {image.tobytes() for image in train}
    found = np.zeros(len(test), bool)
    for number, image in enumerate(test):
        pixels = image.tobytes()
        found[number] = pixels in seen
        seen.add(pixels)
    return found


@dataclass(frozen=True)
class Sizes:
    """How many images a source delivers."""

    unlabelled: int
    train: list[int]  # of each fine class
    test: int

    @property
    def bytes(self) -> int:
        return (self.unlabelled + sum(self.train) + self.test) * SIDE * SIDE * 3
