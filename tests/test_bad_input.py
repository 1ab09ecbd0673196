"""Bad input by the hundred: it ends in one clear line, nothing in it is executed, and every file is left as it was."""

import functools
import gzip
import importlib
import io
import itertools
import json
import os
import pickle
import re
import shutil
import signal
import struct
import subprocess
import tarfile
import tempfile
import timeit
import tracemalloc
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image
from ruamel.yaml import YAML
from test_download import CIFAR10, CIFAR100, described, rows
from torch import nn

import stages.folder
from stages import download, provenance
from stages.check import can_be_split, mistakes
from stages.cifar import load_cifar
from stages.dataset import Dataset, Sizes
from stages.download import fetch, starting_weights
from stages.files import read_tensors, write_tensors
from stages.folder import count_folder, load_folder
from stages.params import FILE, Augment, Linear, Logreg, Params, load_params
from stages.probes import Split, validate_C
from stages.resume import State
from stages.sample import SIZES

# Examples of each test of a kind.
PARAMS = 250  # 5 tests: a value, the keys, the bytes of the file, all against the number of images, and the splits
ARCHIVES = 150  # 7 tests: checksum, compressed bytes, bytes of the tar, members, code; of weights bytes and code
IMAGES = 400  # 1 test
FOLDERS = 150  # 1 test
TENSORS = 100  # 4 tests: cut, header, what the header says, notes
STATES = 50  # 1 test

COMMITTED = (Path(__file__).parent.parent / FILE).read_text()
LONGEST = 400  # characters of a line

T = TypeVar("T")


def examples(count: int) -> settings:
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    return settings(max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=checks)


