"""Mistakes that only the parameters and the number of images together show."""

from pathlib import Path

import pytest

from stages.check import mistakes
from stages.dataset import Sizes
from stages.params import FILE, Params, load_params

COMMITTED = Path(__file__).parent.parent / FILE


def params(**changes: object) -> Params:
    """The committed parameters with some others; logreg__draws is draws in logreg."""
    content = load_params(COMMITTED).model_dump()
    for key, value in changes.items():
        *sections, name = key.split("__")
        section = content
        for part in sections:
            section = section[part]
        section[name] = value
    return Params.model_validate(content)


TEN_CLASSES = Sizes(unlabelled=600, train=[60] * 10, test=100)


def test_the_committed_parameters_fit_the_sample() -> None:
    assert mistakes(params(), Sizes(2304, [50] * 100, 5000)) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"first_classes": 11}, "first_classes = 11: the data have 10 classes"),
        ({"batch_size": 301}, "batch_size = 301: 600 unlabelled images do not fill two batches"),
        ({"logreg__validation_fraction": 0.001}, "logreg.validation_fraction = 0.001: 600 training images of 10"),
        ({"logreg__labels_per_class": [4, 10]}, "logreg.labels_per_class = 4: cannot be split"),
    ],
)
def test_each_mistake_is_named(changes: dict[str, object], expected: str) -> None:
    (found,) = mistakes(params(**changes), TEN_CLASSES)
    assert found.startswith(expected)
    assert "\n" not in found


def test_all_mistakes_come_at_once() -> None:
    found = mistakes(params(first_classes=11, batch_size=301), TEN_CLASSES)
    assert [line.split(" = ")[0] for line in found] == ["first_classes", "batch_size"]


def test_two_batches_are_enough_and_classes_may_be_small() -> None:
    assert mistakes(params(batch_size=300), TEN_CLASSES) == []
    # 20 and more per class are not to be had, so they are left out of label efficiency, and no mistake.
    assert mistakes(params(batch_size=2), Sizes(60, [6] * 10, 10)) == []


def test_the_first_classes_alone_must_be_divisible_too() -> None:
    # All ten can be split, but a fifth of the first two is two images of the larger one.
    sizes = Sizes(600, [6, 2, *[60] * 8], 100)
    (found,) = mistakes(params(first_classes=2, logreg__labels_per_class=[]), sizes)
    assert found.startswith("logreg.validation_fraction = 0.2")
    assert mistakes(params(logreg__labels_per_class=[]), sizes) == []
