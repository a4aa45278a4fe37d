"""Errors that a user can cause and fix: one line with the value and the remedy."""


class UserError(ValueError):
    """An error that the user can fix. Printed as one line with the value and the remedy; the exit code is 2."""


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200]
