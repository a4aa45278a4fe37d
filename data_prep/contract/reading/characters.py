"""Characters that text carries from files, web pages and word processors, replaced by plain ones as the text enters.

Every reader of rows calls `plain_value`, and every reader of a whole file `plain_text`, so that later stages see line
feeds as the only line breaks, spaces as the only spaces, and no characters that cannot be seen.
"""

import re
from typing import Any

LINE_BREAKS = "\v\f\x1c\x1d\x1e\x1f\u2028"
SPACES = "\xa0\u1680\u2000-\u200a\u202f\u205f\u3000"
# Zero-width characters, marks of the direction of writing, soft hyphens and byte order marks inside a text.
INVISIBLE = "\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff"
CONTROLS = "\x00-\x08\x0e-\x1b\x7f-\x9f"
SPECIAL = re.compile(
    # A soft hyphen at the end of a line divides a word.
    rf"\r\n?|\xad[ \t]*(?:\r\n?|\n)[ \t]*|\u2029|[{LINE_BREAKS}{SPACES}{INVISIBLE}{CONTROLS}]"
)
# "12 000" with a thin space is one number; with an ordinary space it would become two.
THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:[\u2009\u202f]\d{3})+(?!\d)")
THIN_SPACES = str.maketrans("\u2009\u202f", ",,")


def replacement(special: str) -> str:
    if special in ("\r", "\r\n") or special in LINE_BREAKS:
        return "\n"
    if special == "\u2029":
        return "\n\n"
    if "\x80" <= special <= "\x9f":
        # Text that was decoded as Latin-1 although it was Windows-1252 has its quotation marks and dashes here.
        return special.encode("latin-1").decode("cp1252", errors="ignore")
    return " " if special in "\xa0\u1680\u202f\u205f\u3000" or "\u2000" <= special <= "\u200a" else ""


def plain_text(text: str) -> str:
    """The text with plain line breaks and spaces, and without invisible and control characters."""
    if not SPECIAL.search(text):
        return text
    text = THOUSANDS.sub(lambda match: match[0].translate(THIN_SPACES), text)
    return SPECIAL.sub(lambda match: replacement(match[0]), text)


def plain_text_with_places(text: str) -> tuple[str, list[int]]:
    """The plain text, and the place in it of each character of `text` and of its end.

    Annotations count characters of the original text.
    """
    places: list[int] = []
    pieces: list[str] = []
    length = end = 0
    text = THOUSANDS.sub(lambda match: match[0].translate(THIN_SPACES), text)
    for match in SPECIAL.finditer(text):
        pieces += [text[end : match.start()], replacement(match[0])]
        places += range(length, length + len(pieces[-2]))
        length += len(pieces[-2])
        places += [length] * len(match[0])
        length += len(pieces[-1])
        end = match.end()
    pieces.append(text[end:])
    places += range(length, length + len(pieces[-1]) + 1)
    return "".join(pieces), places


def plain_value(value: Any) -> Any:
    """A cell with plain text in it, in its lists and in its objects."""
    if isinstance(value, str):
        return plain_text(value)
    if isinstance(value, list):
        return [plain_value(item) for item in value]
    if isinstance(value, dict):
        return {name: plain_value(item) for name, item in value.items()}
    return value
