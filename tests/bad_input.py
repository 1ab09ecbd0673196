"""What the tests of bad input share: damage, and how it has to end."""

import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor

from stages.images.dataset import Dataset
from stages.runtime.errors import UserError

LONGEST = 400  # characters of a line
MARKER = "executed"

T = TypeVar("T")


def examples(count: int) -> settings:
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    return settings(max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=checks)


@pytest.fixture(scope="module", autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A working directory of its own for a module that imports this."""
    with chdir(tmp_path_factory.mktemp("bad_input")):
        yield


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """What takes longer fails, with an exception that no `except Exception` catches."""
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("took too long"))
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def outcome(action: Callable[..., T], *arguments: Any) -> T | str:
    """What an action returns or the one line that it ends with. It may neither hang nor say anything besides."""
    with warnings.catch_warnings(record=True) as said, within(120):
        warnings.simplefilter("always")
        try:
            result: T | str = action(*arguments)
        except UserError as stopped:
            result = str(stopped)
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


def fits_together(dataset: Dataset, images: list[Tensor]) -> None:
    assert all(len(part) > 0 and part.dtype == torch.uint8 and part.shape[1:] == (32, 32, 3) for part in images)
    assert dataset.unlabelled is None or dataset.unlabelled.shape == images[0].shape
    for part, of_part in zip((dataset.train, dataset.test), images[1:], strict=True):
        assert part.images.shape == of_part.shape
        for labels, known in ((part.fine, dataset.fine_names), (part.coarse, dataset.coarse_names)):
            assert (labels.dtype, labels.shape) == (np.int64, of_part.shape[:1])
            assert 0 <= labels.min() <= labels.max() < len(known)
            assert all(isinstance(name, str) for name in known)


def forget() -> None:
    for path in Path().glob(f"{MARKER}*"):  # numpy.save appends .npy
        path.rmdir() if path.is_dir() else path.unlink()
