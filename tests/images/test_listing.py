"""Which images a folder holds, and of which class: decided by names alone."""

import os
import shutil
from pathlib import Path
from unicodedata import normalize

import pytest

from stages.images.listing import Listing, in_words, list_folder
from tests import repository


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for part, count in (("train", 3), ("test", 2)):
        for name in ("bee", "ant"):
            add(tmp_path / part / name, *(f"{number}.png" for number in range(count)))
    return tmp_path


def add(folder: Path, *names: str) -> None:
    """Files without content: none is opened."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def refusal(root: Path) -> str:
    return repository.refusal(list_folder, root)


def names(listing: Listing, name: str) -> list[str]:
    return [file.name for file in listing.train[name]]


def test_what_is_no_image_is_left_out_and_counted(root: Path) -> None:
    add(root / "train/ant", "Thumbs.db", "desktop.ini", "Icon\r", "notes.txt", ".hidden.png", "UPPER.JPG")
    add(root / "train/ant", "a.heic", "b.HEIC", "film.mpg", "data.h5", "drawing.eps", "drawing.wmf")
    add(root / "train/ant/.folder", "0.png")
    listing = list_folder(root)
    assert names(listing, "ant") == ["0.png", "1.png", "2.png", "UPPER.JPG"]
    line = "10 left out because of the ending: 2 .heic, 1 without one, 1 .db, 1 .h5, 1 .ini"
    assert in_words(listing.others) == line


def test_images_in_no_class_folder_are_named_and_other_files_there_are_not(root: Path) -> None:
    add(root / "test", "labels.txt")
    list_folder(root)
    add(root / "test", "7.png")
    assert refusal(root) == f"{root}: test/ has images in no class folder: 7.png; move or remove them"


def test_a_part_is_found_by_the_name_that_it_has_without_spaces_around_it(root: Path) -> None:
    add(root / "unlabeled /all", "0.png")
    assert list_folder(root).unlabelled == [root / "unlabeled /all/0.png"]


def test_a_folder_with_the_ending_of_an_image_is_a_folder(root: Path) -> None:
    add(root / "train/ant/1.png.d/deep.png", "a.webp", "b.webp")
    assert names(list_folder(root), "ant") == ["0.png", "1.png", "a.webp", "b.webp", "2.png"]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_name_is_one_class_in_whatever_form_it_is_written(root: Path, form: str) -> None:
    decomposed = normalize("NFD", "café")
    add(root / "train" / normalize(form, "café"), "0.png", "1.png")
    add(root / "test" / f"{decomposed} ", "0.png")
    (root / "superclasses.csv").write_text(f"class,superclass\nant,animal\nbee,animal\n{decomposed},place")
    listing = list_folder(root)
    assert list(listing.train) == list(listing.test) == ["ant", "bee", "café"]
    assert listing.superclass_of["café"] == "place"


@pytest.mark.parametrize("name", ["two\nlines", os.fsdecode(b"\xff"), "\x1b[31m", "\u202e", "<!--<script>"])
def test_a_class_whose_name_cannot_be_printed_or_is_html_is_refused(root: Path, name: str) -> None:
    for part in ("train", "test"):
        (root / part / "bee").rename(root / part / name)
    assert refusal(root) == f"{root}: names of class folders must be printable text without <; rename {name!a}"


@pytest.mark.parametrize("name", ["a\0b", "a\nb", "x" * 300, "/dev/null", "nowhere", "\udcff", "\x1b[31m"])
def test_a_root_that_cannot_be_one_is_refused(name: str) -> None:
    assert ": cannot be read (" in refusal(Path(name))


def test_a_file_whose_name_is_not_one_line_of_utf_8_is_named(root: Path) -> None:
    add(root / "train/ant", "caf\u00e9 \u202f(1).png")
    list_folder(root)
    for name, shown in ((os.fsdecode(b"caf\xe9.png"), r"caf\udce9.png"), ("a\x07.png", r"a\x07.png")):
        add(root / "train/ant", name)
        assert refusal(root).endswith(f"{shown}: is a file whose name is not one line of UTF-8; rename it")
        (root / "train/ant" / name).unlink()


def test_two_folders_of_one_name_are_refused(root: Path) -> None:
    add(root / "train/ant ", "0.png")
    assert "train: two folders have the name 'ant'; rename one" in refusal(root)


@pytest.mark.parametrize(
    "place", ["train/ant/link.png", "unlabeled/link", "unlabeled/deep/link.jpg", "train/cow", "unlabeled"]
)
@pytest.mark.parametrize(
    ("target", "expected"),
    [("train/ant", "a link to a folder, which DVC does not follow"), ("gone", "a broken link")],
)
def test_a_link_that_is_no_file_is_named(root: Path, place: str, target: str, expected: str) -> None:
    if place.startswith("unlabeled/"):
        add(root / "unlabeled/deep", "0.png")
    (root / place).symlink_to(root / target)
    assert f"{place}: is {expected}" in refusal(root)


def test_a_pipe_is_no_image(root: Path) -> None:
    os.mkfifo(root / "train/ant/pipe.png")
    assert "train/ant/pipe.png: is not a file" in refusal(root)


@pytest.mark.parametrize("part", ["train", "test"])
def test_the_advice_for_an_empty_class_leads_to_a_folder_that_works(root: Path, part: str) -> None:
    add(root / "train/cat", "0.png", "1.png")
    add(root / "test/cat", "0.png")
    for file in (root / part / "cat").iterdir():
        file.rename(file.with_suffix(".txt"))
    line = refusal(root)
    assert "cat: contains no image (" in line
    assert "left out because of the ending: " in line
    assert line.endswith(" .txt); add some or remove the class from train/ and test/")
    for half in ("train", "test"):
        shutil.rmtree(root / half / "cat")
    assert list(list_folder(root).train) == ["ant", "bee"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"ant,insect\nbee,insect\n", "its first line must be: class,superclass"),
        (b"class,superclass\nant,insect\nbee\n", "row 3 must have two names"),
        (b"class,superclass\nant,insect\nbee,</script>\n", "row 3 must have two names without <"),
        (b"class,superclass\nant,insect\nant,bird\nbee,bird\n", "a class occurs twice"),
        (b"class,superclass\nant,insect\n", "has no superclass for: bee"),
        (b"class,superclass\nant,insect\nbee,insect\n", "must have at least two superclasses"),
        (b"class,superclass\nant,\xff\n", "it must be CSV in UTF-8"),
        (b'class,superclass\nant,"a"b\n', "cannot be read"),
    ],
)
def test_a_file_of_superclasses_that_is_wrong_is_refused(root: Path, content: bytes, expected: str) -> None:
    (root / "superclasses.csv").write_bytes(content)
    line = refusal(root)
    assert "superclasses.csv: " in line
    assert expected in line


def test_a_pipe_in_place_of_superclasses_is_refused(root: Path) -> None:
    os.mkfifo(root / "superclasses.csv")
    assert "superclasses.csv: is not a file" in refusal(root)


def test_a_class_with_one_training_image_is_refused(root: Path) -> None:
    for number in (1, 2):
        (root / f"train/bee/{number}.png").unlink()
    assert "every class needs two training images, to fit a probe and to validate it; bee has 1" in refusal(root)


def test_a_misspelt_folder_is_refused(root: Path) -> None:
    (root / "unlabelled").mkdir()
    assert "it has other folders: unlabelled" in refusal(root)


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ("train", "there is no folder train/"),
        ("test", "there is no folder test/"),
        ("test/bee", "only one of them has: bee"),
        ("train/bee", "at least 2 are needed"),
        ("train/ant/*", "ant: contains no image"),
    ],
)
def test_what_is_missing_is_named(root: Path, missing: str, expected: str) -> None:
    for path in root.glob(missing):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert expected in refusal(root)
