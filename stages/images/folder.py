"""Custom images from a folder (`listing.py` finds them): each is cropped to its central square and scaled.

Classes are numbered in the order of their names; without superclasses, the coarse labels are the fine ones. Without
`unlabeled/`, pretraining uses the images of `train/` and ignores their labels.
"""

import io
import logging
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from PIL import EpsImagePlugin, Image, ImageCms, ImageOps, PngImagePlugin, TiffImagePlugin
from torch import Tensor

from stages.images.dataset import Dataset, Labelled, chunks_of, image_stream, scaled
from stages.images.listing import has_plain_name, list_folder
from stages.io.tensors import Stream
from stages.runtime.errors import UserError, one_line, shortened
from stages.runtime.progress import progress_bar

MAX_LISTED_ERRORS = 10
MOST_PIXELS = 250 * 10**6  # per image; cameras of 2026 have up to 200 million. Decoding such an RGB image takes 1 GB
MANY_PIXELS = 25 * 10**6  # larger images are decoded one at a time, so that memory does not grow with the threads
# A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if that is at least this many times the wanted side: 3 to 13 times as
# fast at 8 megapixels. On enlarged photographs of CIFAR no pixel differed by more than 2 of 255. If a size is not
# divisible, the centre is off by at most an eighth of a pixel.
ENOUGH = 4

Range = list[float]  # the values of black and white
SIXTEEN_BITS = [0, 65535]
SRGB = ImageCms.createProfile("sRGB")

Image.MAX_IMAGE_PIXELS = MOST_PIXELS
PngImagePlugin.MAX_TEXT_CHUNK = 2**26  # editors write long histories and large colour profiles
# A PostScript file is a program. Pillow would let Ghostscript run it, even one inside another image file.
EpsImagePlugin.gs_binary = False
# Our one-line error replaces what Pillow logs about a broken file.
logging.getLogger("PIL").setLevel(logging.CRITICAL)

large_image = Lock()


class NoRangeError(ValueError):
    """An image has more than 8 bits, but `pixel_range` is not set. low, high: the range of its own values."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__("has more than 8 bits, but pixel_range is not set")
        self.low, self.high = low, high


def load_folder(root: Path, side: int, pixel_range: Range | None) -> Dataset:
    """All images below `root`, scaled to `side` pixels.

    pixel_range: the values of black and white in images with more than 8 bits; None: no image has more.
    Raises UserError with the name of what is missing, or, while the images are read, with the names of unreadable ones.
    """
    listing = list_folder(root)
    classes = list(listing.train)
    superclasses, coarse_of_fine = np.unique(list(listing.superclass_of.values()) or classes, return_inverse=True)

    def images(files: list[Path]) -> Stream:
        return image_stream(len(files), side, _read(files, side, pixel_range))

    def labelled(files: dict[str, list[Path]]) -> Labelled:
        fine = np.repeat(np.arange(len(files)), [len(of_class) for of_class in files.values()])
        return Labelled(images([file for of_class in files.values() for file in of_class]), fine, coarse_of_fine[fine])

    unlabelled = None if listing.unlabelled is None else images(listing.unlabelled)
    return Dataset(unlabelled, labelled(listing.train), labelled(listing.test), classes, superclasses.tolist())


@contextmanager
def pillow_warnings() -> Iterator[None]:
    """Silences Pillow's warnings, and makes an image of a harmful size (a decompression bomb) an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _read(files: list[Path], side: int, pixel_range: Range | None) -> Iterator[Tensor]:
    """Chunks of images. Raises UserError after the last one, with some names, if any file cannot be read."""
    unreadable: list[str] = []
    without_range: list[NoRangeError] = []

    def read(file: Path) -> np.ndarray:
        try:
            return read_image(file, side, pixel_range)
        except NoRangeError as error:
            without_range.append(error)
        except Exception as error:  # whatever a broken file makes one of Pillow's readers raise
            unreadable.append(f"{shortened(str(file))} ({one_line(error)})")
        return np.zeros((side, side, 3), np.uint8)

    with progress_bar("reading", len(files), "images") as progress, ThreadPoolExecutor() as threads:
        for some in chunks_of(len(files), side):
            with pillow_warnings():
                chunk = np.empty((some.stop - some.start, side, side, 3), np.uint8)
                for number, image in enumerate(threads.map(read, files[some])):
                    chunk[number] = image
                    progress.update()
            yield torch.from_numpy(chunk)
    if unreadable:
        more = f" and {len(unreadable) - MAX_LISTED_ERRORS} more" if len(unreadable) > MAX_LISTED_ERRORS else ""
        raise UserError(
            f"{len(unreadable)} of {len(files)} files cannot be read as images; repair or remove them: "
            f"{', '.join(sorted(unreadable)[:MAX_LISTED_ERRORS])}{more}"
        )
    if without_range:
        low, high = min(error.low for error in without_range), max(error.high for error in without_range)
        example = f"[{low:g}, {high:g}]" if low < high else "[0, 65535]"
        raise UserError(
            f"{len(without_range)} of {len(files)} images have more than 8 bits, with values from {low:g} to {high:g}; "
            f"set the values of black and white in all images, for example -S 'pixel_range={example}'"
        )


