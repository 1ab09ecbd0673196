"""What the exported model says of pictures: `python -m stages.predict FILES-OR-FOLDERS...`, `--help` for the rest.

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
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pyarrow as pa
import torch
from pyarrow import parquet

from stages.files.contract import FORMAT
from stages.files.messages import one_line, shortened
from stages.files.progress import Progress
from stages.files.tensors import open_tensors
from stages.files.writing import replacing, write_bytes
from stages.images.folder import read_image, warnings_of_images
from stages.images.listing import images_below, in_words
from stages.page.figures import as_png
from stages.page.names import legible
from stages.page.pictures import draw_neighbours
from stages.probing.neighbours import nearest

LABELLED, FEATURES = Path("data/labelled.safetensors"), Path("data/features.safetensors")
CHUNK = 1024  # pictures in memory at once
BATCH = 256  # pictures that the model gets at once
SHOWN, NEIGHBOURS = 12, 6  # pictures with so many neighbours each

Output = Callable[[list[Path], np.ndarray, np.ndarray], None]  # files, features (N, D), probabilities (N, K)


class Model:
    """The file of the stage `export`. Exits with one line where it is missing, broken or of another version."""

    def __init__(self, file: Path) -> None:
        if not file.is_file():
            sys.exit(f"{file}: not found; `dvc repro` makes it, or name another by --model")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what is wrong is said below
        try:
            self.session = onnxruntime.InferenceSession(file, options)
            notes = json.loads(self.session.get_modelmeta().custom_metadata_map.get("notes", "{}"))
        except Exception as error:  # onnxruntime has many of its own
            sys.exit(f"{file}: cannot be read as ONNX ({one_line(error)}); `dvc repro` or `dvc checkout` restores it")
        if notes.get("format") != FORMAT:
            sys.exit(f"{file}: has the format {notes.get('format')}, not {FORMAT}; `dvc repro` makes it anew")
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
        Progress("predicting", len(files), "pictures") as progress,
        ExitStack() as opened,
        warnings_of_images(),
        ThreadPoolExecutor() as threads,
    ):
        outputs = [FORMS[arguments.form](model.classes, progress.say)]
        if arguments.embed:
            outputs.append(opened.enter_context(EMBEDDED[arguments.embed.suffix](arguments.embed)))
        for start in range(0, len(files), CHUNK):
            some = files[start : start + CHUNK]
            images = list(threads.map(read, some))
            right = [(file, image) for file, image in zip(some, images, strict=True) if image is not None]
            unreadable += len(some) - len(right)
            if right:
                readable, pixels = zip(*right, strict=True)
                features, probabilities = model(np.stack(pixels))
                for output in outputs:
                    output(list(readable), features, probabilities)
                if arguments.neighbours and not drawn:
                    said = [model.classes[number] for number in probabilities[:SHOWN].argmax(1)]
                    draw_nearest(arguments.neighbours, np.stack(pixels[:SHOWN]), features[:SHOWN], said)
                    drawn = True
            progress.update(len(some))
    if unreadable:
        sys.exit(f"{unreadable} of {len(files)} pictures could not be read")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stages.predict", description="What the model says of pictures.")
    parser.add_argument("pictures", nargs="+", type=Path, help="files, or folders with files, however deep")
    parser.add_argument("--model", type=Path, default="models/simclr.onnx", help="default: %(default)s")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", dest="form", action="store_const", const="csv", help="a table for machines")
    form.add_argument("--json", dest="form", action="store_const", const="json", help="an object per line, all classes")
    parser.set_defaults(form="text")
    parser.add_argument("--embed", type=Path, metavar="FILE", help="write the features (.npy or .parquet)")
    parser.add_argument("--neighbours", type=Path, metavar="FILE.png", help="draw the nearest labelled images")
    arguments = parser.parse_args()
    if arguments.embed and arguments.embed.suffix not in EMBEDDED:
        parser.error(f"--embed {arguments.embed}: must end in {' or '.join(EMBEDDED)}")
    return arguments


def listed(given: Path) -> list[Path]:
    if not given.is_dir():
        return [given]
    try:
        files, others = images_below(given)
    except OSError as error:
        sys.exit(f"{shortened(str(given))}: cannot be read ({one_line(error)})")
    if others:
        print(f"{shortened(str(given))}: {in_words(others)}", file=sys.stderr)
    if not files:
        sys.exit(f"{shortened(str(given))}: holds no image")
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


def as_json(classes: list[str], say: Callable[[str], None]) -> Output:
    def output(files: list[Path], _: np.ndarray, probabilities: np.ndarray) -> None:
        for file, each in zip(files, probabilities, strict=True):
            of_classes = {name: float(f"{p:.6g}") for name, p in zip(classes, each, strict=True)}
            say(json.dumps({"file": str(file), "class": classes[each.argmax()], "probabilities": of_classes}))

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


@contextmanager
def as_parquet(path: Path) -> Iterator[Output]:
    """A row for each picture: `file`, and its `features` as a list."""
    schema = pa.schema([("file", pa.string()), ("features", pa.list_(pa.float32()))])
    with replacing(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:

        def output(files: list[Path], features: np.ndarray, _: np.ndarray) -> None:
            writer.write_table(pa.table({"file": list(map(str, files)), "features": list(features)}, schema))

        yield output


def draw_nearest(path: Path, images: np.ndarray, features: np.ndarray, said: list[str]) -> None:
    """Draws pictures (N, S, S, 3), and beside each the training images whose features are nearest (cosine).

    features: (N, D); said: the class that the model gives each.
    """
    labelled, names = open_tensors(LABELLED)
    of_training = open_tensors(FEATURES)[0]["train_simclr"].mapped()
    fine = labelled["train_fine"].all()
    table = pd.DataFrame(
        {
            "encoder": "simclr",
            "image": image,
            "class": said[image],
            "rank": rank + 1,
            "neighbour": neighbour,
            "neighbour_class": names["fine_names"][fine[neighbour]],
        }
        for (image, rank), neighbour in np.ndenumerate(nearest(of_training, features, NEIGHBOURS))
    )
    table = legible({"": table})[""]
    write_bytes(path, as_png(draw_neighbours(table, torch.from_numpy(images), labelled["train_images"])))


FORMS = {"text": as_text, "csv": as_csv, "json": as_json}
EMBEDDED: dict[str, Callable[[Path], AbstractContextManager[Output]]] = {".npy": as_npy, ".parquet": as_parquet}


if __name__ == "__main__":
    main()
