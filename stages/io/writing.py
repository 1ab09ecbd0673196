"""The files that stages write, each whole or not at all.

Numbers in tables and metrics have six significant digits: enough to compare runs, few enough to read. Their bytes
depend on the content alone (sorted keys, \\n, no dates), because DVC hashes them.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.runtime.errors import UserError, one_line

if TYPE_CHECKING:  # not every stage needs it, and it takes a while to import
    import pandas as pd


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name to write to, which takes the place of `path` when the block ends well.

    A crash leaves the old file or none, never a part of one. What a killed process left under the temporary name,
    the next one overwrites. Raises UserError where the disk is full or the folder can't be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({one_line(error)}); make room or allow writing there, then run again"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_table(path: Path, table: "pd.DataFrame") -> None:
    write_bytes(path, table.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode())


def write_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    rounded = json.loads(json.dumps(metrics), parse_float=lambda number: float(f"{float(number):.6g}"))
    write_bytes(path, f"{json.dumps(rounded, indent=2, sort_keys=True, allow_nan=False)}\n".encode())


def require_room(path: Path, size: int) -> None:
    """Raises UserError where the disk that `path` is to be on has less than `size` bytes free."""
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < size:
        raise UserError(
            f"{path}: {size / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free on its disk; "
            "make room, then run again"
        )
