"""How far work is and how long it will still take."""

import sys

from tqdm import tqdm

LINE_EVERY = 30  # seconds, where no terminal shows the bar


class Bar(tqdm):
    def write(self, line: str) -> None:
        """Prints a line above the bar. Where no terminal shows that, tqdm would print it again after every line."""
        if sys.stderr.isatty():
            super().write(line)
        else:
            sys.stdout.write(f"{line}\n")  # at once, where `print` would write the line's end by itself


def progress_bar(what: str, total: float, unit: str = "", done: float = 0, silent: bool = False) -> Bar:
    """A bar on the standard error, which `update(n)` moves on to `total`; `done` was done before."""
    return Bar(
        desc=what,
        total=total,
        initial=done,
        unit=f" {unit}",
        unit_scale=True,
        leave=False,
        delay=1,
        disable=silent,
        mininterval=0.1 if sys.stderr.isatty() else LINE_EVERY,
    )
