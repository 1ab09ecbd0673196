"""Files are whole or absent, and the same for the same content."""

import errno
import os
from pathlib import Path

import pytest
import torch

from stages.files import read_tensors, replacing, require_room, write_bytes, write_csv, write_json, write_tensors


def test_a_crash_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_bytes(b"ne")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_tensors_and_notes_come_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.safetensors"
    tensors = {"a": torch.arange(6).reshape(2, 3).T, "b": torch.tensor(0.5), "none": torch.empty(0, 3)}
    write_tensors(path, tensors, {"names": ["ä", "b"], "count": 2})
    read, notes = read_tensors(path)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    assert notes == {"names": ["ä", "b"], "count": 2}


@pytest.mark.parametrize("kept", [0, 4, 20, 100])
def test_a_file_cut_short_is_refused_in_one_line(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.zeros(100)})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(SystemExit, match=r"x\.safetensors: cannot be read .*dvc checkout") as stopped:
        read_tensors(path)
    assert "\n" not in str(stopped.value.code)


def test_a_missing_file_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"x\.safetensors: cannot be read"):
        read_tensors(tmp_path / "x.safetensors")


def test_csv_and_json_are_plain_and_have_six_digits(tmp_path: Path) -> None:
    write_csv(tmp_path / "x.csv", [{"step": 1, "loss": 1 / 3}, {"step": 2, "loss": 2e-7 / 3}])
    assert (tmp_path / "x.csv").read_bytes() == b"step,loss\n1,0.333333\n2,6.66667e-08\n"
    write_json(tmp_path / "x.json", {"b": {"c": 2 / 3}, "a": 1})
    assert (tmp_path / "x.json").read_bytes() == b'{\n  "a": 1,\n  "b": {\n    "c": 0.666667\n  }\n}\n'


def test_a_full_disk_ends_in_one_line_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(SystemExit, match=r"file: cannot be written .*No space left on device"), replacing(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert path.read_bytes() == b"old"


def test_a_folder_that_cannot_be_made_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SystemExit, match=r"cannot be written .*File exists"):
        write_tensors(tmp_path / "file" / "x.safetensors", {"a": torch.zeros(1)})


def test_too_little_room_is_noticed_before_anything_is_written(tmp_path: Path) -> None:
    require_room(tmp_path / "new" / "file", 1)
    with pytest.raises(SystemExit, match=r"file: 1000000000\.00 GB are needed and .* GB are free") as stopped:
        require_room(tmp_path / "new" / "file", 10**18)
    assert "\n" not in str(stopped.value.code)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".file.tmp").write_bytes(b"half of it, and longer")
    write_bytes(tmp_path / "file", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"new")]
