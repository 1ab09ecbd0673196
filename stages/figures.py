"""The pictures of the report, drawn from saved numbers.

The colours are Okabe and Ito's, which colour-blind readers can tell apart.
"""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

BLUE, ORANGE, GRAY = "#0072b2", "#d55e00", "#777777"
ENCODER_COLOURS = {"initial": GRAY, "simclr": BLUE}
ENCODER_LABELS = {"initial": "before SimCLR", "simclr": "after SimCLR"}

Table = Mapping[str, Sequence[float]]  # columns


def draw_curves(pretrain: Table, probes: Mapping[str, Mapping[str, Table]]) -> Figure:
    """Loss (above) and accuracy (below) of pretraining and of each probe.

    pretrain: columns epoch and {train,heldout}_{loss,top1}. probes: title -> encoder -> columns: the step first, then
    {train,test}_{loss,accuracy}.
    """
    figure = Figure(figsize=(4 * (1 + len(probes)), 6.4), layout="constrained")
    columns = figure.subplots(2, 1 + len(probes)).T
    for part, colour, label in (("train", BLUE, "training images"), ("heldout", ORANGE, "held-out images")):
        for axis, name in zip(columns[0], ("loss", "top1"), strict=True):
            axis.plot(pretrain["epoch"], pretrain[f"{part}_{name}"], color=colour, label=label)
    _label(columns[0], "SimCLR pretraining", "epoch", ("NT-Xent loss (nats)", "partner ranked first"))
    for (title, tables), column in zip(probes.items(), columns[1:], strict=True):
        for encoder, table in tables.items():
            step = next(iter(table))
            for part, style in (("train", "--"), ("test", "-")):
                label, colour = f"{ENCODER_LABELS[encoder]}, {part}", ENCODER_COLOURS[encoder]
                for axis, name in zip(column, ("loss", "accuracy"), strict=True):
                    axis.plot(table[step], table[f"{part}_{name}"], color=colour, linestyle=style, label=label)
        _label(column, title, step, ("cross entropy (nats)", "accuracy"))
        column[1].set_ylim(0, 1.02)
    columns[0, 0].legend(frameon=False, fontsize=9)
    # The same four lines in every probe: one legend, below them.
    figure.legend(*columns[-1, 0].get_legend_handles_labels(), loc="outside lower right", ncols=4, frameon=False)
    figure.align_ylabels()
    return figure


def _label(column: Sequence[Axes], title: str, step: str, quantities: tuple[str, str]) -> None:
    column[0].set_title(title, fontsize=11)
    column[1].set_xlabel(step)
    column[1].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    for axis, quantity in zip(column, quantities, strict=True):
        axis.set_ylabel(quantity)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#e5e5e5")
        axis.set_axisbelow(True)


def draw_views(images: Tensor, first: Tensor, second: Tensor) -> Figure:
    """A row of images above their first and second views; each (N, H, W, 3) uint8."""
    figure = Figure(figsize=(1.1 * len(images) + 0.9, 3.5), layout="constrained")
    axes = figure.subplots(3, len(images))
    for row, (label, pictures) in enumerate((("image", images), ("view 1", first), ("view 2", second))):
        for axis, picture in zip(axes[row], pictures, strict=True):
            axis.imshow(picture.numpy(), interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
        axes[row, 0].set_ylabel(label, rotation=0, ha="right", va="center")
    return figure
