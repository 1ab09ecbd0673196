"""The real data: CIFAR-10 for pretraining, CIFAR-100 for the probes, read from the official archives.

The archives contain pickles, which can run code when they are read. `archives.fetch` has verified their checksums, and
the unpickler here only creates arrays and plain values. No member is written to disk.
"""

import pickle
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stages.images.dataset import Dataset, Labelled, chunks_of, image_stream, scaled
from stages.io.tensors import Stream
from stages.runtime.errors import UserError, one_line, shortened

CIFAR10_TRAIN = [f"cifar-10-batches-py/data_batch_{number}" for number in range(1, 6)]
CIFAR100 = [f"cifar-100-python/{member}" for member in ("train", "test", "meta")]
LEVELS = ("fine", "coarse")
SIDE = 32  # pixels of the archives' images


def load_cifar(cifar10: Path, cifar100: Path, side: int) -> Dataset:
    """Reads both archives: 50,000 unlabelled images, 50,000 and 10,000 labelled ones, scaled to `side` pixels.

    Raises UserError if an archive has other content.
    """
    with _opened(cifar10) as tar:
        unlabelled = np.concatenate([_planes(_unpickled(tar, member)) for member in CIFAR10_TRAIN])
    with _opened(cifar100) as tar:
        train, test, meta = (_unpickled(tar, member) for member in CIFAR100)
        fine, coarse = ([name.decode() for name in meta[f"{level}_label_names".encode()]] for level in LEVELS)
        return Dataset(_images(unlabelled, side), _labelled(train, side), _labelled(test, side), fine, coarse)


@contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(archive, "r:gz") as tar:
            yield tar
    except Exception as error:  # of gzip, tar, pickle or NumPy, for a file of another kind
        raise UserError(
            f"{shortened(str(archive))}: is not the expected archive ({one_line(error)}); get it again"
        ) from error


class _ArrayUnpickler(pickle.Unpickler):
    KNOWN = (
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),  # how Python 3 writes bytes that Python 2 can read
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.KNOWN:
            raise pickle.UnpicklingError(f"names {module}.{name}, which is not part of an array")
        return super().find_class(module, name)


def _unpickled(tar: tarfile.TarFile, member: str) -> dict[bytes, Any]:
    return _ArrayUnpickler(tar.extractfile(member), encoding="bytes").load()  # type: ignore[arg-type]  # it is a file


def _planes(batch: dict[bytes, Any]) -> np.ndarray:
    """(N, 3, 32, 32) uint8: each row has the three colour planes one after the other."""
    return batch[b"data"].reshape(-1, 3, SIDE, SIDE)


def _images(planes: np.ndarray, side: int) -> Stream:
    def chunk(rows: slice) -> Tensor:
        images = np.ascontiguousarray(planes[rows].transpose(0, 2, 3, 1))
        if side != SIDE:
            images = np.stack([np.array(scaled(Image.fromarray(image), side)) for image in images])
        return torch.from_numpy(images)

    return image_stream(len(planes), side, map(chunk, chunks_of(len(planes), side)))


def _labelled(batch: dict[bytes, Any], side: int) -> Labelled:
    fine, coarse = (np.array(batch[f"{level}_labels".encode()]) for level in LEVELS)
    return Labelled(_images(_planes(batch), side), fine, coarse)