@pytest.fixture(scope="module", autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A working directory and a cache of its own, no second try, and a small network in place of ResNet-18."""
    folder = tmp_path_factory.mktemp("bad_input")
    with pytest.MonkeyPatch.context() as patch, chdir(folder):
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setattr(download, "TRIES", 1)
        patch.setattr(torchvision.models, "resnet18", lambda: nn.Linear(3, 2))
        yield


class TooLongError(BaseException):
    """No `except Exception` catches it."""


@contextmanager
def within(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(action: Callable[..., T], *arguments: Any) -> T | str:
    """What an action returns or the one line that it ends with. It may neither hang nor say anything besides."""
    with warnings.catch_warnings(record=True) as said, within(120):
        warnings.simplefilter("always")
        try:
            result: T | str = action(*arguments)
        except SystemExit as stopped:
            result = str(stopped.code)
            assert result.isprintable()  # so without a line break
    assert [str(warning.message) for warning in said] == []
    return result


def contents(root: Path = Path(".")) -> dict[str, tuple[object, ...]]:
    """Every path below a folder: its type, and what it holds or leads to."""
    found: dict[str, tuple[object, ...]] = {}
    for folder, subfolders, files in os.walk(root):
        for path in (os.path.join(folder, name) for name in subfolders + files):
            mode = os.lstat(path).st_mode
            if os.path.islink(path):
                found[path] = (mode, os.readlink(path))
            else:
                found[path] = (mode, Path(path).read_bytes() if os.path.isfile(path) else None)
    return found


def flips(content: bytes, place: st.SearchStrategy[int]) -> st.SearchStrategy[bytes]:
    """The content with one byte changed."""
    return st.builds(
        lambda at, mask: content[:at] + bytes([content[at] ^ mask]) + content[at + 1 :], place, st.integers(1, 255)
    )


def damages(content: bytes, places: list[int] | None = None) -> st.SearchStrategy[bytes]:
    """The content cut, with a byte changed, or with some inserted; the last two at one of the places, if given."""
    place = st.sampled_from(places) if places else st.integers(0, len(content) - 1)
    return st.one_of(
        st.integers(0, len(content) - 1).map(lambda kept: content[:kept]),
        flips(content, place),
        st.builds(lambda at, more: content[:at] + more + content[at:], place, st.binary(min_size=1, max_size=4)),
    )


# Parameters


def _values() -> dict[str, tuple[int, int]]:
    """Where the value of each parameter stands in the committed file; a section's is all of its lines."""
    found = {}
    for key in re.finditer(r"^(\w+):(.*(?:\n +\S.*)*)", COMMITTED, re.M):
        found[key[1]] = key.span(2)
        for inner in re.finditer(r"^ +(\w+):(.*)", key[2], re.M):
            found[f"{key[1]}.{inner[1]}"] = (key.start(2) + inner.start(2), key.start(2) + inner.end(2))
    return found


VALUES = _values()
SHORT = """
    1e-5 1e5 1. .5 5. +1 -0 -0.0 1_000 007 0o7 0x1F 0b11 1:30 .inf -.inf .nan 1e400 1e-400 ~ null yes no on off y true
    True TRUE = << @ ` % ? - : ... --- [ { ] } , # | > |2 " ' '' & &a *a ! !! !a !!str !!null 2024-01-01 [[]] {{a:b}:c}
    {a:} {?:} !!set{a} "\\0" "\\ud800" "\\x85" "\\u2028" "\\/" "\\q" '\\n' 2024-01-01T10:00:00Z 2024-01-01T10:00:00+5
"""
SURPRISES = [
    *SHORT.split(),
    "&a [*a]",
    "&a {b: *a}",
    "{<<: {a: 1}}",
    "{<<: [{a: 1}, {a: 2}]}",
    "{a: 1, a: 2}",
    "!!python/object/apply:os.system [touch evil]",
    "!!python/object/new:os.system [touch evil]",
    "!!python/name:os.system",
    "!!omap [a: 1]",
    "!!pairs [a: 1]",
    "!!set {a, b}",
    "!!binary aGk=",
    "!!int '3'",
    "!!float '1'",
    "!!str 3",
    "a: b",
    "1 # comment",
    "1 #",
    "a\0b",
    "a\x7fb",
    "\ufeff1",
    "1\t",
    "|-\n    text",
    "1\n...\n",
    "1\n---\n2",
    "[1,\n2]",
    "'" + "x" * 2000 + "'",
]
nested = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda child: st.lists(child, max_size=4) | st.dictionaries(st.text(max_size=9), child, max_size=4),
    max_leaves=9,
).map(lambda value: json.dumps(value).replace("NaN", ".nan").replace("Infinity", ".inf"))
fragments = st.one_of(
    st.sampled_from(SURPRISES),
    st.integers(-9, 300).map(str),
    st.integers(-(2**53), 2**53).map(str),
    st.builds(format, st.integers(0, 2**53), st.sampled_from(["#x", "#o", "#b"])),
    st.floats().map(repr),
    st.floats(1e-6, 1).map("{:e}".format),
    st.text(max_size=12),
    st.text(max_size=12).map(json.dumps),
    st.dates().map(str),
    st.datetimes().map(str),
    nested,
    st.lists(st.floats(0, 1) | st.integers(1, 9), max_size=4).map(str),
)


def replaced(key: str, fragment: str) -> str:
    start, end = VALUES[key]
    return f"{COMMITTED[:start]} {fragment}{COMMITTED[end:]}"


def refusal(content: str | bytes) -> list[str]:
    """The lines that params.yaml with this content is refused with; none if it is read as it is written."""
    written = content.encode() if isinstance(content, str) else content
    FILE.write_bytes(written)
    before = sorted(os.listdir())
    lines: list[str] = []
    try:
        with within(120):
            params = load_params()
    except SystemExit as stopped:
        lines = str(stopped.code).splitlines()
        assert all(line.isprintable() and len(line) <= LONGEST for line in lines)
        wrong = lines[:-1] if len(lines) > 1 else lines
        assert all(line.startswith("params.yaml: ") for line in wrong)
        assert len({re.split(" = | is ", line)[0] for line in wrong}) == len(wrong)  # one for each wrong key
        assert "`git checkout params.yaml`" in lines[-1]
    else:
        assert same(YAML(typ="safe").load(FILE.read_text(encoding="utf-8")), params.model_dump())
        assert all(line.isprintable() and len(line) <= LONGEST for line in mistakes(params, SIZES))
    assert (FILE.read_bytes(), sorted(os.listdir())) == (written, before)
    return lines


def same(read: object, kept: object) -> bool:
    """Equal and of one type, except that a whole number will do for a float."""
    if isinstance(read, dict) and isinstance(kept, dict):
        return read.keys() == kept.keys() and all(same(read[key], kept[key]) for key in kept)
    if isinstance(read, list) and isinstance(kept, list):
        return len(read) == len(kept) and all(map(same, read, kept))
    return read == kept and (type(read) is type(kept) or (type(read), type(kept)) == (int, float))


