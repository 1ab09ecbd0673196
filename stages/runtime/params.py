"""`params.yaml`: how it is read and validated, and the types that several packages use.

A parameter is declared in the package of the stage that reads it (`images/params.py`, `simclr/params.py` and so on),
with its type and bounds, so that a new one reruns only the stages that read it.
"""

import reprlib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML

from stages.runtime.errors import UserError, one_line, shortened

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
# No system has a file of a longer name.
PathText = Annotated[str, Field(min_length=1, max_length=4000, pattern=r"^[^\x00]+$")]

Seed = Annotated[int, Field(ge=0, lt=2**31)]
Threads = Annotated[int, Field(ge=1, le=1024)]  # more than there are cores is allowed, and gives the same bytes
Backbone = Literal["resnet18", "resnet34", "resnet50"]
Data = Literal["sample", "cifar", "folder"]
Weights = Literal["random", "imagenet"]
PixelRange = Annotated[list[Finite], Field(min_length=2, max_length=2)] | None


class Section(BaseModel):
    """Declared parameters. Strict: `epochs: "25"` and `flip: 1` are mistakes, not values to be converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class StageParams(Section):
    """Those that a stage reads; those of others are left to the others."""

    model_config = ConfigDict(extra="ignore")


S = TypeVar("S", bound=StageParams)


def read_params(file: Path = FILE) -> dict[str, Any]:
    """All of `file`, not yet validated."""
    try:
        # YAML 1.2, as DVC reads it: 1e-05 is a number (PyYAML makes it a string), a duplicate key an error.
        content = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file}: not found; run from the root of the repository, or `{WAY_BACK}`") from None
    except Exception as error:  # not UTF-8, not YAML, or a value of a kind that ruamel fails on, such as 2024-13-45
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise UserError(
            f"{file}: is not valid YAML: {where}{one_line(error)}; `{WAY_BACK}` brings the committed one back"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: must hold parameters, as `name: value`; `{WAY_BACK}` brings the committed one back")
    return content


def validated(declared: type[S], content: dict[str, Any]) -> S:
    """What a stage reads of all of params.yaml."""
    try:
        return declared.model_validate(content)
    except ValidationError as error:
        raise refused([_explain(detail) for detail in error.errors(include_url=False)]) from None


def refused(mistakes: list[str]) -> UserError:
    """A line for each, and the way back."""
    return UserError("\n".join([f"{FILE}: {mistake}" for mistake in mistakes] + [ADVICE]))


def _explain(detail: Any) -> str:
    """One line for one wrong key: its name, its value, what is allowed."""
    key = shortened(".".join(str(part) for part in detail["loc"]))
    match detail["type"]:
        case "missing":
            return f"{key} is missing"
        case "invalid_key":
            return f"{key} is not the name of a parameter"
        case "extra_forbidden":
            return f"{key} is not a parameter of this pipeline"
    value = detail["input"]
    return f"{key} = {_brief(value)} ({type(value).__name__}): {detail['msg'].lower()}"


def _brief(value: object) -> str:
    try:
        return shortened(reprlib.repr(value))
    except ValueError:
        return "a number of thousands of digits"  # more than Python prints
