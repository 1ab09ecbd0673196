"""What every source of images (`sample`, `cifar`, `folder`) delivers.

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
    """Slices of `count` images, each of as many as one chunk of a stream should have."""
    size = max(1, PIXELS // side**2)
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


@dataclass(frozen=True)
class Labelled:
    images: Stream  # (N, S, S, 3) uint8, RGB
    fine: np.ndarray  # (N,) int64, index into Dataset.fine_names
    coarse: np.ndarray  # (N,) int64, index into Dataset.coarse_names


@dataclass(frozen=True)
class Dataset:
    """The streams are to be read in this order, each once."""

    unlabelled: Stream | None  # (N, S, S, 3) uint8, for pretraining; None: the training images
    train: Labelled  # for the probes
    test: Labelled
    fine_names: list[str]
    coarse_names: list[str]  # the superclasses; the fine names where there are none


def with_digests(images: Stream, digests: array) -> Stream:
    """The same stream, which appends a hash of 64 bits of each image as it is read.

    Of ten million images, two different ones have the same with a probability of 3e-6.
    """

    def chunks() -> Iterator[Tensor]:
        for chunk in images.chunks:
            for image in chunk.numpy():
                digests.frombytes(hashlib.blake2b(image.tobytes(), digest_size=8).digest())
            yield chunk

    return replace(images, chunks=chunks())


def seen_before(test: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Which test images are training images, too, or earlier test images, by their digests: (N,), (M,) -> (N,)."""
    return pd.Series(test).duplicated().to_numpy() | np.isin(test, train)


def scaled(square: Image.Image, side: int) -> Image.Image:
    return square.resize((side, side), Image.Resampling.BICUBIC)
