"""The parameters of `pretrain`."""

import math
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from stages.runtime.params import (
    LARGEST_NUMBER,
    AtLeastTwo,
    Backbone,
    ComputeParams,
    Count,
    LearningRate,
    NonNegative,
    Probability,
    Section,
    StageParams,
)

PROCESSES = r"--n(?:proc[-_]per[-_]node|nodes)"
LAUNCH = rf"python|torchrun( --standalone| (?!{PROCESSES}=0)--[a-z][a-z_-]*=[^ ]+)*"


def _launch(command: str) -> str:
    if not re.fullmatch(LAUNCH, command):
        raise PydanticCustomError(
            "launch", "must be python, or torchrun with options --name=value (or --standalone), one space between them"
        )
    return command


class Augment(Section):
    min_area: Annotated[float, Field(gt=0, le=1)]
    jitter: Annotated[float, Field(ge=0, le=1)]
    grayscale: Probability
    blur: Probability
    flip: bool


class PretrainParams(ComputeParams):
    augment: Augment
    backbone: Backbone
    batch_size: AtLeastTwo
    epochs: Count
    lr: LearningRate
    # In one or two dimensions, untrained embeddings are almost equal, which would be reported as a collapse.
    projection_dim: Annotated[int, Field(ge=8, le=4096)]
    stem: Literal["imagenet", "cifar"]
    # Below 0.001, exp(cosine / temperature) overflows float32.
    temperature: Annotated[float, Field(ge=0.001, le=LARGEST_NUMBER, allow_inf_nan=False)]
    weight_decay: NonNegative


class LaunchParams(StageParams):
    """The start command of the stages that several processes can run together; used in dvc.yaml."""

    launch: Annotated[str, AfterValidator(_launch)]  # the command before `-m stages pretrain`

    @property
    def processes(self) -> int:
        """The number of processes that `launch` starts; 1 if it does not give a number."""
        numbers = re.findall(rf"{PROCESSES}=([1-9]\d*)", self.launch)
        return math.prod(map(int, numbers))
