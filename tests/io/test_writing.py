"""Files are written atomically, and the same content gives the same bytes."""

import errno
import os
from pathlib import Path

import pandas as pd
import pytest
import torch

from stages.io.tensors import read_tensors, write_tensors
from stages.io.writing import replacing, write_bytes, write_metrics, write_table
from stages.runtime.errors import UserError
from tests.repository import refusal

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("crash", "expected", "message"),
    [
        (RuntimeError("bug"), RuntimeError, "bug"),
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
        (FULL, UserError, "file: cannot be written .*No space left on device"),
    ],
)
def test_a_crash_or_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, crash: BaseException, expected: type[BaseException], message: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(expected, match=message), replacing(path) as temporary:
        temporary.write_bytes(b"ne")
        raise crash
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("file", b"old")]


def test_a_temporary_file_of_a_killed_process_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".file.tmp").write_bytes(b"half of it, and longer")
    write_bytes(tmp_path / "file", b"new")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("file", b"new")]


def test_a_reader_of_the_old_file_still_reads_all_of_it(tmp_path: Path) -> None:
    write_bytes(tmp_path / "file", b"old")
    with (tmp_path / "file").open("rb") as reader:
        write_bytes(tmp_path / "file", b"new")
        assert (reader.read(), (tmp_path / "file").read_bytes()) == (b"old", b"new")


def test_a_folder_that_cannot_be_created_gives_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    line = refusal(write_tensors, tmp_path / "file" / "x.safetensors", {"a": torch.zeros(1)})
    assert "cannot be written " in line
    assert "File exists" in line


def test_tables_and_metrics_have_six_significant_digits(tmp_path: Path) -> None:
    write_table(tmp_path / "x.csv", pd.DataFrame({"step": [1, 2], "loss": [1 / 3, 2e-7 / 3], "name": ["ä", "b,c"]}))
    assert (tmp_path / "x.csv").read_bytes() == 'step,loss,name\n1,0.333333,ä\n2,6.66667e-08,"b,c"\n'.encode()
    write_metrics(tmp_path / "x.json", {"b": {"c": 2 / 3}, "a": 1})
    assert (tmp_path / "x.json").read_bytes() == b'{\n  "a": 1,\n  "b": {\n    "c": 0.666667\n  }\n}\n'


def test_a_metric_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    """JSON has no NaN, so DVC could not read the file."""
    with pytest.raises(ValueError):
        write_metrics(tmp_path / "x.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_tensors_and_metadata_are_restored_and_their_order_does_not_change_the_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "new" / "x.safetensors", tmp_path / "y.safetensors"
    tensors = {"a": torch.arange(6).reshape(2, 3).T, "b": torch.tensor(0.5), "none": torch.empty(0, 3)}
    metadata = {"names": ["ä", "b"], "count": 2}
    write_tensors(first, tensors, metadata)
    write_tensors(second, dict(reversed(tensors.items())), dict(reversed(metadata.items())))
    assert first.read_bytes() == second.read_bytes()
    read, read_metadata = read_tensors(first)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    assert read_metadata == metadata


def test_a_missing_file_gives_a_one_line_error_that_tells_how_to_restore_it(tmp_path: Path) -> None:
    line = refusal(read_tensors, tmp_path / "x.safetensors")
    assert "x.safetensors: cannot be read " in line
    assert "dvc checkout" in line
