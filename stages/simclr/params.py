"""The parameters of `pretrain`."""

import math
import re
from typing import Annotated, Literal

from pydantic import Field

from stages.runtime.params import (
    LARGEST_NUMBER,
    AtLeastTwo,
    Backbone,
    Count,
    LearningRate,
    NonNegative,
    Probability,
    Section,
    Seed,
    StageParams,
    Threads,
)

# The command before `-m stages pretrain` in dvc.yaml: Python, or torchrun with its options.
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
    batch_size: AtLeastTwo
    epochs: Count
    lr: LearningRate
    # In one or two dimensions, untrained embeddings are almost equal, which would be reported as a collapse.
    projection_dim: Annotated[int, Field(ge=8, le=4096)]
    same_bytes: bool
    seed: Seed
    stem: Literal["imagenet", "cifar"]
    # Below 0.001, exp(cosine / temperature) overflows float32.
    temperature: Annotated[float, Field(ge=0.001, le=LARGEST_NUMBER, allow_inf_nan=False)]
    threads: Threads
    weight_decay: NonNegative


class LaunchParams(StageParams):
    """The start command of the stages that several processes can run together; used in dvc.yaml."""

    launch: Annotated[str, Field(pattern=LAUNCH)]

    @property
    def processes(self) -> int:
        """The number of processes that `launch` starts; 1 if it does not give a number."""
        numbers = re.findall(r"--n(?:proc[-_]per[-_]node|nodes)=([1-9]\d*)", self.launch)
        return math.prod(map(int, numbers))
