"""Damaged and hostile archives and weights: refused in one line, and nothing in them is executed."""

import gzip
import io
import os
import pickle
import shutil
import struct
import subprocess
import tarfile
import timeit
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bad_input import MARKER, contents, damages, elsewhere, examples, fits_together, forget, outcome  # noqa: F401 (elsewhere runs by itself)
from hypothesis import example, given
from hypothesis import strategies as st
from test_download import CIFAR10, CIFAR100, described, rows

from stages.cifar import load_cifar
from stages.dataset import Dataset
from stages.download import fetch, starting_weights

ARCHIVES = 150  # examples of each of 7 tests


def members_of(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        files = {info.name: tar.extractfile(info) for info in tar}
        return {name: file.read() for name, file in files.items() if file}


def member(name: str, data: bytes, size: int | None = None) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data) if size is None else size
    return info, data


def packed(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """A compressed tar, also of members that tarfile would not write."""
    blocks = [
        info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape") + data + bytes(-len(data) % tarfile.BLOCKSIZE)
        for info, data in members
    ]
    return gzip.compress(b"".join(blocks) + bytes(2 * tarfile.BLOCKSIZE), 1)


PICKLES = members_of(CIFAR100)


def with_pickles(changed: dict[str, bytes]) -> bytes:
    return packed([member(name, data) for name, data in (PICKLES | changed).items()])


TAR = gzip.decompress(CIFAR100)


def _places() -> list[int]:
    """Where in the tar the headers stand, and of the pickles what is not pixels."""
    places: list[int] = []
    with tarfile.open(fileobj=io.BytesIO(TAR)) as tar:
        for info in tar:
            end = info.offset_data + info.size
            places += [*range(info.offset, min(info.offset_data + 300, end)), *range(end - 100, end)]
    return places


def load(cifar100: bytes) -> Dataset | str:
    """What `load_cifar` makes of such an archive, next to a whole one of CIFAR-10."""
    Path("archives").mkdir(exist_ok=True)
    Path("archives/10").write_bytes(CIFAR10)
    Path("archives/100").write_bytes(cifar100)
    before = contents()
    loaded = outcome(load_cifar, Path("archives/10"), Path("archives/100"))
    assert contents() == before
    if isinstance(loaded, str):
        assert loaded.startswith("archives/100: is not the archive it should be (")
    else:
        fits_together(loaded)
    return loaded


@examples(ARCHIVES)
@given(damages(CIFAR100))
def test_any_damaged_archive_is_refused_by_its_checksum(content: bytes) -> None:
    archive = Path("mirror/archive.tar.gz")
    archive.parent.mkdir(exist_ok=True)
    archive.write_bytes(content)
    line = outcome(fetch, described(CIFAR100), "mirror")
    assert str(line).startswith("mirror/archive.tar.gz: SHA-256 is ")
    assert archive.read_bytes() == content


@pytest.mark.parametrize(
    "mirror",
    [
        *("a\0b", "a\nb", "x" * 300, "~nobody-of-this-name", "/dev/null"),
        *("http://[", "http://[\n", "ftp://\udcff", "x://y"),
    ],
)
def test_a_mirror_that_cannot_be_one_is_refused_in_one_line(mirror: str) -> None:
    assert "archive.tar.gz: " in str(outcome(fetch, described(CIFAR100), mirror))


@examples(ARCHIVES)
@given(damages(CIFAR100))
def test_an_archive_with_damaged_bytes_is_refused_or_fits_together(content: bytes) -> None:
    load(content)


@examples(ARCHIVES)
@given(damages(TAR, _places()))
@example(TAR.replace(b"NNNJ", b"N0NJ", 1))  # NumPy's own reader of arrays would end the process with a segfault
def test_an_archive_of_damaged_bytes_is_refused_or_fits_together(content: bytes) -> None:
    load(gzip.compress(content, 1))


@pytest.mark.parametrize("by_columns", [False, True])
def test_arrays_are_read_as_numpy_reads_them(by_columns: bool) -> None:
    """As Python 2 wrote them, in the official archives."""
    pixels = rows(2, 1)
    content = pixels.tobytes("F" if by_columns else "C")
    written = b"".join(
        [
            b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85q\x05",
            b"U\x01b\x87Rq\x06(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\nq\x07U\x02u1K\x00K\x01\x87Rq\x08(K\x03U\x01|NNN",
            b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb" + (b"\x88" if by_columns else b"\x89"),
            b"T" + struct.pack("<I", len(content)) + content + b"tb",
            b"U\x0bfine_labels](K\x01K\x00eU\rcoarse_labels](K\x00K\x00eu.",
        ]
    )
    assert (pickle.loads(written, encoding="bytes")[b"data"] == pixels).all()
    dataset = load(with_pickles({"cifar-100-python/train": written}))
    assert isinstance(dataset, Dataset)
    assert (dataset.train.images.numpy() == pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)).all()
    assert dataset.train.fine.tolist() == [1, 0]


