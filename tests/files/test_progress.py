"""What a user sees of long work."""

import io
import re
import sys
import time

import pytest

from stages.files import progress
from stages.files.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("terminal", [False, True])
def test_long_work_says_how_far_it_is_and_how_long_still(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setattr(progress, "LINES_EVERY", 0.3)
    with Progress("reading", 400, "images") as bar:
        for _ in range(20):
            time.sleep(0.1)
            bar.update(10)
    lines = [line for line in re.split(r"[\r\n]+", shown.getvalue()) if line.strip()]
    assert all(re.match(r"reading: \d+ %.* left, .* images/s *$", line) for line in lines)
    assert ("\n" in shown.getvalue()) is not terminal
    assert 2 <= len(lines) <= 20
    assert "0:00 left" not in lines[-1]  # half of the work


def test_short_work_on_no_terminal_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with Progress("reading", 10, "images") as bar:
        bar.update(10)
    assert sys.stderr.getvalue() == ""


def test_a_line_goes_to_the_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("training", 10, done=4) as bar:
        bar.say("epoch 1")
        assert bar.n == 4
    assert capsys.readouterr().out == "epoch 1\n"
