"""Progress bars."""

import sys

from tqdm import tqdm

LOG_INTERVAL = 30  # seconds between two progress lines if there is no terminal


class Bar(tqdm):
    def write(self, line: str) -> None:
        """Prints a line above the bar. Without a terminal, tqdm would repeat the bar after every line."""
        if sys.stderr.isatty():
            super().write(line)
        else:
            sys.stdout.write(f"{line}\n")  # in one call, so that lines of several threads do not mix


def progress_bar(what: str, total: float, unit: str = "", done: float = 0, silent: bool = False) -> Bar:
    """A bar on the standard error; `done` of `total` were done before."""
    return Bar(
        desc=what,
        total=total,
        initial=done,
        unit=f" {unit}",
        unit_scale=True,
        leave=False,
        delay=1,
        disable=silent,
        mininterval=0.1 if sys.stderr.isatty() else LOG_INTERVAL,
    )
