"""Stage `report`: one self-contained HTML page. It draws and lays out saved numbers and computes none.

Reads   metrics/*.json, plots/*.csv, models/{views,examples}.safetensors, params.yaml, stages/report.html.jinja, and of
        the data and the models their hashes
Writes  report.html, plots/{accuracy,views,neighbours,maps,mistakes}.png
"""

import base64
import csv
import hashlib
import io
import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from stages.figures import (
    Labels,
    Table,
    draw_accuracies,
    draw_choice_of_c,
    draw_confusion,
    draw_curves,
    draw_fits,
    draw_label_efficiency,
    draw_maps,
    draw_mistakes,
    draw_neighbours,
    draw_per_class,
    draw_reliability,
    draw_views,
)
from stages.files import read_tensors, write_bytes
from stages.params import FILE, load_params
from stages.provenance import unchanged

TEMPLATE = Path(__file__).with_name("report.html.jinja")
ENCODERS = ("initial", "simclr")  # before and after
METRICS = ("pretrain", "logreg", "linear", "evaluate")
FITS = tuple(f"{probe}_{encoder}" for probe in ("logreg_all", "logreg_first", "linear") for encoder in ENCODERS)
TABLES = ("pretrain", "label_efficiency", "logreg_C", "per_class", "confusion", "reliability", *FITS)
WORDS = ("class", "actual", "predicted")  # columns that are no numbers, even if a class is called 7
PLOTTED = ("accuracy", "views", "neighbours", "maps", "mistakes")  # also files of their own
HASHED = ("data/unlabelled", "data/labelled", "models/initial", "models/simclr", "models/classifier")
PACKAGES = ("torch", "torchvision", "scikit-learn", "numpy", "dvc")


