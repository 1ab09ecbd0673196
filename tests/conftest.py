"""Sets the arithmetic of the tests; fixtures for several files."""

from pathlib import Path

from stages.runtime.arithmetic import fix_arithmetic
from stages.runtime.params import read_params

ROOT = Path(__file__).parent.parent
fix_arithmetic("pretrain", read_params(ROOT / "params.yaml"))  # before a numeric library is imported

# isort: split
import pytest  # noqa: E402
import torch  # noqa: E402
from filelock import FileLock  # noqa: E402
from threadpoolctl import threadpool_limits  # noqa: E402

from tests.repository import Repository  # noqa: E402

torch.set_num_threads(1)  # pytest-xdist runs one test per core
threadpool_limits(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the pipeline first: one worker starts the small run, and the others do not wait for it."""
    items.sort(key=lambda item: "finished" not in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Repository:
    """A repository in which the pipeline has run on a folder of images; read-only, for all tests."""
    base = tmp_path_factory.getbasetemp()
    shared = (base if worker_id == "master" else base.parent) / "small_run"  # for all workers
    with FileLock(f"{shared}.lock"):
        if (shared / "done").exists():
            return Repository(shared / "repository")
        repository = Repository.of_small_run(shared)
        (shared / "done").touch()
        return repository


@pytest.fixture
def repository(finished: Repository, tmp_path: Path) -> Repository:
    """A copy of it that a test may change."""
    return finished.copy(tmp_path / "repository")


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of the test."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
