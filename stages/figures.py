"""The pictures of the report, drawn from saved numbers.

The colours are Okabe and Ito's, which colour-blind readers can tell apart; lines differ in dashes and markers too.

Shapes: N images of H x W pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator, PercentFormatter
from torch import Tensor

BLUE, ORANGE, PURPLE, GRAY, GREEN = "#0072b2", "#d55e00", "#cc79a7", "#777777", "#009e73"
# Colour and marker of each encoder, everywhere.
STYLES = {"pixels": (GRAY, "s"), "untrained": (PURPLE, "^"), "initial": (ORANGE, "D"), "simclr": (BLUE, "o")}
TEN = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#000000", "#b2a800", "#7f4f9f", "#999999")
MARKERS = "o^"  # of the first ten classes, and of ten more
LISTED = 10  # classes at either end that are named
GAP, APART = 0.1, 0.4  # between images, and between blocks of them, in the sides of one
SIZE = (5.6, 3.7)  # inches, of one panel

Table = Mapping[str, Sequence[Any]]  # columns
Labels = Mapping[str, str]  # encoder -> what to call it

mpl.rcParams.update({"font.size": 10, "axes.titlesize": 11, "legend.fontsize": 9, "legend.frameon": False})
mpl.rcParams["text.parse_math"] = False  # a class may be called $x$


def draw_accuracies(results: Mapping[str, Mapping[str, Mapping[str, float]]], labels: Labels) -> Figure:
    """Test accuracy with its interval. results: probe -> encoder -> test_accuracy, test_accuracy_low and _high."""
    figure, axis = _panel("", "test accuracy and its 95 % interval", "", (9.5, 0.5 * len(results) + 1.1))
    axis.grid(axis="y", visible=False)
    axis.grid(axis="x", color="#e5e5e5")
    for row, scores in enumerate(results.values()):
        for place, encoder in enumerate(labels):
            if encoder not in scores:
                continue
            colour, marker = STYLES[encoder]
            middle, low, high = (scores[encoder][f"test_accuracy{end}"] for end in ("", "_low", "_high"))
            y = row + 0.18 * (place - (len(labels) - 1) / 2)
            axis.plot([low, high], [y, y], color=colour, linewidth=2, alpha=0.5)
            axis.plot(middle, y, marker, color=colour, markersize=6, label=labels[encoder] if row == 0 else None)
    axis.set_yticks(range(len(results)), list(results))
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper right", ncols=len(labels))
    return figure


def draw_label_efficiency(table: Table, labels: Labels) -> Figure:
    """Test accuracy against labelled images of each class (logarithmic), with the spread over the draws."""
    figure, axis = _panel("Label efficiency, all classes", "labelled images of each class", "test accuracy")
    counts = np.array(table["images_per_class"])
    for encoder, label in labels.items():
        colour, marker = STYLES[encoder]
        mean, deviation = np.array(table[encoder]), np.nan_to_num(np.array(table[f"{encoder}_sd"]))
        axis.fill_between(counts, mean - deviation, mean + deviation, color=colour, alpha=0.2, linewidth=0)
        axis.plot(counts, mean, marker=marker, color=colour, label=label)
    _log_x(axis, table["images_per_class"])
    _as_percent(axis)
    axis.set_ylim(bottom=0)
    axis.legend()
    return figure


def draw_curves(table: Table, lines: Mapping[str, str], title: str, y: str, percent: bool = False) -> Figure:
    """Columns of one table against its first one. lines: column -> label."""
    step = next(iter(table))
    figure, axis = _panel(title, step, y)
    for (column, label), colour, dash in zip(lines.items(), (BLUE, ORANGE), ("-", "--"), strict=False):
        axis.plot(table[step], table[column], dash, color=colour, label=label)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if percent:
        _as_percent(axis)
    if len(lines) > 1:
        axis.legend()
    return figure


def draw_fits(tables: Mapping[str, Table], labels: Labels, column: str, title: str, y: str) -> Figure:
    """A score of the training and of the test split per step of a fit. tables: encoder -> columns, the step first."""
    figure, axis = _panel(title, "", y)
    for encoder, table in tables.items():
        step = next(iter(table))
        for part, dash in (("train", "--"), ("test", "-")):
            label = f"{labels[encoder]}, {part}"
            axis.plot(table[step], table[f"{part}_{column}"], dash, color=STYLES[encoder][0], label=label)
        axis.set_xlabel(step)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if column == "accuracy":
        _as_percent(axis)
        axis.set_ylim(0, 1.02)
    axis.legend()
    return figure


def draw_choice_of_c(table: Table, chosen: Mapping[str, float], labels: Labels) -> Figure:
    """Validation loss against C (logarithmic), the chosen one filled."""
    figure, axis = _panel("Choice of C, all classes", "C (inverse regularisation)", "validation loss (nats)")
    for encoder, label in labels.items():
        colour, marker = STYLES[encoder]
        axis.plot(table["C"], table[encoder], marker=marker, color=colour, markerfacecolor="white", label=label)
        loss = table[encoder][list(table["C"]).index(chosen[encoder])]
        axis.plot(chosen[encoder], loss, marker, color=colour)
    _log_x(axis, table["C"])
    axis.legend(title="filled: chosen", title_fontsize=9)
    return figure


def draw_reliability(table: Table, expected_error: float) -> Figure:
    """Accuracy against confidence; the area of a point grows with its images."""
    figure, axis = _panel("Calibration after SimCLR, all classes", "confidence of the probe", "accuracy")
    axis.plot([0, 1], [0, 1], "--", color=GRAY, label="perfectly calibrated")
    images = np.array(table["images"])
    axis.plot(table["confidence"], table["accuracy"], color=BLUE)
    size = 12 + 160 * images / images.max()
    label = f"probe (expected calibration error {expected_error:.3f})"
    axis.scatter(table["confidence"], table["accuracy"], size, color=BLUE, label=label)
    for axes in (axis.xaxis, axis.yaxis):
        axes.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1.02)
    axis.legend(loc="lower right")
    return figure


def draw_confusion(actual: Sequence[str], predicted: Sequence[str], names: Sequence[str]) -> Figure:
    """A row per actual class: where the probe puts its test images, in percent."""
    number = {name: position for position, name in enumerate(names)}
    counts = np.zeros((len(names), len(names)))
    np.add.at(counts, ([number[name] for name in actual], [number[name] for name in predicted]), 1)
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 2.2 + 0.36 * len(names)
    figure = Figure(figsize=(side, side), layout="constrained")
    axis = figure.subplots()
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=max(100, shares.max()))
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.5:
            colour = "white" if share > 60 else "black"
            axis.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=8, color=colour)
    axis.set_xticks(range(len(names)), names, rotation=90)
    axis.set_yticks(range(len(names)), names)
    axis.set_xlabel("predicted")
    axis.set_ylabel("actual")
    axis.set_title("Where the test images of each class go (%)")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return figure


def draw_per_class(table: Table, title: str) -> Figure:
    """Sorted accuracy of the classes; of many, the worst and the best."""
    rows = list(zip(table["class"], table["accuracy"], strict=True))
    if len(rows) > 2 * LISTED:
        rows = [*rows[:LISTED], ("…", np.nan), *rows[-LISTED:]]
    figure, axis = _panel(title, "test accuracy", "", (5.6, 0.24 * len(rows) + 1.1))
    axis.grid(axis="y", visible=False)
    axis.barh(range(len(rows)), [accuracy for _, accuracy in rows], color=BLUE, height=0.7)
    axis.set_yticks(range(len(rows)), [name for name, _ in rows])
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


def draw_neighbours(
    queries: Tensor, labels: Sequence[str], found: Mapping[str, tuple[Tensor, Tensor]], names: Labels
) -> Figure:
    """A row per query: the image, and its nearest training images for each encoder, framed if of the same class.

    queries (N, H, W, 3) uint8, labels: their classes. found: encoder -> images (N, k, H, W, 3), same class (N, k) bool.
    """
    nearest = next(iter(found.values()))[0].shape[1]
    # In one panel, an image a unit: a panel for each of them would take seconds to lay out.
    width = 1 + len(found) * (APART + nearest)
    figure = Figure(figsize=(0.75 * width + 1, 0.75 * len(queries) + 0.7), layout="constrained")
    axis = figure.subplots()
    for row, query in enumerate(queries):
        _picture(axis, query, (0, 1 - GAP, row + 1 - GAP, row))
    axis.text(0, -0.1, "image")
    for block, (encoder, (images, same)) in enumerate(found.items()):
        start = 1 + APART + block * (nearest + APART)
        axis.text(start, -0.1, f"nearest, {names[encoder]}")
        for (row, place), framed in np.ndenumerate(same.numpy()):
            left = start + place
            _picture(axis, images[row, place], (left, left + 1 - GAP, row + 1 - GAP, row))
            if framed:
                axis.add_patch(Rectangle((left, row), 1 - GAP, 1 - GAP, fill=False, color=BLUE, linewidth=3))
    axis.set_yticks(np.arange(len(queries)) + (1 - GAP) / 2, labels, fontsize=9)
    axis.tick_params(length=0)
    axis.set_xlim(-GAP / 2, width)
    axis.set_ylim(len(queries), -0.4)
    return figure


def draw_mistakes(images: Tensor, actual: Sequence[str], predicted: Sequence[str], confidence: Tensor) -> Figure:
    """The images with what they show and what the probe said. images (N, H, W, 3) uint8."""
    columns = 4
    rows = max(1, -(-len(images) // columns))
    figure = Figure(figsize=(1.75 * columns, 2.05 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes:
        axis.set_axis_off()
    for axis, image, truth, said, sure in zip(axes, images, actual, predicted, confidence.tolist(), strict=False):
        _picture(axis, image)
        axis.set_title(f"{truth}\nnot {said} ({100 * sure:.0f} %)", fontsize=9)
    return figure


def draw_maps(maps: Mapping[str, Tensor], classes: Tensor, class_names: Sequence[str], names: Labels) -> Figure:
    """Points of each encoder's map, coloured by class. maps: encoder -> (N, 2); classes (N,)."""
    figure = Figure(figsize=(5 * len(maps), 5.9), layout="constrained")
    for axis, (encoder, points) in zip(figure.subplots(1, len(maps), squeeze=False)[0], maps.items(), strict=True):
        handles = []
        for label in range(len(class_names)):
            colour, marker = TEN[label % len(TEN)], MARKERS[label // len(TEN)]
            x, y = points[classes == label].T
            handles.append(axis.scatter(x, y, 14, color=colour, marker=marker, linewidth=0))
        axis.set_title(names[encoder])
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_color("#cccccc")
    # Handed over, because a label of its own that begins with _ would be left out.
    figure.legend(handles, class_names, loc="outside lower center", ncols=min(5, len(class_names)), markerscale=1.6)
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
