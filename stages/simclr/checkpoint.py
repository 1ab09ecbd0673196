"""The checkpoint of a training run: the state after the last complete epoch, from which the same run resumes.

It is in .dvc/tmp/resume of the repository and not an output, because DVC deletes outputs before a stage runs. Runs with
--temp and in the queue use the same place. Its name is a hash of all inputs of the run, so no other experiment resumes
from it. It is deleted when the run has succeeded.
"""

import fcntl
import hashlib
import io
import json
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from stages.io.writing import require_writable, write_bytes
from stages.runtime.errors import UserError, one_line
from stages.runtime.inputs import checkpoint_folder
from stages.simclr.distributed import broadcast, rank

History = list[dict[str, Any]]  # the metrics of each epoch


class Checkpoint:
    """One file: a SHA-256 and the content. `epochs` is the number of complete epochs in it.

    A thread writes it while the next epoch is trained. A kill during the write leaves the previous checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.epochs = 0
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def save(self, history: History, **parts: Any) -> None:
        """Copies the history and the `state_dict` of each part, and starts to write them to the file.

        Does nothing while the previous write is still running: on a GPU an epoch may take less time than a write.
        """
        if self._writing and not self._writing.done():
            return
        self.wait()
        state = {"history": list(history), "parts": {name: part.state_dict() for name, part in parts.items()}}
        self._writing = self._writer.submit(self._write, _copied(state))

    def wait(self) -> None:
        """Waits until the file is written. Raises UserError if that failed."""
        if self._writing:
            self._writing.result()

    def _write(self, state: dict[str, Any]) -> None:
        content = io.BytesIO()
        torch.save(state, content)
        data = content.getbuffer()
        write_bytes(self.path, hashlib.sha256(data).digest() + data)
        self.epochs = len(state["history"])

    def restore(self, **parts: Any) -> History:
        """Loads the file of the first process into the parts and returns the history, [] if there is no valid file."""
        content = broadcast(self.path.read_bytes() if rank() == 0 and self.path.exists() else None)
        if content is None:
            return []
        digest, data = content[:32], content[32:]
        if hashlib.sha256(data).digest() != digest:
            print(f"{self.path}: is damaged and will be ignored; training starts from the beginning", file=sys.stderr)
            return []
        saved = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved["parts"][name])
        self.epochs = len(saved["history"])
        if rank() == 0:
            print(f"resuming after epoch {self.epochs}, from {self.path}")
        return saved["history"]


def _copied(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: _copied(value) for key, value in state.items()}
    return state


@contextmanager
def resumable(run: dict[str, str]) -> Iterator[Checkpoint]:
    """The checkpoint of the run with these inputs. It is deleted if the block succeeds and kept otherwise.

    Raises UserError on SIGTERM or Ctrl-C, and if the same run is already running elsewhere. With several processes,
    the first one holds the checkpoint and the lock.
    """
    key = hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:16]
    folder = checkpoint_folder()
    require_writable(folder)
    checkpoint = Checkpoint(folder / f"{key}.state")
    lock = folder / f"{key}.lock"
    with lock.open("a") as file:
        try:
            if rank() == 0:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel releases it when the process ends
        except BlockingIOError:
            raise UserError(f"{lock}: the same training is running elsewhere; wait for it, or stop it first") from None
        except OSError as error:  # such as Lustre or NFS without locks
            print(f"{lock}: cannot be locked ({one_line(error)}); do not start the same training a second time")
        for number in (signal.SIGTERM, signal.SIGINT):  # background jobs of a shell ignore SIGINT by default
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
                raise UserError("stopped before the first epoch was complete; there is no checkpoint") from None
            last = f"epoch {checkpoint.epochs}" if checkpoint.epochs else "an earlier run"  # not yet restored
            raise UserError(
                f"stopped; the checkpoint of {last} is kept in {checkpoint.path}: "
                "run the same command again to resume, or delete the file"
            ) from None
        if rank() == 0:
            checkpoint.path.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)