def test_a_pickle_gets_no_more_memory_than_it_has_bytes() -> None:
    asking = b"\x80\x02}r" + struct.pack("<I", 2 * 10**7) + b"."  # the number under which to remember a value
    tracemalloc.start()
    try:
        load(with_pickles(dict.fromkeys(PICKLES, asking)))
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


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
        info, _ = member(draw(st.just(name) | elsewhere_names), data)
        info.type = draw(st.just(tarfile.REGTYPE) | st.sampled_from(TYPES))
        info.linkname = draw(st.sampled_from(sorted(PICKLES)) | elsewhere_names)
        info.size += draw(st.just(0) | st.sampled_from([-len(data), -len(data) - 512, -512, 512, 10**12]))
        info.mode = 0o7777
        members.append((info, data))
    members += [member(draw(elsewhere_names), b"evil") for _ in range(draw(st.integers(0, 2)))]
    return packed(draw(st.permutations(members)))


@examples(ARCHIVES)
@given(odd_archives())
@example(packed([member("first", b""), member("leads back to itself", b"", -512)]))
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


@pytest.mark.parametrize("name", sorted(CALLS))
def test_these_pickles_do_run_code_elsewhere(name: str) -> None:
    forget()
    result = pickle.loads(pickle.dumps(CALLS[name]))
    if isinstance(result, subprocess.Popen):
        result.wait()
    assert any(Path().glob(f"{MARKER}*"))
    forget()


placed: dict[str, Callable[[Any], Any]] = {
    "alone": lambda call: call,
    "pixels": lambda call: {b"data": call, b"fine_labels": [0], b"coarse_labels": [0]},
    "labels": lambda call: {b"data": rows(1, 0), b"fine_labels": [call], b"coarse_labels": [0]},
    "key": lambda call: [{"weight": torch.zeros(2, 3)}, call],
    "weight": lambda call: {"weight": call, "bias": torch.zeros(2)},
}


@examples(ARCHIVES)
@given(
    st.sampled_from(sorted(CALLS)), st.sampled_from(sorted(placed)), st.sampled_from(sorted(PICKLES)), st.integers(0, 5)
)
def test_no_code_in_an_archive_is_executed(call: str, place: str, name: str, protocol: int) -> None:
    evil = pickle.dumps(placed[place](CALLS[call]), protocol)
    assert isinstance(load(with_pickles({name: evil})), str)


@examples(ARCHIVES)
@given(
    st.sampled_from(sorted(CALLS)),
    st.sampled_from(sorted(placed)),
    st.sampled_from(["zip", "before zip", *range(6)]),
)
def test_no_code_in_the_weights_is_executed(call: str, place: str, written: str | int) -> None:
    evil = placed[place](CALLS[call])
    if isinstance(written, int):
        content = pickle.dumps(evil, written)
    else:
        content = saved(evil, _use_new_zipfile_serialization=written == "zip")
    assert isinstance(start_from(content), str)


def start_from(content: bytes) -> dict[str, torch.Tensor] | str:
    """What `starting_weights` makes of such a file."""
    path = Path("weights.pth")
    path.write_bytes(content)
    before = contents()
    weights = outcome(starting_weights, path, 0)
    assert contents() == before
    if isinstance(weights, str):
        assert weights.startswith("weights.pth: is not torchvision's ResNet-18 (")
    return weights


WEIGHTS = {name: torch.ones(shape) for name, shape in (("weight", (2, 3)), ("bias", (2,)))}


@examples(ARCHIVES)
@given(damages(saved(WEIGHTS)) | damages(saved(WEIGHTS, _use_new_zipfile_serialization=False)))
def test_damaged_weights_are_refused_or_fit_the_network(content: bytes) -> None:
    weights = start_from(content)
    if not isinstance(weights, str):
        assert {name: value.shape for name, value in weights.items()} == {
            name: value.shape for name, value in WEIGHTS.items()
        }
