"""Images from a folder of the user's own: `train/<class>/*`, `test/<class>/*` and, if there is one, `unlabeled/**/*`.

An image is cut to the square in its middle and scaled. Classes are numbered in the order of their names.
`superclasses.csv`, if there is one, groups them: a row per class with its name and its superclass. Without it the
coarse labels are the fine ones. Without `unlabeled/`, pretraining uses the images of `train/` and ignores their labels.
Hidden files are passed over.
"""

import csv
import logging
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import EpsImagePlugin, Image, ImageOps
from torch import Tensor

from stages.files.messages import one_line, shortened
from stages.files.progress import Progress
from stages.files.tensors import Stream
from stages.images.dataset import Dataset, Labelled, Sizes, chunks_of, image_stream, scaled

NAMED = 10  # unreadable files that the error message lists

# A PostScript file is a program, and Pillow would let Ghostscript run it, also one inside another image file.
EpsImagePlugin.gs_binary = False
# What it logs about a broken file is said here, in one line.
logging.getLogger("PIL").setLevel(logging.CRITICAL)


def count_folder(root: Path) -> Sizes:
    """What `load_folder` will read. Exits with a message that names what is missing."""
    train, test, unlabelled = _listed(root)
    per_class = [len(files) for files in train.values()]
    return Sizes(sum(per_class) if unlabelled is None else len(unlabelled), per_class, sum(map(len, test.values())))


def load_folder(root: Path, side: int) -> Dataset:
    """All images below `root`, scaled to `side` pixels.

    Exits with a message that names what is missing or, when the images are read, which of them cannot be read.
    """
    train_files, test_files, unlabelled = _listed(root)
    classes = list(train_files)
    superclass_of = _superclasses(root, classes)
    superclasses = sorted(set(superclass_of.values())) if superclass_of else classes
    coarse = np.array([superclasses.index(superclass_of.get(name, name)) for name in classes])
    train, test = _labelled(train_files, coarse, side), _labelled(test_files, coarse, side)
    return Dataset(None if unlabelled is None else _images(unlabelled, side), train, test, classes, superclasses)


Files = dict[str, list[Path]]  # of each class


def _listed(root: Path) -> tuple[Files, Files, list[Path] | None]:
    """The files of train/, of test/ and, if there is one, of unlabeled/."""
    try:
        return _parts(root)
    except OSError as error:  # a name longer than the system allows, a folder that must not be read
        sys.exit(f"{shortened(str(root))}: cannot be read ({one_line(error)})")


def _parts(root: Path) -> tuple[Files, Files, list[Path] | None]:
    shown = shortened(str(root))
    layout = f"{shown}: must hold train/<class>/* and test/<class>/* (and may hold unlabeled/**/*)"
    for part in ("train", "test"):
        if not (root / part).is_dir():
            sys.exit(f"{layout}; there is no folder {part}/")
    unknown = sorted(set(_subfolders(root)) - {"train", "test", "unlabeled"})
    if unknown:
        sys.exit(f"{layout}; it has other folders: {shortened(', '.join(unknown))}")
    classes = _subfolders(root / "train")
    if len(classes) < 2:
        sys.exit(f"{layout}; train/ has {len(classes)} class folders, at least 2 are needed")
    different = sorted(set(classes) ^ set(_subfolders(root / "test")))
    if different:
        sys.exit(
            f"{shown}: train/ and test/ must have the same classes; only one of them has: "
            f"{shortened(', '.join(different))}"
        )
    unprintable = [name for name in classes if not name.isprintable()]
    if unprintable:  # not UTF-8, or a line break: it would break tables and messages
        sys.exit(f"{shown}: the names of class folders must be printable text; rename {shortened(unprintable[0])}")
    train, test = ({name: _files(root / part / name) for name in classes} for part in ("train", "test"))
    alone = [name for name, files in train.items() if len(files) == 1]
    if alone:
        sys.exit(f"{shown}: every class needs two training images, to fit a probe and to validate it; {alone[0]} has 1")
    _superclasses(root, classes)
    return train, test, _files_below(root / "unlabeled") if (root / "unlabeled").is_dir() else None


def _superclasses(root: Path, classes: list[str]) -> dict[str, str]:
    """The superclass of each class; an empty dictionary where there is no file of them."""
    file = root / "superclasses.csv"
    if not file.exists():
        return {}
    shown = shortened(str(file))
    if not file.is_file():
        sys.exit(f"{shown}: is not a file")
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            rows = [[name.strip() for name in row] for row in csv.reader(opened, strict=True) if row]
    except (OSError, UnicodeError, csv.Error) as error:
        sys.exit(f"{shown}: cannot be read ({one_line(error)})")
    if not rows or rows[0] != ["class", "superclass"]:
        sys.exit(f"{shown}: its first line must be: class,superclass")
    for number, row in enumerate(rows, 1):
        if len(row) != 2 or not all(name and name.isprintable() for name in row):
            sys.exit(f"{shown}: row {number} must have two names, of a class and of its superclass")
    found = dict(rows[1:])
    if len(found) < len(rows) - 1:
        sys.exit(f"{shown}: a class is named twice")
    missing = [name for name in classes if name not in found]
    if missing:
        sys.exit(f"{shown}: names no superclass for: {shortened(', '.join(missing))}")
    if len({found[name] for name in classes}) < 2:
        sys.exit(f"{shown}: must name two superclasses at least")
    return {name: found[name] for name in classes}


