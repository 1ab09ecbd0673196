"""Damaged images and odd folders: refused in one line that names them, and left as they were."""

import functools
import importlib
import io
import itertools
import os
import shutil
import struct
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image
from torch import Tensor

import stages.images.folder
from stages.images.dataset import Dataset
from stages.images.folder import load_folder
from stages.images.sizes import Sizes, count_images
from tests.bad_input import MARKER, contents, damages, elsewhere, examples, fits_together, forget, outcome  # noqa: F401 (elsewhere runs by itself)
from tests.images.data import images_of

IMAGES = 400  # examples of one test
FOLDERS = 150  # of another

MODES = ["1", "L", "P", "PA", "LA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16"]


def picture(mode: str, size: tuple[int, int] = (12, 10)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 256)
    if mode == "LAB":
        return Image.frombytes("LAB", size, pixels.tobytes())
    return Image.fromarray(pixels).convert("P" if mode == "PA" else mode).convert(mode)


@functools.cache
def written_images() -> dict[str, bytes]:
    """A small image in every format that Pillow writes and every mode that the format has, by both names."""
    Image.init()
    found = {}
    with warnings.catch_warnings(action="ignore"):
        for kind, mode in itertools.product(sorted(Image.SAVE), MODES):
            buffer = io.BytesIO()
            try:
                picture(mode).save(buffer, kind)
            except (OSError, ValueError, KeyError):  # a format does not have every mode
                continue
            found[f"{kind} {mode}"] = buffer.getvalue()
    return found


def make_folder(root: Path) -> None:
    """Two classes with an image each, for training and for testing."""
    shutil.rmtree(root, ignore_errors=True)
    for part, name in itertools.product(("train", "test"), ("ant", "bee")):
        (root / part / name).mkdir(parents=True)
        for number in range(2):
            (root / part / name / f"{number}.png").write_bytes(written_images()["PNG RGB"])


def load(root: Path) -> tuple[Dataset, list[Tensor]]:
    dataset = load_folder(root, 32, None)
    return dataset, images_of(dataset)


def read_folder(root: Path) -> str | None:
    """The line with which `load_folder` ends, if it does; `count_images` says the same before."""
    before = contents(root)
    counted, loaded = outcome(count_images, "folder", root), outcome(load, root)
    assert contents(root) == before
    if isinstance(loaded, str):
        assert str(root) in loaded
        assert counted == loaded or "cannot be read as images" in loaded or "more than 8 bits" in loaded
        return loaded
    dataset, images = loaded
    fits_together(dataset, images)
    assert isinstance(counted, Sizes)
    assert replace(counted, left_out="") == Sizes(
        len(images[0]), np.bincount(dataset.train.fine).tolist(), len(images[2])
    )
    return None


@st.composite
def damaged_images(draw: st.DrawFn) -> bytes:
    content = written_images()[draw(st.sampled_from(list(written_images())))]
    start = draw(st.sampled_from([64, 256, len(content)]))
    for _ in range(draw(st.integers(0, 3))):
        content = draw(damages(content, range(min(start, len(content))))) if content else content
    return content


@examples(IMAGES)
@given(st.deferred(damaged_images))
def test_a_damaged_image_is_refused_by_its_name_or_becomes_32_pixels_wide(content: bytes) -> None:
    root = Path("images")
    if not root.exists():
        make_folder(root)
    (root / "train/bee/0.png").write_bytes(content)
    loaded = read_folder(root)
    if isinstance(loaded, str):
        assert loaded.startswith(
            (
                "1 of 4 files cannot be read as images; repair or remove them: images/train/bee/0.png (",
                "1 of 4 images have more than 8 bits, with values from ",
            )
        )


def claiming(width: int, height: int) -> bytes:
    """A small PNG whose header says that it is of another size."""
    content = written_images()["PNG RGB"]
    header = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


