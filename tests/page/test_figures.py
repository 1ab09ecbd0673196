"""Names of classes come from users and are drawn as they are."""

import warnings

import matplotlib as mpl
import pandas as pd
import pytest

from stages.page.figures import as_png, draw_confusion, draw_maps
from stages.page.names import fontManager, legible
from stages.page.pictures import draw_mistakes, draw_neighbours
from tests.test_report import pictures

NAMES = ["$\\frac$", "_background", "7"]


def test_names_of_classes_are_drawn_as_they_are() -> None:
    predictions = pd.DataFrame({"actual_group": NAMES, "predicted_group": NAMES})
    as_png(draw_confusion(predictions, NAMES))
    points = pd.DataFrame({"encoder": "simclr", "class": NAMES, "x": 0.0, "y": 0.0})
    figure = draw_maps(points, dict(zip(NAMES, NAMES, strict=True)), NAMES)
    as_png(figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == NAMES


def test_a_script_without_a_font_becomes_codes_and_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = [font for font in fontManager.ttflist if font.name == "DejaVu Sans"]
    monkeypatch.setattr(fontManager, "ttflist", own)
    names = ["猫 cat", "кошка", "👩\U000e0100🔬", "قطة"]  # the third is joined by a character that draws nothing
    table = legible({"maps": pd.DataFrame({"class": names, "x": range(4)})})["maps"]
    assert list(table["class"]) == ["\\u732b cat", "кошка", "\\U0001f469\\U0001f52c", "قطة"]
    assert list(table["x"]) == [0, 1, 2, 3]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("no font draws 猫👩🔬: ")
    with warnings.catch_warnings(action="error"):
        as_png(draw_maps(table.assign(encoder="simclr", y=0.0), {}, list(table["class"])))


def test_a_font_that_has_what_the_first_lacks_is_taken_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    table = legible({"maps": pd.DataFrame({"class": ["\N{WATCH} watch"]})})["maps"]  # in STIX, which matplotlib brings
    assert list(table["class"]) == ["\N{WATCH} watch"]
    assert len(mpl.rcParams["font.family"]) == 2
    assert capsys.readouterr().err == ""


def test_neighbours_of_the_same_class_are_framed() -> None:
    row = {"encoder": "simclr", "image": 3, "class": "ant", "neighbour": 1}
    found = pd.DataFrame([{**row, "rank": 1, "neighbour_class": "ant"}, {**row, "rank": 2, "neighbour_class": "bee"}])
    figure = draw_neighbours(found, pictures(4), pictures(2))
    assert len(figure.axes[0].patches) == 1
    as_png(figure)


def test_a_row_of_the_confusion_matrix_is_the_percentages_of_an_actual_group() -> None:
    predictions = pd.DataFrame({"actual_group": list("aaaab"), "predicted_group": list("aaabb")})
    (axis,) = draw_confusion(predictions, ["a", "b", "c"]).axes
    assert axis.images[0].get_array().tolist() == [[75, 25, 0], [0, 100, 0], [0, 0, 0]]
    assert [text.get_text() for text in axis.texts] == ["75", "25", "100"]


def test_no_mistakes_are_an_empty_picture() -> None:
    assert as_png(draw_mistakes(pd.DataFrame(), pictures(4))).startswith(b"\x89PNG")
