"""Stage `report`: one self-contained HTML page. It draws and lays out saved numbers and computes none.

Reads   metrics/*.json, plots/*.csv, models/views.safetensors, stages/report.html.jinja
Writes  report.html, plots/curves.png, plots/views.png
"""

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from stages.figures import Table, draw_curves, draw_views
from stages.files import read_tensors, write_bytes
from stages.params import load_params
from stages.provenance import unchanged

TEMPLATE = Path(__file__).with_name("report.html.jinja")


def main() -> None:
    params = load_params()
    first = f"first {params.first_classes} classes"
    logreg, linear, pretrain = (
        json.loads(Path(f"metrics/{name}.json").read_bytes()) for name in ("logreg", "linear", "pretrain")
    )
    probes = {
        title: {which: read_table(Path(f"plots/{name}_{which}.csv")) for which in ("initial", "simclr")}
        for title, name in (
            (f"logistic regression, {first}", "logreg_first"),
            ("logistic regression, all classes", "logreg_all"),
            (f"linear layer, {first}", "linear"),
        )
    }
    curves = draw_curves(read_table(Path("plots/pretrain.csv")), probes)
    views = draw_views(**read_tensors(Path("models/views.safetensors"))[0])
    pictures = {"curves": as_png(curves), "views": as_png(views)}
    for name, png in pictures.items():
        write_bytes(Path(f"plots/{name}.png"), png)
    page = render(
        data=params.data,
        weights=params.weights,
        results={
            f"Logistic regression, {first}": logreg["first"],
            "Logistic regression, all classes": logreg["all"],
            f"Linear layer, {first}": linear,
        },
        pretrain=pretrain,
        pictures={name: base64.b64encode(png).decode() for name, png in pictures.items()},
    )
    write_bytes(Path("report.html"), page.encode())


def read_table(path: Path) -> Table:
    """The columns of a CSV file of numbers."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def as_png(figure: Figure) -> bytes:
    """The same bytes for the same figure: DVC hashes them, so there is no date in them."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110, metadata={"Software": None})
    return png.getvalue()


def render(**content: Any) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = lambda share: f"{100 * share:.1f} %"
    environment.filters["points"] = lambda share: f"{100 * share:+.1f}"
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(content)


if __name__ == "__main__":
    with unchanged("report"):
        main()
