"""No code in a pickle that was downloaded is executed, whether in an archive of images or in a file of weights."""

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from stages.download import starting_weights
from stages.images.cifar import CIFAR10_TRAIN, load_cifar
from tests.repository import refusal, tar_of

MARKER = Path("executed")


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
    "a command": Call(os.mkdir, str(MARKER)),
    "Python": Call(eval, f"open({str(MARKER)!r}, 'w')"),
    "a method of an array, which may be there": Call(np.ndarray.tofile, np.zeros(1), str(MARKER)),
    "a pickle in a pickle": Call(torch.storage._load_from_bytes, saved(Call(os.mkdir, str(MARKER)))),
}
PLACES: dict[str, Callable[[Call], Any]] = {
    "alone": lambda call: call,
    "pixels": lambda call: {b"data": call, b"labels": [0]},
    "labels": lambda call: {b"data": np.zeros((1, 3072), np.uint8), b"labels": [call]},
    "weight": lambda call: {"weight": call, "bias": torch.zeros(2)},
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_no_code_in_a_pickle_is_executed(call: Call, empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.models, "get_model", lambda _: nn.Linear(3, 2))  # which is created faster
    archive, weights = Path("archive.tar.gz"), Path("weights.pth")
    for place in PLACES.values():
        evil = place(call)
        pickles = [pickle.dumps(evil, protocol) for protocol in (0, 2, 4, 5)]
        for content in pickles:
            archive.write_bytes(tar_of({CIFAR10_TRAIN[0]: content}))
            line = refusal(load_cifar, archive, archive, 32)
            assert line.startswith("archive.tar.gz: is not the expected archive (")
        for content in [*pickles, saved(evil), saved(evil, _use_new_zipfile_serialization=False)]:
            weights.write_bytes(content)
            line = refusal(starting_weights, "resnet18", weights, 0)
            assert line.startswith("weights.pth: is not torchvision's resnet18 (")
    assert not MARKER.exists()
    pickle.loads(pickle.dumps(call))  # which does run it
    assert MARKER.exists()
