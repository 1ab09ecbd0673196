"""What is wrong, in lines for the user."""


class UserError(Exception):
    """What the user can mend: a line for each mistake, with what is wrong, where, and what to do.

    `python -m stages` prints it and exits with status 1. Everything else is a fault of the program.
    """


def one_line(error: Exception) -> str:
    """What an exception says, for a message to the user."""
    return shortened(str(error)) or type(error).__name__


def shortened(text: str, length: int = 200) -> str:
    """One printable line of at most about `length` characters, whatever a user's file or folder has in it."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))
    return line if len(line) <= length else f"{line[:length]} ..."
