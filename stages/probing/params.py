"""The parameters of the probes: the stages `fit-logreg`, `fit-linear` and `fit-neighbours`."""

from typing import Annotated

from pydantic import Field

from stages.runtime.params import AtLeastTwo, ComputeParams, Count, LearningRate, NonNegative, Section


class Logreg(Section):
    # The fits of more extreme values overflow.
    C: Annotated[list[Annotated[float, Field(ge=1e-9, le=1e9)]], Field(min_length=1)]
    choice_images: AtLeastTwo
    max_iter: Count
    labels_per_class: list[AtLeastTwo]
    draws: AtLeastTwo


class Linear(Section):
    batch_size: Count
    epochs: Count
    lr: LearningRate
    weight_decay: NonNegative


class LogregParams(ComputeParams):
    first_classes: AtLeastTwo
    logreg: Logreg


class LinearParams(ComputeParams):
    first_classes: AtLeastTwo
    linear: Linear


class NeighboursParams(ComputeParams):
    neighbours: Count
