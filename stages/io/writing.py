"""Atomic writes: a file is complete, or the old one is still there.

Numbers in tables and metrics have six significant digits: enough to compare runs, few enough to read. The same content
gives the same bytes (sorted keys, \\n, no dates), because DVC hashes the files.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from stages.runtime.errors import UserError, one_line


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write to, which replaces `path` if the block succeeds.

    After a crash, `path` is unchanged. A temporary file of a killed process is overwritten by the next one. Raises
    UserError if the disk is full or the folder is not writable.
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
            f"{path}: cannot be written ({one_line(error)}); free disk space or allow writing there, then run again"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_table(path: Path, table: Any) -> None:  # of pandas, which not every stage needs and is slow to import
    write_bytes(path, table.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode())


def write_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    rounded = json.loads(json.dumps(metrics), parse_float=lambda number: float(f"{float(number):.6g}"))
    write_bytes(path, f"{json.dumps(rounded, indent=2, sort_keys=True, allow_nan=False)}\n".encode())


def require_writable(folder: Path) -> None:
    """Raises UserError if the folder cannot be made or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({one_line(error)}); allow writing there, then run again"
        ) from error


def require_room(path: Path, size: int) -> None:
    """Raises UserError if the disk of `path` has less than `size` bytes free."""
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < size:
        raise UserError(
            f"{path}: {size / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free on its disk; "
            "free disk space, then run again"
        )
