"""`params.yaml`, typed and bounded: every key is declared once, here.

`load_params` is what stages call. A mistake in the file ends the stage with one line per wrong key and exit status 1.
"""

import math
import re
import reprlib
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML

from stages.files.messages import one_line, shortened

FILE = Path("params.yaml")
# From HEAD, because DVC stages what `dvc exp run` changes. With a touch, because DVC writes params.yaml twice in a
# second: git compares times in seconds and sizes, and would not see a change to a value of the same length.
WAY_BACK = f"touch {FILE} && git checkout HEAD -- {FILE} dvc.lock"
ADVICE = f"(correct it, or go back: `{WAY_BACK}`)"

# Where nothing else bounds a number, these do: a float holds every whole number so far, and every message the number.
LARGEST = 1e15
Positive = Annotated[float, Field(gt=0, le=LARGEST, allow_inf_nan=False)]
LearningRate = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False)]
Finite = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Several = Annotated[int, Field(ge=2, lt=2**31)]
# What dvc.yaml puts before `-m stages.pretrain`: Python, or torchrun with its options.
LAUNCH = "^(python|torchrun( -[^ ]+)*)$"
# No system has a file of a longer name.
PathText = Annotated[str, Field(min_length=1, max_length=4000, pattern=r"^[^\x00]+$")]


class _Section(BaseModel):
    # Strict: `epochs: "25"` and `flip: 1` are mistakes, not values to be converted.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Augment(_Section):
    min_area: Annotated[float, Field(gt=0, le=1)]
    jitter: Annotated[float, Field(ge=0, le=1)]
    grayscale: Probability
    blur: Probability
    flip: bool


class Logreg(_Section):
    C: Annotated[list[Positive], Field(min_length=1)]
    choice_images: Several
    max_iter: Count
    labels_per_class: list[Several]
    draws: Several


class Linear(_Section):
    batch_size: Count
    epochs: Count
    lr: LearningRate
    weight_decay: NonNegative


class Params(_Section):
    """All of params.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**31)]
    threads: Count
    same_bytes: bool
    launch: Annotated[str, Field(pattern=LAUNCH)]
    data: Literal["sample", "cifar", "folder"]
    folder: PathText
    image_size: Annotated[int, Field(ge=32, le=512, multiple_of=32)]
    pixel_range: Annotated[list[Finite], Field(min_length=2, max_length=2)] | None
    mirror: PathText | None
    weights: Literal["random", "imagenet"]
    stem: Literal["imagenet", "cifar"]
    batch_size: Several
    # In one or two dimensions, untrained embeddings are all but equal, which counts as a collapse.
    projection_dim: Annotated[int, Field(ge=8, le=65536)]
    lr: LearningRate
    weight_decay: NonNegative
    epochs: Count
    # Below a thousandth, exp(cosine / temperature) leaves float32.
    temperature: Annotated[float, Field(ge=0.001, le=LARGEST, allow_inf_nan=False)]
    augment: Augment
    first_classes: Several
    logreg: Logreg
    linear: Linear
    neighbours: Count

    @property
    def processes(self) -> int:
        """How many `launch` starts, as far as it says so in numbers."""
        numbers = re.findall(r"--n(?:proc[-_]per[-_]node|nodes)=([1-9]\d*)", self.launch)
        return math.prod(map(int, numbers))


def load_params(file: Path = FILE) -> Params:
    """Reads and checks all of `file`; exits with one line per wrong key."""
    try:
        # YAML 1.2, as DVC reads it: 1e-05 is a number (PyYAML makes it a string), a duplicate key an error.
        content = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        sys.exit(f"{file}: not found; run from the root of the repository, or `{WAY_BACK}`")
    except Exception as error:  # not UTF-8, not YAML, or a value of a kind that ruamel fails on, such as 2024-13-45
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        said = where + one_line(error)
        sys.exit(f"{file}: is not valid YAML: {said}; `{WAY_BACK}` brings the committed one back")
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        refuse([_explain(detail) for detail in error.errors(include_url=False)])


def refuse(mistakes: list[str]) -> NoReturn:
    """Exits with a line for each, and the way back."""
    sys.exit("\n".join([f"{FILE}: {mistake}" for mistake in mistakes] + [ADVICE]))


def _explain(detail: Any) -> str:
    """One line for one wrong key: its name, its value, what is allowed."""
    key = shortened(".".join(str(part) for part in detail["loc"])) or "the whole file"
    match detail["type"]:
        case "missing":
            return f"{key} is missing"
        case "invalid_key":
            return f"{key} is no name of a parameter"
        case "extra_forbidden":
            return f"{key} is not a parameter of this pipeline"
        case _:
            value = detail["input"]
            return f"{key} = {_brief(value)} ({type(value).__name__}): {detail['msg'].lower()}"


def _brief(value: object) -> str:
    try:
        return shortened(reprlib.repr(value))
    except ValueError:
        return "a number of thousands of digits"  # more than Python prints
