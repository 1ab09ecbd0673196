"""Progress without a terminal."""

import pytest

from stages.runtime.progress import progress_bar


def test_without_a_terminal_there_is_no_bar_but_each_line(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("work", 3, "images") as progress:
        progress.write("a line")
        progress.update()
    assert capsys.readouterr() == ("a line\n", "")
