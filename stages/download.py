"""Stage `download`: everything that comes from outside. No other stage touches the network.

Reads   the folder of images, the archives in `mirror` or on their official sites, or nothing (the sample)
Writes  data/unlabelled.safetensors  images (N, S, S, 3) uint8, for pretraining
        data/labelled.safetensors    {train,test}_{images,fine,coarse}, which test images were seen before, and the
                                     names of the classes
        data/resnet18.safetensors    the weights that pretraining starts from, under torchvision's names
"""

import math
import sys
import warnings
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import Tensor

from stages.files.inputs import inputs_must_not_change
from stages.files.messages import one_line, shortened
from stages.files.params import load_params
from stages.files.tensors import Stream, open_tensors, write_tensors
from stages.files.writing import require_room
from stages.images.archives import CIFAR10, CIFAR100, IMAGENET, fetch
from stages.images.cifar import load_cifar
from stages.images.dataset import Dataset, chunks_of, image_stream, seen_before, with_digests
from stages.images.folder import load_folder
from stages.images.sample import generate_sample

UNLABELLED, LABELLED = Path("data/unlabelled.safetensors"), Path("data/labelled.safetensors")


def main() -> None:
    params = load_params()
    side = params.image_size
    imagenet = fetch(IMAGENET, params.mirror) if params.weights == "imagenet" else None
    match params.data:
        case "sample":
            dataset = generate_sample(params.seed, side)
        case "cifar":
            dataset = load_cifar(fetch(CIFAR10, params.mirror), fetch(CIFAR100, params.mirror), side)
        case "folder":
            dataset = load_folder(Path(params.folder), side, params.pixel_range)
    streams = (dataset.unlabelled or dataset.train.images, dataset.train.images, dataset.test.images)
    # The images and a ResNet-18, and all of it a second time in DVC's cache.
    require_room(Path("data"), 2 * (sum(math.prod(stream.shape) for stream in streams) + IMAGENET.size))
    write_dataset(dataset)
    write_tensors(Path("data/resnet18.safetensors"), starting_weights(imagenet, params.seed))
    unlabelled, (labelled, _) = open_tensors(UNLABELLED)[0]["images"], open_tensors(LABELLED)
    print(
        f"{len(unlabelled)} unlabelled images; {len(labelled['train_images'])} training and "
        f"{len(labelled['test_images'])} test images of {len(dataset.fine_names)} classes"
    )
    if seen := int(labelled["test_seen"].all().sum()):
        print(f"{seen} test images have the pixels of a training image or of an earlier test image")


def starting_weights(imagenet: Path | None, seed: int) -> dict[str, Tensor]:
    """torchvision's ResNet-18: the verified ImageNet file, or its own random initialisation from the seed."""
    torch.manual_seed(seed)
    resnet = torchvision.models.resnet18()
    if imagenet:
        try:
            with warnings.catch_warnings(action="ignore"):
                resnet.load_state_dict(torch.load(imagenet, weights_only=True))  # tensors, never code
        except Exception as error:  # whatever broken bytes make zip, pickle or PyTorch raise
            sys.exit(f"{shortened(str(imagenet))}: is not torchvision's ResNet-18 ({one_line(error)}); get it again")
    return resnet.state_dict()


def write_dataset(dataset: Dataset) -> None:
    """Writes the images as they come, in the order in which they come."""
    train, test = dataset.train, dataset.test
    write_tensors(UNLABELLED, {"images": dataset.unlabelled or train.images})
    if dataset.unlabelled is None:
        train = replace(train, images=read_again(UNLABELLED))
    digests = {"train": array("Q"), "test": array("Q")}

    def test_seen() -> Iterator[Tensor]:
        yield torch.from_numpy(seen_before(*(np.array(digests[part]) for part in ("test", "train"))))

    tensors: dict[str, Tensor | Stream] = {}
    for part, labelled in (("train", train), ("test", test)):
        tensors[f"{part}_images"] = with_digests(labelled.images, digests[part])
        tensors |= {f"{part}_{level}": torch.from_numpy(getattr(labelled, level)) for level in ("fine", "coarse")}
    tensors["test_seen"] = Stream(test.fine.shape, torch.bool, test_seen())  # last: all images have passed by then
    write_tensors(LABELLED, tensors, {"fine_names": dataset.fine_names, "coarse_names": dataset.coarse_names})


def read_again(file: Path) -> Stream:
    images = open_tensors(file)[0]["images"]
    count, side = images.shape[:2]
    return image_stream(count, side, (images[rows] for rows in chunks_of(count, side)))


if __name__ == "__main__":
    with inputs_must_not_change("download"):
        main()
