"""Progress without a terminal."""

import pytest

from stages.runtime.progress import progress_bar


def test_without_a_terminal_a_log_line_does_not_repeat_the_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("work", 3) as progress:
        progress.start_t = progress.last_print_t = 0  # so that the bar is shown immediately
        progress.update()
        drawn = capsys.readouterr().err
        progress.write("a line")
        assert (capsys.readouterr(), "work" in drawn) == (("a line\n", ""), True)
