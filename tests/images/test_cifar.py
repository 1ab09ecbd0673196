"""CIFAR's archives are read as they are laid out, whichever Python wrote them, and other files are refused."""

import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from stages.images.cifar import CIFAR10_TRAIN, load_cifar
from stages.images.dataset import Dataset
from tests.repository import images_of, refusal, tar_of


def rows(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def pickled(members: dict[str, object], protocol: int = 2) -> dict[str, bytes]:
    return {name: pickle.dumps(content, protocol) for name, content in members.items()}


BATCHES = {name: {b"data": rows(4, seed), b"labels": [0] * 4} for seed, name in enumerate(CIFAR10_TRAIN)}
TRAIN, META = "cifar-100-python/train", "cifar-100-python/meta"
MEMBERS = {
    TRAIN: {b"data": rows(6, 10), b"fine_labels": [1, 0, 1, 0, 0, 1], b"coarse_labels": [0] * 6},
    "cifar-100-python/test": {b"data": rows(3, 11), b"fine_labels": [0, 1, 0], b"coarse_labels": [0, 0, 0]},
    META: {b"fine_label_names": [b"apple", b"bear"], b"coarse_label_names": [b"fruit"]},
}
CIFAR10, CIFAR100 = tar_of(pickled(BATCHES)), tar_of(pickled(MEMBERS))


def load(cifar10: bytes, cifar100: bytes, side: int = 32) -> Dataset:
    Path("10").write_bytes(cifar10)
    Path("100").write_bytes(cifar100)
    return load_cifar(Path("10"), Path("100"), side)


@pytest.mark.parametrize("protocol", range(5))
def test_what_python_3_wrote_is_read_as_it_is_laid_out(empty_folder: Path, protocol: int) -> None:
    dataset = load(tar_of(pickled(BATCHES, protocol)), tar_of(pickled(MEMBERS, protocol)))
    unlabelled, _, test = images_of(dataset)
    assert unlabelled.shape == (20, 32, 32, 3)
    # A row is the red plane, then the green, then the blue, each line by line.
    for images, row in ((unlabelled[11], rows(4, 2)[3]), (test[1], rows(3, 11)[1])):
        assert images[7, 9].tolist() == [row[plane * 1024 + 7 * 32 + 9] for plane in range(3)]
    assert dataset.train.fine.tolist() == [1, 0, 1, 0, 0, 1]
    assert dataset.test.coarse.tolist() == [0, 0, 0]
    assert (dataset.fine_names, dataset.coarse_names) == (["apple", "bear"], ["fruit"])


def test_larger_images_are_the_same_ones_scaled(empty_folder: Path) -> None:
    small, large = (images_of(load(CIFAR10, CIFAR100, side)) for side in (32, 96))
    assert large[0].shape == (20, 96, 96, 3)
    blocks = large[2].reshape(3, 32, 3, 32, 3, 3).float().mean((2, 4))
    assert np.corrcoef(blocks.ravel(), small[2].ravel())[0, 1] > 0.95


@pytest.mark.parametrize("by_columns", [False, True])
def test_what_python_2_wrote_is_read_as_it_is_laid_out(empty_folder: Path, by_columns: bool) -> None:
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
    dataset = load(CIFAR10, tar_of(pickled(MEMBERS) | {TRAIN: written}))
    assert (dataset.train.images.all().numpy() == pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)).all()
    assert dataset.train.fine.tolist() == [1, 0]


@pytest.mark.parametrize("content", [b"", b"no archive at all", CIFAR10, CIFAR100[:-200]])
def test_a_file_that_is_not_the_archive_is_refused_in_one_line(content: bytes, empty_folder: Path) -> None:
    assert refusal(load, CIFAR10, content).startswith("100: is not the expected archive (")


def test_no_member_of_an_archive_is_written(empty_folder: Path) -> None:
    content = tar_of({"../evil": b"evil", **pickled(MEMBERS)}, tarfile.SYMTYPE)
    assert refusal(load, CIFAR10, content).startswith("100: is not the expected archive (")
    assert sorted(path.name for path in empty_folder.iterdir()) == ["10", "100"]
    assert not Path("../evil").exists()
