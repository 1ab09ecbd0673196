"""`dvc push` and `dvc pull` with a shared remote: a local S3 server (moto)."""

import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.repository import RESULTS, Repository

boto3 = pytest.importorskip("boto3", reason="make chaos installs it")
server = pytest.importorskip("moto.server", reason="make chaos installs it")
pytestmark = pytest.mark.slow

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture
def url() -> Iterator[str]:
    moto = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"http://{host}:{port}"
    moto.stop()


@pytest.fixture
def bucket(url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    return boto3.resource("s3", endpoint_url=url).create_bucket(Bucket="shared")


@pytest.fixture
def pushed(repository: Repository, bucket: Any, url: str) -> Repository:
    repository.environment |= KEYS
    repository.run(f"dvc remote add -d storage s3://{bucket.name}/simclr")
    repository.run(f"dvc remote modify storage endpointurl {url}")
    repository.commit("a remote")
    repository.run("dvc push --run-cache")
    return repository


def clone(repository: Repository, path: Path) -> Repository:
    repository.run(f"git clone -q . {path}")
    fresh = Repository(path)
    fresh.environment |= KEYS
    return fresh


def test_a_fresh_clone_pulls_everything_and_has_nothing_to_run(pushed: Repository, tmp_path: Path) -> None:
    fresh = clone(pushed, tmp_path / "fresh")
    fresh.run("dvc pull --run-cache")
    assert fresh.stages_run("dvc repro") == []
    assert fresh.bytes(*RESULTS) == pushed.bytes(*RESULTS)
    assert fresh.is_clean()


def test_after_an_incomplete_push_pull_reports_what_is_missing_and_a_second_push_completes_it(
    pushed: Repository, bucket: Any, tmp_path: Path
) -> None:
    bucket.Object(f"simclr/files/md5/{cache_name(pushed, 'models/simclr.safetensors')}").delete()
    half = clone(pushed, tmp_path / "half")
    output = half.run("dvc pull", fails=True)
    assert "models/simclr.safetensors" in output
    assert "Traceback" not in output
    assert (half.path / "data/features.safetensors").exists()
    assert half.run("git status --porcelain") == ""
    pushed.run("dvc push --run-cache")
    half.run("dvc pull")
    assert half.is_clean()


def test_without_access_to_the_remote_nothing_is_lost(pushed: Repository, url: str, tmp_path: Path) -> None:
    before = pushed.bytes(*RESULTS)
    text = {"Content-Type": "text/plain"}
    urllib.request.urlopen(urllib.request.Request(f"{url}/moto-api/reset-auth", b"0", text)).close()
    try:
        for command in ("dvc push --run-cache", "dvc pull --run-cache"):
            output = pushed.run(command, fails=True)
            assert "ERROR" in output
            assert "Traceback" not in output
        denied = clone(pushed, tmp_path / "denied")
        assert "ERROR" in denied.run("dvc pull", fails=True)
        assert denied.run("git status --porcelain") == ""
    finally:
        urllib.request.urlopen(urllib.request.Request(f"{url}/moto-api/reset-auth", b"inf", text)).close()
    assert pushed.bytes(*RESULTS) == before
    assert pushed.is_clean()


def cache_name(repository: Repository, path: str) -> str:
    """The path of an output in DVC's cache and remotes."""
    lock = YAML(typ="safe").load((repository.path / "dvc.lock").read_text())
    (md5,) = {out["md5"] for stage in lock["stages"].values() for out in stage.get("outs", []) if out["path"] == path}
    return f"{md5[:2]}/{md5[2:]}"
