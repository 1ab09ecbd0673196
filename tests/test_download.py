"""Archives are verified before they are opened, whatever folders and servers do, and read as CIFAR is laid out."""

import hashlib
import io
import pickle
import shutil
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision

from stages import download
from stages.cifar import CIFAR10_TRAIN, load_cifar
from stages.download import Archive, fetch, starting_weights


def archive_of(members: dict[str, object]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            data = pickle.dumps(content, protocol=2)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def rows(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


CIFAR10 = archive_of({name: {b"data": rows(4, seed), b"labels": [0] * 4} for seed, name in enumerate(CIFAR10_TRAIN)})
CIFAR100 = archive_of(
    {
        "cifar-100-python/train": {b"data": rows(6, 10), b"fine_labels": [1, 0, 1, 0, 0, 1], b"coarse_labels": [0] * 6},
        "cifar-100-python/test": {b"data": rows(3, 11), b"fine_labels": [0, 1, 0], b"coarse_labels": [0, 0, 0]},
        "cifar-100-python/meta": {b"fine_label_names": [b"apple", b"bear"], b"coarse_label_names": [b"fruit"]},
    }
)


def described(content: bytes, site: str = "https://example.invalid/") -> Archive:
    return Archive("archive.tar.gz", site, hashlib.sha256(content).hexdigest(), len(content))


class Server(ThreadingHTTPServer):
    """Serves one answer after another; the last one again and again."""

    def __init__(self, *answers: tuple[int, bytes, int]) -> None:
        self.answers, self.requests = list(answers), 0  # (status, content, declared length)
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        status, content, length = self.server.answers[min(self.server.requests, len(self.server.answers) - 1)]
        self.server.requests += 1
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "TRIES", 2)
    yield tmp_path / "cache" / "simclr-dvc"


def whole(content: bytes) -> tuple[int, bytes, int]:
    return 200, content, len(content)


def test_a_download_is_kept_and_not_repeated(cache: Path) -> None:
    server = Server(whole(CIFAR10))
    for _ in range(2):
        path = fetch(described(CIFAR10, server.url), None)
        assert path.read_bytes() == CIFAR10
        assert path.parent == cache
    assert server.requests == 1


@pytest.mark.parametrize("kept", [0, 1, len(CIFAR10) // 2, len(CIFAR10) - 1])
def test_a_download_cut_short_is_tried_again(kept: int) -> None:
    server = Server((200, CIFAR10[:kept], len(CIFAR10)), whole(CIFAR10))
    assert fetch(described(CIFAR10), server.url).read_bytes() == CIFAR10
    assert server.requests == 2


def flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


BAD_ANSWERS = {
    "cut short": (200, CIFAR10[:-7], len(CIFAR10)),
    "short and honest about it": whole(CIFAR10[:-7]),
    "a bit flipped": whole(flipped(CIFAR10, 999)),
    "an error page": whole(b"<html>please log in</html>"),
    "not found": (404, b"", 0),
    "server error": (500, b"", 0),
}


@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_a_bad_download_ends_in_one_line_and_leaves_no_file(cache: Path, answer: tuple[int, bytes, int]) -> None:
    server = Server(answer)
    with pytest.raises(SystemExit) as stopped:
        fetch(described(CIFAR10), server.url)
    message = str(stopped.value.code)
    assert message.startswith(f"{server.url}archive.tar.gz: could not be downloaded")
    assert described(CIFAR10).sha256 in message
    assert "set mirror" in message
    assert "\n" not in message
    assert not any(cache.iterdir())


def test_no_server_ends_in_one_line() -> None:
    with pytest.raises(SystemExit, match="could not be downloaded"):
        fetch(described(CIFAR10), "http://127.0.0.1:9/")


def test_a_folder_serves_as_mirror(tmp_path: Path) -> None:
    (tmp_path / "archive.tar.gz").write_bytes(CIFAR10)
    assert fetch(described(CIFAR10), str(tmp_path)) == tmp_path / "archive.tar.gz"


@pytest.mark.parametrize("content", [b"", CIFAR10[:100], flipped(CIFAR10, 5), CIFAR100])
def test_a_wrong_file_in_the_mirror_is_refused_with_both_checksums(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "archive.tar.gz").write_bytes(content)
    with pytest.raises(SystemExit) as stopped:
        fetch(described(CIFAR10), str(tmp_path))
    assert hashlib.sha256(content).hexdigest() in str(stopped.value.code)
    assert described(CIFAR10).sha256 in str(stopped.value.code)


def test_a_file_missing_in_the_mirror_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"archive\.tar\.gz: not found; put https://example"):
        fetch(described(CIFAR10), str(tmp_path))


def test_cifar_archives_are_read_as_they_are_laid_out(tmp_path: Path) -> None:
    (tmp_path / "10").write_bytes(CIFAR10)
    (tmp_path / "100").write_bytes(CIFAR100)
    dataset = load_cifar(tmp_path / "10", tmp_path / "100")
    assert dataset.unlabelled.shape == (20, 32, 32, 3)
    # A row is the red plane, then the green, then the blue, each line by line.
    row = rows(4, 2)[3]
    assert dataset.unlabelled[11, 7, 9].tolist() == [row[plane * 1024 + 7 * 32 + 9] for plane in range(3)]
    assert dataset.train.fine.tolist() == [1, 0, 1, 0, 0, 1]
    assert dataset.test.coarse.tolist() == [0, 0, 0]
    assert (dataset.fine_names, dataset.coarse_names) == (["apple", "bear"], ["fruit"])


@pytest.mark.parametrize("content", [CIFAR100, b"", b"no archive at all"], ids=["other members", "empty", "text"])
def test_an_archive_with_other_members_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "10").write_bytes(content)
    with pytest.raises(SystemExit, match="is not the archive it should be") as stopped:
        load_cifar(tmp_path / "10", tmp_path / "10")
    assert "\n" not in str(stopped.value.code)


def test_random_weights_come_from_the_seed() -> None:
    first, again, other = (starting_weights(None, seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_imagenet_weights_are_taken_from_the_file(tmp_path: Path) -> None:
    torch.manual_seed(3)
    state = torchvision.models.resnet18().state_dict()
    torch.save(state, tmp_path / "weights.pth")
    loaded = starting_weights(tmp_path / "weights.pth", seed=0)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_too_little_room_is_noticed_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(Path(__file__).parent.parent / "params.yaml", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**8))
    with pytest.raises(SystemExit, match=r"^data: 0\.17 GB are needed and 0\.10 GB are free"):
        download.main()
    assert not Path("data").exists()