def _labelled(files: Files, coarse: np.ndarray, side: int) -> Labelled:
    """coarse: the number of the superclass of each class."""
    fine = np.repeat(np.arange(len(files)), [len(of_class) for of_class in files.values()])
    return Labelled(_images([file for of_class in files.values() for file in of_class], side), fine, coarse[fine])


def _subfolders(root: Path) -> list[str]:
    """Exits at a link that leads nowhere: its class, or all of unlabeled/, would be left out without a word.

    Also at one that leads to a folder: DVC does not look into it and would not see that its images change.
    """
    children = sorted(child for child in root.iterdir() if not child.name.startswith("."))
    broken = [child for child in children if child.is_symlink() and not child.exists()]
    if broken:
        sys.exit(f"{shortened(str(broken[0]))}: is a link that leads nowhere; mend or remove it")
    folders = [child for child in children if child.is_dir()]
    linked = [child for child in folders if child.is_symlink()]
    if linked:
        shown = shortened(str(linked[0]))
        sys.exit(f"{shown}: is a link to a folder, into which DVC does not look; put the folder itself there")
    return [child.name for child in folders]


def _files_below(root: Path) -> list[Path]:
    """The files of a folder, then those of the folders in it, however deep; exits where one of them is empty."""
    folders = _subfolders(root)
    files = [file for file in _files(root) if file.name not in folders]
    return files + [file for name in folders for file in _files_below(root / name)]


def _files(root: Path) -> list[Path]:
    """The files of one folder in the order of their names; exits if there is none."""
    files = sorted(child for child in root.iterdir() if not child.name.startswith("."))
    if not files:
        sys.exit(f"{shortened(str(root))}: holds no image; add some or remove the folder")
    return files


def images_below(root: Path) -> list[Path]:
    """All files below a folder, however deep, that have the ending of an image and are not hidden, sorted."""
    endings = Image.registered_extensions()
    return sorted(
        file
        for file in root.rglob("*")
        if file.suffix.lower() in endings and not any(part.startswith(".") for part in file.relative_to(root).parts)
    )


@contextmanager
def warnings_of_images() -> Iterator[None]:
    """Nothing is said of what is odd about an image that can be read, and none may be of a size meant to do harm."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _images(files: list[Path], side: int) -> Stream:
    return image_stream(len(files), side, _read(files, side))


def _read(files: list[Path], side: int) -> Iterator[Tensor]:
    """Chunks of images. Exits after the last one if any file cannot be read, naming the first few."""
    unreadable = []

    def read(file: Path) -> np.ndarray:
        try:
            return read_image(file, side)
        except Exception as error:  # whatever a broken file makes one of Pillow's readers raise
            unreadable.append(f"{shortened(str(file))} ({one_line(error)})")
            return np.zeros((side, side, 3), np.uint8)

    with Progress("reading", len(files), "images") as progress, ThreadPoolExecutor() as threads:
        for some in chunks_of(len(files), side):
            with warnings_of_images():
                chunk = np.empty((some.stop - some.start, side, side, 3), np.uint8)
                for number, image in enumerate(threads.map(read, files[some])):
                    chunk[number] = image
                    progress.update()
            yield torch.from_numpy(chunk)
    if unreadable:
        more = f" and {len(unreadable) - NAMED} more" if len(unreadable) > NAMED else ""
        sys.exit(
            f"{len(unreadable)} of {len(files)} files cannot be read as images; repair or remove them: "
            f"{', '.join(sorted(unreadable)[:NAMED])}{more}"
        )


def read_image(file: Path, side: int) -> np.ndarray:
    """One image as (S, S, 3) uint8, upright, its middle cut to a square and scaled."""
    if not file.is_file():
        raise ValueError("is not a file")  # reading a named pipe would wait for ever
    with Image.open(file) as image:
        upright = _to_8_bits(ImageOps.exif_transpose(image))
        if upright.has_transparency_data:  # Pillow would show the colour that transparency hides
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
        # Cut first: Pillow's own `ImageOps.fit` lets what is cut off shine through at the edges.
        shorter = min(upright.size)
        left, top = (upright.width - shorter) // 2, (upright.height - shorter) // 2
        return scaled(upright.convert("RGB").crop((left, top, left + shorter, top + shorter)), side)


def _to_8_bits(image: Image.Image) -> Image.Image:
    """16-bit pixels by their upper byte; 32-bit ones, which have no agreed range, from their minimum to their maximum.

    Pillow would clip both to white. Other images are returned as they are. ValueError if a pixel is not finite.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("has pixels that are not finite")
    if image.mode.startswith("I;16"):
        return Image.fromarray((values // 256).astype(np.uint8))
    span = values.max() - values.min()
    return Image.fromarray(((values - values.min()) / (span or 1) * 255).astype(np.uint8))
