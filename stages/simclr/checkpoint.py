"""The checkpoint of a training run: its state after the last complete epoch, from which the same run resumes.

It lies in .dvc/tmp/resume of the repository, outside all outputs, because DVC deletes those before a stage runs; runs
with --temp and in the queue, which have a directory of their own, find it too. Its name is a hash of everything that
decides the result, so that no other experiment picks it up, and it is deleted when the run has succeeded.
"""

import fcntl
import hashlib
import io
import json
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from stages.io.writing import write_bytes
from stages.runtime.errors import UserError
from stages.simclr.distributed import broadcast, rank

History = list[dict[str, Any]]  # what was measured in each epoch


class Checkpoint:
    """One file: a SHA-256 and what it is of. `epochs` is how many complete ones it holds, 0 for none.

    It is written in a thread while the next epoch is trained, so a kill leaves the last whole one or the one before.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.epochs = 0
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def save(self, history: History, **parts: Any) -> None:
        """Copies the history and the `state_dict` of each part, and begins to replace the file by them.

        Does nothing while the file is still being written: on a GPU an epoch may take less time than that.
        """
        if self._writing and not self._writing.done():
            return
        self.wait()
        state = {"history": list(history), "parts": {name: part.state_dict() for name, part in parts.items()}}
        self._writing = self._writer.submit(self._write, _copied(state))

    def wait(self) -> None:
        """Until the file is written. Raises UserError where it can't be."""
        if self._writing:
            self._writing.result()

    def _write(self, state: dict[str, Any]) -> None:
        content = io.BytesIO()
        torch.save(state, content)
        data = content.getbuffer()
        write_bytes(self.path, hashlib.sha256(data).digest() + data)
        self.epochs = len(state["history"])

    def restore(self, **parts: Any) -> History:
        """Loads the first process's file into the parts; the history, an empty one where there is no whole file."""
        content = broadcast(self.path.read_bytes() if rank() == 0 and self.path.exists() else None)
        if content is None:
            return []
        digest, data = content[:32], content[32:]
        if hashlib.sha256(data).digest() != digest:
            print(f"{self.path}: is damaged and ignored; training starts from the beginning", file=sys.stderr)
            return []
        saved = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved["parts"][name])
        self.epochs = len(saved["history"])
        if rank() == 0:
            print(f"resuming after epoch {self.epochs}, from {self.path}")
        return saved["history"]


def _copied(state: Any) -> Any:
    """The same with copies of all tensors, on the CPU."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: _copied(value) for key, value in state.items()}
    return state


@contextmanager
def resumable(run: dict[str, str]) -> Iterator[Checkpoint]:
    """The checkpoint of the run that has these inputs; deleted if the block ends well, kept if not.

    SIGTERM and Ctrl-C become a UserError, and so does the same run that is running elsewhere. Of several processes
    the first one keeps the checkpoint and holds the lock.
    """
    key = hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:16]
    # DVC sets DVC_ROOT to the user's repository, also where it runs a stage in a copy of it.
    folder = Path(os.environ.get("DVC_ROOT", ".")) / ".dvc/tmp/resume"
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = Checkpoint(folder / f"{key}.state")
    lock = folder / f"{key}.lock"
    with lock.open("a") as file:
        try:
            if rank() == 0:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go by the kernel, however the process ends
        except BlockingIOError:
            raise UserError(f"{lock}: the same training is running elsewhere; wait for it, or stop it first") from None
        for number in (signal.SIGTERM, signal.SIGINT):  # which a shell's background jobs ignore
            signal.signal(number, signal.default_int_handler)
        try:
            try:
                yield checkpoint
            finally:
                checkpoint.wait()
        except KeyboardInterrupt:
            if rank() > 0:
                raise UserError("stopped") from None
            if not checkpoint.path.exists():
                raise UserError("stopped before an epoch was complete, so nothing is kept") from None
            last = f"epoch {checkpoint.epochs}" if checkpoint.epochs else "an earlier stop"  # not yet restored
            raise UserError(
                f"stopped; the state after {last} is kept in {checkpoint.path}: "
                "give the same command again to resume, or delete the file"
            ) from None
        if rank() == 0:
            checkpoint.path.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)