ODD_NAMES = [
    *("ä", "two\nlines", os.fsdecode(b"\xff"), "\x1b[31m", "\u202e", ".hidden", " ", "*", "-rf", "x" * 255),
    *("ant", "bee", "0.png", "1.png", "test"),
]
FILES: dict[str, Callable[[], bytes]] = {
    "image": lambda: written_images()["PNG RGB"],
    "empty": lambda: b"",
    "text": lambda: b"This is no image.\n",
    "cut": lambda: written_images()["PNG RGB"][:-20],
    "bomb": lambda: claiming(50_000, 50_000),
    "bytes": lambda: bytes(range(256)),
}
LINKS = {"device": "/dev/zero", "nowhere": "nowhere to be found", "upwards": ".."}
KINDS = [*FILES, "folder", "pipe", *LINKS, "loop", "gone"]


def put(path: Path, kind: str) -> None:
    """Puts an oddity in the place of what is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if kind in FILES:
        path.write_bytes(FILES[kind]())
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind != "gone":
        path.symlink_to(LINKS.get(kind, path.name))  # a loop leads to itself


halves = st.sampled_from(["train", "test", "unlabeled", "extra", "superclasses.csv"])
odd_names = st.sampled_from(ODD_NAMES)
spots = st.builds(Path, halves) | st.builds(Path, halves, odd_names) | st.builds(Path, halves, odd_names, odd_names)
oddities = st.lists(st.tuples(spots, st.sampled_from(KINDS)), max_size=4)
renamed = st.sampled_from(["bee", *ODD_NAMES[:10]])


@examples(FOLDERS)
@given(oddities, renamed, st.booleans())
@example([(Path("unlabeled"), "nowhere")], "bee", False)
def test_an_odd_folder_is_refused_in_one_line_or_read(
    drawn: list[tuple[Path, str]], second_class: str, unlabelled: bool
) -> None:
    root = Path("odd")
    make_folder(root)
    for half in ("train", "test"):
        (root / half / "bee").rename(root / half / second_class)
    if unlabelled:
        shutil.copytree(root / "train/ant", root / "unlabeled")
    for where, kind in drawn:
        with suppress(OSError):  # where an oddity has taken the place of the folder
            put(root / where, kind)
    read_folder(root)


@pytest.mark.parametrize("root", ["a\0b", "a\nb", "x" * 300, "/dev/null", "nowhere", "\udcff", "\x1b[31m"])
def test_a_root_that_cannot_be_one_is_refused_in_one_line(root: str) -> None:
    assert isinstance(outcome(count_images, "folder", Path(root)), str)
    assert isinstance(outcome(load, Path(root)), str)


def inside_another(content: bytes) -> bytes:
    """An IPTC file, which is another image with a few fields before it."""
    fields = [((3, 60), b"\1\0"), ((3, 20), b"\0\x0c"), ((3, 30), b"\0\x0a"), ((3, 120), b"\5"), ((8, 10), content)]
    return b"".join(b"\x1c" + bytes(tag) + struct.pack(">H", len(data)) + data for tag, data in fields)


@pytest.mark.parametrize("wrapped", [lambda content: content, inside_another], ids=["alone", "inside another"])
def test_ghostscript_is_not_run(wrapped: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Which it would be by Pillow, on what is in a PostScript file, a program."""
    Path("bin").mkdir(exist_ok=True)
    Path("bin/gs").write_text(f"#!/bin/sh\ntouch {Path(MARKER).absolute()}\n")
    Path("bin/gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{Path('bin').absolute()}:{os.environ['PATH']}")
    root = Path("postscript")
    make_folder(root)
    (root / "train/ant/0.png").write_bytes(wrapped(written_images()["EPS RGB"]))
    refused = "1 of 4 files cannot be read as images; repair or remove them: postscript/train/ant/0.png ("
    for is_run in (True, False):
        forget()
        monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # as Pillow has it
        if not is_run:
            importlib.reload(stages.images.folder)
        assert str(read_folder(root)).startswith(refused)
        assert Path(MARKER).exists() == is_run
    forget()
