"""Stage `download`: everything that comes from outside. No other stage touches the network.

Reads   the folder of images, the archives in `mirror` or on their official sites, or nothing (the sample)
Writes  data/unlabelled.safetensors  images (N, 32, 32, 3) uint8, for pretraining
        data/labelled.safetensors    {train,test}_{images,fine,coarse}, and the names of the classes
        data/resnet18.safetensors    the weights that pretraining starts from, under torchvision's names

Downloaded files stay in the user's cache folder (`~/.cache/simclr-dvc`, or below $XDG_CACHE_HOME), where DVC,
which deletes a stage's outputs before it runs, leaves them alone.
"""

import ftplib
import hashlib
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests
import torch
import torchvision
from torch import Tensor

from stages.cifar import load_cifar
from stages.dataset import Dataset
from stages.files import one_line, require_room, shortened, write_tensors
from stages.folder import load_folder
from stages.params import load_params
from stages.provenance import unchanged
from stages.sample import generate_sample
from stages.sources import count_images

TRIES = 5


@dataclass(frozen=True)
class Archive:
    name: str
    site: str  # the folder of the official file
    sha256: str
    size: int  # bytes


CIFAR10 = Archive(
    "cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/",
    "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    170_498_071,
)
CIFAR100 = Archive(
    "cifar-100-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/",
    "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    169_001_437,
)
IMAGENET = Archive(
    "resnet18-f37072fd.pth",
    "https://download.pytorch.org/models/",
    "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
    46_830_571,
)


def main() -> None:
    params = load_params()
    # The images and a ResNet-18, and all of it a second time in DVC's cache.
    require_room(Path("data"), 2 * (count_images(params.data, Path(params.folder)).bytes + IMAGENET.size))
    imagenet = fetch(IMAGENET, params.mirror) if params.weights == "imagenet" else None
    match params.data:
        case "sample":
            dataset = generate_sample(params.seed)
        case "cifar":
            dataset = load_cifar(fetch(CIFAR10, params.mirror), fetch(CIFAR100, params.mirror))
        case "folder":
            dataset = load_folder(Path(params.folder))
    write_dataset(dataset)
    write_tensors(Path("data/resnet18.safetensors"), starting_weights(imagenet, params.seed))
    print(
        f"{len(dataset.unlabelled)} unlabelled images; {len(dataset.train.images)} training and "
        f"{len(dataset.test.images)} test images of {len(dataset.fine_names)} classes"
    )


def fetch(archive: Archive, mirror: str | None) -> Path:
    """A local file with the archive's checksum: from the mirror (a folder or a URL), the cache or the official site.

    A download goes to a temporary name, is verified, and only then gets its own name; it is tried several times.
    Exits with one line that names the file, what was expected and what to do.
    """
    if mirror is not None and "://" not in mirror:
        shown = f"{shortened(str(Path(mirror)))}/{archive.name}"
        try:
            path = Path(mirror).expanduser() / archive.name
            if not path.is_file():
                sys.exit(f"{shown}: not found; put {archive.site}{archive.name} there, or set mirror to where it is")
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, RuntimeError) as error:  # a name longer than the system allows; ~ of a user there isn't
            sys.exit(f"{shown}: cannot be read ({one_line(error)}); set mirror to where it is")
        if found != archive.sha256:
            sys.exit(
                f"{shown}: SHA-256 is {found}, expected {archive.sha256}: cut short, damaged or another file; "
                f"get it again from {archive.site}{archive.name}"
            )
        return path
    site = archive.site if mirror is None else mirror.rstrip("/") + "/"
    folder = Path(pooch.os_cache("simclr-dvc"))
    if not (folder / archive.name).exists():
        require_room(folder, archive.size)
    try:
        cache = pooch.create(
            folder,
            base_url=site,
            registry={archive.name: f"sha256:{archive.sha256}"},
            retry_if_failed=TRIES - 1,
        )
        return Path(cache.fetch(archive.name, progressbar=sys.stderr.isatty()))
    except (ftplib.Error, EOFError, OSError, ValueError, requests.RequestException) as error:
        sys.exit(
            f"{shortened(site)}{archive.name}: could not be downloaded with SHA-256 {archive.sha256} in {TRIES} tries "
            f"({one_line(error)}); try again later, or get the file by hand and set mirror to the folder that holds it"
        )


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
    write_tensors(Path("data/unlabelled.safetensors"), {"images": dataset.unlabelled})
    write_tensors(
        Path("data/labelled.safetensors"),
        {
            f"{part}_{name}": tensor
            for part, labelled in (("train", dataset.train), ("test", dataset.test))
            for name, tensor in vars(labelled).items()
        },
        {"fine_names": dataset.fine_names, "coarse_names": dataset.coarse_names},
    )


if __name__ == "__main__":
    with unchanged("download"):
        main()
