"""Archives are verified before they are opened, whatever folders and servers do."""

import hashlib
import random
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from stages.images import archives
from stages.images.archives import Archive, fetch
from tests.repository import refusal

CONTENT = random.Random(0).randbytes(5000)
FLIPPED = CONTENT[:999] + bytes([CONTENT[999] ^ 1]) + CONTENT[1000:]
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ARCHIVE = Archive("archive.tar.gz", "https://example.invalid/", SHA256, len(CONTENT))


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
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no wait between two tries."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setattr(archives, "TRIES", 2)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    return folder / "simclr-dvc"


def whole(content: bytes) -> tuple[int, bytes, int]:
    return 200, content, len(content)


DIGITS = pytest.mark.parametrize("sha256", [SHA256, SHA256[:8]], ids=["sha256", "first digits"])


@DIGITS
def test_a_download_is_kept_and_not_repeated(sha256: str, cache: Path) -> None:
    server = Server(whole(CONTENT))
    for _ in range(2):
        path = fetch(Archive("archive.tar.gz", server.url, sha256, len(CONTENT)), None)
        assert (path, path.read_bytes()) == (cache / "archive.tar.gz", CONTENT)
    assert server.requests == 1


@pytest.mark.parametrize("kept", [0, 1, len(CONTENT) - 1])
def test_a_download_cut_short_is_tried_again(kept: int) -> None:
    server = Server((200, CONTENT[:kept], len(CONTENT)), whole(CONTENT))
    assert fetch(ARCHIVE, server.url).read_bytes() == CONTENT
    assert server.requests == 2


BAD_ANSWERS = {
    "cut short": (200, CONTENT[:-7], len(CONTENT)),
    "short and honest about it": whole(CONTENT[:-7]),
    "a bit flipped": whole(FLIPPED),
    "an error page": whole(b"<html>please log in</html>"),
    "not found": (404, b"", 0),
    "server error": (500, b"", 0),
}


@DIGITS
@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_a_bad_download_ends_in_one_line_and_leaves_no_file(
    answer: tuple[int, bytes, int], sha256: str, cache: Path
) -> None:
    server = Server(answer)
    message = refusal(fetch, replace(ARCHIVE, sha256=sha256), server.url)
    assert message.startswith(f"{server.url}archive.tar.gz: could not be downloaded with SHA-256 {sha256} ")
    assert "set mirror" in message
    assert not any(cache.iterdir())


def test_a_folder_serves_as_mirror(tmp_path: Path) -> None:
    (tmp_path / "archive.tar.gz").write_bytes(CONTENT)
    assert fetch(ARCHIVE, str(tmp_path)) == tmp_path / "archive.tar.gz"


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], FLIPPED, CONTENT + b"more"])
def test_a_damaged_archive_in_the_mirror_is_refused_with_both_checksums_and_left_alone(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "archive.tar.gz"
    path.write_bytes(content)
    found = hashlib.sha256(content).hexdigest()
    assert refusal(fetch, ARCHIVE, str(tmp_path)).startswith(f"{path}: SHA-256 is {found}, expected {SHA256}")
    assert path.read_bytes() == content


def test_a_file_missing_in_the_mirror_is_named(tmp_path: Path) -> None:
    assert "archive.tar.gz: not found or not readable; put https://example" in refusal(fetch, ARCHIVE, str(tmp_path))


@pytest.mark.parametrize(
    "mirror",
    [
        *("a\0b", "a\nb", "x" * 300, "~nobody-of-this-name", "/dev/null"),
        *("http://[", "http://[\n", "ftp://\udcff", "x://y", "http://127.0.0.1:9"),
    ],
)
def test_a_mirror_that_cannot_be_one_is_refused_in_one_line(mirror: str) -> None:
    line = refusal(fetch, ARCHIVE, mirror)
    assert "archive.tar.gz: " in line
    assert ("could not be downloaded" in line) == ("://" in mirror)
