"""Figures, also with class names that matplotlib would interpret."""

import warnings

import pandas as pd

from stages.reporting.figures import as_png, draw_confusion, draw_maps, draw_mistakes, draw_neighbours
from tests.repository import random_images

NAMES = ["$\\frac$", "_background", "7"]


def test_class_names_are_drawn_literally() -> None:
    predictions = pd.DataFrame({"actual_group": NAMES, "predicted_group": NAMES})
    as_png(draw_confusion(predictions, NAMES))
    points = pd.DataFrame({"encoder": "simclr", "class": NAMES, "x": 0.0, "y": 0.0})
    figure = draw_maps(points, dict(zip(NAMES, NAMES, strict=True)), NAMES)
    as_png(figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == NAMES


def test_names_without_a_font_are_drawn_without_a_warning() -> None:
    names = ["猫 cat", "кошка", "👩\U000e0100🔬", "قطة"]
    points = pd.DataFrame({"encoder": "simclr", "class": names, "x": range(4), "y": 0.0})
    with warnings.catch_warnings(action="error"):
        as_png(draw_maps(points, dict(zip(names, names, strict=True)), names))


def test_neighbours_of_the_same_class_are_framed() -> None:
    row = {"encoder": "simclr", "image": 3, "class": "ant", "neighbour": 1}
    found = pd.DataFrame([{**row, "rank": 1, "neighbour_class": "ant"}, {**row, "rank": 2, "neighbour_class": "bee"}])
    figure = draw_neighbours(found, random_images(4), random_images(2))
    assert len(figure.axes[0].patches) == 1
    as_png(figure)


def test_a_row_of_the_confusion_matrix_is_the_percentages_of_an_actual_group() -> None:
    predictions = pd.DataFrame({"actual_group": list("aaaab"), "predicted_group": list("aaabb")})
    (axis,) = draw_confusion(predictions, ["a", "b", "c"]).axes
    assert axis.images[0].get_array().tolist() == [[75, 25, 0], [0, 100, 0], [0, 0, 0]]
    assert [text.get_text() for text in axis.texts] == ["75", "25", "100"]


def test_without_mistakes_the_picture_is_empty() -> None:
    assert as_png(draw_mistakes(pd.DataFrame(), random_images(4))).startswith(b"\x89PNG")
