"""The real data: CIFAR-10 for pretraining, CIFAR-100 for the probe, read from the official archives.

The archives hold pickles, which can run code when they are read. `download.fetch` verifies the checksum of an archive
first, and the unpickler here knows arrays of bytes and nothing else. No member is ever written to disk.
"""

import pickle
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from stages.dataset import SIDE, Dataset, Labelled, Sizes
from stages.files import one_line, shortened

CIFAR10_TRAIN = [f"cifar-10-batches-py/data_batch_{number}" for number in range(1, 6)]
CIFAR100 = [f"cifar-100-python/{member}" for member in ("train", "test", "meta")]
LEVELS = ("fine", "coarse")
SIZES = Sizes(50_000, [500] * 100, 10_000)


def load_cifar(cifar10: Path, cifar100: Path) -> Dataset:
    """Reads both archives: 50,000 unlabelled images, 50,000 and 10,000 labelled ones."""
    with _opened(cifar10) as tar:
        unlabelled = torch.cat([_images(_unpickled(tar, member)) for member in CIFAR10_TRAIN])
    with _opened(cifar100) as tar:
        train, test, meta = (_unpickled(tar, member) for member in CIFAR100)
        fine, coarse = ([name.decode() for name in meta[f"{level}_label_names".encode()]] for level in LEVELS)
        return Dataset(unlabelled, _labelled(train, fine, coarse), _labelled(test, fine, coarse), fine, coarse)


@contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    """The archive, for reading; exits with one line where that, or what is made of its members, fails."""
    try:
        with tarfile.open(archive, "r:gz") as tar:
            # Such a member leads back to itself: Pythons without the cure of CVE-2025-8194 read it again and again.
            if any(member.size < 0 for member in tar):
                raise ValueError("has a member of a size below zero")
            yield tar
    except Exception as error:  # whatever broken bytes make gzip, tar, pickle or NumPy raise
        sys.exit(f"{shortened(str(archive))}: is not the archive it should be ({one_line(error)}); get it again")


class _Array:
    """An array of bytes as its pickle describes it. NumPy's own reader believes every description and may crash."""

    def __init__(self, *_: Any) -> None:
        """NumPy makes an empty array first. What counts is in the state."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.dtype, self.by_columns, self.content = state

    def bytes(self) -> np.ndarray:
        if self.dtype.name not in ("u1", b"u1"):
            raise ValueError(f"holds an array of {self.dtype.name}, not of bytes")
        return np.frombuffer(self.content, np.uint8).reshape(self.shape, order="F" if self.by_columns else "C")


class _Dtype:
    def __init__(self, name: str | bytes, *_: Any) -> None:
        self.name = name

    def __setstate__(self, _: object) -> None:
        """Byte order and alignment: bytes have none."""


class _ArrayUnpickler(pickle._Unpickler):
    """Knows what an array is made of. Whatever else a pickle names, all that could run code among it, is an error.

    The one in Python, not the one in C, which takes gigabytes of memory if one wrong byte tells it to.
    """

    KNOWN: ClassVar[dict[tuple[str, str], Callable[..., Any]]] = {
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): str.encode,  # how Python 3 writes bytes that Python 2 can read
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.KNOWN:
            raise pickle.UnpicklingError(f"names {module}.{name}, which is no part of an array")
        return self.KNOWN[module, name]


def _unpickled(tar: tarfile.TarFile, member: str) -> dict[bytes, Any]:
    file = tar.extractfile(member)
    if file is None:
        raise ValueError(f"{member} is no file")
    return _ArrayUnpickler(file, encoding="bytes").load()


def _images(batch: dict[bytes, Any]) -> Tensor:
    """Rows of 3 x 32 x 32 bytes, a colour plane after the other -> (N, 32, 32, 3) uint8."""
    planes = batch[b"data"].bytes().reshape(-1, 3, SIDE, SIDE)
    return torch.from_numpy(np.array(planes.transpose(0, 2, 3, 1), order="C"))


def _labelled(batch: dict[bytes, Any], fine_names: list[str], coarse_names: list[str]) -> Labelled:
    images = _images(batch)
    fine, coarse = (torch.tensor(batch[f"{level}_labels".encode()]) for level in LEVELS)
    for labels, names in ((fine, fine_names), (coarse, coarse_names)):
        in_range = labels.dtype == torch.int64 and bool(((labels >= 0) & (labels < len(names))).all())
        if labels.shape != images.shape[:1] or not in_range:
            raise ValueError(f"has labels that do not fit {len(images)} images of {len(names)} classes")
    return Labelled(images, fine, coarse)
