"""The parameters of the probes: the stages `fit-logreg`, `fit-linear` and `fit-neighbours`."""

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


class ProbeParams(StageParams):
    same_bytes: bool
    seed: Seed
    threads: Threads


class LogregParams(ProbeParams):
    first_classes: AtLeastTwo
    logreg: Logreg


class LinearParams(ProbeParams):
    first_classes: AtLeastTwo
    linear: Linear


class NeighboursParams(ProbeParams):
    neighbours: Count
