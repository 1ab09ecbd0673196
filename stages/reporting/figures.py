"""The charts of the report, drawn from saved tables.

The colours are Okabe and Ito's, which colour-blind readers can tell apart; lines differ in dashes and markers too.
"""

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator, PercentFormatter

from stages.reporting.summaries import ENCODERS

BLUE, ORANGE, PURPLE, GRAY, GREEN = "#0072b2", "#d55e00", "#cc79a7", "#777777", "#009e73"
# Colour and marker of each encoder, everywhere.
STYLES = {"pixels": (GRAY, "s"), "untrained": (ORANGE, "D"), "imagenet": (PURPLE, "^"), "simclr": (BLUE, "o")}
TEN = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#000000", "#b2a800", "#7f4f9f", "#999999")
MARKERS = "o^"  # of the first ten classes, and of ten more
LISTED = 10  # classes at either end that are named
SIZE = (5.6, 3.7)  # inches, of one panel
LETTERS = 28  # of a name that fit above an image, beside an axis and in a legend
# For names in scripts that matplotlib's own font lacks, where the system has them (Debian's package fonts-noto).
FALLBACK_FONTS = ("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Thai",
                  "Noto Sans Devanagari", "WenQuanYi Zen Hei", "Unifont")  # fmt: skip

mpl.rcParams.update({"font.size": 10, "axes.titlesize": 11, "legend.fontsize": 9, "legend.frameon": False})
mpl.rcParams["text.parse_math"] = False  # a class may be called $x$
_installed = {font.name for font in fontManager.ttflist}
mpl.rcParams["font.family"] = ["DejaVu Sans", *(font for font in FALLBACK_FONTS if font in _installed)]


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


def draw_curves(pretrain: pd.DataFrame, fits: pd.DataFrame) -> Figure:
    """Loss and accuracy of pretraining, and of the logistic regression of all classes, in four panels.

    pretrain: epoch, split, loss, top1; fits: encoder, split, step, loss, accuracy. Training is dashed.
    """
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    of_pretraining, of_probe = figure.subplots(2, 2)
    by_split = {split: pretrain[pretrain.split == split].set_index("epoch") for split in ("train", "heldout")}
    for axis, column, title, y in zip(
        of_pretraining,
        ("loss", "top1"),
        ("Pretraining: contrastive loss", "Pretraining: views that find their partner first"),
        ("NT-Xent (nats)", "fraction of views"),
        strict=True,
    ):
        _style(axis, title, "epoch", y)
        _plot_epochs(
            axis, {"training views": by_split["train"][column], "held-out images": by_split["heldout"][column]}
        )
        if column == "top1":
            _as_percent(axis)
    for axis, column, y in zip(of_probe, ("loss", "accuracy"), ("cross entropy (nats)", "accuracy"), strict=True):
        _style(axis, f"Logistic regression, all classes: {y.partition(' (')[0]}", "iteration", y)
        _plot_fits(axis, fits, column)
    return figure


def draw_pretraining(lines: Mapping[str, pd.Series], title: str, y: str, percent: bool = False) -> Figure:
    """Lines over the epochs, by their labels."""
    figure, axis = _panel(title, "epoch", y)
    _plot_epochs(axis, lines)
    if percent:
        _as_percent(axis)
    return figure


def _plot_epochs(axis: Axes, lines: Mapping[str, pd.Series]) -> None:
    for (label, line), colour, dash in zip(lines.items(), (ORANGE, BLUE)[-len(lines) :], ("--", "-"), strict=False):
        axis.plot(line.index, line, dash, color=colour, label=label, marker="o" if len(line) == 1 else None)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(lines) > 1:
        axis.legend()


def draw_fits(table: pd.DataFrame, column: str, title: str, y: str) -> Figure:
    """A score of the training and of the test split per step of a fit."""
    figure, axis = _panel(title, "iteration" if table.probe.iloc[0] == "logreg" else "epoch", y)
    _plot_fits(axis, table, column)
    return figure


def _plot_fits(axis: Axes, table: pd.DataFrame, column: str) -> None:
    for (encoder, split), line in table.groupby(["encoder", "split"], sort=False):
        dash = "--" if split == "train" else "-"
        axis.plot(line.step, line[column], dash, color=STYLES[encoder][0], label=f"{ENCODERS[encoder]}, {split}")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if column == "accuracy":
        _as_percent(axis)
        axis.set_ylim(0, 1.02)
    axis.legend()


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
    percent = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 2.2 + 0.36 * len(names)
    figure = Figure(figsize=(side, side), layout="constrained")
    axis = figure.subplots()
    axis.imshow(percent, cmap="Blues", vmin=0, vmax=max(100, percent.max()))
    for (row, column), value in np.ndenumerate(percent):
        if value >= 0.5:
            colour = "white" if value > 60 else "black"
            axis.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=colour)
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
    # Handed over, because matplotlib leaves out a label that begins with _.
    labels = list(map(brief, names))
    columns = int(figure.get_figwidth() / (0.4 + 0.09 * max(map(len, labels))))  # inches
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, columns, len(names)), markerscale=1.6)
    return figure


def _panel(title: str, x: str, y: str, size: tuple[float, float] = SIZE) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axis = figure.subplots()
    _style(axis, title, x, y)
    return figure, axis


def _style(axis: Axes, title: str, x: str, y: str) -> None:
    axis.set_title(title)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#e5e5e5")
    axis.set_axisbelow(True)


def _log_x(axis: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis with a tick at each value."""
    axis.set_xscale("log")
    axis.set_xticks(values, [f"{value:g}" for value in values])
    axis.xaxis.set_minor_locator(NullLocator())


def _as_percent(axis: Axes) -> None:
    axis.yaxis.set_major_formatter(FuncFormatter(lambda fraction, _: f"{100 * fraction:g} %"))


def as_png(figure: Figure) -> bytes:
    """The same bytes for the same figure: DVC hashes them, so there is no date in them."""
    png = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # it is drawn as a box
        figure.savefig(png, format="png", dpi=144, metadata={"Software": None})
    return png.getvalue()


def brief(name: str) -> str:
    """Cut to what fits."""
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"
