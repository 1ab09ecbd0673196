"""The figures of the report, drawn from saved tables.

The colours are those of Okabe and Ito, which colour-blind readers can distinguish; encoders also differ in markers.
Curves of training data are dashed, of held-out and test images solid; chance and other references are dotted.
"""

import io
import math
import textwrap
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import is_color_like
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator, PercentFormatter
from torch import Tensor

from stages.io.tensors import Rows
from stages.reporting.summaries import ENCODERS, PROBE_TITLES, accuracy_of_classes, groups, reliability, surest_mistakes

BLUE, ORANGE, PURPLE, GRAY, GREEN = "#0072b2", "#d55e00", "#cc79a7", "#777777", "#009e73"
# Of pretraining: label and dash of each split, and labels of curves that need one.
SPLITS = {"train": ("training views", "--"), "heldout": ("held-out images", "-")}
HEALTH = {"alignment": "alignment (0: both views equal)", "uniformity": "uniformity (0: all images equal)"}
# Colour and marker of each encoder in all figures.
STYLES = {"pixels": (GRAY, "s"), "untrained": (ORANGE, "D"), "imagenet": (PURPLE, "^"), "simclr": (BLUE, "o")}
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#000000", "#b2a800", "#7f4f9f", "#999999")
MARKERS = "o^sDvP*X<>"  # of classes with the same colour
LISTED_CLASSES = 10  # the number of best and of worst classes with a name
SHOWN_MISTAKES = 12
WIDTH = 6.5  # of every figure in inches: two fit side by side in the report, and the files in `dvc plots diff`
IMAGE_GAP, BLOCK_GAP = 0.1, 0.4  # between images and between blocks of images; the side of an image is 1
MAX_LABEL_LENGTH = 28  # letters that fit next to an axis and in a legend
WRAPPED_LENGTH = 22  # letters in a line above or beside an image
# For scripts that matplotlib's font does not cover, if the system has these fonts (Debian's package fonts-noto).
FALLBACK_FONTS = ("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Thai",
                  "Noto Sans Devanagari", "WenQuanYi Zen Hei", "Unifont")  # fmt: skip

mpl.rcParams.update({"font.size": 10, "axes.titlesize": 11, "legend.fontsize": 9, "legend.frameon": False})
mpl.rcParams["text.parse_math"] = False  # a class may be called $x$
_installed = fontManager.get_font_names()
mpl.rcParams["font.family"] = ["DejaVu Sans", *(font for font in FALLBACK_FONTS if font in _installed)]


def draw(
    tables: Mapping[str, pd.DataFrame],
    labelled: Mapping[str, Rows],
    views: Mapping[str, Tensor],
    results: dict[str, Any],
    candidates: int,
) -> dict[str, Figure]:
    """All figures by name. tables: those of plots/data and `neighbours`; results: of `results_of`; candidates: other
    views of a batch."""
    predictions, choice, pretrain = tables["predictions"], tables["choice_of_C"], tables["pretrain"]
    chance = {"loss": math.log(candidates), "top1": 1 / candidates}
    names = groups(predictions)
    group_of = dict(zip(predictions.actual, predictions.actual_group, strict=True))
    of_all = tables["fits"][(tables["fits"].probe == "logreg") & (tables["fits"].classes == "all")]
    fits = {
        f"{probe}, {classes}, {column}": draw_fits(
            fit, column, f"{PROBE_TITLES.get(probe, probe)}, {classes} classes".capitalize(), y
        )
        for (probe, classes), fit in tables["fits"].groupby(["probe", "classes"], sort=False)
        for column, y in (("loss", "cross entropy (nats)"), ("accuracy", "accuracy"))
    }
    return fits | {
        "accuracy": draw_accuracies(results),
        "curves": draw_curves(pretrain, of_all, chance),
        "label_efficiency": draw_label_efficiency(tables["label_efficiency"]),
        "loss": draw_pretraining(pretrain, ["loss"], "Contrastive loss", "NT-Xent (nats)", chance["loss"]),
        "top1": draw_pretraining(pretrain, ["top1"], "Contrastive top-1 accuracy", "of views", chance["top1"]),
        "alignment": draw_pretraining(pretrain, [*HEALTH], "Alignment and uniformity, held-out images"),
        "rank": draw_pretraining(pretrain, ["rank"], "Effective rank of the embeddings", "RankMe"),
        "C": draw_choice_of_c(choice[choice.classes == "all"]),
        "reliability": draw_reliability(reliability(predictions)),
        "confusion": draw_confusion(predictions, names),
        "classes": draw_accuracy_of_classes(accuracy_of_classes(predictions)),
        "views": draw_views(views["images"], views["first"], views["second"]),
        "neighbours": draw_neighbours(tables["neighbours"], labelled["test_images"], labelled["train_images"]),
        "maps": draw_maps(tables["maps"], group_of, names),
        "mistakes": draw_mistakes(surest_mistakes(predictions, SHOWN_MISTAKES), labelled["test_images"]),
    }


