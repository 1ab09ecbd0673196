"""One small run of the pipeline, shared by all tests that look at it or go on from it."""

from pathlib import Path

import stages  # noqa: F401 (first: it sets up the arithmetic)

# isort: split
import pytest
import torch
from filelock import FileLock

from tests.repository import Repository

torch.set_num_threads(1)  # pytest-xdist runs as many tests at once as there are cores


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Repository:
    """A repository in which the pipeline has run on a folder of images; to look at only."""
    base = tmp_path_factory.getbasetemp()
    shared = (base if worker_id == "master" else base.parent) / "small_run"  # of all workers
    with FileLock(f"{shared}.lock"):
        if (shared / "done").exists():
            return Repository(shared / "repository")
        repository = Repository.of_small_run(shared)
        (shared / "done").touch()
        return repository


@pytest.fixture
def repository(finished: Repository, tmp_path: Path) -> Repository:
    """A copy to change."""
    return finished.copy(tmp_path / "repository")
