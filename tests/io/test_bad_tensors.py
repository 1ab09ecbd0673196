"""Damaged files of the stages, and a damaged checkpoint: refused, or reported and ignored, in one line."""

import io
import json
import tempfile
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stages.io.tensors import read_tensors, write_tensors
from stages.simclr.checkpoint import Checkpoint
from tests.bad_input import damages, elsewhere, examples, flips, outcome  # noqa: F401 (elsewhere runs by itself)

TENSORS = 100  # examples of each of 4 tests
STATES = 50  # of another
TENSORS_BY_NAME = {
    "a": torch.arange(6).reshape(2, 3),
    "b": torch.tensor(0.5),
    "none": torch.empty(0, 3),
    "images": torch.zeros(4, dtype=torch.uint8),
}

with tempfile.TemporaryDirectory() as folder:
    write_tensors(Path(folder, "x"), TENSORS_BY_NAME, {"names": ["ant", "bee"], "count": 2})
    TENSOR_FILE = Path(folder, "x").read_bytes()
    checkpoint = Checkpoint(Path(folder, "y"))
    checkpoint.save([{"epoch": 1.0, "loss": 0.5}], model=nn.Linear(3, 2))
    checkpoint.wait()
    CHECKPOINT_FILE = Path(folder, "y").read_bytes()
HEADER_END = 8 + int.from_bytes(TENSOR_FILE[:8], "little")
HEADER = json.loads(TENSOR_FILE[8:HEADER_END])
NOTES = range(TENSOR_FILE.index(b'"notes":"') + 9, TENSOR_FILE.index(b'"},'))


def headed(header: object, length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + TENSOR_FILE[HEADER_END:]


def is_refused(content: bytes) -> bool:
    path = Path("x.safetensors")
    path.write_bytes(content)
    result = outcome(read_tensors, path)
    assert path.read_bytes() == content
    if isinstance(result, str):
        assert result.startswith("x.safetensors: cannot be read as safetensors (")
        return True
    tensors, notes = result
    assert isinstance(notes, dict)
    assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
    return False


@examples(TENSORS)
@given(st.integers(0, len(TENSOR_FILE) - 1))
def test_tensors_cut_anywhere_are_refused(kept: int) -> None:
    assert is_refused(TENSOR_FILE[:kept])


@examples(TENSORS)
@given(flips(TENSOR_FILE, st.sampled_from([at for at in range(HEADER_END) if at not in NOTES])))
def test_tensors_with_a_damaged_header_are_refused_or_read(content: bytes) -> None:
    is_refused(content)


numbers = st.integers(-1, 9) | st.sampled_from([48, 52, 56, 2**31, 2**62, 2**63, 2**64 - 1, 2**64]) | st.floats(0, 9)
types = st.sampled_from(["F64", "I8", "U8", "BOOL", "BF16", "F8_E4M3", "F4", "C64", "X", "", 5])
lies = st.one_of(
    st.tuples(st.just("dtype"), types),
    st.tuples(st.just("shape"), st.lists(numbers, max_size=4) | st.none()),
    st.tuples(st.just("data_offsets"), st.lists(numbers, min_size=1, max_size=3)),
    st.tuples(st.just("more"), st.integers()),
)
lengths = st.none() | st.integers(0, 400) | st.integers(0, 2**64 - 1)


@examples(TENSORS)
@given(st.lists(st.tuples(st.sampled_from([*TENSORS_BY_NAME, "new"]), lies), max_size=3), lengths)
def test_tensors_whose_header_lies_are_refused_or_read(drawn: list[tuple[str, Any]], length: int | None) -> None:
    header = json.loads(json.dumps(HEADER))
    for tensor, (field, value) in drawn:
        header.setdefault(tensor, {})[field] = value
    is_refused(headed(header, length))


def noted(notes: str) -> bytes:
    return headed(HEADER | {"__metadata__": {"notes": notes}})


@examples(TENSORS)
@given(flips(TENSOR_FILE, st.sampled_from(NOTES)))
def test_tensors_with_damaged_notes_are_refused_or_read(content: bytes) -> None:
    is_refused(content)


def test_tensors_with_other_notes_than_a_mapping_are_refused() -> None:
    assert not is_refused(noted("{}"))
    for notes in ("", "5", "null", "[1]", "{", "NaN", "[" * 5000, "{}x", '{"a": 1' + "0" * 5000 + "}"):
        assert is_refused(noted(notes))
    assert is_refused(headed(HEADER | {"__metadata__": {}}))


@examples(STATES)
@given(damages(CHECKPOINT_FILE))
def test_a_damaged_checkpoint_is_reported_and_ignored(content: bytes) -> None:
    checkpoint = Checkpoint(Path("x.state"))
    checkpoint.path.write_bytes(content)
    model = nn.Linear(3, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with redirect_stderr(io.StringIO()) as said:
        assert outcome(lambda: checkpoint.restore(model=model)) == []
    assert said.getvalue() == "x.state: is damaged and ignored; training starts from the beginning\n"
    assert checkpoint.epochs == 0
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert checkpoint.path.read_bytes() == content
