"""The parameters of `fit-logreg`."""

from typing import Annotated

from pydantic import Field

from stages.runtime.params import (
    AtLeastTwo,
    Count,
    LearningRate,
    NonNegative,
    Positive,
    Section,
    Seed,
    StageParams,
    Threads,
)


class Logreg(Section):
    C: Annotated[list[Positive], Field(min_length=1)]
    choice_images: AtLeastTwo
    max_iter: Count
    labels_per_class: list[AtLeastTwo]
    draws: AtLeastTwo


class Linear(Section):
    batch_size: Count
    epochs: Count
    lr: LearningRate
    weight_decay: NonNegative


class FitParams(StageParams):
    first_classes: AtLeastTwo
    linear: Linear
    logreg: Logreg
    neighbours: Count
    same_bytes: bool
    seed: Seed
    threads: Threads
