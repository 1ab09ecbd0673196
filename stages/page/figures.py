"""The pictures of the report, drawn from saved tables and images.

The colours are Okabe and Ito's, which colour-blind readers can tell apart; lines differ in dashes and markers too.

Shapes: N images of H x W pixels.
"""

import io
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator, PercentFormatter
from torch import Tensor

from stages.files.tensors import Rows
from stages.page.summaries import ENCODERS

BLUE, ORANGE, PURPLE, GRAY, GREEN = "#0072b2", "#d55e00", "#cc79a7", "#777777", "#009e73"
# Colour and marker of each encoder, everywhere.
STYLES = {"pixels": (GRAY, "s"), "untrained": (ORANGE, "D"), "imagenet": (PURPLE, "^"), "simclr": (BLUE, "o")}
TEN = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#000000", "#b2a800", "#7f4f9f", "#999999")
MARKERS = "o^"  # of the first ten classes, and of ten more
LISTED = 10  # classes at either end that are named
GAP, APART = 0.1, 0.4  # between images, and between blocks of them, in the sides of one
LETTERS = 28  # of a name that fit above an image, beside an axis and in a legend
FONT = "DejaVu Sans"  # matplotlib's own
BOXES = "Last Resort"  # matplotlib's font that draws a box for any character
SIZE = (5.6, 3.7)  # inches, of one panel

mpl.rcParams.update({"font.size": 10, "axes.titlesize": 11, "legend.fontsize": 9, "legend.frameon": False})
mpl.rcParams["text.parse_math"] = False  # a class may be called $x$


def legible(tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The tables, with fonts set that draw what is written in them, as far as this system has such fonts.

    Other characters become their codes, such as \\u732b, and one line says which and what to do.
    """
    written = [table[name] for table in tables.values() for name in table if table[name].dtype.kind not in "biuf"]
    missing = {character for column in written for text in column.unique() for character in text}
    families: list[str] = []
    upright = (font for font in fontManager.ttflist if font.style == "normal" and not font.name.startswith(BOXES))
    others = sorted(upright, key=lambda font: font.fname)
    for file, family in [(findfont(FONT), FONT), *((font.fname, font.name) for font in others)]:
        font = FT2Font(file)
        drawn = missing.intersection(map(chr, font.get_charmap())) if font.scalable else set()
        if drawn or not families:
            families.append(family)
            missing -= drawn
        if not missing:
            break
    mpl.rcParams["font.family"] = families
    # Marks that join or vary other characters draw nothing of their own.
    codes = {one: "" if unicodedata.category(one) in ("Cf", "Mn") else ascii(one)[1:-1] for one in sorted(missing)}
    if any(codes.values()):
        some = "".join(one for one in codes if codes[one])[:LISTED]
        print(f"no font draws {some}: pictures show such characters as codes; Debian's package fonts-noto has most")
    translated = str.maketrans(codes)
    return {
        name: table.map(lambda cell: cell.translate(translated) if isinstance(cell, str) else cell)
        for name, table in tables.items()
    }


def brief(name: str) -> str:
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"


def draw_accuracies(results: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Test accuracy with its interval, a line per probe."""
    figure, axis = _panel("", "test accuracy and its 95 % interval", "", (9.5, 0.5 * len(results) + 1.1))
    axis.grid(axis="y", visible=False)
    axis.grid(axis="x", color="#e5e5e5")
    for row, result in enumerate(results.values()):
        for place, (encoder, scores) in enumerate(result["test"].items()):
            colour, marker = STYLES[encoder]
            y = row + 0.18 * (place - (len(result["test"]) - 1) / 2)
            axis.plot([scores["accuracy_low"], scores["accuracy_high"]], [y, y], color=colour, linewidth=2, alpha=0.5)
            label = ENCODERS[encoder] if row == 0 else None
            axis.plot(scores["accuracy"], y, marker, color=colour, markersize=6, label=label)
        label = "majority class" if row == 0 else None
        axis.plot(result["majority"], row, "|", color="black", markersize=18, label=label)
    axis.set_yticks(range(len(results)), list(results))
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper right", ncols=len(STYLES) + 1)
    return figure


def draw_label_efficiency(table: pd.DataFrame) -> Figure:
    """Test accuracy against labelled images of each class (logarithmic), with the spread over the draws."""
    figure, axis = _panel("Label efficiency, all classes", "labelled images of each class", "test accuracy")
    for encoder, of_encoder in table.groupby("encoder", sort=False):
        colour, marker = STYLES[encoder]
        draws = of_encoder.groupby("images_per_class").accuracy
        mean, deviation = draws.mean(), draws.std().fillna(0)
        axis.fill_between(mean.index, mean - deviation, mean + deviation, color=colour, alpha=0.2, linewidth=0)
        axis.plot(mean.index, mean, marker=marker, color=colour, label=ENCODERS[encoder])
    _log_x(axis, sorted(table.images_per_class.unique()))
    _as_percent(axis)
    axis.set_ylim(bottom=0)
    axis.legend()
    return figure


def draw_pretraining(lines: Mapping[str, pd.Series], title: str, y: str, percent: bool = False) -> Figure:
    """Lines over the epochs, by their labels."""
    figure, axis = _panel(title, "epoch", y)
    for (label, line), colour, dash in zip(lines.items(), (BLUE, ORANGE), ("-", "--"), strict=False):
        axis.plot(line.index, line, dash, color=colour, label=label, marker="o" if len(line) == 1 else None)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if percent:
        _as_percent(axis)
    if len(lines) > 1:
        axis.legend()
    return figure


def draw_fits(table: pd.DataFrame, column: str, title: str, y: str) -> Figure:
    """A score of the training and of the test split per step of a fit."""
    figure, axis = _panel(title, "L-BFGS iteration" if table.probe.iloc[0] == "logreg" else "epoch", y)
    for (encoder, split), line in table.groupby(["encoder", "split"], sort=False):
        dash = "--" if split == "train" else "-"
        axis.plot(line.step, line[column], dash, color=STYLES[encoder][0], label=f"{ENCODERS[encoder]}, {split}")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if column == "accuracy":
        _as_percent(axis)
        axis.set_ylim(0, 1.02)
    axis.legend()
    return figure


def draw_choice_of_c(table: pd.DataFrame) -> Figure:
    """Validation loss against C (logarithmic), the chosen one filled."""
    figure, axis = _panel("Choice of C, all classes", "C (inverse regularisation)", "validation loss (nats)")
    for encoder, line in table.groupby("encoder", sort=False):
        colour, marker = STYLES[encoder]
        axis.plot(line.C, line.loss, marker=marker, color=colour, markerfacecolor="white", label=ENCODERS[encoder])
        chosen = line[line.chosen == 1]
        axis.plot(chosen.C, chosen.loss, marker, color=colour)
    _log_x(axis, sorted(table.C.unique()))
    axis.legend(title="filled: chosen", title_fontsize=9)
    return figure


def draw_reliability(bins: pd.DataFrame, calibration_error: float) -> Figure:
    """Accuracy against confidence; the area of a point grows with its images."""
    figure, axis = _panel("Calibration after SimCLR, all classes", "confidence of the probe", "accuracy")
    axis.plot([0, 1], [0, 1], "--", color=GRAY, label="perfectly calibrated")
    axis.plot(bins.confidence, bins.accuracy, color=BLUE)
    size = 12 + 160 * bins.images / bins.images.max()
    label = f"probe (expected calibration error {calibration_error:.3f})"
    axis.scatter(bins.confidence, bins.accuracy, size, color=BLUE, label=label)
    for axes in (axis.xaxis, axis.yaxis):
        axes.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1.02)
    axis.legend(loc="lower right")
    return figure


