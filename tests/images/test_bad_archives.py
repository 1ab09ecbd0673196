"""Odd and hostile archives and weights: refused in one line, and nothing in them is executed or written to disk."""

import gzip
import io
import itertools
import os
import pickle
import shutil
import subprocess
import tarfile
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stages.download import starting_weights
from stages.images.cifar import load_cifar
from stages.images.dataset import Dataset
from tests.bad_input import MARKER, contents, damages, elsewhere, examples, fits_together, forget, outcome  # noqa: F401 (elsewhere runs by itself)
from tests.images.data import images_of
from tests.images.test_cifar import CIFAR10, MEMBERS, packed, pickled, rows

ARCHIVES = 150  # examples of each of 3 tests
PICKLES = pickled(MEMBERS)
TRAIN, TEST, META = MEMBERS


def load(cifar100: bytes) -> Dataset | str:
    """What `load_cifar` makes of such an archive, next to a right one of CIFAR-10."""
    Path("archives").mkdir(exist_ok=True)
    Path("archives/10").write_bytes(CIFAR10)
    Path("archives/100").write_bytes(cifar100)
    before = contents()
    loaded = outcome(load_cifar, Path("archives/10"), Path("archives/100"), 32)
    assert contents() == before
    if isinstance(loaded, str):
        assert loaded.startswith("archives/100: is not the archive it should be (")
    else:
        fits_together(loaded, images_of(loaded))
    return loaded


def load_with(name: str, content: object) -> Dataset | str:
    return load(packed(PICKLES | pickled({name: content})))


@pytest.mark.parametrize("content", [CIFAR10, b"", b"no archive at all"], ids=["other members", "empty", "text"])
def test_a_file_that_is_not_the_archive_is_refused(content: bytes) -> None:
    assert isinstance(load(content), str)


SHORT = {b"data": rows(2, 0)[:, 1:], b"fine_labels": [0, 0], b"coarse_labels": [0, 0]}
ODD_MEMBERS = [
    *((name, odd) for name in MEMBERS for odd in (None, 5, b"text", [b"data"], {})),
    *((TRAIN, SHORT | {b"data": rows(2, 0).astype(kind)}) for kind in ("i1", "i8", "f4", "?", "S1", "O")),
    *((TRAIN, SHORT | {b"data": odd}) for odd in (SHORT[b"data"], rows(3, 0), rows(2, 0).tolist(), b"x" * 6144)),
    *((META, MEMBERS[META] | {b"fine_label_names": odd}) for odd in (None, ["apple", "bear"], [b"\xff", b"b"], [1, 2])),
    (META, MEMBERS[META] | {b"fine_label_names": [b"apple"]}),
]


@pytest.mark.parametrize(("name", "content"), ODD_MEMBERS)
def test_an_archive_whose_members_hold_something_else_is_refused(name: str, content: object) -> None:
    assert isinstance(load_with(name, content), str)


@examples(ARCHIVES)
@given(
    st.lists(st.integers(-1, 2), max_size=3) | st.lists(st.sampled_from([0, 0.0, None, "1", b"1", [0], 2**63, 2**64])),
    st.sampled_from([TRAIN, TEST]),
    st.sampled_from(["fine", "coarse"]),
)
def test_labels_are_taken_where_there_is_a_known_class_for_each_image(labels: list, name: str, level: str) -> None:
    content = {b"data": rows(2, 0), b"fine_labels": [0, 1], b"coarse_labels": [0, 0]}
    content[f"{level}_labels".encode()] = labels
    known = range({"fine": 2, "coarse": 1}[level])
    right = len(labels) == 2 and all(isinstance(label, int) and label in known for label in labels)
    assert isinstance(load_with(name, content), Dataset) == right


