"""How many images each source delivers, known before one is read or generated."""

from pathlib import Path
from typing import Literal

from stages.images.dataset import Sizes
from stages.images.folder import count_folder

SAMPLE = Sizes(2304, [50] * 100, 5000)
CIFAR = Sizes(50_000, [500] * 100, 10_000)


def count_images(data: Literal["sample", "cifar", "folder"], folder: Path) -> Sizes:
    """Exits with one line where the folder lacks what it must hold."""
    match data:
        case "sample":
            return SAMPLE
        case "cifar":
            return CIFAR
        case "folder":
            return count_folder(folder)
