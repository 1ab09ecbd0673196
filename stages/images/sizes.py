"""How many images each source delivers, known before one is read or generated."""

from dataclasses import dataclass
from pathlib import Path

from stages.images.listing import in_words, list_folder
from stages.runtime.params import Data


@dataclass(frozen=True)
class Sizes:
    unlabelled: int
    train: list[int]  # of each fine class
    test: int
    left_out: str = ""  # a line about files in the folder that are no images
    classes: tuple[str, ...] = ()  # the names in a folder


SAMPLE = Sizes(2304, [50] * 100, 5000)
CIFAR = Sizes(50_000, [500] * 100, 10_000)


def count_images(data: Data, folder: Path) -> Sizes:
    """Raises UserError where the folder lacks what it must hold."""
    match data:
        case "sample":
            return SAMPLE
        case "cifar":
            return CIFAR
    listing = list_folder(folder)
    train = [len(files) for files in listing.train.values()]
    unlabelled = sum(train) if listing.unlabelled is None else len(listing.unlabelled)
    left_out = in_words(listing.others) if listing.others else ""
    return Sizes(unlabelled, train, sum(map(len, listing.test.values())), left_out, tuple(listing.train))