def draw_confusion(predictions: pd.DataFrame, names: Sequence[str]) -> Figure:
    """A row per actual group of classes: where the probe puts its test images, in percent."""
    counts = pd.crosstab(predictions.actual_group, predictions.predicted_group)
    counts = counts.reindex(index=names, columns=names, fill_value=0).to_numpy()
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 2.2 + 0.36 * len(names)
    figure = Figure(figsize=(side, side), layout="constrained")
    axis = figure.subplots()
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=max(100, shares.max()))
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.5:
            colour = "white" if share > 60 else "black"
            axis.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=8, color=colour)
    axis.set_xticks(range(len(names)), map(brief, names), rotation=90)
    axis.set_yticks(range(len(names)), map(brief, names))
    axis.set_xlabel("predicted")
    axis.set_ylabel("actual")
    axis.set_title("Where the test images of each class go (%)")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return figure


def draw_accuracy_of_classes(accuracies: pd.Series) -> Figure:
    """Sorted accuracy of the classes; of many, the worst and the best."""
    rows = list(accuracies.items())
    if len(rows) > 2 * LISTED:
        rows = [*rows[:LISTED], ("…", np.nan), *rows[-LISTED:]]
    figure, axis = _panel("Accuracy of the classes", "test accuracy", "", (5.6, 0.24 * len(rows) + 1.1))
    axis.grid(axis="y", visible=False)
    axis.barh(range(len(rows)), [accuracy for _, accuracy in rows], color=BLUE, height=0.7)
    axis.set_yticks(range(len(rows)), [brief(name) for name, _ in rows])
    axis.tick_params(axis="y", length=0)
    axis.invert_yaxis()
    axis.margins(y=0.01)
    axis.set_xlim(0, 1)
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    for row, (_, accuracy) in enumerate(rows):
        if not np.isnan(accuracy):
            axis.text(accuracy + 0.01, row, f"{100 * accuracy:.0f} %", va="center", fontsize=8)
    return figure


def draw_views(images: Tensor, first: Tensor, second: Tensor) -> Figure:
    """A row of images above their first and second views; each (N, H, W, 3) uint8."""
    figure = Figure(figsize=(1.1 * len(images) + 0.9, 3.5), layout="constrained")
    axes = figure.subplots(3, len(images), squeeze=False)
    for row, (label, pictures) in enumerate((("image", images), ("view 1", first), ("view 2", second))):
        for axis, picture in zip(axes[row], pictures, strict=True):
            _picture(axis, picture)
        axes[row, 0].set_ylabel(label, rotation=0, ha="right", va="center")
    return figure