def names(lines: list[str], key: str) -> bool:
    """Whether a refusal is about this key and no other; where the file is no YAML, a place in it will do."""
    if len(lines) > 1:
        return all(re.match(rf"params\.yaml: {key}\b", line) for line in lines[:-1])
    return bool(lines and re.search(rf"\b{key.split('.')[-1]}\b|\bline:? \d|\bposition \d", lines[0]))


@examples(PARAMS)
@given(st.sampled_from(sorted(VALUES)), fragments)
def test_a_value_is_read_as_it_is_written_or_refused_by_the_name_of_its_key(key: str, fragment: str) -> None:
    lines = refusal(replaced(key, fragment))
    assert not lines or len(fragment.splitlines()) > 1 or names(lines, key)


keys = st.sampled_from(sorted(VALUES)) | st.text(max_size=12).map(json.dumps) | st.text(max_size=40)
odd_keys = st.sampled_from(
    ["7", "~", ".nan", "<<", "[a, b]", "{a: b}", "2024-01-01", "!!binary aGk=", "&a b", "*a", "?"]
)
additions = st.builds("{}{}: {}\n".format, st.sampled_from(["", "  "]), keys | odd_keys, fragments)
edits = st.tuples(st.sampled_from(["remove", "double", "add"]), st.integers(0, 99), additions)


@examples(PARAMS)
@given(st.lists(edits, min_size=1, max_size=3))
def test_keys_that_are_missing_unknown_or_double_are_refused(drawn: list[tuple[str, int, str]]) -> None:
    lines = COMMITTED.splitlines(keepends=True)
    for action, number, added in drawn:
        place = number % len(lines)
        lines[place : place + 1] = {"remove": [], "double": [lines[place]] * 2, "add": [added, lines[place]]}[action]
    refusal("".join(lines))


