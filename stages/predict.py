"""Classifies pictures with the exported model: `python -m stages predict FILES-OR-FOLDERS...`, `--help` for the rest.

Pictures are read like those of `data: folder`. The name of an unreadable one is printed to the standard error, the
others are classified, and the exit status is 1. Only `--neighbours` needs more than the model: the labelled images of
this repository.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import torch

from stages.images.folder import NoRangeError, pillow_warnings, read_image
from stages.images.listing import images_below, in_words
from stages.io.tensors import FORMAT, open_tensors
from stages.io.writing import replacing, write_bytes
from stages.probes.neighbours import nearest
from stages.reporting.figures import as_png, draw_neighbours
from stages.runtime.errors import UserError, one_line, shortened
from stages.runtime.progress import progress_bar

LABELLED, FEATURES = Path("data/labelled.safetensors"), Path("data/features.safetensors")
CHUNK = 256  # pictures per batch
SHOWN, NEIGHBOURS = 12, 6  # pictures, and neighbours per picture


class Model:
    """The file of the stage `export`. Raises UserError if it is missing, broken or of another version."""

    def __init__(self, file: Path) -> None:
        if not file.is_file():
            raise UserError(f"{file}: not found; `dvc repro` creates it; or set another one with --model")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # the error below is enough
        try:
            self.session = onnxruntime.InferenceSession(file, options)
            metadata = json.loads(self.session.get_modelmeta().custom_metadata_map.get("notes", "{}"))
        except Exception as error:  # onnxruntime raises errors of many types
            raise UserError(
                f"{file}: cannot be read as ONNX ({one_line(error)}); `dvc repro` or `dvc checkout` restores it"
            ) from error
        if (found := metadata.get("format")) != FORMAT:
            raise UserError(f"{file}: has the format {found}, not {FORMAT}; `dvc repro` creates it again")
        self.side: int = metadata["image_size"]
        self.pixel_range: list[float] | None = metadata["pixel_range"]
        self.classes: list[str] = metadata["classes"]

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N, S, S, 3) uint8 -> features (N, D), probabilities (N, K)."""
        features, probabilities = self.session.run(None, {"images": images})
        return features, probabilities


def main() -> None:
    arguments = parse()
    model = Model(arguments.model)
    files = [file for given in arguments.pictures for file in listed(given)]
    unreadable, drawn, width = 0, False, max(map(len, model.classes))
    embedded: list[tuple[str, np.ndarray]] = []

    def read(file: Path) -> np.ndarray | str:
        try:
            return read_image(file, model.side, model.pixel_range)
        except NoRangeError:
            return "has more than 8 bits; set pixel_range in params.yaml and make the model again by `dvc repro`"
        except Exception as error:  # whatever a broken file makes one of Pillow's readers raise
            return f"cannot be read as an image ({one_line(error)})"

    with (
        progress_bar("predicting", len(files), "pictures") as progress,
        pillow_warnings(),
        ThreadPoolExecutor() as threads,
    ):
        if arguments.csv:
            progress.write("file,class,probability")
        for start in range(0, len(files), CHUNK):
            some = files[start : start + CHUNK]
            readable = []
            for file, image in zip(some, threads.map(read, some), strict=True):
                if isinstance(image, str):
                    print(f"{shortened(str(file))}: {image}", file=sys.stderr)
                    unreadable += 1
                else:
                    readable.append((file, image))
            if readable:
                names, pixels = zip(*readable, strict=True)
                features, probabilities = model(np.stack(pixels))
                table = best_classes(names, model.classes, probabilities, arguments.top)
                progress.write(csv_lines(table) if arguments.csv else text_lines(table, width))
                if arguments.embed:
                    embedded += zip(map(str, names), features, strict=True)
                if arguments.neighbours and not drawn:
                    draw_nearest(arguments.neighbours, model, np.stack(pixels[:SHOWN]))
                    drawn = True
            progress.update(len(some))
    if arguments.embed:
        with replacing(arguments.embed) as temporary, temporary.open("wb") as npz:
            np.savez(npz, files=[file for file, _ in embedded], features=[row for _, row in embedded])
    if unreadable:
        raise UserError(f"{unreadable} of {len(files)} pictures could not be read")


