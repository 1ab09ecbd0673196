"""Tensors that are streamed to a file and read by rows."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stages.io.tensors import Stream, open_tensors, read_tensors, write_tensors
from stages.runtime.errors import UserError
from tests.repository import refusal


def some(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return torch.randint(0, 100, shape, generator=torch.Generator().manual_seed(0)).to(dtype)


TENSORS = {
    "labels": some(torch.int64, 10),
    "images": some(torch.uint8, 10, 3, 5),
    "seen": some(torch.bool, 10),
    "ä": some(torch.float32, 10, 7),
    "a": some(torch.float32, 3).sum(),
    "none": torch.empty(0, 4),
}


def test_a_file_has_the_bytes_that_the_safetensors_library_writes(tmp_path: Path) -> None:
    write_tensors(tmp_path / "ours", TENSORS, {"names": ["ä", "b"]})
    save_file(TENSORS, tmp_path / "theirs", {"notes": r'{"names": ["\u00e4", "b"]}'})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_streams_give_the_bytes_of_tensors_and_are_read_in_the_given_order(tmp_path: Path) -> None:
    order = []

    def stream(name: str) -> Iterator[torch.Tensor]:
        for chunk in TENSORS[name].split(4):
            order.append(name)
            yield chunk

    names = ("images", "labels", "ä")
    streams = {name: Stream(tuple(TENSORS[name].shape), TENSORS[name].dtype, stream(name)) for name in names}
    write_tensors(tmp_path / "streams", TENSORS | streams)
    write_tensors(tmp_path / "tensors", TENSORS)
    assert (tmp_path / "streams").read_bytes() == (tmp_path / "tensors").read_bytes()
    assert order == ["labels"] * 3 + ["images"] * 3 + ["ä"] * 3


@pytest.mark.parametrize("rows", [9, 11])
def test_a_stream_with_a_wrong_number_of_rows_raises_an_error_and_leaves_no_file(tmp_path: Path, rows: int) -> None:
    with pytest.raises(ValueError, match=f"x has {rows} bytes instead of 10"):
        write_tensors(tmp_path / "file", {"x": Stream((10,), torch.uint8, [some(torch.uint8, rows)])})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["labels", "images", "seen", "ä"])
def test_every_kind_of_index_gives_the_rows_of_the_tensor(tmp_path: Path, name: str) -> None:
    write_tensors(tmp_path / "file", TENSORS)
    rows, tensor = open_tensors(tmp_path / "file")[0][name], TENSORS[name]
    assert len(rows) == 10
    assert (rows.shape, rows.dtype) == (tensor.shape, tensor.dtype)
    for part in (slice(2, 7), slice(None), slice(8, 30), slice(4, 4), slice(1, None, 3), slice(None, None, -2)):
        numbers = range(10)[part]
        assert torch.equal(rows[part], tensor[list(numbers)])
    for index in (torch.tensor([7, 0, 7, 3]), torch.arange(10).repeat(5), torch.tensor([-1]), torch.tensor([]).long()):
        assert torch.equal(rows[index], tensor[index])
        assert torch.equal(rows[index.numpy()], tensor[index])
    assert torch.equal(rows[np.int64(3)], tensor[3])
    assert torch.equal(rows.all(), tensor)
    assert torch.equal(torch.from_numpy(rows.mapped().copy()), tensor)
    for beyond in (10, torch.tensor([3, 10])):
        with pytest.raises(IndexError):
            rows[beyond]


def test_a_file_truncated_while_it_is_read_gives_a_one_line_error(tmp_path: Path) -> None:
    write_tensors(tmp_path / "file", {"x": torch.zeros(10, 1000)})
    rows = open_tensors(tmp_path / "file")[0]["x"]
    with (tmp_path / "file").open("r+b") as file:
        file.truncate(30_000)
    assert not rows[:5].any()
    for beyond in (slice(5, 10), torch.tensor([9])):
        with pytest.raises(UserError, match=r"file: cannot be read as safetensors \(became shorter\)"):
            rows[beyond]


def test_rows_of_a_file_larger_than_the_memory_are_read(tmp_path: Path) -> None:
    count = 10**9
    header = {
        "__metadata__": {"notes": "{}"},
        "x": {"dtype": "U8", "shape": [count, 1000], "data_offsets": [0, 10**12]},
    }
    encoded = json.dumps(header).encode()
    with (tmp_path / "file").open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.truncate(8 + len(encoded) + 10**12)  # a sparse file, which reads as zeros
        file.seek(-1000, os.SEEK_END)
        file.write(b"\5" * 1000)
    rows = open_tensors(tmp_path / "file")[0]["x"]
    assert rows[torch.tensor([0, count - 1, 5 * 10**8])].sum(1).tolist() == [0, 5000, 0]
    assert rows[count - 2 :].sum(1).tolist() == [0, 5000]
    assert rows.mapped()[count - 1, 7] == 5


DATA = bytes(48)


def file_of(notes: Any = "{}", data: bytes = DATA, length: int | None = None, **changes: Any) -> bytes:
    """A file with one tensor and changed fields in its header."""
    a = {"dtype": "I64", "shape": [2, 3], "data_offsets": [0, 48], **changes}
    encoded = json.dumps({"__metadata__": {"notes": notes}, "a": a}).encode()
    return (len(encoded) if length is None else length).to_bytes(8, "little") + encoded + data


DAMAGED = {
    "empty": b"",
    "cut in the length": file_of()[:5],
    "cut in the header": file_of()[:40],
    "cut in the data": file_of()[:-1],
    "more data": file_of(data=DATA + b"more"),
    **{f"length {length}": file_of(length=length) for length in (0, 7, 400, 2**63, 2**64 - 1)},
    **{f"dtype {dtype}": file_of(dtype=dtype) for dtype in ("F64 ", "X", "", 5, "F32")},
    "a type that is not used": file_of(dtype="F8_E4M3", data=DATA[:6], data_offsets=[0, 6]),
    **{f"shape {shape}": file_of(shape=shape) for shape in ([2], [2, 4], [-2, -3], [2.5, 3], [2**62, 2**62], None)},
    **{f"offsets {offsets}": file_of(data_offsets=offsets) for offsets in ([0], [48, 0], [-8, 40], [0, 2**64])},
    **{
        f"notes {notes[:9]}": file_of(notes)
        for notes in ("", "5", "null", "[1]", "{", "NaN", "[" * 5000, "{}x", '{"a": 1' + "0" * 5000 + "}")
    },
    "notes that are not text": file_of(5),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_gives_a_one_line_error_and_is_not_changed(content: bytes, empty_folder: Path) -> None:
    path = Path("x.safetensors")
    path.write_bytes(file_of())
    assert read_tensors(path)[0]["a"].tolist() == [[0] * 3] * 2
    path.write_bytes(content)
    assert refusal(read_tensors, path).startswith("x.safetensors: cannot be read as safetensors (")
    assert path.read_bytes() == content
