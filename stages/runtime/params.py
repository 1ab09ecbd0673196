"""`params.yaml`: reading, validation, and the types that several packages use.

Each parameter is declared, with its type and bounds, in the package of the stage that reads it (`images/params.py`,
`simclr/params.py` and so on), so that a new parameter reruns `check` and the stages that use this package.
"""

import reprlib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML

from stages.runtime.errors import UserError, one_line, shortened

FILE = Path("params.yaml")

LARGEST_NUMBER = 1e15  # a float represents every integer up to here exactly, and messages can show it
LearningRate = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, le=LARGEST_NUMBER, allow_inf_nan=False)]
Finite = Annotated[float, Field(ge=-LARGEST_NUMBER, le=LARGEST_NUMBER, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
AtLeastTwo = Annotated[int, Field(ge=2, lt=2**31)]
# No operating system allows longer paths.
PathText = Annotated[str, Field(min_length=1, max_length=4000, pattern=r"^[^\x00]+$")]

Seed = Annotated[int, Field(ge=0, lt=2**31)]
Threads = Annotated[int, Field(ge=1, le=1024)]  # may exceed the number of cores, with the same bytes
Backbone = Literal["resnet18", "resnet34", "resnet50"]
Data = Literal["sample", "cifar", "folder"]
Weights = Literal["random", "imagenet"]
PixelRange = Annotated[list[Finite], Field(min_length=2, max_length=2)] | None


class Section(BaseModel):
    """Declared parameters. Strict: `epochs: "25"` and `flip: 1` are errors; nothing is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class StageParams(Section):
    """The parameters that a stage reads; all others are ignored."""

    model_config = ConfigDict(extra="ignore")


class ComputeParams(StageParams):
    """Those of all stages that compute."""

    same_bytes: bool
    seed: Seed
    threads: Threads


S = TypeVar("S", bound=StageParams)


def read_params(file: Path = FILE) -> dict[str, Any]:
    """All of `file`, not yet validated."""
    try:
        # YAML 1.2, as in DVC: 1e-05 is a number (a string in PyYAML), and a duplicate key is an error.
        content = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file}: not found; run from the root of the repository") from None
    except Exception as error:  # not UTF-8, not YAML, or a value that crashes ruamel, such as 2024-13-45
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise UserError(f"{file}: is not valid YAML: {where}{one_line(error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: must consist of lines `name: value`")
    return content


def validated(declared: type[S], content: dict[str, Any]) -> S:
    """The declared parameters out of all of params.yaml."""
    try:
        return declared.model_validate(content)
    except ValidationError as error:
        raise params_error([_explain(detail) for detail in error.errors(include_url=False)]) from None


def params_error(mistakes: list[str]) -> UserError:
    """One line per mistake."""
    return UserError("\n".join(f"{FILE}: {mistake}" for mistake in mistakes))


def _explain(detail: Any) -> str:
    """One line: the name of the parameter, its value, what is allowed."""
    key = shortened(".".join(str(part) for part in detail["loc"]))
    match detail["type"]:
        case "missing":
            return f"{key} is missing"
        case "invalid_key":
            return f"{key} is not a valid parameter name"
        case "extra_forbidden":
            return f"{key} is not a parameter of this pipeline; remove it, or declare it in a params.py (README.md)"
    value = detail["input"]
    return f"{key} = {_brief(value)} ({type(value).__name__}): {detail['msg'].lower()}"


def _brief(value: object) -> str:
    try:
        return shortened(reprlib.repr(value))
    except ValueError:
        return "a number with thousands of digits"  # Python refuses to print it
