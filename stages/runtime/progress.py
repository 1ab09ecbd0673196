"""How far work is and how long it will still take."""

import sys

from tqdm import tqdm

LINE_EVERY = 30  # seconds, where no terminal shows the bar


def progress_bar(what: str, total: float, unit: str = "", done: float = 0, silent: bool = False) -> tqdm:
    """A bar on the standard error, which `update(n)` moves on to `total`; `done` was done before."""
    return tqdm(
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
