"""Error messages for the user."""


class UserError(Exception):
    """An error that the user can fix: one line per mistake, with what is wrong, where, and what to do.

    `python -m stages` prints it and exits with status 1. Any other exception is a bug of the program.
    """


def one_line(error: Exception) -> str:
    """The text of an exception, for a message to the user."""
    return shortened(str(error)) or type(error).__name__


def shortened(text: str, length: int = 200) -> str:
    """One printable line of at most about `length` characters, for names of files and folders of any content."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))
    return line if len(line) <= length else f"{line[:length]} ..."
