"""How far work is and how long it will still take: a bar on a terminal, elsewhere a line every half minute."""

import sys
from typing import Any

from tqdm import tqdm

LINES_EVERY = 30  # seconds


class Progress(tqdm):
    """What `update(n)` moves on to `total`; `done` was done before. With a unit it shows the rate, too."""

    def __init__(self, what: str, total: float, unit: str = "", done: float = 0, silent: bool = False) -> None:
        self.on_terminal = sys.stderr.isatty()
        bar = "|{bar}| {elapsed} so far" if self.on_terminal else ""
        rate = ", {rate_fmt}" if unit else ""
        shown = f"{{desc}}: {{percentage:.0f}} %{bar}, {{remaining}} left{rate}"
        how: dict[str, Any] = {} if self.on_terminal else {"mininterval": LINES_EVERY, "maxinterval": LINES_EVERY}
        super().__init__(
            desc=what, total=total, initial=done, unit=f" {unit}", unit_scale=True, bar_format=shown, leave=False,
            delay=1, disable=silent, **how,
        )  # fmt: skip

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if self.on_terminal:
            super().display(msg, pos)
        elif msg is None:
            self.fp.write(f"{self}\n")
            self.fp.flush()

    def say(self, line: str) -> None:
        """Prints a line to the standard output, above the bar."""
        if self.on_terminal:
            self.write(line)
        else:
            print(line, flush=True)
