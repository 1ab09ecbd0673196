"""How many images each source of them will deliver, before one is read."""

from pathlib import Path
from typing import Literal

from stages.cifar import SIZES as CIFAR_SIZES
from stages.dataset import Sizes
from stages.folder import count_folder
from stages.sample import SIZES as SAMPLE_SIZES


def count_images(data: Literal["sample", "cifar", "folder"], folder: Path) -> Sizes:
    """Exits with one line where the folder lacks what it must hold."""
    match data:
        case "sample":
            return SAMPLE_SIZES
        case "cifar":
            return CIFAR_SIZES
        case "folder":
            return count_folder(folder)
