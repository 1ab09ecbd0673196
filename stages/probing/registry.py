"""All probes, and the tasks for which each is fitted.

To add a probe, write a class with scikit-learn's `fit` and `decision_function`, and add a line to `PROBES`.
"""

from collections.abc import Callable
from typing import NamedTuple

from stages.probing.linear import LinearLayer
from stages.probing.logreg import ChosenC, OnFit
from stages.probing.neighbours import Neighbours
from stages.probing.params import FitParams
from stages.probing.probe import Curve, Probe


class Entry(NamedTuple):
    make: Callable[[FitParams, Curve | None, OnFit], Probe]
    classes: tuple[str, ...]  # of: first, all, superclasses
    scores_train: bool = True  # False if a training image would be its own nearest neighbour


def _logreg(params: FitParams, curve: Curve | None, on_fit: OnFit) -> ChosenC:
    logreg = params.logreg
    return ChosenC(logreg.C, logreg.max_iter, params.seed, logreg.choice_images, curve, on_fit)


def _linear(params: FitParams, curve: Curve | None, _: OnFit) -> LinearLayer:
    return LinearLayer(**params.linear.model_dump(), seed=params.seed, curve=curve)


PROBES = {
    "logreg": Entry(_logreg, ("first", "all", "superclasses")),
    "linear": Entry(_linear, ("first",)),
    "neighbours": Entry(lambda params, *_: Neighbours(params.neighbours), ("all", "superclasses"), scores_train=False),
}
