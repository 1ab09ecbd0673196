"""A folder of the user's own images."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.files.tensors import Stream
from stages.images.folder import count_folder, load_folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for part, count in (("train", 3), ("test", 2)):
        for name, colour in (("bee", (250, 200, 0)), ("ant", (40, 20, 10))):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (32, 32), colour).save(tmp_path / part / name / f"{number}.png")
    return tmp_path


def read(root: Path, image: Image.Image, suffix: str = "png", **how: Any) -> np.ndarray:
    """What such an image becomes."""
    (root / "train/ant/0.png").unlink()
    image.save(root / f"train/ant/0.{suffix}", **how)
    return load_folder(root, 32).train.images.all()[0].numpy()


@pytest.mark.parametrize("side", [32, 96, 224])
def test_images_are_scaled_to_the_size_that_is_asked_for(root: Path, side: int) -> None:
    left_half_red = Image.new("RGB", (448, 448), "blue")
    left_half_red.paste("red", (0, 0, 224, 448))
    left_half_red.save(root / "train/ant/0.png")
    dataset = load_folder(root, side)
    train, test = dataset.train.images.all(), dataset.test.images.all()
    assert {part.shape[1:] for part in (train, test)} == {(side, side, 3)}
    red = train[0, :, :, 0] > 127
    assert red[:, : side // 2].all()
    assert not red[:, side // 2 :].any()


def refusal(root: Path) -> str:
    with pytest.raises(SystemExit) as stopped:
        load_folder(root, 32).train.images.all()
    line = str(stopped.value.code)
    assert "\n" not in line
    return line


def test_classes_are_numbered_by_name_and_train_is_used_unlabelled(root: Path) -> None:
    (root / "train" / "ant" / ".hidden").write_text("not an image")
    dataset = load_folder(root, 32)
    assert dataset.fine_names == dataset.coarse_names == ["ant", "bee"]
    assert dataset.train.fine.tolist() == dataset.train.coarse.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.test.fine.tolist() == [0, 0, 1, 1]
    assert dataset.train.images.all()[0, 5, 5].tolist() == [40, 20, 10]
    assert dataset.test.images.all()[3, 5, 5].tolist() == [250, 200, 0]
    assert dataset.unlabelled is None


def reds(images: Stream | None) -> list[int]:
    assert images
    return images.all()[:, 0, 0, 0].tolist()


def test_unlabeled_images_are_used_where_there_are_some(root: Path) -> None:
    (root / "unlabeled").mkdir()
    for number in range(5):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(root / "unlabeled" / f"{number}.png")
    assert reds(load_folder(root, 32).unlabelled) == [0, 1, 2, 3, 4]


def test_unlabeled_images_may_lie_in_folders_however_deep(root: Path) -> None:
    for number, folder in enumerate(("unlabeled", "unlabeled/a", "unlabeled/a/b", "unlabeled/c")):
        (root / folder).mkdir()
        Image.new("RGB", (32, 32), (number, 0, 0)).save(root / folder / "0.png")
    assert reds(load_folder(root, 32).unlabelled) == [0, 1, 2, 3]
    assert count_folder(root).unlabelled == 4
    (root / "unlabeled/a/empty").mkdir()
    assert "unlabeled/a/empty: holds no image" in refusal(root)


def test_a_file_groups_classes_into_superclasses(root: Path) -> None:
    shutil.copytree(root / "train/ant", root / "train/cow")
    shutil.copytree(root / "test/ant", root / "test/cow")
    (root / "superclasses.csv").write_text("class,superclass\ncow,mammal\nbee,insect \n\n ant,insect\ndog,mammal\n\n")
    dataset = load_folder(root, 32)
    assert (dataset.fine_names, dataset.coarse_names) == (["ant", "bee", "cow"], ["insect", "mammal"])
    assert dataset.train.coarse.tolist() == [0] * 6 + [1] * 3
    assert dataset.test.coarse.tolist() == [0] * 4 + [1] * 2


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"ant,insect\nbee,insect\n", "its first line must be: class,superclass"),
        (b"", "its first line must be"),
        (b"class,superclass\nant,insect\nbee\n", "row 3 must have two names"),
        (b"class,superclass\nant,insect\nbee,\n", "row 3 must have two names"),
        (b"class,superclass\nant,insect\nant,bird\nbee,bird\n", "a class is named twice"),
        (b"class,superclass\nant,insect\n", "names no superclass for: bee"),
        (b"class,superclass\nant,insect\nbee,insect\n", "must name two superclasses at least"),
        (b"class,superclass\nant,\xff\n", "cannot be read"),
        (b'class,superclass\nant,"a"b\n', "cannot be read"),
    ],
)
def test_a_file_of_superclasses_that_is_wrong_is_refused(root: Path, content: bytes, expected: str) -> None:
    (root / "superclasses.csv").write_bytes(content)
    line = refusal(root)
    assert "superclasses.csv: " in line
    assert expected in line


def test_a_class_with_one_training_image_is_refused(root: Path) -> None:
    for number in (1, 2):
        (root / f"train/bee/{number}.png").unlink()
    assert "every class needs two training images, to fit a probe and to validate it; bee has 1" in refusal(root)


@pytest.mark.parametrize(
    ("mode", "colour", "suffix", "expected"),
    [
        ("L", 77, "png", (77, 77, 77)),
        ("1", 1, "png", (255, 255, 255)),
        ("P", 0, "png", (0, 0, 0)),
        ("RGBA", (9, 8, 7, 255), "png", (9, 8, 7)),
        ("RGBA", (255, 0, 0, 0), "png", (255, 255, 255)),
        ("CMYK", (0, 0, 0, 0), "tif", (255, 255, 255)),
        ("I;16", 0x4D00, "png", (0x4D,) * 3),
    ],
)
def test_every_mode_becomes_rgb(root: Path, mode: str, colour: Any, suffix: str, expected: tuple[int, ...]) -> None:
    assert read(root, Image.new(mode, (50, 40), colour), suffix)[16, 16].tolist() == list(expected)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_of_32_bits_fill_the_range(root: Path, dtype: type) -> None:
    shown = read(root, Image.fromarray(np.linspace(0, 1000, 32 * 32).reshape(32, 32).astype(dtype)), "tif")
    assert (shown.min(), shown.max()) == (0, 255)


def test_any_size_is_cut_to_its_middle_square_and_scaled(root: Path) -> None:
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, 32:96] = 200  # the middle square; the black sides are cut off
    assert np.unique(read(root, Image.fromarray(wide))).tolist() == [200]


def test_a_photograph_that_was_taken_upside_down_is_turned_upright(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    shown = read(root, Image.fromarray(np.repeat(np.uint8([255, 0]), 16 * 32).reshape(32, 32)), exif=exif)
    assert (shown[0].max(), shown[-1].min()) == (0, 255)


def test_unreadable_files_are_counted_named_and_refused(root: Path) -> None:
    (root / "train/ant/0.png").write_text("this is no image")
    (root / "train/ant/1.png").write_bytes(b"")
    Image.new("1", (12_000, 12_000)).save(root / "train/ant/2.png")
    Image.fromarray(np.full((32, 32), np.nan, np.float32)).save(root / "train/bee/0.tif")
    cut = root / "train/bee/1.png"
    cut.write_bytes(cut.read_bytes()[:50])
    line = refusal(root)
    assert line.startswith("5 of 7 files cannot be read as images; repair or remove them: ")
    for file, reason in zip(
        ("ant/0.png", "ant/1.png", "ant/2.png", "bee/0.tif", "bee/1.png"),
        ("cannot identify", "cannot identify", ".*decompression bomb", "has pixels that are not finite", ""),
        strict=True,
    ):
        assert re.search(rf"{file} \({reason}", line)


@pytest.mark.parametrize("name", ["train/cow", "unlabeled"])
@pytest.mark.parametrize(
    ("target", "said"), [("train/ant", "to a folder, into which DVC does not look"), ("gone", "that leads nowhere")]
)
def test_a_folder_that_is_a_link_is_refused_and_not_passed_over(root: Path, name: str, target: str, said: str) -> None:
    (root / name).symlink_to(root / target)
    assert f"{name}: is a link {said}" in refusal(root)


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
        ("train/ant/*", "ant: holds no image"),
    ],
)
def test_what_is_missing_is_named(root: Path, missing: str, expected: str) -> None:
    for path in root.glob(missing):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert expected in refusal(root)
