"""Tensors in safetensors files, with notes: written whole or not at all, read from the disk as they are used."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from stages.files.messages import one_line
from stages.files.writing import replacing


def write_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, Any] | None = None) -> None:
    """Writes named tensors, and notes about them (anything that JSON can hold)."""
    # One entry only: safetensors writes several in an order that changes from run to run.
    metadata = {"notes": json.dumps(notes or {}, sort_keys=True)}
    with replacing(path) as temporary:
        try:
            save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary, metadata)
        except SafetensorError as error:  # wraps what the system said
            raise OSError(str(error)) from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file, memory-mapped, and its notes. Exits with one line where it is missing or broken."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            notes = json.loads(file.metadata()["notes"])
            if not isinstance(notes, dict):
                raise TypeError("has notes of another kind")
            return tensors, notes
    except (OSError, SafetensorError, TypeError, KeyError, ValueError, RecursionError) as error:  # no notes of ours
        sys.exit(
            f"{path}: cannot be read as safetensors ({one_line(error)}); `dvc repro` or `dvc checkout` restores it"
        )
