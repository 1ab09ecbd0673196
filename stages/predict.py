"""Classifies pictures with the exported model: `python -m stages predict FILES-OR-FOLDERS...`, `--help` for the rest.

Pictures are read as `data: folder` reads them. One that cannot be read is named on the standard error, the others go
on, and the exit status is 1. Only `--neighbours` needs more than the model: the labelled images of this repository.
"""

import argparse
import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import torch

from stages.images.folder import pillow_warnings, read_image
from stages.images.listing import images_below, in_words
from stages.io.metadata import FORMAT
from stages.io.tensors import open_tensors
from stages.io.writing import replacing, write_bytes
from stages.probing.neighbours import nearest
from stages.reporting.figures import as_png
from stages.reporting.pictures import draw_neighbours
from stages.runtime.errors import UserError, one_line, shortened
from stages.runtime.progress import progress_bar

LABELLED, FEATURES = Path("data/labelled.safetensors"), Path("data/features.safetensors")
CHUNK = 1024  # pictures in memory at once
BATCH = 256  # pictures that the model gets at once
SHOWN, NEIGHBOURS = 12, 6  # pictures with so many neighbours each

Output = Callable[[list[Path], np.ndarray, np.ndarray], None]  # files, features (N, D), probabilities (N, K)


class Model:
    """The file of the stage `export`. Raises UserError where it is missing, broken or of another version."""

    def __init__(self, file: Path) -> None:
        if not file.is_file():
            raise UserError(f"{file}: not found; `dvc repro` makes it, or name another by --model")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # the error below is enough
        try:
            self.session = onnxruntime.InferenceSession(file, options)
            notes = json.loads(self.session.get_modelmeta().custom_metadata_map.get("notes", "{}"))
        except Exception as error:  # onnxruntime has many of its own
            raise UserError(
                f"{file}: cannot be read as ONNX ({one_line(error)}); `dvc repro` or `dvc checkout` restores it"
            ) from error
        if notes.get("format") != FORMAT:
            raise UserError(f"{file}: has the format {notes.get('format')}, not {FORMAT}; `dvc repro` makes it anew")
        self.side: int = notes["image_size"]
        self.pixel_range: list[float] | None = notes["pixel_range"]
        self.classes: list[str] = notes["classes"]

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N, S, S, 3) uint8 -> features (N, D), probabilities (N, K)."""
        parts = [self.session.run(None, {"images": images[at : at + BATCH]}) for at in range(0, len(images), BATCH)]
        features, probabilities = (np.concatenate(outputs) for outputs in zip(*parts, strict=True))
        return features, probabilities


def main() -> None:
    arguments = parse()
    model = Model(arguments.model)
    files = [file for given in arguments.pictures for file in listed(given)]
    unreadable, drawn = 0, False

    def read(file: Path) -> np.ndarray | None:
        try:
            return read_image(file, model.side, model.pixel_range)
        except Exception as error:  # whatever a broken file makes one of Pillow's readers raise
            print(f"{shortened(str(file))}: cannot be read as an image ({one_line(error)})", file=sys.stderr)
            return None

    with (
        progress_bar("predicting", len(files), "pictures") as progress,
        ExitStack() as opened,
        pillow_warnings(),
        ThreadPoolExecutor() as threads,
    ):
        outputs = [(as_csv if arguments.csv else as_text)(model.classes, progress.write)]
        if arguments.embed:
            outputs.append(opened.enter_context(as_npy(arguments.embed)))
        for start in range(0, len(files), CHUNK):
            some = files[start : start + CHUNK]
            images = list(threads.map(read, some))
            readable = [(file, image) for file, image in zip(some, images, strict=True) if image is not None]
            unreadable += len(some) - len(readable)
            if readable:
                read_files, pixels = zip(*readable, strict=True)
                features, probabilities = model(np.stack(pixels))
                for output in outputs:
                    output(list(read_files), features, probabilities)
                if arguments.neighbours and not drawn:
                    predicted = [model.classes[number] for number in probabilities[:SHOWN].argmax(1)]
                    draw_nearest(arguments.neighbours, np.stack(pixels[:SHOWN]), features[:SHOWN], predicted)
                    drawn = True
            progress.update(len(some))
    if unreadable:
        raise UserError(f"{unreadable} of {len(files)} pictures could not be read")


def parse() -> argparse.Namespace:
    description = "Classifies pictures with the exported model."
    parser = argparse.ArgumentParser(prog="python -m stages predict", description=description)
    parser.add_argument("pictures", nargs="+", type=Path, help="files, or folders with files, however deep")
    parser.add_argument("--model", type=Path, default="models/simclr.onnx", help="default: %(default)s")
    parser.add_argument("--csv", action="store_true", help="a table for machines")
    parser.add_argument("--embed", type=Path, metavar="FILE.npy", help="write the features, a row for each line")
    parser.add_argument("--neighbours", type=Path, metavar="FILE.png", help="draw the nearest labelled images")
    return parser.parse_args()


def listed(given: Path) -> list[Path]:
    if not given.is_dir():
        return [given]
    try:
        files, others = images_below(given)
    except OSError as error:
        raise UserError(f"{shortened(str(given))}: cannot be read ({one_line(error)})") from error
    if others:
        print(f"{shortened(str(given))}: {in_words(others)}", file=sys.stderr)
    if not files:
        raise UserError(f"{shortened(str(given))}: holds no image")
    return files


def as_text(classes: list[str], say: Callable[[str], None]) -> Output:
    width = max(map(len, classes))

    def output(files: list[Path], _: np.ndarray, probabilities: np.ndarray) -> None:
        for file, each in zip(files, probabilities, strict=True):
            say(f"{100 * each.max():5.1f} %  {classes[each.argmax()]:{width}}  {file}")

    return output


def as_csv(classes: list[str], say: Callable[[str], None]) -> Output:
    def row(*cells: object) -> str:
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow(cells)
        return line.getvalue()

    def output(files: list[Path], _: np.ndarray, probabilities: np.ndarray) -> None:
        for file, each in zip(files, probabilities, strict=True):
            say(row(file, classes[each.argmax()], f"{each.max():.6g}"))

    say(row("file", "class", "probability"))
    return output


@contextmanager
def as_npy(path: Path) -> Iterator[Output]:
    """Features (N, D) float32, a row for each picture in the order of the lines."""
    shape = (0, 0)
    with replacing(path) as temporary, temporary.open("wb") as file:

        def write_header() -> None:  # as long for any number of rows
            file.seek(0)
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})

        def output(_: list[Path], features: np.ndarray, __: np.ndarray) -> None:
            nonlocal shape
            if not shape[0]:
                write_header()
            shape = (shape[0] + len(features), features.shape[1])
            file.write(features.astype("<f4").tobytes())

        yield output
        write_header()


def draw_nearest(path: Path, images: np.ndarray, features: np.ndarray, predicted: list[str]) -> None:
    """Draws pictures (N, S, S, 3), and beside each the training images whose features are nearest (cosine).

    features: (N, D); predicted: the class of each.
    """
    labelled, names = open_tensors(LABELLED)
    of_training = open_tensors(FEATURES)[0]["train_simclr"].mapped()
    fine = labelled["train_fine"].all()
    table = pd.DataFrame(
        {
            "encoder": "simclr",
            "image": image,
            "class": predicted[image],
            "rank": rank + 1,
            "neighbour": neighbour,
            "neighbour_class": names["fine_names"][fine[neighbour]],
        }
        for (image, rank), neighbour in np.ndenumerate(nearest(of_training, features, NEIGHBOURS))
    )
    write_bytes(path, as_png(draw_neighbours(table, torch.from_numpy(images), labelled["train_images"])))
