"""The images and classes of a custom folder, from the names of files: `train/<class>/**/*`, `test/<class>/**/*` and,
optionally, `unlabeled/**/*`.

A file is an image if its name ends like one. Hidden files are ignored; other files are left out and counted. A class is
a folder with its subfolders. Its name is stripped and in Unicode's composed form (NFC), so that equal names are equal
strings. An optional `superclasses.csv` groups the classes: a row per class with its name and its superclass.
"""

import csv
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unicodedata import category, normalize

from PIL import Image

from stages.runtime.errors import UserError, one_line, shortened

PARTS = ("train", "test", "unlabeled")
MAX_LISTED_ENDINGS = 5
KINDS = Image.registered_extensions()
# Pillow can only write some kinds, and reads no pixels of these without another program (which would run PostScript).
NO_PIXELS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
ENDINGS = {ending for ending, kind in KINDS.items() if kind in Image.OPEN and kind not in NO_PIXELS}


@dataclass(frozen=True)
class Listing:
    train: dict[str, list[Path]]  # by class, in the order of the names
    test: dict[str, list[Path]]  # the same classes
    unlabelled: list[Path] | None  # None without unlabeled/
    superclass_of: dict[str, str]  # by class, in the order of the names; empty without superclasses.csv
    others: Counter[str]  # the number of other files, by ending


def list_folder(root: Path) -> Listing:
    """Raises UserError with the name of what is missing or not allowed."""
    shown = shortened(str(root))
    layout = f"{shown}: must contain train/<class>/**/* and test/<class>/**/* (optionally unlabeled/**/*)"
    parts = _subfolders(root)
    for part in ("train", "test"):
        if part not in parts:
            raise UserError(f"{layout}; there is no folder {part}/")
    if unknown := sorted(set(parts) - set(PARTS)):
        raise UserError(f"{layout}; it has other folders: {shortened(', '.join(unknown))}")
    train, test = (_subfolders(parts[part]) for part in ("train", "test"))
    for part in ("train", "test"):
        loose = [entry.name for entry in _entries(parts[part]) if entry.is_file() and _ending(entry) in ENDINGS]
        if loose:
            raise UserError(
                f"{shown}: {part}/ has images in no class folder: {shortened(', '.join(loose))}; move or remove them"
            )
    if len(train) < 2:
        raise UserError(f"{layout}; train/ has {len(train)} class folders, at least 2 are needed")
    if different := sorted(set(train) ^ set(test)):
        raise UserError(
            f"{shown}: train/ and test/ must have the same classes; only one of them has: "
            f"{shortened(', '.join(different))}"
        )
    if unusable := [name for name in train if not _is_class_name(name)]:
        raise UserError(
            f"{shown}: names of class folders must be printable text without <; rename {shortened(ascii(unusable[0]))}"
        )
    others: Counter[str] = Counter()

    def images_of(folder: Path, otherwise: str) -> list[Path]:
        images, left_out = images_below(folder)
        others.update(left_out)
        if not images:
            found = f" ({in_words(left_out)})" if left_out else ""
            raise UserError(f"{shortened(str(folder))}: contains no image{found}; add some or {otherwise}")
        for image in images:
            _must_be_file(image)
        return images

    of_train, of_test = (
        {name: images_of(folder, "remove the class from train/ and test/") for name, folder in sorted(part.items())}
        for part in (train, test)
    )
    if alone := [name for name, files in of_train.items() if len(files) == 1]:
        raise UserError(
            f"{shown}: every class needs two training images, to fit a probe and to validate it; {alone[0]} has 1"
        )
    unlabelled = images_of(parts["unlabeled"], "remove the folder") if "unlabeled" in parts else None
    return Listing(of_train, of_test, unlabelled, _superclasses(root, list(of_train)), others)


def images_below(root: Path) -> tuple[list[Path], Counter[str]]:
    """The images in a folder and its subfolders, in the order of their names; the number of other files by ending.

    A broken link or a link to a folder counts as an image, so that it is reported when it is opened.
    """
    images: list[Path] = []
    others: Counter[str] = Counter()
    for entry in _entries_below(root):
        ending = _ending(entry)
        if ending in ENDINGS or (entry.is_symlink() and not os.path.isfile(entry.path)):
            images.append(Path(entry.path))
        else:
            others[ending] += 1
    return images, others


