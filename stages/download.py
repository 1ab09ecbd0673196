"""Stage `download`: everything that comes from outside. No other stage touches the network.

Reads   the folder of images, the archives in `mirror` or on their official sites, or nothing (the sample)
Writes  data/unlabelled.safetensors  images (N, S, S, 3) uint8, for pretraining
        data/labelled.safetensors    {train,test}_{images,fine,coarse}, which test images are training images or
                                     repeated (test_seen) and which are unlabelled images (test_unlabelled), and
                                     the names of the classes
        data/starting_weights.safetensors  the initial weights of pretraining, under torchvision's names
"""

import math
import warnings
from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torchvision
from torch import Tensor

from stages.images.archives import CIFAR10, CIFAR100, IMAGENET, fetch
from stages.images.cifar import load_cifar
from stages.images.dataset import Dataset, chunks_of, image_stream, seen_before, with_digests
from stages.images.folder import load_folder
from stages.images.params import DownloadParams as Params
from stages.images.sample import generate_sample
from stages.io.tensors import Stream, open_tensors, write_tensors
from stages.io.writing import require_room
from stages.runtime.errors import UserError, one_line, shortened

UNLABELLED, LABELLED = Path("data/unlabelled.safetensors"), Path("data/labelled.safetensors")


def main(params: Params) -> None:
    side = params.image_size
    imagenet = fetch(IMAGENET[params.backbone], params.mirror) if params.weights == "imagenet" else None
    match params.data:
        case "sample":
            dataset = generate_sample(params.seed, side)
        case "cifar":
            dataset = load_cifar(fetch(CIFAR10, params.mirror), fetch(CIFAR100, params.mirror), side)
        case "folder":
            dataset = load_folder(Path(params.folder), side, params.pixel_range)
    streams = (dataset.unlabelled or dataset.train.images, dataset.train.images, dataset.test.images)
    weights = starting_weights(params.backbone, imagenet, params.seed)
    of_weights = sum(tensor.nbytes for tensor in weights.values())
    # Twice, because DVC keeps a copy in its cache.
    require_room(Path("data"), 2 * (sum(math.prod(stream.shape) for stream in streams) + of_weights))
    write_dataset(dataset, params.data)
    write_tensors(Path("data/starting_weights.safetensors"), weights)
    unlabelled, (labelled, _) = open_tensors(UNLABELLED)[0]["images"], open_tensors(LABELLED)
    print(
        f"{len(unlabelled)} unlabelled images; {len(labelled['train_images'])} training and "
        f"{len(labelled['test_images'])} test images of {len(dataset.fine_names)} classes"
    )
    if seen := int(labelled["test_seen"].all().sum()):
        print(f"{seen} test images have the pixels of a training image or of an earlier test image")
    if seen := int(labelled["test_unlabelled"].all().sum()):
        print(f"{seen} test images are among the unlabelled images; pretraining uses no labels, so this is allowed")


def starting_weights(backbone: str, imagenet: Path | None, seed: int) -> dict[str, Tensor]:
    """Of torchvision's network: the verified ImageNet file, or its own random initialisation from the seed."""
    torch.manual_seed(seed)
    resnet = torchvision.models.get_model(backbone)
    if imagenet:
        try:
            with warnings.catch_warnings(action="ignore"):
                resnet.load_state_dict(torch.load(imagenet, weights_only=True))  # tensors, never code
        except Exception as error:  # whatever broken bytes make zip, pickle or PyTorch raise
            raise UserError(
                f"{shortened(str(imagenet))}: is not torchvision's {backbone} ({one_line(error)}); get it again"
            ) from error
    return resnet.state_dict()


def write_dataset(dataset: Dataset, data: str) -> None:
    """Writes the images in the order of the streams. data: the name of their source, for the metadata."""
    train, test = dataset.train, dataset.test
    digests = {part: array("Q") for part in ("unlabelled", "train", "test")}
    unlabelled = with_digests(dataset.unlabelled or train.images, digests["unlabelled"])
    write_tensors(UNLABELLED, {"images": unlabelled}, {"data": data})
    if dataset.unlabelled is None:  # the training images have passed, and are read again
        images = open_tensors(UNLABELLED)[0]["images"]
        count, side = images.shape[:2]
        train = replace(train, images=image_stream(count, side, (images[rows] for rows in chunks_of(count, side))))

    def of_test(find: Callable[[np.ndarray, np.ndarray], np.ndarray], among: str) -> Iterator[Tensor]:
        """(N,) bool, found when the stream is read: all images must have passed by then."""
        yield torch.from_numpy(find(np.array(digests["test"]), np.array(digests[among])))

    tensors: dict[str, Tensor | Stream] = {}
    for part, labelled in (("train", train), ("test", test)):
        tensors[f"{part}_images"] = with_digests(labelled.images, digests[part])
        tensors |= {f"{part}_{level}": torch.from_numpy(getattr(labelled, level)) for level in ("fine", "coarse")}
    # After the images.
    for name, chunks in (("seen", of_test(seen_before, "train")), ("unlabelled", of_test(np.isin, "unlabelled"))):
        tensors[f"test_{name}"] = Stream(test.fine.shape, torch.bool, chunks)
    write_tensors(LABELLED, tensors, {"fine_names": dataset.fine_names, "coarse_names": dataset.coarse_names})
    labels = pd.Series(train.fine).groupby(np.array(digests["train"])).transform("nunique")
    if contradictory := int((labels > 1).sum()):
        print(f"{contradictory} training images have the pixels of a training image of another class")