def draw_accuracies(results: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Test accuracy with its interval, a row per probe."""
    figure, axis = _panel("", "test accuracy with 95 % interval", "", 0.5 * len(results) + 1.1)
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
    """Test accuracy against labelled images per class (logarithmic), with the spread over the draws."""
    figure, axis = _panel("Label efficiency, all classes", "labelled images per class", "test accuracy")
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


def draw_curves(pretrain: pd.DataFrame, fits: pd.DataFrame, chance: Mapping[str, float]) -> Figure:
    """Loss and accuracy of pretraining and of the logistic regression of all classes, in four panels.

    pretrain: epoch, split, loss, top1; fits: encoder, split, step, loss, accuracy.
    """
    figure = Figure(figsize=(WIDTH, 6.4), layout="constrained")
    top, bottom = figure.subfigures(2, 1, squeeze=False)[:, 0]
    for axis, column, y in zip(top.subplots(1, 2), ("loss", "top1"), ("NT-Xent (nats)", "top-1 accuracy"), strict=True):
        _style(axis, "", "epoch", y)
        _plot_epochs(axis, pretrain, [column], chance[column])
    for axis, column, y in zip(
        bottom.subplots(1, 2), ("loss", "accuracy"), ("cross entropy (nats)", "accuracy"), strict=True
    ):
        _style(axis, "", "iteration", y)
        _plot_fits(axis, fits, column)
    for part, title in ((top, "Pretraining"), (bottom, "Logistic regression, all classes")):
        part.suptitle(title)
        part.legend(*part.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def draw_pretraining(
    pretrain: pd.DataFrame, columns: Sequence[str], title: str, y: str = "", chance: float | None = None
) -> Figure:
    figure, axis = _panel(title, "epoch", y)
    _plot_epochs(axis, pretrain, columns, chance)
    axis.legend()
    return figure


def _plot_epochs(axis: Axes, pretrain: pd.DataFrame, columns: Sequence[str], chance: float | None) -> None:
    for column, colour in zip(columns, (BLUE, GREEN), strict=False):
        for split, (images, dash) in SPLITS.items():
            line = pretrain[pretrain.split == split].set_index("epoch")[column].dropna()
            if len(line):  # the training split has no alignment
                label, marker = HEALTH.get(column, images), "o" if len(line) == 1 else None
                axis.plot(line.index, line, dash, color=colour, label=label, marker=marker)
    if chance is not None:
        axis.axhline(chance, color=GRAY, linestyle=":", label="chance")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if "top1" in columns:
        _as_percent(axis)


def draw_fits(table: pd.DataFrame, column: str, title: str, y: str) -> Figure:
    """A score of the training and of the test split per step of a fit."""
    figure, axis = _panel(title, "iteration" if table.probe.iloc[0] == "logreg" else "epoch", y)
    _plot_fits(axis, table, column)
    figure.legend(loc="outside lower center", ncols=4)  # inside it would cover a curve
    return figure


def _plot_fits(axis: Axes, table: pd.DataFrame, column: str) -> None:
    for (encoder, split), line in table.groupby(["encoder", "split"], sort=False):
        dash = "--" if split == "train" else "-"
        axis.plot(line.step, line[column], dash, color=STYLES[encoder][0], label=f"{ENCODERS[encoder]}, {split}")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if column == "accuracy":
        _as_percent(axis)
        axis.set_ylim(0, 1.02)


def draw_choice_of_c(table: pd.DataFrame) -> Figure:
    """Validation loss against C (logarithmic); the marker of the chosen C is filled."""
    figure, axis = _panel("Choice of C, all classes", "C (inverse regularisation)", "validation loss (nats)")
    for encoder, line in table.groupby("encoder", sort=False):
        colour, marker = STYLES[encoder]
        axis.plot(line.C, line.loss, marker=marker, color=colour, markerfacecolor="white", label=ENCODERS[encoder])
        chosen = line[line.chosen == 1]
        axis.plot(chosen.C, chosen.loss, marker, color=colour)
    _log_x(axis, sorted(table.C.unique()))
    axis.legend(title="filled: chosen C", title_fontsize=9)
    return figure


def draw_reliability(bins: pd.DataFrame) -> Figure:
    """Accuracy against confidence; the area of a point grows with the number of its images.

    The expected calibration error is that of Guo et al. (2017), equation 3.
    """
    figure, axis = _panel("Calibration after SimCLR, all classes", "confidence of the probe", "accuracy")
    axis.plot([0, 1], [0, 1], ":", color=GRAY, label="perfectly calibrated")
    axis.plot(bins.confidence, bins.accuracy, color=BLUE)
    size = 12 + 160 * bins.images / bins.images.max()
    error = np.average((bins.accuracy - bins.confidence).abs(), weights=bins.images)
    label = f"probe (expected calibration error {error:.3f})"
    axis.scatter(bins.confidence, bins.accuracy, size, color=BLUE, label=label)
    for axes in (axis.xaxis, axis.yaxis):
        axes.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.set(xlim=(0, 1), ylim=(0, 1.02))
    axis.legend(loc="lower right")
    return figure


def draw_confusion(predictions: pd.DataFrame, names: Sequence[str]) -> Figure:
    """The confusion matrix in percent of each row; a row per actual group of classes."""
    kind = "class" if {*names} <= {*predictions.actual, *predictions.predicted, "all others"} else "superclass"
    counts = pd.crosstab(predictions.actual_group, predictions.predicted_group)
    counts = counts.reindex(index=names, columns=names, fill_value=0).to_numpy()
    percent = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure = Figure(figsize=(WIDTH, min(WIDTH, 2.4 + 0.3 * len(names))), layout="constrained")
    axis = figure.subplots()
    axis.imshow(percent, cmap="Blues", vmin=0, vmax=max(100, percent.max()))
    for (row, column), value in np.ndenumerate(percent):
        if value >= 0.5:
            colour = "white" if value > 60 else "black"
            axis.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=colour)
    axis.set_xticks(range(len(names)), map(short_label, names), rotation=90)
    axis.set_yticks(range(len(names)), map(short_label, names))
    axis.set(xlabel="predicted", ylabel="actual", title=f"Confusion matrix (% of each actual {kind})")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return figure


def draw_accuracy_of_classes(accuracies: pd.Series) -> Figure:
    """Sorted accuracy of the classes; if there are many, only the worst and the best."""
    rows = list(accuracies.items())
    if len(rows) > 2 * LISTED_CLASSES:
        rows = [*rows[:LISTED_CLASSES], ("…", np.nan), *rows[-LISTED_CLASSES:]]
    figure, axis = _panel("Accuracy of the classes", "test accuracy", "", 0.24 * len(rows) + 1.1)
    axis.grid(axis="y", visible=False)
    axis.barh(range(len(rows)), [accuracy for _, accuracy in rows], color=BLUE, height=0.7)
    axis.set_yticks(range(len(rows)), [short_label(name) for name, _ in rows])
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
    styles, used = [], Counter[str]()
    for name in names:
        # A class that is called after a colour has that colour, because any other would contradict the name.
        own = [f"xkcd:{word}" for word in name.split() if is_color_like(f"xkcd:{word}")]
        colour = own[0] if own else PALETTE[used.total() % len(PALETTE)]
        styles.append((colour, MARKERS[used[colour] % len(MARKERS)]))
        used[colour] += 1
    encoders = list(maps.encoder.unique())
    figure = Figure(figsize=(WIDTH, 4.4 * len(encoders) + 1), layout="constrained")
    for axis, encoder in zip(figure.subplots(len(encoders), 1, squeeze=False)[:, 0], encoders, strict=True):
        points = maps[maps.encoder == encoder]
        handles = []
        for name, (colour, marker) in zip(names, styles, strict=True):
            of_group = points[points["class"].map(group_of) == name]
            style = {"color": colour, "marker": marker, "edgecolor": "black", "linewidth": 0.2}
            handles.append(axis.scatter(of_group.x, of_group.y, 16, **style))
        axis.set(title=ENCODERS[encoder], xticks=[], yticks=[])
        axis.spines[:].set_color("#cccccc")
    # Passed explicitly, because matplotlib's automatic legend omits labels that begin with _.
    labels = list(map(short_label, names))
    columns = int(WIDTH / (0.4 + 0.09 * max(map(len, labels))))  # inches
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, columns, len(names)), markerscale=1.6)
    return figure


def draw_views(images: Tensor, first: Tensor, second: Tensor) -> Figure:
    """A row of images above their first and second views; all (N, H, W, 3) uint8."""
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    axes = figure.subplots(3, len(images), squeeze=False)
    for row, (label, pictures) in enumerate((("image", images), ("view 1", first), ("view 2", second))):
        for axis, picture in zip(axes[row], pictures, strict=True):
            _picture(axis, picture)
        axes[row, 0].set_ylabel(label, rotation=0, ha="right", va="center")
    return figure


def draw_neighbours(table: pd.DataFrame, test_images: Rows | Tensor, train_images: Rows | Tensor) -> Figure:
    """A row per test image with its nearest training images for each encoder; those of the same class have a frame.

    table: encoder, image, class, rank, neighbour, neighbour_class. Images: (N, H, W, 3) uint8.
    """
    queries = table.drop_duplicates("image").set_index("image")["class"]
    encoders = list(table.encoder.unique())
    nearest = int(table["rank"].max())
    # All in one panel, each image with side 1: the layout of a panel per image would take seconds.
    left, right, height = 2, 1 + BLOCK_GAP + nearest, len(encoders) * (BLOCK_GAP + len(queries))
    figure = Figure(figsize=(WIDTH, WIDTH * height / (left + right)), layout="constrained")
    axis = figure.subplots()
    tops = {encoder: BLOCK_GAP + block * (BLOCK_GAP + len(queries)) for block, encoder in enumerate(encoders)}
    for encoder, top in tops.items():
        axis.text(1 + BLOCK_GAP, top - 0.1, f"nearest, {ENCODERS[encoder]}")
        for row, (image, name) in enumerate(queries.items()):
            label = textwrap.fill(short_label(name), WRAPPED_LENGTH)
            axis.text(-IMAGE_GAP, top + row + 0.5 - IMAGE_GAP / 2, label, ha="right", va="center", fontsize=9)
            _picture(axis, test_images[image], (0, 1 - IMAGE_GAP, top + row + 1 - IMAGE_GAP, top + row))
    for found in table.to_dict("records"):
        x, y = found["rank"] + BLOCK_GAP, tops[found["encoder"]] + queries.index.get_loc(found["image"])
        _picture(axis, train_images[found["neighbour"]], (x, x + 1 - IMAGE_GAP, y + 1 - IMAGE_GAP, y))
        if found["neighbour_class"] == found["class"]:
            axis.add_patch(Rectangle((x, y), 1 - IMAGE_GAP, 1 - IMAGE_GAP, fill=False, color=BLUE, linewidth=3))
    axis.set(xlim=(-left, right), ylim=(height, 0))
    return figure


def draw_mistakes(mistakes: pd.DataFrame, images: Rows | Tensor) -> Figure:
    """Misclassified test images, their class and the prediction. images: all test images (N, H, W, 3) uint8."""
    columns = 4
    rows = max(1, -(-len(mistakes) // columns))
    figure = Figure(figsize=(WIDTH, 2.1 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes:
        axis.set_axis_off()
    for axis, wrong in zip(axes, mistakes.itertuples(), strict=False):
        _picture(axis, images[wrong.image])
        lines = (wrong.actual, f"predicted {wrong.predicted} ({100 * wrong.confidence:.0f}\N{NO-BREAK SPACE}%)")
        axis.set_title("\n".join(textwrap.fill(line, WRAPPED_LENGTH) for line in lines), fontsize=8)
    return figure


def _picture(axis: Axes, picture: Tensor, extent: tuple[float, float, float, float] | None = None) -> None:
    """An image at `extent` (left, right, bottom, top), or filling its panel."""
    axis.imshow(picture.numpy(), interpolation="nearest", extent=extent)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def _panel(title: str, x: str, y: str, height: float = 3.7) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axis = figure.subplots()
    _style(axis, title, x, y)
    return figure, axis


def _style(axis: Axes, title: str, x: str, y: str) -> None:
    axis.set(title=title, xlabel=x, ylabel=y)
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


def as_png(figure: Figure, dpi: int = 100) -> bytes:
    """The same figure gives the same bytes, without a date, because DVC hashes them."""
    png = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # drawn as a box
        figure.savefig(png, format="png", dpi=dpi, metadata={"Software": None})
    return png.getvalue()


def short_label(name: str) -> str:
    """The name, truncated if it is too long."""
    return name if len(name) <= MAX_LABEL_LENGTH else f"{name[: MAX_LABEL_LENGTH - 1]}…"
