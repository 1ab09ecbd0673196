"""The number of unlabelled images of each source, without reading or generating them."""

from dataclasses import dataclass
from pathlib import Path

from stages.images.listing import in_words, list_folder
from stages.runtime.params import Data


@dataclass(frozen=True)
class Sizes:
    unlabelled: int
    left_out: str = ""  # a line about files in the folder that are not images
    classes: tuple[str, ...] = ()  # the names in a folder


SAMPLE = Sizes(2304)
CIFAR = Sizes(50_000)


def count_images(data: Data, folder: Path) -> Sizes:
    """Raises UserError if the folder does not have the layout that `listing.py` describes."""
    match data:
        case "sample":
            return SAMPLE
        case "cifar":
            return CIFAR
    listing = list_folder(folder)
    unlabelled = sum(map(len, listing.train.values())) if listing.unlabelled is None else len(listing.unlabelled)
    return Sizes(unlabelled, in_words(listing.others) if listing.others else "", tuple(listing.train))