def draw_neighbours(table: pd.DataFrame, test_images: Rows | Tensor, train_images: Rows | Tensor) -> Figure:
    """A row per test image, and its nearest training images for each encoder, framed if of the same class.

    table: encoder, image, class, rank, neighbour, neighbour_class. The images (N, H, W, 3) uint8.
    """
    queries = table.drop_duplicates("image").set_index("image")["class"]
    row_of = {image: row for row, image in enumerate(queries.index)}
    encoders = list(table.encoder.unique())
    nearest = int(table["rank"].max())
    # In one panel, an image a unit: a panel for each of them would take seconds to lay out.
    width = 1 + len(encoders) * (APART + nearest)
    figure = Figure(figsize=(0.75 * width + 1, 0.75 * len(queries) + 0.7), layout="constrained")
    axis = figure.subplots()
    axis.text(0, -0.1, "image")
    for image, row in row_of.items():
        _picture(axis, test_images[image], (0, 1 - GAP, row + 1 - GAP, row))
    starts = {encoder: 1 + APART + block * (nearest + APART) for block, encoder in enumerate(encoders)}
    for encoder, start in starts.items():
        axis.text(start, -0.1, f"nearest, {ENCODERS[encoder]}")
    for found in table.to_dict("records"):
        row, left = row_of[found["image"]], starts[found["encoder"]] + found["rank"] - 1
        _picture(axis, train_images[found["neighbour"]], (left, left + 1 - GAP, row + 1 - GAP, row))
        if found["neighbour_class"] == found["class"]:
            axis.add_patch(Rectangle((left, row), 1 - GAP, 1 - GAP, fill=False, color=BLUE, linewidth=3))
    axis.set_yticks(np.arange(len(queries)) + (1 - GAP) / 2, map(brief, queries), fontsize=9)
    axis.tick_params(length=0)
    axis.set_xlim(-GAP / 2, width)
    axis.set_ylim(len(queries), -0.4)
    return figure


def draw_mistakes(mistakes: pd.DataFrame, images: Rows | Tensor) -> Figure:
    """The wrong test images with what they show and what the probe said. images (N, H, W, 3) uint8, all of them."""
    columns = 4
    rows = max(1, -(-len(mistakes) // columns))
    figure = Figure(figsize=(1.9 * columns, 2.4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes:
        axis.set_axis_off()
    for axis, wrong in zip(axes, mistakes.itertuples(), strict=False):
        _picture(axis, images[wrong.image])
        lines = (wrong.actual, f"not {wrong.predicted}", f"({100 * wrong.confidence:.0f} % sure)")
        axis.set_title("\n".join(textwrap.fill(line, LETTERS) for line in lines), fontsize=8)
    return figure


def draw_maps(maps: pd.DataFrame, group_of: Mapping[str, str], names: Sequence[str]) -> Figure:
    """The points of each encoder's map, coloured by the group of their class. maps: encoder, class, x, y."""
    encoders = list(maps.encoder.unique())
    figure = Figure(figsize=(5 * len(encoders), 5.9), layout="constrained")
    for axis, encoder in zip(figure.subplots(1, len(encoders), squeeze=False)[0], encoders, strict=True):
        points = maps[maps.encoder == encoder]
        handles = []
        for number, name in enumerate(names):
            colour, marker = TEN[number % len(TEN)], MARKERS[number // len(TEN)]
            of_group = points[points["class"].map(group_of) == name]
            handles.append(axis.scatter(of_group.x, of_group.y, 14, color=colour, marker=marker, linewidth=0))
        axis.set_title(ENCODERS[encoder])
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_color("#cccccc")
    # Handed over, because a label of its own that begins with _ would be left out.
    labels = list(map(brief, names))
    columns = int(figure.get_figwidth() / (0.4 + 0.09 * max(map(len, labels))))  # inches
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, columns, len(names)), markerscale=1.6)
    return figure


def _panel(title: str, x: str, y: str, size: tuple[float, float] = SIZE) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axis = figure.subplots()
    axis.set_title(title)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#e5e5e5")
    axis.set_axisbelow(True)
    return figure, axis


def _log_x(axis: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis with a tick at each value."""
    axis.set_xscale("log")
    axis.set_xticks(values, [f"{value:g}" for value in values])
    axis.xaxis.set_minor_locator(NullLocator())


def _as_percent(axis: Axes) -> None:
    axis.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))


def _picture(axis: Axes, picture: Tensor, extent: tuple[float, float, float, float] | None = None) -> None:
    """An image at `extent` (left, right, bottom, top), or alone in its panel."""
    axis.imshow(picture.numpy(), interpolation="nearest", extent=extent)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)


def as_png(figure: Figure) -> bytes:
    """The same bytes for the same figure: DVC hashes them, so there is no date in them."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=144, metadata={"Software": None})
    return png.getvalue()
