"""A folder of the user's own images."""

import importlib
import io
import json
import os
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageCms
from PIL.PngImagePlugin import PngInfo

import stages.images.folder
from stages.images.folder import load_folder
from tests import repository


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
    return load_folder(root, 32, None).train.images.all()[0].numpy()


@pytest.mark.parametrize("side", [32, 96, 224])
def test_images_are_scaled_to_the_size_that_is_asked_for(root: Path, side: int) -> None:
    left_half_red = Image.new("RGB", (448, 448), "blue")
    left_half_red.paste("red", (0, 0, 224, 448))
    left_half_red.save(root / "train/ant/0.png")
    dataset = load_folder(root, side, None)
    train, test = dataset.train.images.all(), dataset.test.images.all()
    assert {part.shape[1:] for part in (train, test)} == {(side, side, 3)}
    red = train[0, :, :, 0] > 127
    assert red[:, : side // 2].all()
    assert not red[:, side // 2 :].any()


def refusal(root: Path) -> str:
    return repository.refusal(lambda: load_folder(root, 32, None).train.images.all())


def test_classes_are_numbered_by_name_and_train_is_used_unlabelled(root: Path) -> None:
    dataset = load_folder(root, 32, None)
    assert dataset.fine_names == dataset.coarse_names == ["ant", "bee"]
    assert dataset.train.fine.tolist() == dataset.train.coarse.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.test.fine.tolist() == [0, 0, 1, 1]
    assert dataset.train.images.all()[0, 5, 5].tolist() == [40, 20, 10]
    assert dataset.test.images.all()[3, 5, 5].tolist() == [250, 200, 0]
    assert dataset.unlabelled is None


def test_unlabeled_images_are_used_where_there_are_some_in_folders_however_deep(root: Path) -> None:
    for number, folder in enumerate(("unlabeled", "unlabeled/a", "unlabeled/a/b", "unlabeled/c")):
        (root / folder).mkdir()
        Image.new("RGB", (32, 32), (number, 0, 0)).save(root / folder / "0.png")
    unlabelled = load_folder(root, 32, None).unlabelled
    assert unlabelled
    assert sorted(unlabelled.all()[:, 0, 0, 0].tolist()) == [0, 1, 2, 3]


def test_a_file_groups_classes_into_superclasses(root: Path) -> None:
    shutil.copytree(root / "train/ant", root / "train/cow")
    shutil.copytree(root / "test/ant", root / "test/cow")
    (root / "superclasses.csv").write_text("class,superclass\ncow,mammal\nbee,insect \n\n ant,insect\ndog,mammal\n\n")
    dataset = load_folder(root, 32, None)
    assert (dataset.fine_names, dataset.coarse_names) == (["ant", "bee", "cow"], ["insect", "mammal"])
    assert dataset.train.coarse.tolist() == [0] * 6 + [1] * 3
    assert dataset.test.coarse.tolist() == [0] * 4 + [1] * 2


@pytest.mark.parametrize(
    ("mode", "colour", "suffix", "expected"),
    [
        ("1", 1, "png", (255, 255, 255)),
        ("CMYK", (0, 0, 0, 0), "tif", (255, 255, 255)),
        ("RGBA", (9, 8, 7, 255), "png", (9, 8, 7)),
        ("RGBA", (255, 0, 0, 0), "png", (255, 255, 255)),  # transparency shows the white page
        ("LA", (40, 0), "png", (255, 255, 255)),
    ],
)
def test_every_mode_becomes_rgb(root: Path, mode: str, colour: Any, suffix: str, expected: tuple[int, ...]) -> None:
    assert read(root, Image.new(mode, (50, 40), colour), suffix)[16, 16].tolist() == list(expected)


def write_deep(root: Path, dtype: type, low: float, high: float) -> None:
    """A dark and a bright image of one channel with more than 8 bits, which together use the range."""
    for file, first, last in (("0", low, (low + high) / 2), ("1", (low + high) / 2, high)):
        (root / f"train/ant/{file}.png").unlink()
        ramp = np.linspace(first, last, 32 * 32).reshape(32, 32)
        Image.fromarray(ramp.astype(dtype)).save(root / f"train/ant/{file}.tif")


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        (np.uint16, 0, 255), (np.uint16, 0, 4095), (np.uint16, 0, 65535), (np.int32, -1024, 3071),
        (np.float32, 0, 1), (np.float32, 0, 65535),
    ],
)  # fmt: skip
def test_images_of_more_than_8_bits_need_one_range_for_all_which_the_message_tells(
    root: Path, dtype: type, low: float, high: float
) -> None:
    write_deep(root, dtype, low, high)
    line = refusal(root)
    assert line.startswith(f"2 of 6 images have more than 8 bits, with values from {low} to {high}; ")
    suggested = json.loads(line.split("pixel_range=")[1].rstrip("'"))
    dark, bright = load_folder(root, 32, suggested).train.images.all()[:2]
    assert [dark.min(), bright.max()] == [0, 255]
    assert dark.max() - bright.min() in (0, 1)  # gray in the middle of the range, in both
    assert 126 <= bright.min() <= 129
    clipped = load_folder(root, 32, [low, (low + high) / 2]).train.images.all()[1]
    assert clipped.min() >= 254  # what is whiter than white


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_a_tiff_whose_zero_is_white_is_inverted(root: Path, dtype: type) -> None:
    """TIFF 6.0: PhotometricInterpretation (tag 262) = 0."""
    write_deep(root, dtype, 0, 1000)
    black_is_zero = load_folder(root, 32, [0, 1000]).train.images.all()[:2].int()
    for file in (root / "train/ant").glob("*.tif"):
        Image.open(file).save(file, tiffinfo={262: 0})
    white_is_zero = load_folder(root, 32, [0, 1000]).train.images.all()[:2].int()
    assert (white_is_zero + black_is_zero - 255).abs().max() <= 1  # both are rounded


