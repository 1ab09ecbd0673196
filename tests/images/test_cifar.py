"""CIFAR's archives are read as they are laid out, whichever Python wrote them."""

import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from stages.images.cifar import CIFAR10_TRAIN, load_cifar
from stages.images.dataset import Dataset
from tests.images.data import images_of


def rows(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def packed(pickles: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for name, data in pickles.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def pickled(members: dict[str, object], protocol: int = 2) -> dict[str, bytes]:
    return {name: pickle.dumps(content, protocol) for name, content in members.items()}


BATCHES = {name: {b"data": rows(4, seed), b"labels": [0] * 4} for seed, name in enumerate(CIFAR10_TRAIN)}
MEMBERS = {
    "cifar-100-python/train": {b"data": rows(6, 10), b"fine_labels": [1, 0, 1, 0, 0, 1], b"coarse_labels": [0] * 6},
    "cifar-100-python/test": {b"data": rows(3, 11), b"fine_labels": [0, 1, 0], b"coarse_labels": [0, 0, 0]},
    "cifar-100-python/meta": {b"fine_label_names": [b"apple", b"bear"], b"coarse_label_names": [b"fruit"]},
}
CIFAR10, CIFAR100 = packed(pickled(BATCHES)), packed(pickled(MEMBERS))


def load(folder: Path, cifar10: bytes, cifar100: bytes) -> Dataset:
    (folder / "10").write_bytes(cifar10)
    (folder / "100").write_bytes(cifar100)
    return load_cifar(folder / "10", folder / "100", 32)


@pytest.mark.parametrize("protocol", range(5))
def test_what_python_3_wrote_is_read_as_it_is_laid_out(tmp_path: Path, protocol: int) -> None:
    dataset = load(tmp_path, packed(pickled(BATCHES, protocol)), packed(pickled(MEMBERS, protocol)))
    unlabelled, _, test = images_of(dataset)
    assert unlabelled.shape == (20, 32, 32, 3)
    # A row is the red plane, then the green, then the blue, each line by line.
    for images, row in ((unlabelled[11], rows(4, 2)[3]), (test[1], rows(3, 11)[1])):
        assert images[7, 9].tolist() == [row[plane * 1024 + 7 * 32 + 9] for plane in range(3)]
    assert dataset.train.fine.tolist() == [1, 0, 1, 0, 0, 1]
    assert dataset.test.coarse.tolist() == [0, 0, 0]
    assert (dataset.fine_names, dataset.coarse_names) == (["apple", "bear"], ["fruit"])


def test_larger_images_are_the_same_ones_scaled(tmp_path: Path) -> None:
    small = images_of(load(tmp_path, CIFAR10, CIFAR100))
    large = images_of(load_cifar(tmp_path / "10", tmp_path / "100", 96))
    assert large[0].shape == (20, 96, 96, 3)
    blocks = large[2].reshape(3, 32, 3, 32, 3, 3).float().mean((2, 4))
    assert np.corrcoef(blocks.ravel(), small[2].ravel())[0, 1] > 0.95


@pytest.mark.parametrize("by_columns", [False, True])
def test_what_python_2_wrote_is_read_as_it_is_laid_out(tmp_path: Path, by_columns: bool) -> None:
    """Which wrote the official archives."""
    pixels = rows(2, 1)
    content = pixels.tobytes("F" if by_columns else "C")
    written = b"".join(
        [
            b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85q\x05",
            b"U\x01b\x87Rq\x06(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\nq\x07U\x02u1K\x00K\x01\x87Rq\x08(K\x03U\x01|NNN",
            b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb" + (b"\x88" if by_columns else b"\x89"),
            b"T" + struct.pack("<I", len(content)) + content + b"tb",
            b"U\x0bfine_labels](K\x01K\x00eU\rcoarse_labels](K\x00K\x00eu.",
        ]
    )
    dataset = load(tmp_path, CIFAR10, packed(pickled(MEMBERS) | {"cifar-100-python/train": written}))
    assert (dataset.train.images.all().numpy() == pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)).all()
    assert dataset.train.fine.tolist() == [1, 0]