def main() -> None:
    params = load_params()
    metrics = {name: json.loads(Path(f"metrics/{name}.json").read_bytes()) for name in METRICS}
    tables = {name: read_table(Path(f"plots/{name}.csv")) for name in TABLES}
    views = read_tensors(Path("models/views.safetensors"))[0]
    examples, notes = read_tensors(Path("models/examples.safetensors"))
    encoders = [name for name in metrics["logreg"]["all"] if name != "gain"]
    labels = labels_of(encoders, params.weights)
    results = results_of(metrics, params.first_classes, notes["fine_names"], notes["coarse_names"])

    figures = draw(metrics, tables, views, examples, notes, results, labels)
    pictures = {name: as_png(figure) for name, figure in figures.items()}
    for name in PLOTTED:
        write_bytes(Path(f"plots/{name}.png"), pictures[name])
    page = render(
        data=params.data,
        weights=params.weights,
        first_classes=min(params.first_classes, len(notes["fine_names"])),
        metrics=metrics,
        epochs=int(metrics["pretrain"]["epoch"]),
        results=results,
        labels=labels,
        confused=notes["confused"],
        pictures={name: base64.b64encode(png).decode() for name, png in pictures.items()},
        params=FILE.read_text(encoding="utf-8"),
        versions={"Python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        hashes={f"{name}.safetensors": md5(Path(f"{name}.safetensors")) for name in HASHED},
    )
    write_bytes(Path("report.html"), page.encode())


def labels_of(encoders: list[str], weights: str) -> dict[str, str]:
    """What the page calls the encoders, the one before SimCLR by the weights that it had."""
    initial = {"random": "untrained", "imagenet": "ImageNet"}[weights]
    names = {"pixels": "raw pixels", "untrained": "untrained", "initial": initial, "simclr": "SimCLR"}
    return {name: label for name, label in names.items() if name in encoders}


def results_of(
    metrics: Mapping[str, Any], first_classes: int, fine_names: list[str], coarse_names: list[str]
) -> dict[str, dict[str, Any]]:
    """Probe -> encoder -> scores. A task that is another one (a folder's superclasses are its classes) is left out."""
    logreg, evaluate = metrics["logreg"], metrics["evaluate"]
    every = f"all {len(fine_names)} classes"
    first = f"first {first_classes} classes" if first_classes < len(fine_names) else every
    superclasses = f"{len(coarse_names)} superclasses"
    results = {
        f"logistic regression, {first}": logreg["first"],
        f"logistic regression, {every}": logreg["all"],  # the same one where the first classes are all
        f"logistic regression, {superclasses}": logreg["coarse"],
        f"linear layer, {first}": metrics["linear"],
        f"nearest neighbours, {every}": evaluate["knn_fine"],
        f"nearest neighbours, {superclasses}": evaluate["knn_coarse"],
    }
    if coarse_names == fine_names:
        return {name: scores for name, scores in results.items() if superclasses not in name}
    return results


def draw(
    metrics: Mapping[str, Any],
    tables: Mapping[str, Table],
    views: Mapping[str, Any],
    examples: Mapping[str, Any],
    notes: Mapping[str, Any],
    results: Mapping[str, Mapping[str, Any]],
    labels: Labels,
) -> dict[str, Figure]:
    fine_names, pretrain = notes["fine_names"], tables["pretrain"]
    chosen = {encoder: metrics["logreg"]["all"][encoder]["C"] for encoder in labels}
    fits = {
        f"logreg_{group}_{column}": draw_fits(
            {encoder: tables[f"logreg_{group}_{encoder}"] for encoder in ENCODERS},
            labels,
            column,
            title,
            y,
        )
        for group, title in (
            ("first", "Logistic regression, first classes"),
            ("all", "Logistic regression, all classes"),
        )
        for column, y in (("loss", "cross entropy (nats)"), ("accuracy", "accuracy"))
    }
    linear = {encoder: tables[f"linear_{encoder}"] for encoder in ENCODERS}
    query_fine = examples["query_fine"]
    found = {
        encoder: (examples[f"near_{encoder}_images"], examples[f"near_{encoder}_fine"] == query_fine[:, None])
        for encoder in ENCODERS
    }
    return fits | {
        "accuracy": draw_accuracies(results, labels),
        "label_efficiency": draw_label_efficiency(tables["label_efficiency"], labels),
        "loss": draw_curves(
            pretrain,
            {"train_loss": "training views", "heldout_loss": "held-out images"},
            "Contrastive loss",
            "NT-Xent (nats)",
        ),
        "top1": draw_curves(
            pretrain,
            {"train_top1": "training views", "heldout_top1": "held-out images"},
            "Views that find their partner first",
            "share of views",
            percent=True,
        ),
        "alignment": draw_curves(
            pretrain,
            {"heldout_alignment": "alignment: partners apart", "heldout_uniformity": "uniformity: others together"},
            "Alignment and uniformity, held-out images",
            "both are better when lower",
        ),
        "rank": draw_curves(
            pretrain, {"heldout_rank": ""}, "Effective rank of the embeddings, held-out images", "RankMe"
        ),
        "linear_loss": draw_fits(linear, labels, "loss", "Linear layer, first classes", "cross entropy (nats)"),
        "linear_accuracy": draw_fits(linear, labels, "accuracy", "Linear layer, first classes", "accuracy"),
        "C": draw_choice_of_c(tables["logreg_C"], chosen, labels),
        "reliability": draw_reliability(
            tables["reliability"], metrics["evaluate"]["calibration"]["simclr"]["expected_error"]
        ),
        "confusion": draw_confusion(
            tables["confusion"]["actual"], tables["confusion"]["predicted"], notes["class_names"]
        ),
        "per_class": draw_per_class(tables["per_class"], "Accuracy of the classes"),
        "views": draw_views(**views),
        "neighbours": draw_neighbours(
            examples["query_images"], [fine_names[label] for label in query_fine], found, labels
        ),
        "maps": draw_maps(
            {encoder: examples[f"map_{encoder}"] for encoder in ENCODERS},
            examples["map_class"],
            notes["class_names"],
            labels,
        ),
        "mistakes": draw_mistakes(
            examples["wrong_images"],
            [fine_names[label] for label in examples["wrong_fine"]],
            [fine_names[label] for label in examples["wrong_predicted"]],
            examples["wrong_confidence"],
        ),
    }


def read_table(path: Path) -> Table:
    """The columns of a CSV file, as numbers but for the names of classes; an empty number is NaN."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] if name in WORDS else float(row[name] or "nan") for row in rows] for name in rows[0]}


def as_png(figure: Figure) -> bytes:
    """The same bytes for the same figure: DVC hashes them, so there is no date in them."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=144, metadata={"Software": None})
    return png.getvalue()


def md5(path: Path) -> str:
    """As in dvc.lock."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def render(**content: Any) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = lambda share: f"{100 * share:.1f} %"
    environment.filters["points"] = lambda share: f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}")
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(content)


if __name__ == "__main__":
    with unchanged("report"):
        main()
