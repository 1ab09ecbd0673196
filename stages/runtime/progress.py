"""Progress bars."""

from tqdm import tqdm


def progress_bar(what: str, total: float, unit: str, done: float = 0, silent: bool = False) -> tqdm:
    """A bar on the standard error if that is a terminal; `done` of `total` were done before."""
    disable = silent or None  # None: without a terminal
    return tqdm(desc=what, total=total, initial=done, unit=f" {unit}", unit_scale=True, leave=False, disable=disable)
