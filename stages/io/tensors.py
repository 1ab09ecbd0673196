"""Tensors in safetensors files, with metadata: written atomically and read by rows.

A file may be larger than the memory: `write_tensors` takes streams, and `open_tensors` reads only the rows that are
indexed. The library writes only whole tensors, and cannot read a list of rows.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any
from weakref import finalize

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stages.io.writing import replacing
from stages.runtime.errors import UserError, one_line

# The version of the model files, in their metadata. Increase it when tensor names, metadata, inputs or outputs change.
FORMAT = "simclr-dvc 3"
DTYPES = {  # in the library's order of tensors in a file
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
DTYPES_BY_NAME = {name: dtype for dtype, name in DTYPES.items()}
READ_THREADS = 16  # the number of rows that are read from the disk at the same time
readers = ThreadPoolExecutor(READ_THREADS)  # starts its threads at the first read


@dataclass(frozen=True)
class Stream:
    """A tensor whose rows are computed while they are written, chunk by chunk; it can be read only once."""

    shape: tuple[int, ...]  # (N, ...)
    dtype: torch.dtype
    chunks: Iterable[Tensor]  # (M, ...) each, N rows together

    def all(self) -> Tensor:
        return torch.cat(list(self.chunks))


class Rows:
    """A tensor (N, ...) in a file. Rows are read from the disk when they are indexed."""

    def __init__(self, path: Path, start: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """start: the offset of its first byte in the file."""
        self.path, self.start, self.shape, self.dtype = path, start, shape, dtype
        self.file = os.open(path, os.O_RDONLY)
        finalize(self, os.close, self.file)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: int | slice | Tensor | np.ndarray) -> Tensor:
        """A row, a slice, or the rows with the given indices (B,): (B, ...)."""
        every = range(len(self))
        if isinstance(which, slice):
            numbers: Sequence[int] = every[which]
        else:
            index = torch.as_tensor(which)
            if index.ndim == 0:
                return self[index[None]][0]
            numbers = [every[number] for number in index.tolist()]
        rows = torch.empty(len(numbers), *self.shape[1:], dtype=self.dtype)
        if isinstance(numbers, range) and numbers.step == 1:
            return self._fill(rows, numbers.start)

        def fill(places: range) -> None:
            for place in places:
                self._fill(rows[place], numbers[place])

        list(readers.map(fill, (range(reader, len(rows), READ_THREADS) for reader in range(READ_THREADS))))
        return rows

    def mapped(self) -> np.ndarray:
        """All of it, memory-mapped and read-only."""
        return np.memmap(self.path, np.dtype(str(self.dtype).removeprefix("torch.")), "r", self.start, self.shape)

    def all(self) -> Tensor:
        return self._fill(torch.empty(self.shape, dtype=self.dtype), 0)

    def _fill(self, into: Tensor, first: int) -> Tensor:
        """Fills the tensor with the rows from `first` on."""
        buffer = into.numpy().reshape(-1).view(np.uint8).data
        place = self.start + first * prod(self.shape[1:]) * self.dtype.itemsize
        while len(buffer):
            try:
                count = os.preadv(self.file, [buffer], place)
                if count == 0:
                    raise EOFError("became shorter")
            except (OSError, EOFError) as error:
                raise UserError(_unreadable(self.path, error)) from error
            buffer, place = buffer[count:], place + count
        return into


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor | Stream], metadata: Mapping[str, Any] | None = None
) -> None:
    """Writes named tensors and metadata (as JSON) with the library's bytes. Streams are read in the given order."""
    streams = {
        name: tensor if isinstance(tensor, Stream) else Stream(tuple(tensor.shape), tensor.dtype, [tensor.cpu()])
        for name, tensor in tensors.items()
    }
    # A single entry, because the library writes several entries in an order that changes from run to run.
    header: dict[str, Any] = {"__metadata__": {"notes": json.dumps(metadata or {}, sort_keys=True)}}
    end = 0
    for name in sorted(streams, key=lambda name: (list(DTYPES).index(streams[name].dtype), name)):
        start, stream = end, streams[name]
        end += prod(stream.shape) * stream.dtype.itemsize
        header[name] = {"dtype": DTYPES[stream.dtype], "shape": stream.shape, "data_offsets": (start, end)}
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % 8)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name, stream in streams.items():
            start, end = (8 + len(encoded) + offset for offset in header[name]["data_offsets"])
            file.seek(start)
            for chunk in stream.chunks:
                file.write(chunk.numpy().tobytes())
            if file.tell() != end:
                raise ValueError(f"{path}: {name} has {file.tell() - start} bytes instead of {end - start}")


def open_tensors(path: Path) -> tuple[dict[str, Rows], dict[str, Any]]:
    """The tensors of a file, to be read by rows, and its metadata. Raises UserError if it is missing or damaged."""
    try:
        with safe_open(path, framework="np") as checked:  # checks that the header fits the file
            metadata = json.loads(checked.metadata()["notes"])
        if not isinstance(metadata, dict):
            raise TypeError("its metadata are not a dictionary")
        with path.open("rb") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(start - 8))
        del header["__metadata__"]
        return {
            name: Rows(path, start + entry["data_offsets"][0], tuple(entry["shape"]), DTYPES_BY_NAME[entry["dtype"]])
            for name, entry in header.items()
        }, metadata
    except (OSError, SafetensorError, TypeError, KeyError, ValueError, RecursionError) as error:
        raise UserError(_unreadable(path, error)) from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of a file, in memory, and its metadata."""
    tensors, metadata = open_tensors(path)
    return {name: rows.all() for name, rows in tensors.items()}, metadata


def _unreadable(path: Path, error: Exception) -> str:
    return f"{path}: cannot be read as safetensors ({one_line(error)}); `dvc repro` or `dvc checkout` restores it"