def parse() -> argparse.Namespace:
    description = "Classifies pictures with the exported model."
    parser = argparse.ArgumentParser(prog="python -m stages predict", description=description)
    parser.add_argument("pictures", nargs="+", type=Path, help="files, or folders, with their subfolders")
    parser.add_argument("--model", type=Path, default="models/simclr.onnx", help="default: %(default)s")
    parser.add_argument("--top", type=int, default=1, metavar="K", help="a line for each of the K best classes")
    parser.add_argument("--csv", action="store_true", help="print a CSV table")
    parser.add_argument("--embed", type=Path, metavar="FILE.npz", help="write arrays: files, features")
    parser.add_argument("--neighbours", type=Path, metavar="FILE.png", help="draw the nearest labelled images")
    arguments = parser.parse_args()
    if arguments.top < 1:
        parser.error("argument --top: must be at least 1")
    return arguments


def listed(given: Path) -> list[Path]:
    if not given.is_dir():
        return [given]
    files, others = images_below(given)
    if others:
        print(f"{shortened(str(given))}: {in_words(others)}", file=sys.stderr)
    if not files:
        raise UserError(f"{shortened(str(given))}: contains no image")
    return files


def best_classes(files: Sequence[Path], classes: list[str], probabilities: np.ndarray, count: int) -> pd.DataFrame:
    """A row for each of the `count` most probable classes of each file."""
    best = (-probabilities).argsort(axis=1, kind="stable")[:, :count]
    return pd.DataFrame(
        {
            "file": np.repeat(list(map(str, files)), best.shape[1]),
            "class": np.array(classes)[best].ravel(),
            "probability": np.take_along_axis(probabilities, best, axis=1).ravel(),
        }
    )


def text_lines(table: pd.DataFrame, width: int) -> str:
    return "\n".join(
        f"{100 * probability:5.1f} %  {label:{width}}  {file}"
        for file, label, probability in table.itertuples(index=False)
    )


def csv_lines(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, header=False, float_format="%.6g", lineterminator="\n").rstrip("\n")


def draw_nearest(path: Path, model: Model, images: np.ndarray) -> None:
    """Draws pictures (N, S, S, 3), and next to each the training images whose features are nearest (cosine).

    Raises UserError if the stored features of the nearest images differ from those of the model: then they are of
    another model or of other images.
    """
    features, probabilities = model(images)
    labelled, names = open_tensors(LABELLED)
    of_training = open_tensors(FEATURES)[0]["train_simclr"].mapped()
    fine, training_images = labelled["train_fine"].all(), labelled["train_images"]
    belong_together = of_training.shape == (len(training_images), features.shape[1])
    if belong_together:
        found = nearest(of_training, features, NEIGHBOURS)
        drawn = np.unique(found)
        again, _ = model(training_images[drawn].numpy())
        error = np.linalg.norm(again - of_training[drawn], axis=1) / np.linalg.norm(again, axis=1)
        belong_together = bool((error < 0.001).all())  # PyTorch and onnxruntime round differently
    if not belong_together:
        raise UserError(
            f"{FEATURES}: its features are not those of the model for the images in {LABELLED}; "
            "`dvc repro` creates all of them again; the model is then models/simclr.onnx"
        )
    table = pd.DataFrame(
        {
            "encoder": "simclr",
            "image": image,
            "class": model.classes[probabilities[image].argmax()],
            "rank": rank + 1,
            "neighbour": neighbour,
            "neighbour_class": names["fine_names"][fine[neighbour]],
        }
        for (image, rank), neighbour in np.ndenumerate(found)
    )
    write_bytes(path, as_png(draw_neighbours(table, torch.from_numpy(images), training_images)))
