"""Mistakes that only the parameters and the number of images together show."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stages.check import can_be_split, mistakes
from stages.files.params import FILE, Params, load_params
from stages.images.dataset import Sizes
from stages.images.sizes import SAMPLE
from stages.probing.logreg import validation_losses
from stages.probing.probe import Split
from tests.bad_input import LONGEST, examples

SETTINGS = 250  # examples of each of 2 tests
COMMITTED = Path(__file__).parents[1] / FILE


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
    assert mistakes(params(), SAMPLE) == []


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


fractions = st.floats(0, 1, exclude_min=True, exclude_max=True) | st.sampled_from([0.1, 0.2, 0.25, 0.5, 0.9])
from_two = st.integers(2, 9) | st.integers(2, 2**31 - 1)
classes = st.lists(st.integers(1, 12), min_size=2, max_size=5)
settings = st.builds(
    params,
    seed=st.integers(0, 2**31 - 1),
    batch_size=from_two,
    first_classes=from_two,
    logreg__validation_fraction=fractions,
    logreg__labels_per_class=st.lists(from_two, max_size=4),
)


@examples(SETTINGS)
@given(settings, st.builds(Sizes, st.integers(2, 99), classes, st.integers(2, 99)))
def test_what_does_not_fit_the_images_gets_a_line_each(drawn: Params, sizes: Sizes) -> None:
    lines = mistakes(drawn, sizes)
    assert all(line.isprintable() and len(line) <= LONGEST for line in lines)
    assert len(lines) <= 3 + len(drawn.logreg.labels_per_class)
    assert any(line.startswith("batch_size = ") for line in lines) == (2 * drawn.batch_size > sizes.unlabelled)
    assert any(line.startswith("first_classes = ") for line in lines) == (drawn.first_classes > len(sizes.train))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@examples(SETTINGS)
@given(classes, fractions, st.integers(0, 9))
@example([6, 2], 0.25, 0)
def test_the_check_knows_which_splits_will_fail(per_class: list[int], fraction: float, seed: int) -> None:
    labels = np.repeat(np.arange(len(per_class)), per_class)
    features = np.random.default_rng(seed).normal(size=(len(labels), 2)).astype(np.float32)
    try:
        validation_losses(Split(features, labels), [1.0], fraction, 1, seed)
    except SystemExit:  # too few images, or none of a class on one side
        assert not can_be_split(per_class, fraction, seed)
    else:
        assert can_be_split(per_class, fraction, seed)