def in_words(endings: Counter[str]) -> str:
    """One line about files that are left out."""
    some = ", ".join(f"{count} {ending or 'without one'}" for ending, count in endings.most_common(MAX_LISTED_ENDINGS))
    return shortened(f"{endings.total()} left out because of the ending: {some}")


def has_plain_name(path: Path) -> bool:
    """Whether it is one line of UTF-8, which tables, messages and DVC need."""
    return not any(category(character) in ("Cc", "Cs") for character in str(path))


def _ending(entry: os.DirEntry[str]) -> str:
    return os.path.splitext(entry.name)[1].lower()


def _entries_below(root: Path) -> Iterator[os.DirEntry[str]]:
    for entry in _entries(root):
        if entry.is_dir(follow_symlinks=False):
            yield from _entries_below(Path(entry.path))
        else:
            yield entry


def _entries(root: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(root) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except (OSError, ValueError) as error:  # an invalid name, a folder without permission to read it
        raise UserError(f"{shortened(str(root))}: cannot be read ({one_line(error)})") from error


def _subfolders(root: Path) -> dict[str, Path]:
    """The subfolders by class name."""
    found: dict[str, Path] = {}
    for entry in _entries(root):
        path = Path(entry.path)
        if entry.is_symlink():
            _must_be_file(path)
        if not entry.is_dir():
            continue
        name = _composed(entry.name)
        if name in found:
            raise UserError(f"{shortened(str(root))}: two folders have the name {shortened(repr(name))}; rename one")
        found[name] = path
    return found


def _is_class_name(name: str) -> bool:
    """A line break would break tables and messages; < would become HTML in DVC's plots, which escape nothing."""
    return name.isprintable() and name != "" and "<" not in name


def _composed(name: str) -> str:
    return normalize("NFC", name).strip()


def _must_be_file(path: Path) -> None:
    """Raises UserError if it is not a file. DVC does not follow a link to a folder, so it would miss changes there."""
    is_file = os.path.isfile(path)  # Path.is_file raises an error if a link's target cannot be reached
    if is_file and has_plain_name(path):
        return
    if is_file:
        what, advice = "a file whose name is not one line of UTF-8", "rename it"
    elif os.path.isdir(path):
        what, advice = "a link to a folder, which DVC does not follow", "put the folder itself there"
    else:
        what, advice = "a broken link" if path.is_symlink() else "not a file", "repair or remove it"
    raise UserError(f"{shortened(str(path))}: is {what}; {advice}")


def _superclasses(root: Path, classes: list[str]) -> dict[str, str]:
    """The superclass of each class; empty if there is no superclasses.csv."""
    file = root / "superclasses.csv"
    if not file.exists():
        return {}
    shown = shortened(str(file))
    if not file.is_file():
        raise UserError(f"{shown}: is not a file")
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            rows = [[_composed(name) for name in row] for row in csv.reader(opened, strict=True) if row]
    except (OSError, UnicodeError, csv.Error) as error:
        raise UserError(f"{shown}: cannot be read ({one_line(error)}); it must be CSV in UTF-8") from error
    if not rows or rows[0] != ["class", "superclass"]:
        raise UserError(f"{shown}: its first line must be: class,superclass")
    for number, row in enumerate(rows, 1):
        if len(row) != 2 or not all(map(_is_class_name, row)):
            raise UserError(f"{shown}: row {number} must have two names without <: a class and its superclass")
    found = dict(rows[1:])
    if len(found) < len(rows) - 1:
        raise UserError(f"{shown}: a class occurs twice")
    if missing := [name for name in classes if name not in found]:
        raise UserError(f"{shown}: has no superclass for: {shortened(', '.join(missing))}")
    if len({found[name] for name in classes}) < 2:
        raise UserError(f"{shown}: must have at least two superclasses")
    return {name: found[name] for name in classes}
