"""The stage `download`: its outputs, the initial weights, disk space."""

import io
import shutil
from array import array
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision

from stages import download
from stages.download import starting_weights, write_dataset
from stages.images.dataset import Dataset, Labelled, image_stream, seen_before, with_digests
from stages.io.tensors import read_tensors
from tests.repository import ROOT, load_params, random_images, refusal


def test_without_unlabelled_images_the_training_images_are_used_for_pretraining_and_read_once(
    empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = random_images(6)
    labels = np.array([0, 0, 1])
    train, test = (Labelled(image_stream(3, 32, iter(part.split(2))), labels, labels) for part in images.split(3))
    test = replace(test, images=image_stream(3, 32, iter([images[[3, 1, 3]]])))
    write_dataset(Dataset(None, train, test, ["a", "b"], ["c", "d"]), "folder")
    (unlabelled, metadata), (labelled, names) = map(read_tensors, (download.UNLABELLED, download.LABELLED))
    assert (list(unlabelled), metadata) == (["images"], {"data": "folder"})  # pretraining reads no label
    assert torch.equal(unlabelled["images"], images[:3])
    assert torch.equal(labelled["train_images"], images[:3])
    assert torch.equal(labelled["test_images"], images[[3, 1, 3]])
    assert labelled["test_seen"].tolist() == [False, True, True]
    assert labelled["test_unlabelled"].tolist() == [False, True, False]
    assert labelled["test_fine"].tolist() == [0, 0, 1]
    assert names == {"fine_names": ["a", "b"], "coarse_names": ["c", "d"]}
    assert capsys.readouterr().out == ""


def test_training_images_of_equal_pixels_in_different_classes_are_counted(
    empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = random_images(3)[[0, 1, 0, 2, 1]], np.array([0, 1, 1, 0, 1])
    train, test = (Labelled(image_stream(5, 32, [images]), labels, labels) for _ in range(2))
    write_dataset(Dataset(None, train, test, ["a", "b"], ["c", "d"]), "folder")
    assert capsys.readouterr().out == "2 training images have the pixels of a training image of another class\n"


def digests(images: torch.Tensor) -> np.ndarray:
    found = array("Q")
    passed = with_digests(image_stream(len(images), 32, images.split(3)), found).all()
    assert torch.equal(passed, images)
    return np.array(found)


def test_test_images_equal_to_a_training_image_or_an_earlier_test_image_are_marked_as_seen() -> None:
    different = random_images(8)
    train, test = different[:4], different[[4, 1, 5, 4, 6, 3, 4]]
    assert seen_before(digests(test), digests(train)).tolist() == [False, True, False, True, False, True, True]
    test[1, 31, 31, 2] ^= 1
    assert not seen_before(digests(test), digests(train))[1]


def test_random_weights_come_from_the_seed() -> None:
    first, again, other = (starting_weights("resnet18", None, seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_damaged_weights_and_weights_of_another_network_give_a_one_line_error(empty_folder: Path) -> None:
    path = Path("weights.pth")
    others = ({}, [1], {"conv1.weight": torch.zeros(1)}, torchvision.models.resnet34().state_dict())
    contents = [io.BytesIO() for _ in others]
    for content, other in zip(contents, others, strict=True):
        torch.save(other, content)
    for content in (b"", b"text", contents[-1].getvalue()[:-100], *(content.getvalue() for content in contents)):
        path.write_bytes(content)
        line = refusal(starting_weights, "resnet18", path, 0)
        assert line.startswith("weights.pth: is not torchvision's resnet18 (")


def test_missing_disk_space_is_reported_before_the_work(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**8))
    line = refusal(download.main, load_params(ROOT / "params.yaml"))
    assert line.startswith("data: 0.17 GB are needed and 0.10 GB are free")
    assert not Path("data").exists()