def test_a_tiff_of_unsigned_32_bits_is_not_read_as_signed(root: Path) -> None:
    """TIFF 6.0: SampleFormat (tag 339) = 1."""
    pixels = np.full((32, 32), 3 * 10**9, np.uint32).view(np.int32)
    (root / "train/ant/0.png").unlink()
    file = root / "train/ant/0.tif"
    Image.fromarray(pixels).save(file)
    signed, unsigned = (struct.pack("<HHIHH", 339, 3, 1, number, 0) for number in (2, 1))
    assert signed in file.read_bytes()
    file.write_bytes(file.read_bytes().replace(signed, unsigned))
    assert "with values from 3e+09 to 3e+09" in refusal(root)
    assert load_folder(root, 32, [0, 4e9]).train.images.all()[0, 0, 0].tolist() == [191] * 3  # 255 * 3 / 4


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# Red is where sRGB has green, and the reverse.
SWAPPED = SRGB.replace(b"rXYZ", b"?").replace(b"gXYZ", b"rXYZ").replace(b"?", b"gXYZ")


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
@pytest.mark.parametrize(
    ("mode", "profile", "expected"),
    [
        ("RGB", SWAPPED, (20, 200, 90)),
        ("RGB", SRGB, (200, 20, 90)),
        ("RGB", b"damaged", (200, 20, 90)),
        ("L", SWAPPED, (80, 80, 80)),  # a profile for another mode
    ],
)
def test_colours_are_converted_to_srgb_if_there_is_a_profile_that_can_be_read(
    root: Path, suffix: str, mode: str, profile: bytes, expected: tuple[int, ...]
) -> None:
    shown = read(root, Image.new(mode, (40, 40), (200, 20, 90) if mode == "RGB" else 80), suffix, icc_profile=profile)
    assert np.abs(shown.astype(int) - expected).max() <= 2  # JPEG rounds


def test_a_png_with_a_text_of_2_megabytes_is_read(root: Path) -> None:
    text = PngInfo()
    text.add_text("history", "x" * 2 * 10**6, zip=True)
    assert read(root, Image.new("RGB", (32, 32), "white"), pnginfo=text).min() == 255


def png(size: tuple[int, int], bits: int, colour_type: int, row: bytes) -> bytes:
    """With rows that Pillow can read and not write (PNG specification, sections 4 and 11)."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, colour_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(row * 32)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("channels", "colour_type"), [(3, 2), (2, 4), (4, 6)])
def test_colours_of_16_bits_are_read_where_they_use_all_of_them(root: Path, channels: int, colour_type: int) -> None:
    """Of which Pillow reads the upper 8: 12-bit data would come out as 0 to 15."""
    (root / "train/ant/0.png").write_bytes(png((32, 32), 16, colour_type, b"\0" + b"\xff\0" * channels * 32))
    assert "0.png (has colours of 16 bits: save them with 8, or set pixel_range to [0, 65535])" in refusal(root)
    assert load_folder(root, 32, [0, 65535]).train.images.all()[0].min() == 255


@pytest.mark.parametrize("planar", [False, True])
def test_a_tiff_with_colours_of_16_bits_is_refused(root: Path, planar: bool) -> None:
    """Pillow would read one whose colours lie one after the other as if they had 8."""
    file = root / "train/ant/0.tif"
    Image.new("RGB", (32, 32)).save(file)
    content = file.read_bytes().replace(struct.pack("<3H", 8, 8, 8), struct.pack("<3H", 16, 16, 16))
    layout = [struct.pack("<HHIHH", 284, 3, 1, number, 0) for number in (1, 2)]  # TIFF 6.0: PlanarConfiguration
    assert content.count(layout[0]) == 1
    file.write_bytes(content.replace(layout[0], layout[planar]))
    assert "0.tif (has colours of 16 bits: " in refusal(root)


def test_a_bitmap_of_16_bits_for_three_colours_is_read(root: Path) -> None:
    """Windows' R5G6B5 (BITMAPV3INFOHEADER): 5, 6 and 5 bits."""
    pixels = struct.pack("<H", 0b11111_000000_00000) * 32 * 32
    header = struct.pack("<IiiHHIIiiII3I", 40, 32, 32, 1, 16, 3, len(pixels), 0, 0, 0, 0, 0xF800, 0x07E0, 0x001F)
    file = struct.pack("<2sIHHI", b"BM", 14 + len(header) + len(pixels), 0, 0, 14 + len(header))
    (root / "train/ant/0.bmp").write_bytes(file + header + pixels)
    assert load_folder(root, 32, None).train.images.all()[0].float().mean((0, 1)).tolist() == [255, 0, 0]


