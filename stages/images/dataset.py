"""What every source of images (`sample`, `cifar`, `folder`) returns.

Shapes: N images of S x S pixels, S the parameter `image_size`.
"""

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from stages.io.tensors import Stream

PIXELS = 2**24  # in memory at once: 50 MB of an image stream


def image_stream(count: int, side: int, chunks: Iterable[Tensor]) -> Stream:
    """chunks: (M, S, S, 3) uint8 each, RGB."""
    return Stream((count, side, side, 3), torch.uint8, chunks)


def chunks_of(count: int, side: int) -> Iterator[slice]:
    """Slices that divide `count` images into chunks of at most `PIXELS` pixels."""
    size = max(1, PIXELS // side**2)
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


@dataclass(frozen=True)
class Labelled:
    images: Stream  # (N, S, S, 3) uint8, RGB
    fine: np.ndarray  # (N,) int64, index into Dataset.fine_names
    coarse: np.ndarray  # (N,) int64, index into Dataset.coarse_names


@dataclass(frozen=True)
class Dataset:
    """The streams must be read in this order, each once."""

    unlabelled: Stream | None  # (N, S, S, 3) uint8, for pretraining; None: the training images
    train: Labelled  # for the probes
    test: Labelled
    fine_names: list[str]
    coarse_names: list[str]  # the superclasses; without superclasses, the fine names


def with_digests(images: Stream, digests: array) -> Stream:
    """The same stream; reading it appends a hash of 64 bits of each image to `digests`.

    Among ten million images, the probability that two different ones have the same hash is 3e-6.
    """

    def chunks() -> Iterator[Tensor]:
        for chunk in images.chunks:
            for image in chunk.numpy():
                digests.frombytes(hashlib.blake2b(image.tobytes(), digest_size=8).digest())
            yield chunk

    return replace(images, chunks=chunks())


def seen_before(test: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Which test images are also training images or earlier test images, by digests: (N,), (M,) -> (N,) bool."""
    return pd.Series(test).duplicated().to_numpy() | np.isin(test, train)


def scaled(square: Image.Image, side: int) -> Image.Image:
    return square.resize((side, side), Image.Resampling.BICUBIC)
