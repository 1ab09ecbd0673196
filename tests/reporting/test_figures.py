"""Figures, also with class names that matplotlib would interpret."""

import json
import warnings

import pandas as pd
import vl_convert
from matplotlib.colors import same_color

from stages.reporting.figures import (
    as_png,
    draw_confusion,
    draw_curves,
    draw_maps,
    draw_mistakes,
    draw_neighbours,
    draw_reliability,
)
from tests.repository import ROOT, random_images

COLUMNS = ("actual", "predicted", "actual_group", "predicted_group")
NAMES = ["$\\frac$", "_background", "7"]


def test_class_names_are_drawn_literally() -> None:
    predictions = pd.DataFrame(dict.fromkeys(COLUMNS, NAMES))
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
    groups = {"actual_group": list("aaaab"), "predicted_group": list("aaabb")}
    predictions = pd.DataFrame(groups | {"actual": list("ghijk"), "predicted": list("ghijk")})
    (axis,) = draw_confusion(predictions, ["a", "b", "c"]).axes
    assert axis.get_title() == "Confusion matrix (% of each actual superclass)"
    assert axis.images[0].get_array().tolist() == [[75, 25, 0], [0, 100, 0], [0, 0, 0]]
    assert [text.get_text() for text in axis.texts] == ["75", "25", "100"]


def test_the_calibration_error_is_the_mean_distance_of_the_points_from_the_diagonal_weighted_by_images() -> None:
    bins = pd.DataFrame({"confidence": [0.2, 0.9], "accuracy": [0.5, 0.8], "images": [1, 3]})
    legend = draw_reliability(bins).axes[0].get_legend()
    assert legend.get_texts()[1].get_text() == "probe (expected calibration error 0.150)"  # (0.3 + 3 * 0.1) / 4


def test_without_mistakes_the_picture_is_empty() -> None:
    assert as_png(draw_mistakes(pd.DataFrame(), random_images(4))).startswith(b"\x89PNG")


def test_a_long_title_of_a_mistake_is_not_broken_before_the_percent_sign() -> None:
    predictions = pd.DataFrame([{"image": 1, "actual": "pine_tree", "predicted": "oak_tree", "confidence": 0.83}])
    title = draw_mistakes(predictions, random_images(4)).axes[0].get_title()
    assert title == "pine_tree\npredicted oak_tree\n(83\N{NO-BREAK SPACE}%)"


def test_the_title_of_a_small_confusion_matrix_fits() -> None:
    predictions = pd.DataFrame({key: ["a", "b"] for key in COLUMNS})
    figure = draw_confusion(predictions, ["a", "b"])
    figure.draw_without_rendering()
    title = figure.axes[0].title
    assert title.get_text() == "Confusion matrix (% of each actual class)"
    assert figure.bbox.x0 < title.get_window_extent().x0
    assert title.get_window_extent().x1 < figure.bbox.x1


def test_classes_called_after_colours_have_these_colours() -> None:
    names = ["more azure", "much more azure", "bird"]
    points = pd.DataFrame({"encoder": "simclr", "class": names, "x": 0.0, "y": 0.0})
    light, strong, bird = draw_maps(points, dict(zip(names, names, strict=True)), names).axes[0].collections
    assert same_color(light.get_facecolor(), "xkcd:azure")
    assert same_color(strong.get_facecolor(), "xkcd:azure")
    assert not same_color(bird.get_facecolor(), "xkcd:azure")
    assert len(light.get_paths()[0]) != len(strong.get_paths()[0])  # another marker


def test_training_is_dashed_the_rest_solid_and_chance_dotted() -> None:
    pretrain = pd.DataFrame({"epoch": [1, 1], "split": ["train", "heldout"], "loss": 1.0, "top1": 0.5})
    fits = pd.DataFrame({"encoder": "simclr", "split": ["train", "test"], "step": 1, "loss": 1.0, "accuracy": 0.5})
    axes = draw_curves(pretrain, fits, {"loss": 6.2, "top1": 0.1}).axes
    assert [[line.get_linestyle() for line in axis.lines] for axis in axes] == [["--", "-", ":"]] * 2 + [
        ["--", "-"]
    ] * 2


def test_plots_of_dvc_list_only_the_encoders_in_the_data_and_show_equal_curves_of_two_revisions() -> None:
    rows = [{"rev": rev, "classes": "all", "encoder": "simclr", "C": c, "loss": 1, "chosen": 0}
            for rev in ("HEAD", "workspace") for c in (0.1, 1)]  # fmt: skip
    template = (ROOT / ".dvc/plots/log_x.json").read_text()
    colour = {"field": "rev", "type": "nominal", "scale": {"range": ["#ff0000", "#00ff00"]}}
    for name, value in {"DATA": rows, "COLOR": colour}.items():
        template = template.replace(f'"<DVC_METRIC_{name}>"', json.dumps(value))
    template = template.replace("<DVC_METRIC_X>", "C").replace("<DVC_METRIC_Y>", "loss")
    picture = vl_convert.vegalite_to_svg(template)
    assert "simclr" in picture
    assert "imagenet" not in picture
    assert 'stroke="#ff0000" stroke-width="1.5"' in picture
    assert 'stroke="#00ff00" stroke-width="6"' in picture