def test_transparency_of_a_palette_shows_the_white_page(root: Path) -> None:
    image = Image.new("P", (32, 32), 0)
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.paste(1, (0, 0, 16, 32))
    shown = read(root, image, transparency=0)
    assert (shown[5, 5].tolist(), shown[5, 28].tolist()) == ([0, 0, 200], [255, 255, 255])


def test_a_photograph_beyond_pillows_own_limit_of_89_megapixels_is_read(root: Path) -> None:
    """As telephones take; black, so that the file is small."""
    assert read(root, Image.new("1", (12_000, 7_500))).max() == 0


def test_a_large_jpeg_is_decoded_at_a_part_of_its_size_and_looks_the_same(root: Path) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    by_part = read(root, Image.fromarray(coarse).resize((1600, 1200), Image.Resampling.BICUBIC), "jpg")
    with Image.open(root / "train/ant/0.jpg") as whole:
        whole.save(root / "train/ant/0.png")
    (root / "train/ant/0.jpg").unlink()
    difference = load_folder(root, 32, None).train.images.all()[0].numpy().astype(int) - by_part
    assert 0 < np.abs(difference).max() <= 2


def test_any_size_is_cut_to_its_middle_square_and_scaled(root: Path) -> None:
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, 32:96] = 200  # the middle square; the black sides are cut off
    assert np.unique(read(root, Image.fromarray(wide))).tolist() == [200]


def test_a_photograph_that_was_taken_upside_down_is_turned_upright(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    shown = read(root, Image.fromarray(np.repeat(np.uint8([255, 0]), 16 * 32).reshape(32, 32)), exif=exif)
    assert (shown[0].max(), shown[-1].min()) == (0, 255)


def test_damaged_exif_data_do_not_make_an_image_unreadable(root: Path) -> None:
    assert read(root, Image.new("RGB", (32, 32), "white"), exif=b"damaged").min() == 255


def test_unreadable_files_are_counted_named_and_refused(root: Path) -> None:
    (root / "train/ant/0.png").write_text("this is no image")
    (root / "train/ant/1.png").write_bytes(b"")
    (root / "train/ant/2.png").write_bytes(png((20_000, 13_000), 8, 0, b""))
    Image.fromarray(np.full((32, 32), np.nan, np.float32)).save(root / "train/bee/0.tif")
    cut = root / "train/bee/1.png"
    cut.write_bytes(cut.read_bytes()[:50])
    line = refusal(root)
    assert line.startswith("5 of 7 files cannot be read as images; repair or remove them: ")
    assert all(f"/{file} (" in line for file in ("ant/0.png", "ant/1.png", "bee/1.png"))
    assert "/ant/2.png (has more than 250 megapixels)" in line
    assert "/bee/0.tif (has pixels that are not finite)" in line


@pytest.mark.parametrize("inside_another", [False, True])
def test_ghostscript_is_not_run(
    inside_another: bool, root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which it would be by Pillow, on a PostScript file, which is a program, also in one of IPTC."""
    ghostscript = tmp_path_factory.mktemp("bin") / "gs"
    marker = ghostscript.with_name("executed")
    ghostscript.write_text(f"#!/bin/sh\ntouch {marker}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ghostscript.parent}:{os.environ['PATH']}")
    buffer = io.BytesIO()
    Image.new("RGB", (12, 10)).save(buffer, "EPS")
    fields = [(3, 60, b"\1\0"), (3, 20, b"\0\x0c"), (3, 30, b"\0\x0a"), (3, 120, b"\5"), (8, 10, buffer.getvalue())]
    iptc = b"".join(bytes([0x1C, *tag]) + struct.pack(">H", len(data)) + data for *tag, data in fields)
    (root / "train/ant/0.png").write_bytes(iptc if inside_another else buffer.getvalue())
    for is_run in (True, False):
        monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # as Pillow has it
        if not is_run:
            importlib.reload(stages.images.folder)
        assert f"cannot be read as images; repair or remove them: {root}/train/ant/0.png (" in refusal(root)
        assert marker.exists() == is_run
        marker.unlink(missing_ok=True)
