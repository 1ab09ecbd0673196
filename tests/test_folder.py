"""A folder of the user's own images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stages.folder import load_folder


def save(path: Path, mode: str = "RGB", size: tuple[int, int] = (32, 32), colour: object = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour if colour is not None else 0).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for part, count in (("train", 3), ("test", 2)):
        for name, colour in (("bee", (250, 200, 0)), ("ant", (40, 20, 10))):
            for number in range(count):
                save(tmp_path / part / name / f"{number}.png", colour=colour)
    return tmp_path


def test_classes_are_numbered_by_name_and_train_is_used_unlabelled(root: Path) -> None:
    (root / "train" / "ant" / ".hidden").write_text("not an image")
    dataset = load_folder(root)
    assert dataset.fine_names == dataset.coarse_names == ["ant", "bee"]
    assert dataset.train.fine.tolist() == dataset.train.coarse.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.test.fine.tolist() == [0, 0, 1, 1]
    assert dataset.train.images[0, 5, 5].tolist() == [40, 20, 10]
    assert dataset.test.images[3, 5, 5].tolist() == [250, 200, 0]
    assert torch.equal(dataset.unlabelled, dataset.train.images)


@pytest.mark.parametrize("name", ["train/cow", "unlabeled"])
def test_a_folder_that_is_a_link_is_refused_because_dvc_would_not_see_its_images_change(root: Path, name: str) -> None:
    (root / name).symlink_to(root / "train" / "ant")
    with pytest.raises(SystemExit, match=f"{name}: is a link to a folder, into which DVC does not look"):
        load_folder(root)


def test_unlabeled_images_are_used_where_there_are_some(root: Path) -> None:
    for number in range(5):
        save(root / "unlabeled" / f"{number}.png", colour=(number, 0, 0))
    assert load_folder(root).unlabelled[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]


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
def test_every_mode_becomes_rgb(
    root: Path, mode: str, colour: object, suffix: str, expected: tuple[int, int, int]
) -> None:
    (root / "train" / "ant" / "0.png").unlink()
    save(root / "train" / "ant" / f"0.{suffix}", mode, (50, 40), colour)
    assert load_folder(root).train.images[0, 16, 16].tolist() == list(expected)


def test_pixels_of_32_bits_fill_the_range(root: Path) -> None:
    values = np.linspace(0, 1000, 32 * 32).reshape(32, 32)
    for number, dtype in enumerate((np.int32, np.float32)):
        Image.fromarray(values.astype(dtype)).save(root / "train" / "ant" / f"{number}.tif")
        (root / "train" / "ant" / f"{number}.png").unlink()
    images = load_folder(root).train.images
    assert [(int(image.min()), int(image.max())) for image in images[:3]].count((0, 255)) == 2


def test_a_pixel_that_is_no_number_is_refused(root: Path) -> None:
    Image.fromarray(np.full((32, 32), np.nan, np.float32)).save(root / "train" / "ant" / "nan.tif")
    with pytest.raises(SystemExit, match=r"nan\.tif \(has pixels that are not finite\)"):
        load_folder(root)


def test_a_misspelt_folder_is_refused(root: Path) -> None:
    (root / "unlabelled").mkdir()
    with pytest.raises(SystemExit, match="it has other folders: unlabelled"):
        load_folder(root)


def test_any_size_is_cut_to_its_middle_square_and_scaled(root: Path) -> None:
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, 32:96] = 200  # the middle square; the black sides are cut off
    Image.fromarray(wide).save(root / "train" / "ant" / "0.png")
    assert load_folder(root).train.images[0].unique().tolist() == [200]


def test_a_photograph_lying_on_its_side_is_turned_upright(root: Path) -> None:
    image = Image.fromarray(np.vstack([np.full((16, 32, 3), 255, np.uint8), np.zeros((16, 32, 3), np.uint8)]))
    exif = Image.Exif()
    exif[0x0112] = 3  # taken upside down
    image.save(root / "train" / "ant" / "0.png", exif=exif)
    shown = load_folder(root).train.images[0, :, 0, 0]
    assert (shown[0], shown[-1]) == (0, 255)


def test_unreadable_files_are_counted_named_and_refused(root: Path) -> None:
    (root / "train" / "ant" / "0.png").write_text("this is no image")
    (root / "train" / "bee" / "1.png").write_bytes(b"")
    cut = root / "train" / "bee" / "2.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(cut)
    cut.write_bytes(cut.read_bytes()[:2000])
    with pytest.raises(SystemExit) as stopped:
        load_folder(root)
    message = str(stopped.value.code)
    assert message.startswith("3 of 6 files cannot be read")
    assert all(name in message for name in ("ant/0.png", "bee/1.png", "bee/2.png"))
    assert "\n" not in message


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused(root: Path) -> None:
    save(root / "train" / "ant" / "0.png", "1", (12_000, 12_000))
    with pytest.raises(SystemExit, match=r"1 of 6 files cannot be read.*ant/0\.png \(.*decompression bomb"):
        load_folder(root)


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ("train", "there is no folder"),
        ("test", "there is no folder"),
        ("test/bee", "only one of them has: bee"),
        ("train/bee", "at least 2 are needed"),
        ("train/ant/*", "ant: holds no image"),
    ],
)
def test_what_is_missing_is_named(root: Path, missing: str, expected: str) -> None:
    for path in sorted(root.glob(missing + "/**/*"), reverse=True) + list(root.glob(missing)):
        if path.exists():
            path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(SystemExit, match=expected) as stopped:
        load_folder(root)
    assert "\n" not in str(stopped.value.code)
