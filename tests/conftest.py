"""One small run of the pipeline, shared by all tests that look at it or go on from it."""

import os
from pathlib import Path

# pytest-xdist runs as many tests at once as there are cores. Before torch is imported, which reads it then.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from tests.repository import Repository

SMALL = {
    "data": "folder", "batch_size": 8, "epochs": 2, "first_classes": 2, "linear.epochs": 2,
    "logreg.labels_per_class": "[6]", "logreg.draws": 2,
}  # fmt: skip


def write_images(folder: Path) -> None:
    """Three classes of 12 training and 6 test images that differ in brightness."""
    draw = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 6)):
        for number, name in enumerate(("ant", "bee", "cat")):
            (folder / part / name).mkdir(parents=True)
            for image in range(count):
                pixels = (draw.normal(80 + 60 * number, 40, (32, 32, 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{image}.png")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Repository:
    """A repository in which the pipeline has run on a folder of images; to look at only."""
    shared = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        shared = shared.parent  # of all workers
    path = shared / "finished"
    with FileLock(shared / "finished.lock"):
        if (shared / "finished.done").exists():
            return Repository(path)
        path.mkdir()
        repository = Repository.of_working_tree(path)
        write_images(shared / "images")
        settings = " ".join(f"-S {key}={value}" for key, value in SMALL.items())
        repository.run(f"dvc exp run -q {settings} -S folder={shared}/images")
        repository.commit("small")
        (shared / "finished.done").touch()
        return repository


@pytest.fixture
def repository(finished: Repository, tmp_path: Path) -> Repository:
    """A copy to change."""
    return finished.copy(tmp_path / "repository")
