"""Stage `report`: a self-contained HTML page, and the model card. It draws and lays out saved numbers and fits nothing.

Reads   plots/data/*.csv, data/{labelled,views}.safetensors, data/neighbours.csv, params.yaml, and of the other data and
        the models their hashes
Writes  report.html, models/README.md (the model card), plots/{accuracy,curves,views,neighbours,maps,mistakes}.png
"""

import base64
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure
from torch import Tensor

from stages.io.tensors import Rows, open_tensors, read_tensors
from stages.io.writing import write_bytes
from stages.reporting.card import model_card
from stages.reporting.figures import (
    as_png,
    draw_accuracies,
    draw_accuracy_of_classes,
    draw_choice_of_c,
    draw_confusion,
    draw_curves,
    draw_fits,
    draw_label_efficiency,
    draw_maps,
    draw_pretraining,
    draw_reliability,
)
from stages.reporting.pictures import draw_mistakes, draw_neighbours, draw_views
from stages.reporting.summaries import (
    ENCODERS,
    PROBES,
    accuracy_of_classes,
    answer,
    confused_pairs,
    groups,
    points,
    read_table,
    reliability,
    results_of,
    surest_mistakes,
)
from stages.runtime.inputs import md5
from stages.runtime.params import FILE, Data, Several, StageParams, Weights

TEMPLATE = Path(__file__).with_name("reporting") / "report.html.jinja"
TABLES = ("pretrain", "scores", "gains", "fits", "choice_of_C", "label_efficiency", "predictions", "maps")
PLOTTED = ("accuracy", "curves", "views", "neighbours", "maps", "mistakes")  # also files of their own
HASHED = [f"data/{name}.safetensors" for name in ("unlabelled", "labelled")]
HASHED += [f"models/{name}.safetensors" for name in ("initial", "simclr", "classifier")]
PACKAGES = ("torch", "torchvision", "scikit-learn", "numpy", "dvc")
SHOWN_PAIRS, SHOWN_MISTAKES = 10, 16


class Params(StageParams):
    data: Data
    first_classes: Several
    weights: Weights


def main(params: Params) -> None:
    tables = {name: read_table(Path(f"plots/data/{name}.csv")) for name in TABLES}
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
    figures = draw(tables, labelled, views, results)
    pictures = {name: as_png(figure) for name, figure in figures.items()}
    for name in PLOTTED:
        write_bytes(Path(f"plots/{name}.png"), pictures[name])
    page = render(
        data=params.data,
        weights=params.weights,
        results=results,
        answer=answer(tables["scores"], tables["gains"], tables["label_efficiency"]),
        encoders={name: ENCODERS[name] for name in tables["scores"].encoder.unique()},
        pretrain=tables["pretrain"].groupby("split").last().to_dict("index"),
        fits=[name for name in figures if name.endswith((", loss", ", accuracy"))],
        confused=confused_pairs(tables["predictions"], SHOWN_PAIRS),
        pictures={name: base64.b64encode(png).decode() for name, png in pictures.items()},
        params=FILE.read_text(encoding="utf-8"),
        versions={"Python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        hashes={name: md5(Path(name)) for name in HASHED},
    )
    write_bytes(Path("report.html"), page.encode())
    _, encoder = open_tensors(Path("models/simclr.safetensors"))
    card = model_card(params.data, encoder, names["fine_names"], params.first_classes, tables)
    write_bytes(Path("models/README.md"), card.encode())


def draw(
    tables: Mapping[str, pd.DataFrame],
    labelled: Mapping[str, Rows],
    views: Mapping[str, Tensor],
    results: Mapping[str, Any],
) -> dict[str, Figure]:
    predictions, choice, pretrain = tables["predictions"], tables["choice_of_C"], tables["pretrain"]
    train, heldout = (pretrain[pretrain.split == split].set_index("epoch") for split in ("train", "heldout"))
    names = groups(predictions)
    group_of = dict(zip(predictions.actual, predictions.actual_group, strict=True))
    scores = tables["scores"]
    shown = (scores.probe == "logreg") & (scores.classes == "all") & (scores.encoder == "simclr")
    calibration_error = scores[shown & (scores.split == "test")].calibration_error.item()
    of_all = tables["fits"][(tables["fits"].probe == "logreg") & (tables["fits"].classes == "all")]
    fits = {
        f"{probe}, {classes}, {column}": draw_fits(fit, column, f"{PROBES[probe]}, {classes} classes".capitalize(), y)
        for (probe, classes), fit in tables["fits"].groupby(["probe", "classes"], sort=False)
        for column, y in (("loss", "cross entropy (nats)"), ("accuracy", "accuracy"))
    }
    return fits | {
        "accuracy": draw_accuracies(results),
        "curves": draw_curves(pretrain, of_all),
        "label_efficiency": draw_label_efficiency(tables["label_efficiency"]),
        "loss": draw_pretraining(
            {"training views": train.loss, "held-out images": heldout.loss}, "Contrastive loss", "NT-Xent (nats)"
        ),
        "top1": draw_pretraining(
            {"training views": train.top1, "held-out images": heldout.top1},
            "Views that find their partner first",
            "fraction of views",
            percent=True,
        ),
        "alignment": draw_pretraining(
            {"alignment: partners apart": heldout.alignment, "uniformity: others together": heldout.uniformity},
            "Alignment and uniformity, held-out images",
            "both are better when lower",
        ),
        "rank": draw_pretraining({"": heldout["rank"]}, "Effective rank of the embeddings, held-out images", "RankMe"),
        "C": draw_choice_of_c(choice[choice.classes == "all"]),
        "reliability": draw_reliability(reliability(predictions), calibration_error),
        "confusion": draw_confusion(predictions, names),
        "classes": draw_accuracy_of_classes(accuracy_of_classes(predictions)),
        "views": draw_views(views["images"], views["first"], views["second"]),
        "neighbours": draw_neighbours(tables["neighbours"], labelled["test_images"], labelled["train_images"]),
        "maps": draw_maps(tables["maps"], group_of, names),
        "mistakes": draw_mistakes(surest_mistakes(predictions, SHOWN_MISTAKES), labelled["test_images"]),
    }


def render(**content: Any) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = lambda fraction: f"{100 * fraction:.1f} %"
    environment.filters["points"] = points
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(content)
