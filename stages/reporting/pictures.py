"""The pictures of the report that show images: views, neighbours and mistakes.

Shapes: N images of H x W pixels.
"""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from stages.io.tensors import Rows
from stages.reporting.figures import BLUE, LETTERS, brief
from stages.reporting.summaries import ENCODERS

GAP, APART = 0.1, 0.4  # between images, and between blocks of them, in the sides of one


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
    """The wrong test images with their actual and predicted classes. images (N, H, W, 3) uint8, all of them."""
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


def _picture(axis: Axes, picture: Tensor, extent: tuple[float, float, float, float] | None = None) -> None:
    """An image at `extent` (left, right, bottom, top), or alone in its panel."""
    axis.imshow(picture.numpy(), interpolation="nearest", extent=extent)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
