"""Stage `download`: everything that comes from outside. No other stage touches the network.

Reads   the folder of images, the archives in `mirror` or on their official sites, or nothing (the sample)
Writes  data/unlabelled.safetensors  images (N, S, S, 3) uint8, for pretraining
        data/labelled.safetensors    {train,test}_{images,fine,coarse}, which test images were seen before, and the
                                     names of the classes
        data/resnet18.safetensors    the weights that pretraining starts from, under torchvision's names
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import Tensor

from stages.files.inputs import inputs_must_not_change
from stages.files.messages import one_line, shortened
from stages.files.params import load_params
from stages.files.tensors import write_tensors
from stages.files.writing import require_room
from stages.images.archives import CIFAR10, CIFAR100, IMAGENET, fetch
from stages.images.cifar import load_cifar
from stages.images.dataset import Dataset, seen_before
from stages.images.folder import load_folder
from stages.images.sample import generate_sample
from stages.images.sizes import count_images


def main() -> None:
    params = load_params()
    side = params.image_size
    # The images and a ResNet-18, and all of it a second time in DVC's cache.
    require_room(Path("data"), 2 * (count_images(params.data, Path(params.folder)).bytes(side) + IMAGENET.size))
    imagenet = fetch(IMAGENET, params.mirror) if params.weights == "imagenet" else None
    match params.data:
        case "sample":
            dataset = generate_sample(params.seed, side)
        case "cifar":
            dataset = load_cifar(fetch(CIFAR10, params.mirror), fetch(CIFAR100, params.mirror), side)
        case "folder":
            dataset = load_folder(Path(params.folder), side)
    seen = seen_before(dataset.test.images, dataset.train.images)
    write_dataset(dataset, seen)
    write_tensors(Path("data/resnet18.safetensors"), starting_weights(imagenet, params.seed))
    print(
        f"{len(dataset.unlabelled)} unlabelled images; {len(dataset.train.images)} training and "
        f"{len(dataset.test.images)} test images of {len(dataset.fine_names)} classes"
    )
    if seen.any():
        print(f"{seen.sum()} test images have the pixels of a training image or of an earlier test image")


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


def write_dataset(dataset: Dataset, seen: np.ndarray) -> None:
    write_tensors(Path("data/unlabelled.safetensors"), {"images": torch.from_numpy(dataset.unlabelled)})
    write_tensors(
        Path("data/labelled.safetensors"),
        {
            f"{part}_{name}": torch.from_numpy(array)
            for part, labelled in (("train", dataset.train), ("test", dataset.test))
            for name, array in vars(labelled).items()
        }
        | {"test_seen": torch.from_numpy(seen)},
        {"fine_names": dataset.fine_names, "coarse_names": dataset.coarse_names},
    )


if __name__ == "__main__":
    with inputs_must_not_change("download"):
        main()
