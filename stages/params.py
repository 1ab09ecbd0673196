"""`params.yaml`, typed and bounded: every key is declared once, here.

`load_params` is what stages call. A mistake in the file ends the stage with one line per wrong key and exit status 1.
"""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.files import one_line

FILE = Path("params.yaml")

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
LearningRate = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


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
    validation_fraction: Annotated[float, Field(gt=0, lt=1)]
    max_iter: Count


class Linear(_Section):
    batch_size: Count
    epochs: Count
    lr: LearningRate
    weight_decay: NonNegative


class Params(_Section):
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    data: Literal["sample", "cifar", "folder"]
    folder: Annotated[str, Field(min_length=1)]
    mirror: Annotated[str, Field(min_length=1)] | None
    weights: Literal["random", "imagenet"]
    stem: Literal["imagenet", "cifar"]
    batch_size: Annotated[int, Field(ge=2)]
    projection_dim: Annotated[int, Field(ge=1, le=65536)]
    lr: LearningRate
    weight_decay: NonNegative
    epochs: Count
    # Below a thousandth, exp(cosine / temperature) leaves float32.
    temperature: Annotated[float, Field(ge=0.001, allow_inf_nan=False)]
    augment: Augment
    first_classes: Annotated[int, Field(ge=2)]
    logreg: Logreg
    linear: Linear

    @field_validator("first_classes")
    @classmethod
    def _classes_exist(cls, value: int, info: ValidationInfo) -> int:
        # How many classes a folder has, only the stage that reads it knows.
        if info.data.get("data") in ("sample", "cifar") and value > 100:
            raise ValueError(f"data: {info.data['data']} has 100 classes")
        return value


def load_params(file: Path = FILE) -> Params:
    """Reads and checks all of `file`; exits with one line per wrong key."""
    try:
        # YAML 1.2, as DVC reads it: 1e-05 is a number (PyYAML makes it a string), a duplicate key an error.
        content = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        sys.exit(f"{file}: not found; run from the root of the repository, or `git checkout {file}`")
    except UnicodeDecodeError as error:
        sys.exit(f"{file}: is not UTF-8 text ({error.reason}); `git checkout {file}` brings the committed one back")
    except YAMLError as error:
        sys.exit(f"{file}: is not valid YAML: {one_line(error)}; `git checkout {file}` brings the committed one back")
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        wrong = "\n".join(f"{file}: {_explain(detail)}" for detail in error.errors(include_url=False))
        sys.exit(f"{wrong}\n(correct it, or go back: `git checkout {file}`, then `dvc repro` restores what was there)")


def _explain(detail: Any) -> str:
    """One line for one wrong key: its name, its value, what is allowed."""
    key = ".".join(str(part) for part in detail["loc"]) or "the whole file"
    match detail["type"]:
        case "missing":
            return f"{key} is missing"
        case "extra_forbidden":
            return f"{key} is not a parameter of this pipeline"
        case _:
            value = detail["input"]
            return f"{key} = {value!r} ({type(value).__name__}): {detail['msg'].lower().removeprefix('value error, ')}"
