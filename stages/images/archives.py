"""The official archives of CIFAR and of ImageNet's weights: where they are, and how to get a verified copy.

Downloads are kept in the user's cache folder (`~/.cache/simclr-dvc`, or below $XDG_CACHE_HOME) and not in the stage's
outputs, which DVC deletes before it runs the stage.
"""

import ftplib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pooch

from stages.io.writing import require_room
from stages.runtime.errors import UserError, one_line, shortened

TRIES = 5


@dataclass(frozen=True)
class Archive:
    name: str
    site: str  # the folder of the official file
    sha256: str  # or its first digits
    size: int  # bytes


CIFAR10, CIFAR100 = (
    Archive(f"cifar-{classes}-python.tar.gz", "https://www.cs.toronto.edu/~kriz/", digits, size)
    for classes, digits, size in (
        (10, "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce", 170_498_071),
        (100, "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7", 169_001_437),
    )
)
# The first eight digits are in the name; `torch.hub` verifies by them alone.
IMAGENET = {
    backbone: Archive(f"{backbone}-{digits[:8]}.pth", "https://download.pytorch.org/models/", digits, size)
    for backbone, digits, size in (
        ("resnet18", "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec", 46_830_571),
        ("resnet34", "b627a593", 87_319_819),
        ("resnet50", "11ad3fa6", 102_540_417),
    )
}


def fetch(archive: Archive, mirror: str | None) -> Path:
    """A local file with the archive's checksum: from the mirror (a folder or a URL), the cache or the official site.

    A download has a temporary name until it is verified. It is tried several times. Raises UserError with the name of
    the file, what was expected and what to do.
    """
    if mirror is not None and "://" not in mirror:
        shown = f"{shortened(str(Path(mirror)))}/{archive.name}"
        path = Path(os.path.expanduser(mirror), archive.name)
        if not (os.path.isfile(path) and os.access(path, os.R_OK)):
            raise UserError(
                f"{shown}: not found or not readable; put {archive.site}{archive.name} there, "
                "or set mirror to where it is"
            )
        if not (found := pooch.file_hash(path)).startswith(archive.sha256):
            raise UserError(
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
            registry={archive.name: f"sha256:{archive.sha256}" if len(archive.sha256) == 64 else None},
            retry_if_failed=TRIES - 1,
        )
        path = Path(cache.fetch(archive.name, progressbar=sys.stderr.isatty()))
        if not pooch.file_hash(path).startswith(archive.sha256):  # pooch can't verify by the first digits
            path.unlink()
            raise ValueError("it has another one")
        return path
    except (ftplib.Error, EOFError, OSError, ValueError) as error:  # those of requests are OSErrors
        raise UserError(
            f"{shortened(site)}{archive.name}: could not be downloaded with SHA-256 {archive.sha256} in {TRIES} tries "
            f"({one_line(error)}); try again later, or get the file by hand and set mirror to the folder that holds it"
        ) from error