TYPES = [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
elsewhere_names = st.sampled_from(
    [
        *("../evil", "../../../evil", "cifar-100-python/../../evil", "/tmp/simclr-evil", "evil"),
        *(".", "x" * 300, "a\nb", "\udcff"),
    ]
)


@st.composite
def odd_archives(draw: st.DrawFn) -> bytes:
    """The right pickles under wrong names, as directories, links, pipes and devices, or with lies about their size."""
    members = []
    for name, data in PICKLES.items():
        info = tarfile.TarInfo(draw(st.just(name) | elsewhere_names))
        info.type = draw(st.just(tarfile.REGTYPE) | st.sampled_from(TYPES))
        info.linkname = draw(st.sampled_from(sorted(PICKLES)) | elsewhere_names)
        info.size = draw(st.sampled_from([len(data), len(data), 0, len(data) // 2, len(data) + 512, 10**12]))
        info.mode = 0o7777
        members.append((info, data))
    members += [(tarfile.TarInfo(draw(elsewhere_names)), b"") for _ in range(draw(st.integers(0, 2)))]
    blocks = [
        info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape") + data + bytes(-len(data) % tarfile.BLOCKSIZE)
        for info, data in draw(st.permutations(members))
    ]  # tarfile itself would not write all of these
    return gzip.compress(b"".join(blocks) + bytes(2 * tarfile.BLOCKSIZE), 1)


@examples(ARCHIVES)
@given(odd_archives())
def test_no_member_is_written_anywhere(content: bytes) -> None:
    load(content)
    assert not any(Path(place, "evil").exists() for place in ("..", "../..", "../../..", "archives"))
    assert not Path("/tmp/simclr-evil").exists()


# Code in what is downloaded


class Call:
    """Its pickle calls a function when it is read."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def saved(content: object, **how: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **how)
    return buffer.getvalue()


CALLS = {
    "os.system": Call(os.system, f"touch {MARKER}"),
    "os.mkdir": Call(os.mkdir, MARKER),
    "subprocess.run": Call(subprocess.run, ["touch", MARKER]),
    "subprocess.Popen": Call(subprocess.Popen, f"touch {MARKER}", -1, None, None, None, None, None, True, True),
    "eval": Call(eval, f"open({MARKER!r}, 'w')"),
    "exec": Call(exec, f"open({MARKER!r}, 'w')"),
    "open": Call(open, MARKER, "w"),
    "timeit": Call(timeit.timeit, f"open({MARKER!r}, 'w')", "pass", timeit.default_timer, 1),
    "Path.touch": Call(Path.touch, Path(MARKER)),
    "shutil.copy": Call(shutil.copy, __file__, MARKER),
    "numpy.save": Call(np.save, MARKER, 0),
    "ndarray.tofile": Call(np.ndarray.tofile, np.zeros(1), MARKER),
    "torch.save": Call(torch.save, 0, MARKER),
    "pickle.loads": Call(pickle.loads, pickle.dumps(Call(os.mkdir, MARKER))),
    "torch.load": Call(torch.storage._load_from_bytes, saved(Call(os.mkdir, MARKER))),
}
PLACES: dict[str, Callable[[Any], Any]] = {
    "alone": lambda call: call,
    "pixels": lambda call: {b"data": call, b"fine_labels": [0], b"coarse_labels": [0]},
    "labels": lambda call: {b"data": rows(1, 0), b"fine_labels": [call], b"coarse_labels": [0]},
    "key": lambda call: [{"weight": torch.zeros(2, 3)}, call],
    "weight": lambda call: {"weight": call, "bias": torch.zeros(2)},
}


@pytest.mark.parametrize("call", CALLS)
def test_these_pickles_do_run_code_elsewhere(call: str) -> None:
    forget()
    result = pickle.loads(pickle.dumps(CALLS[call]))
    if isinstance(result, subprocess.Popen):
        result.wait()
    assert any(Path().glob(f"{MARKER}*"))
    forget()


@pytest.mark.parametrize("call", CALLS)
def test_no_code_in_an_archive_is_executed(call: str) -> None:
    members = itertools.cycle(MEMBERS)
    for place, protocol in itertools.product(PLACES.values(), (0, 2, 4, 5)):
        name = next(members)
        assert isinstance(load(packed(PICKLES | pickled({name: place(CALLS[call])}, protocol))), str)


@pytest.fixture(autouse=True)
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.models, "resnet18", lambda: nn.Linear(3, 2))


def start_from(content: bytes) -> dict[str, torch.Tensor] | str:
    """What `starting_weights` makes of such a file."""
    path = Path("weights.pth")
    path.write_bytes(content)
    before = contents()
    weights = outcome(starting_weights, "resnet18", path, 0)
    assert contents() == before
    if isinstance(weights, str):
        assert weights.startswith("weights.pth: is not torchvision's resnet18 (")
    return weights


@pytest.mark.parametrize("call", CALLS)
def test_no_code_in_the_weights_is_executed(call: str) -> None:
    for place in PLACES.values():
        evil = place(CALLS[call])
        for content in (
            saved(evil),
            saved(evil, _use_new_zipfile_serialization=False),
            *(pickle.dumps(evil, protocol) for protocol in range(6)),
        ):
            assert isinstance(start_from(content), str)


WEIGHTS = {name: torch.ones(shape) for name, shape in (("weight", (2, 3)), ("bias", (2,)))}


@examples(ARCHIVES)
@given(damages(saved(WEIGHTS)) | damages(saved(WEIGHTS, _use_new_zipfile_serialization=False)))
def test_damaged_weights_are_refused_or_fit_the_network(content: bytes) -> None:
    weights = start_from(content)
    if not isinstance(weights, str):
        assert {name: value.shape for name, value in weights.items()} == {
            name: value.shape for name, value in WEIGHTS.items()
        }
