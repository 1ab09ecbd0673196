"""What every source of images (`sample`, `cifar`, `folder`) delivers."""

from dataclasses import dataclass

from torch import Tensor

SIDE = 32  # pixels; images are (N, SIDE, SIDE, 3) uint8, RGB


@dataclass(frozen=True)
class Labelled:
    images: Tensor  # (N, 32, 32, 3) uint8
    fine: Tensor  # (N,) int64, index into Dataset.fine_names
    coarse: Tensor  # (N,) int64, index into Dataset.coarse_names


@dataclass(frozen=True)
class Dataset:
    unlabelled: Tensor  # (N, 32, 32, 3) uint8, for pretraining
    train: Labelled  # for the probe
    test: Labelled
    fine_names: list[str]
    coarse_names: list[str]


@dataclass(frozen=True)
class Sizes:
    """How many images a source will deliver, known before any is read."""

    unlabelled: int
    train: list[int]  # of each fine class
    test: int

    @property
    def bytes(self) -> int:
        return (self.unlabelled + sum(self.train) + self.test) * SIDE * SIDE * 3
