"""The real data: CIFAR-10 for pretraining, CIFAR-100 for the probe, read from the official archives.

The archives hold pickles. Unpickling can run code, so nothing here may see an archive whose checksum has not been
verified (`download.fetch` does that). No member is ever written to disk.
"""

import pickle
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.dataset import SIDE, Dataset, Labelled

CIFAR10_TRAIN = [f"cifar-10-batches-py/data_batch_{number}" for number in range(1, 6)]


def load_cifar(cifar10: Path, cifar100: Path) -> Dataset:
    """Reads both verified archives: 50,000 unlabelled images, 50,000 and 10,000 labelled ones."""
    batches = _unpickle(cifar10, CIFAR10_TRAIN)
    train, test, names = _unpickle(cifar100, [f"cifar-100-python/{member}" for member in ("train", "test", "meta")])
    return Dataset(
        torch.cat([_images(batch) for batch in batches]),
        _labelled(train),
        _labelled(test),
        [name.decode() for name in names[b"fine_label_names"]],
        [name.decode() for name in names[b"coarse_label_names"]],
    )


def _unpickle(archive: Path, members: list[str]) -> list[dict[bytes, Any]]:
    try:
        with tarfile.open(archive, "r:gz") as tar:
            files = [tar.extractfile(member) for member in members]
            return [pickle.load(file, encoding="bytes") for file in files if file]
    except (OSError, EOFError, KeyError, tarfile.TarError, pickle.UnpicklingError) as error:
        sys.exit(f"{archive}: is not the archive it should be ({error}); it must hold {', '.join(members)}")


def _images(batch: dict[bytes, Any]) -> Tensor:
    """Rows of 3 x 32 x 32 bytes, a colour plane after the other -> (N, 32, 32, 3) uint8."""
    planes = torch.from_numpy(np.asarray(batch[b"data"], dtype=np.uint8)).reshape(-1, 3, SIDE, SIDE)
    return planes.permute(0, 2, 3, 1).contiguous()


def _labelled(batch: dict[bytes, Any]) -> Labelled:
    return Labelled(_images(batch), torch.tensor(batch[b"fine_labels"]), torch.tensor(batch[b"coarse_labels"]))
