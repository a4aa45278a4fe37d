"""Headings and abbreviations of clinical notes as they are written."""

import re

HEADING = re.compile(r"(?:^|\n)[ \t*#-]*([A-Z][A-Za-z /&,'-]{2,50}?)[*]*:", re.MULTILINE)


# Dictated collections come as one line, with commas for line ends: ",HISTORY:, text".
COMMA_HEADING = re.compile(r",\s*(?=[A-Z][A-Z /&'-]{2,50}:)")


ABBREVIATION = re.compile(
    r"(?<![\w-])(?:[A-Z]{2,5}s?|[A-Za-z]\.(?:[A-Za-z]\.)+|[a-z]/[a-z]|[A-Z][a-z]?[A-Z]\d?|pt|pts|Pt|yo|hx|dx|tx|sx|fx|"
    r"prn|bid|tid|qid)(?![\w-])"
)


def as_lines(text: str) -> str:
    """A dictated text with its headings at the beginnings of lines."""
    return COMMA_HEADING.sub("\n", "\n" + text).replace(":,", ":").strip()


def headings_of(text: str) -> list[str]:
    """Headings that stand in capitals, or begin a line."""
    words = text.split()
    return [
        " ".join(found.upper().split())
        for found in HEADING.findall(text)
        if found.isupper() or (len(found.split()) <= 4 and len(words) > 5)
    ]
