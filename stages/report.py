"""Stage `report`: a self-contained HTML page, pictures and the model card, made from saved tables; it fits nothing.

The model card has Hugging Face's format: YAML with the metrics, then text.
"""

import base64
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from stages.io.tensors import open_tensors, read_tensors
from stages.io.writing import write_bytes
from stages.reporting.figures import as_png, draw
from stages.reporting.summaries import (
    ENCODERS,
    conclusion,
    confused_pairs,
    points,
    read_probe_tables,
    read_table,
    results_of,
    verdict,
)
from stages.runtime.inputs import md5
from stages.runtime.params import FILE, AtLeastTwo, Data, StageParams, Weights

TABLES = ("pretrain", "maps", "logreg/choice_of_C", "logreg/label_efficiency", "logreg/predictions")
PROBE_TABLES = ("scores", "gains", "fits")
PICTURE_FILES = ("accuracy", "curves", "views", "neighbours", "maps", "mistakes")  # figures that are also files
HASHED_FILES = [f"data/{name}.safetensors" for name in ("unlabelled", "labelled")]
HASHED_FILES += [f"models/{name}.safetensors" for name in ("initial", "simclr", "classifier")]
PACKAGES = ("torch", "torchvision", "scikit-learn", "numpy", "dvc")
SHOWN_PAIRS = 10
DATASETS = {
    "sample": "the sample of generated textures",
    "cifar": "CIFAR-10 (without labels) and CIFAR-100",
    "folder": "a folder of images",
}


class Params(StageParams):
    data: Data
    first_classes: AtLeastTwo
    weights: Weights


def main(params: Params) -> None:
    files = [Path(f"plots/data/{name}.csv") for name in TABLES]
    tables = {file.stem: read_table(file) for file in files}
    tables |= {name: read_probe_tables(name) for name in PROBE_TABLES}
    tables["neighbours"] = read_table(Path("data/neighbours.csv"))
    labelled, names = open_tensors(Path("data/labelled.safetensors"))
    views = read_tensors(Path("data/views.safetensors"))[0]
    results = results_of(
        tables["scores"],
        tables["gains"],
        {
            "first": f"first {params.first_classes} classes",
            "all": f"all {len(names['fine_names'])} classes",
            "superclasses": f"{len(names['coarse_names'])} superclasses",
        },
    )
    _, encoder = open_tensors(Path("models/simclr.safetensors"))
    candidates = 2 * encoder["training"]["batch_size"] - 1  # for the other view of the same image
    figures = draw(tables, labelled, views, results, candidates)
    for name in PICTURE_FILES:
        write_bytes(Path(f"plots/{name}.png"), as_png(figures[name]))
    shared = {
        "data": params.data,
        "results": results,
        "conclusion": conclusion(tables["scores"], tables["gains"], tables["label_efficiency"]),
        "encoders": {name: ENCODERS[name] for name in tables["scores"].encoder.unique()},
    }
    page = render(
        "report.html.jinja",
        **shared,
        backbone=encoder["backbone"],
        weights=params.weights,
        verdict=verdict(tables["pretrain"], candidates),
        epochs=tables["pretrain"].epoch.max(),
        fits=[name for name in figures if name.endswith((", loss", ", accuracy"))],
        confused=confused_pairs(tables["predictions"], SHOWN_PAIRS),
        pictures={name: base64.b64encode(as_png(figure, dpi=144)).decode() for name, figure in figures.items()},
        params=FILE.read_text(encoding="utf-8"),
        versions={"Python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        test_unlabelled=int(labelled["test_unlabelled"].all().sum()),
        hashes={name: md5(Path(name)) for name in HASHED_FILES},
    )
    write_bytes(Path("report.html"), page.encode())
    card = render(
        "model_card.md.jinja",
        **shared,
        dataset=DATASETS[params.data],
        classes=names["fine_names"],
        encoder=encoder,
    )
    write_bytes(Path("models/README.md"), card.encode())


def render(template: str, **content: Any) -> str:
    """A template of stages/reporting filled with `content`, which is escaped in HTML."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "reporting"),
        autoescape=".html" in template,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": lambda fraction: f"{100 * fraction:.1f} %", "points": points}
    return environment.get_template(template).render(content)
