"""Errors that a user can cause and fix: one line with the value and the remedy."""

LONGEST = 1200  # characters of a line


class UserError(ValueError):
    """An error that the user can fix. Printed as one line with the value and the remedy; the exit code is 2.

    The line stays one even if it quotes foreign text: line breaks become spaces, and of a very long text the middle is
    left out.
    """

    def __init__(self, message: object = ""):
        line = " ".join(str(message).splitlines()).encode(errors="backslashreplace").decode()
        super().__init__(line if len(line) <= LONGEST else f"{line[: LONGEST - 400]} ... {line[-300:]}")


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200]
