"""Errors that a user can cause and mend: one line with the value and the remedy."""


class UserError(ValueError):
    """Something that the person at the keyboard can mend: one line with the value and the remedy, exit code 2."""


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200]
