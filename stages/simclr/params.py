"""The parameters of `pretrain`."""

import math
import re
from typing import Annotated, Literal

from pydantic import Field

from stages.runtime.params import (
    LARGEST,
    Backbone,
    Count,
    LearningRate,
    NonNegative,
    Probability,
    Section,
    Seed,
    Several,
    StageParams,
    Threads,
)

# What dvc.yaml puts before `-m stages pretrain`: Python, or torchrun with its options.
LAUNCH = "^(python|torchrun( -[^ ]+)*)$"


class Augment(Section):
    min_area: Annotated[float, Field(gt=0, le=1)]
    jitter: Annotated[float, Field(ge=0, le=1)]
    grayscale: Probability
    blur: Probability
    flip: bool


class PretrainParams(StageParams):
    augment: Augment
    backbone: Backbone
    batch_size: Several
    epochs: Count
    lr: LearningRate
    # In one or two dimensions, untrained embeddings are all but equal, which counts as a collapse.
    projection_dim: Annotated[int, Field(ge=8, le=65536)]
    same_bytes: bool
    seed: Seed
    stem: Literal["imagenet", "cifar"]
    # Below a thousandth, exp(cosine / temperature) leaves float32.
    temperature: Annotated[float, Field(ge=0.001, le=LARGEST, allow_inf_nan=False)]
    threads: Threads
    weight_decay: NonNegative


class LaunchParams(StageParams):
    """What starts the stages that several processes can run together; DVC puts it into their commands."""

    launch: Annotated[str, Field(pattern=LAUNCH)]

    @property
    def processes(self) -> int:
        """How many `launch` starts, where it gives their number."""
        numbers = re.findall(r"--n(?:proc[-_]per[-_]node|nodes)=([1-9]\d*)", self.launch)
        return math.prod(map(int, numbers))
