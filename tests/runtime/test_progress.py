"""What a log holds where no terminal shows the bar."""

import pytest

from stages.runtime.progress import progress_bar


def test_a_line_does_not_draw_the_bar_again_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("work", 3) as progress:
        progress.start_t = progress.last_print_t = 0  # long ago, so that the bar is shown
        progress.update()
        drawn = capsys.readouterr().err
        progress.write("a line")
        assert (capsys.readouterr(), "work" in drawn) == (("a line\n", ""), True)