chunks = st.sampled_from(
    [
        *(b"\0", b"\t", b"\r", b"\xff", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\xed\xa0\x80", b"---\n", b"...\n"),
        *(b"%YAML 1.1\n---\n", b"&a ", b"*a ", b"<<: *a\n", b"!!float ", b"'", b'"', b"{", b"[", b"#", b"? ", b"- "),
    ]
)
additions_anywhere = st.builds(
    lambda at, chunk: COMMITTED.encode()[:at] + chunk + COMMITTED.encode()[at:], st.integers(0, len(COMMITTED)), chunks
)


@examples(PARAMS)
@given(damages(COMMITTED.encode()) | additions_anywhere)
def test_a_damaged_file_is_read_as_it_stands_or_refused(content: bytes) -> None:
    refusal(content)


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_what_is_nested_too_deep_to_be_read_is_refused(opening: str) -> None:
    assert len(refusal(replaced("lr", opening * 500))) == 1


unreadable = st.one_of(
    st.builds("{}-{:02}-{:02}".format, st.integers(1000, 9999), st.integers(13, 99), st.integers(1, 28)),
    st.builds("{}-{:02}-{:02}".format, st.integers(1000, 9999), st.integers(1, 12), st.integers(32, 99)),
    st.builds("!!{} {}".format, st.sampled_from(["int", "float", "bool", "timestamp"]), st.sampled_from(["abc", "''"])),
    st.integers(4301, 6000).map(lambda digits: "9" * digits),
    st.integers(160, 600).map(lambda length: "!" + "a" * length + " b"),
)


@examples(50)
@given(st.sampled_from(sorted(VALUES)), unreadable)
@example("lr", "2024-13-45")
def test_a_value_that_yaml_cannot_make_is_refused_by_the_name_of_its_key(key: str, fragment: str) -> None:
    assert names(refusal(replaced(key, fragment)), key)


@pytest.mark.parametrize("key", ["lr", "seed", "folder", "augment", "logreg.C"])
@pytest.mark.parametrize("fragment", ["0x" + "f" * 5000, "0o" + "7" * 5000, "[0b" + "1" * 20000 + ", x]"])
def test_an_integer_too_long_to_print_is_refused_by_the_name_of_its_key(key: str, fragment: str) -> None:
    assert names(refusal(replaced(key, fragment)), key)


@pytest.mark.parametrize("key", ["batch_size", "first_classes", "logreg.labels_per_class"])
@pytest.mark.parametrize("digits", ["1" + "0" * 400, "0x" + "f" * 5000])
def test_an_integer_beyond_all_sense_is_refused(key: str, digits: str) -> None:
    assert names(refusal(replaced(key, f"[{digits}]" if "per_class" in key else digits)), key)


@examples(20)
@given(st.sampled_from(["temperature", "weight_decay", "linear.weight_decay"]), st.integers(2**53, 2**60))
@example("temperature", 2**53 + 1)
def test_a_whole_number_that_no_float_can_hold_is_refused(key: str, number: int) -> None:
    refusal(replaced(key, str(number)))


def test_a_long_unknown_key_is_refused_in_a_short_line() -> None:
    refusal(COMMITTED + "? [" + "abcde, " * 200 + "]\n: 1\n")


def test_aliases_of_aliases_are_not_written_out() -> None:
    lists = ["&a0 [" + "x, " * 10 + "]"] + [f"&a{depth} [" + f"*a{depth - 1}, " * 10 + "]" for depth in range(1, 6)]
    tracemalloc.start()
    try:
        assert names(refusal(replaced("lr", f"[{', '.join(lists)}]")), "lr")
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("folder", ['"a\\0b"', "x" * 300])
def test_a_folder_of_an_impossible_name_leads_to_no_traceback(folder: str) -> None:
    FILE.write_text(replaced("folder", folder))
    Path("dvc.yaml").write_text("stages: {check: {deps: ['${folder}']}}")
    with suppress(SystemExit):
        provenance.fingerprints("check")


# Parameters against the images

fractions = st.floats(0, 1, exclude_min=True, exclude_max=True) | st.sampled_from([0.1, 0.2, 0.25, 0.5, 0.9])
rates = st.floats(0, 10, exclude_min=True)
decays = st.floats(0, 1e6)
counts = st.integers(1, 2**31 - 1)
from_two = st.integers(2, 9) | st.integers(2, 2**31 - 1)
paths = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
parameters = st.builds(
    Params,
    seed=st.integers(0, 2**31 - 1),
    data=st.sampled_from(["sample", "cifar", "folder"]),
    folder=paths,
    mirror=st.none() | paths,
    weights=st.sampled_from(["random", "imagenet"]),
    stem=st.sampled_from(["imagenet", "cifar"]),
    batch_size=from_two,
    projection_dim=st.integers(8, 65536),
    lr=rates,
    weight_decay=decays,
    epochs=counts,
    temperature=st.floats(0.001, 1e6),
    augment=st.builds(
        Augment,
        min_area=st.floats(0, 1, exclude_min=True),
        jitter=st.floats(0, 1),
        grayscale=st.floats(0, 1),
        blur=st.floats(0, 1),
        flip=st.booleans(),
    ),
    first_classes=from_two,
    logreg=st.builds(
        Logreg,
        C=st.lists(st.floats(0, 1e6, exclude_min=True), min_size=1, max_size=4),
        validation_fraction=fractions,
        max_iter=counts,
        labels_per_class=st.lists(from_two, max_size=4),
        draws=from_two,
    ),
    linear=st.builds(Linear, batch_size=counts, epochs=counts, lr=rates, weight_decay=decays),
    neighbours=counts,
)
classes = st.lists(st.integers(1, 12), min_size=2, max_size=5)


@examples(PARAMS)
@given(parameters, st.builds(Sizes, st.integers(2, 99), classes, st.integers(2, 99)))
def test_what_does_not_fit_the_images_gets_a_line_each(params: Params, sizes: Sizes) -> None:
    lines = mistakes(params, sizes)
    assert all(line.isprintable() and len(line) <= LONGEST for line in lines)
    assert len(lines) <= 3 + len(params.logreg.labels_per_class)
    assert any(line.startswith("batch_size = ") for line in lines) == (2 * params.batch_size > sizes.unlabelled)
    assert any(line.startswith("first_classes = ") for line in lines) == (params.first_classes > len(sizes.train))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@examples(PARAMS)
@given(classes, fractions, st.integers(0, 9))
@example([6, 2], 0.25, 0)
def test_the_check_knows_which_splits_will_fail(per_class: list[int], fraction: float, seed: int) -> None:
    labels = torch.arange(len(per_class)).repeat_interleave(torch.tensor(per_class))
    features = torch.randn(len(labels), 2, generator=torch.Generator().manual_seed(seed))
    try:
        validate_C(Split(features, labels), [1.0], fraction, 1, seed)
    except SystemExit:  # too few images, or none of a class on one side
        assert not can_be_split(per_class, fraction, seed)
    else:
        assert can_be_split(per_class, fraction, seed)


# Archives


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


def fits_together(dataset: Dataset) -> None:
    for images in (dataset.unlabelled, dataset.train.images, dataset.test.images):
        assert len(images) > 0
        assert (images.dtype, images.shape[1:]) == (torch.uint8, (32, 32, 3))
    for part in (dataset.train, dataset.test):
        for labels, known in ((part.fine, dataset.fine_names), (part.coarse, dataset.coarse_names)):
            assert (labels.dtype, labels.shape) == (torch.int64, part.images.shape[:1])
            assert 0 <= int(labels.min()) <= int(labels.max()) < len(known)
            assert all(isinstance(name, str) for name in known)


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


MARKER = "executed"
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


def forget() -> None:
    for path in Path().glob(f"{MARKER}*"):  # numpy.save appends .npy
        path.rmdir() if path.is_dir() else path.unlink()


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


# Images

MODES = ["1", "L", "P", "PA", "LA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16"]


def picture(mode: str, size: tuple[int, int] = (12, 10)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 256)
    if mode == "LAB":
        return Image.frombytes("LAB", size, pixels.tobytes())
    return Image.fromarray(pixels).convert("P" if mode == "PA" else mode).convert(mode)


@functools.cache
def written_images() -> dict[str, bytes]:
    """A small image in every format that Pillow writes and every mode that the format has, by both names."""
    Image.init()
    found = {}
    with warnings.catch_warnings(action="ignore"):
        for kind, mode in itertools.product(sorted(Image.SAVE), MODES):
            buffer = io.BytesIO()
            try:
                picture(mode).save(buffer, kind)
            except (OSError, ValueError, KeyError):  # a format does not have every mode
                continue
            found[f"{kind} {mode}"] = buffer.getvalue()
    return found


def make_folder(root: Path) -> None:
    """Two classes with an image each, for training and for testing."""
    shutil.rmtree(root, ignore_errors=True)
    for part, name in itertools.product(("train", "test"), ("ant", "bee")):
        (root / part / name).mkdir(parents=True)
        (root / part / name / "0.png").write_bytes(written_images()["PNG RGB"])


def read_folder(root: Path) -> Dataset | str:
    """What `load_folder` makes of it; `count_folder` says the same before."""
    before = contents(root)
    counted, loaded = outcome(count_folder, root), outcome(load_folder, root)
    assert contents(root) == before
    if isinstance(loaded, str):
        assert str(root) in loaded
        assert counted == loaded or "files cannot be read as images" in loaded
    else:
        fits_together(loaded)
        per_class = loaded.train.fine.bincount().tolist()
        assert counted == Sizes(len(loaded.unlabelled), per_class, len(loaded.test.images))
    return loaded


@st.composite
def damaged_images(draw: st.DrawFn) -> bytes:
    content = written_images()[draw(st.sampled_from(list(written_images())))]
    start = draw(st.sampled_from([64, 256, len(content)]))
    for _ in range(draw(st.integers(0, 3))):
        content = draw(damages(content, range(min(start, len(content))))) if content else content
    return content


@examples(IMAGES)
@given(st.deferred(damaged_images))
def test_a_damaged_image_is_refused_by_its_name_or_becomes_32_pixels_wide(content: bytes) -> None:
    root = Path("images")
    if not root.exists():
        make_folder(root)
    (root / "train/bee/0.png").write_bytes(content)
    loaded = read_folder(root)
    if isinstance(loaded, str):
        assert loaded.startswith(
            "1 of 2 files cannot be read as images; repair or remove them: images/train/bee/0.png ("
        )


def claiming(width: int, height: int) -> bytes:
    """A small PNG whose header says that it is of another size."""
    content = written_images()["PNG RGB"]
    header = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


ODD_NAMES = [
    *("ä", "two\nlines", os.fsdecode(b"\xff"), "\x1b[31m", "\u202e", ".hidden", " ", "*", "-rf", "x" * 255),
    *("ant", "bee", "0.png", "1.png", "test"),
]
KINDS = [
    *("image", "empty", "text", "cut", "bomb", "bytes"),
    *("folder", "pipe", "device", "loop", "nowhere", "upwards", "gone"),
]


def put(path: Path, kind: str) -> None:
    """Puts an oddity in the place of what is there."""
    image = written_images()["PNG RGB"]
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "loop":
            path.symlink_to(path.name)
        case "nowhere":
            path.symlink_to("nowhere to be found")
        case "upwards":
            path.symlink_to("..")
        case "gone":
            pass
        case _:
            files = {"image": image, "empty": b"", "text": b"This is no image.\n", "cut": image[:-20]}
            path.write_bytes((files | {"bomb": claiming(50_000, 50_000), "bytes": bytes(range(256))})[kind])


halves = st.sampled_from(["train", "test", "unlabeled", "extra"])
odd_names = st.sampled_from(ODD_NAMES)
spots = st.builds(Path, halves) | st.builds(Path, halves, odd_names) | st.builds(Path, halves, odd_names, odd_names)
oddities = st.lists(st.tuples(spots, st.sampled_from(KINDS)), max_size=4)
renamed = st.sampled_from(["bee", *ODD_NAMES[:10]])


@examples(FOLDERS)
@given(oddities, renamed, st.booleans())
@example([(Path("unlabeled"), "nowhere")], "bee", False)
def test_an_odd_folder_is_refused_in_one_line_or_read(
    drawn: list[tuple[Path, str]], second_class: str, unlabelled: bool
) -> None:
    root = Path("odd")
    make_folder(root)
    for half in ("train", "test"):
        (root / half / "bee").rename(root / half / second_class)
    if unlabelled:
        shutil.copytree(root / "train/ant", root / "unlabeled")
    for where, kind in drawn:
        with suppress(OSError):  # where an oddity has taken the place of the folder
            put(root / where, kind)
    read_folder(root)


def test_a_link_to_unlabelled_images_that_leads_nowhere_is_not_passed_over() -> None:
    root = Path("linked")
    make_folder(root)
    (root / "unlabeled").symlink_to("/not/mounted")
    assert read_folder(root) == "linked/unlabeled: is a link that leads nowhere; mend or remove it"


@pytest.mark.parametrize("root", ["a\0b", "a\nb", "x" * 300, "/dev/null", "nowhere", "\udcff", "\x1b[31m"])
def test_a_root_that_cannot_be_one_is_refused_in_one_line(root: str) -> None:
    for read in (count_folder, load_folder):
        assert isinstance(outcome(read, Path(root)), str)


def inside_another(content: bytes) -> bytes:
    """An IPTC file, which is another image with a few fields before it."""
    fields = [((3, 60), b"\1\0"), ((3, 20), b"\0\x0c"), ((3, 30), b"\0\x0a"), ((3, 120), b"\5"), ((8, 10), content)]
    return b"".join(b"\x1c" + bytes(tag) + struct.pack(">H", len(data)) + data for tag, data in fields)


@pytest.mark.parametrize("wrapped", [lambda content: content, inside_another], ids=["alone", "inside another"])
def test_ghostscript_is_not_run(wrapped: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Which it would be by Pillow, on what is in a PostScript file, a program."""
    Path("bin").mkdir(exist_ok=True)
    Path("bin/gs").write_text(f"#!/bin/sh\ntouch {Path(MARKER).absolute()}\n")
    Path("bin/gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{Path('bin').absolute()}:{os.environ['PATH']}")
    root = Path("postscript")
    make_folder(root)
    (root / "train/ant/0.png").write_bytes(wrapped(written_images()["EPS RGB"]))
    refused = "1 of 2 files cannot be read as images; repair or remove them: postscript/train/ant/0.png ("
    for is_run in (True, False):
        forget()
        monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # as Pillow has it
        if not is_run:
            importlib.reload(stages.folder)
        assert str(read_folder(root)).startswith(refused)
        assert Path(MARKER).exists() == is_run
    forget()


# Files that stages exchange


def _tensor_file() -> bytes:
    tensors = {"a": torch.arange(6).reshape(2, 3), "b": torch.tensor(0.5), "none": torch.empty(0, 3)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.safetensors")
        write_tensors(
            path, tensors | {"images": torch.zeros(4, dtype=torch.uint8)}, {"names": ["ant", "bee"], "count": 2}
        )
        return path.read_bytes()


TENSOR_FILE = _tensor_file()
HEADER_END = 8 + int.from_bytes(TENSOR_FILE[:8], "little")
HEADER = json.loads(TENSOR_FILE[8:HEADER_END])
NOTES = range(TENSOR_FILE.index(b'"notes":"') + 9, TENSOR_FILE.index(b'"},'))


def headed(header: object, length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + TENSOR_FILE[HEADER_END:]


def refused_or_read(content: bytes) -> str | tuple[dict[str, torch.Tensor], dict[str, Any]]:
    path = Path("x.safetensors")
    path.write_bytes(content)
    result = outcome(read_tensors, path)
    assert path.read_bytes() == content
    if isinstance(result, str):
        assert result.startswith("x.safetensors: cannot be read as safetensors (")
    else:
        tensors, notes = result
        assert isinstance(notes, dict)
        assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
    return result


@examples(TENSORS)
@given(st.integers(0, len(TENSOR_FILE) - 1))
def test_tensors_cut_anywhere_are_refused(kept: int) -> None:
    assert isinstance(refused_or_read(TENSOR_FILE[:kept]), str)


@examples(TENSORS)
@given(flips(TENSOR_FILE, st.sampled_from([at for at in range(HEADER_END) if at not in NOTES])))
def test_tensors_with_a_damaged_header_are_refused_or_read(content: bytes) -> None:
    refused_or_read(content)


numbers = st.integers(-1, 9) | st.sampled_from([48, 52, 56, 2**31, 2**62, 2**63, 2**64 - 1, 2**64]) | st.floats(0, 9)
lies = st.one_of(
    st.tuples(
        st.just("dtype"), st.sampled_from(["F64", "I8", "U8", "BOOL", "BF16", "F8_E4M3", "F4", "C64", "X", "", 5])
    ),
    st.tuples(st.just("shape"), st.lists(numbers, max_size=4) | st.none()),
    st.tuples(st.just("data_offsets"), st.lists(numbers, min_size=1, max_size=3)),
    st.tuples(st.just("more"), st.integers()),
)


@examples(TENSORS)
@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "none", "images", "new"]), lies), max_size=3),
    st.none() | st.integers(0, 400) | st.integers(0, 2**64 - 1),
)
def test_tensors_whose_header_lies_are_refused_or_read(
    drawn: list[tuple[str, tuple[str, Any]]], length: int | None
) -> None:
    header = json.loads(json.dumps(HEADER))
    for tensor, (field, value) in drawn:
        header.setdefault(tensor, {})[field] = value
    refused_or_read(headed(header, length))


@examples(TENSORS)
@given(
    flips(TENSOR_FILE, st.sampled_from(NOTES))
    | st.sampled_from(["", "5", "null", "[1]", "{", "NaN", "[" * 5000, "{}x", '{"a": 1' + "0" * 5000 + "}"]).map(
        lambda notes: headed(HEADER | {"__metadata__": {"notes": notes}})
    )
)
@example(headed(HEADER | {"__metadata__": {"notes": "{"}}))
def test_tensors_with_damaged_notes_are_refused_or_read(content: bytes) -> None:
    refused_or_read(content)


def _state() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        state = State(Path(folder, "x.state"))
        state.save([{"epoch": 1.0, "loss": 0.5}], model=nn.Linear(3, 2))
        return state.path.read_bytes()


@examples(STATES)
@given(damages(_state()))
def test_a_damaged_state_is_reported_and_ignored(content: bytes) -> None:
    state = State(Path("x.state"))
    state.path.write_bytes(content)
    model = nn.Linear(3, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with redirect_stderr(io.StringIO()) as said:
        assert outcome(lambda: state.restore(model=model)) == []
    assert said.getvalue() == "x.state: is damaged and ignored; training starts from the beginning\n"
    assert state.epochs == 0
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert state.path.read_bytes() == content
