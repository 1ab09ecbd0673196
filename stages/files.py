"""The files that stages exchange: safetensors, CSV and JSON, each written whole or not at all."""

import csv
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name to write to, which takes the place of `path` when the block ends well.

    A crash leaves the old file or none, never one that looks whole and isn't. What a killed process left under the
    temporary name, the next one overwrites. Exits with one line where the disk is full or the folder can't be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:  # safetensors wraps what the system said
        sys.exit(f"{path}: cannot be written ({one_line(error)}); make room or allow writing there, then run again")
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, Any] | None = None) -> None:
    """Writes named tensors, and notes about them (anything that JSON can hold), as safetensors."""
    # One entry only: safetensors writes several in an order that changes from run to run.
    metadata = {"notes": json.dumps(notes or {}, sort_keys=True)}
    with replacing(path) as temporary:
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary, metadata)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a safetensors file, memory-mapped (read from disk as they are used), and its notes.

    Exits with one line where the file is missing or broken.
    """
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


# Six significant digits: enough to compare runs, few enough to read. Sorted keys, \n, no dates: DVC hashes these.


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows with the same keys as CSV; floats with six significant digits."""
    text = io.StringIO()
    table = csv.DictWriter(text, rows[0], lineterminator="\n")
    table.writeheader()
    table.writerows({key: _six_digits(value) for key, value in row.items()} for row in rows)
    write_bytes(path, text.getvalue().encode())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes nested mappings as JSON; floats with six significant digits."""
    write_bytes(path, (json.dumps(_six_digits(content), indent=2, sort_keys=True, allow_nan=False) + "\n").encode())


def _six_digits(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _six_digits(child) for key, child in value.items()}
    return value


def require_room(path: Path, size: int) -> None:
    """Exits where the disk that `path` is to be on has less than `size` bytes free."""
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < size:
        sys.exit(
            f"{path}: {size / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free on its disk; "
            "make room, then run again"
        )


def one_line(error: Exception) -> str:
    """What an exception says, for a message to the user."""
    return shortened(str(error)) or type(error).__name__


def shortened(text: str, length: int = 200) -> str:
    """One printable line of at most about `length` characters, whatever a user's file or folder has in it."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))
    return line if len(line) <= length else f"{line[:length]} ..."