def read_image(file: Path, side: int, pixel_range: Range | None = None) -> np.ndarray:
    """The central square of an image (of its first page or frame), upright and scaled: (S, S, 3) uint8 in sRGB.

    Raises NoRangeError, or what Pillow raises, if it cannot be read.
    """
    if not file.is_file():
        raise ValueError("is not a file")  # reading a named pipe would wait for ever
    if not has_plain_name(file):
        raise ValueError("its name is not one line of UTF-8")
    try:
        image = Image.open(file)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ValueError(f"has more than {MOST_PIXELS // 10**6} megapixels") from None
    if _has_16_bit_colours(image) and pixel_range != SIXTEEN_BITS:
        raise ValueError("has colours of 16 bits: save them with 8, or set pixel_range to [0, 65535]")
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    # Pillow inverts a TIFF whose zero is white (many X-rays) only up to 8 bits, and reads unsigned 32 bits as signed.
    if pixel_range and tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:
        pixel_range = pixel_range[::-1]
    unsigned = bool(tags) and image.mode == "I" and tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,)) == (1,)
    with image, large_image if image.width * image.height > MANY_PIXELS else nullcontext():
        image.draft(None, (ENOUGH * side, ENOUGH * side))
        image.load()
        with suppress(Exception):  # with damaged EXIF data, the pixels are still good
            ImageOps.exif_transpose(image, in_place=True)
        # Cropped before scaling: with Pillow's `ImageOps.fit`, pixels outside of the square affect its edges.
        shorter = min(image.size)
        left, top = (image.width - shorter) // 2, (image.height - shorter) // 2
        square = _to_8_bits(image.crop((left, top, left + shorter, top + shorter)), pixel_range, unsigned)
        if square.has_transparency_data:  # Pillow would show the hidden colours of transparent pixels
            square = Image.alpha_composite(Image.new("RGBA", square.size, "white"), square.convert("RGBA"))
        small = scaled(square if square.mode in ("L", "CMYK") else square.convert("RGB"), side)
        transform = _to_srgb(image.info.get("icc_profile"), small.mode)
        return np.array(ImageCms.applyTransform(small, transform) if transform else small.convert("RGB"))


@lru_cache(16)  # building one takes longer than reading a small image
def _to_srgb(profile: bytes | None, mode: str) -> ImageCms.ImageCmsTransform | None:
    """None if there is no profile, or if it cannot be read or is for images of another mode."""
    try:
        return ImageCms.buildTransform(io.BytesIO(profile), SRGB, mode, "RGB") if profile else None
    except ImageCms.PyCMSError:
        return None


def _has_16_bit_colours(image: Image.Image) -> bool:
    """Whether the image has several channels of 16 bits, of which Pillow reads only 8."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
        return len(bits) > 1 and max(bits) > 8
    # A "BGR;16" has 16 bits for its three channels together.
    tiles = [str(tile) for tile in getattr(image, "tile", [])]
    return not image.mode.startswith("I") and any(";16" in tile and "BGR;16" not in tile for tile in tiles)


def _to_8_bits(image: Image.Image, pixel_range: Range | None, unsigned: bool) -> Image.Image:
    """Pixels of one channel with more than 8 bits, from black to white of the range; others as they are.

    Raises ValueError if a pixel is not finite.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image).view(np.uint32) if unsigned else np.asarray(image)
    if not np.isfinite(values).all():
        raise ValueError("has pixels that are not finite")
    if pixel_range is None:
        raise NoRangeError(float(values.min()), float(values.max()))
    low, high = pixel_range

    def shown(row: np.ndarray) -> np.ndarray:  # row by row, because float64 takes four times as much memory
        return (255 * ((row.astype(np.float64) - low) / (high - low)).clip(0, 1)).round().astype(np.uint8)

    return Image.fromarray(np.stack([shown(row) for row in values]))
