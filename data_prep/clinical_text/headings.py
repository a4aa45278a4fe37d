"""Patterns for the headings and abbreviations in clinical notes."""

import re

HEADING = re.compile(r"(?:^|\n)[ \t*#-]*([A-Z][A-Za-z /&,'-]{2,50}?)[*]*:", re.MULTILINE)


# Collections of dictated notes have one line per note, with commas in place of line breaks: ",HISTORY:, text".
COMMA_HEADING = re.compile(r",\s*(?=[A-Z][A-Z /&'-]{2,50}:)")


ABBREVIATION = re.compile(
    r"(?<![\w-])(?:[A-Z]{2,5}s?|[A-Za-z]\.(?:[A-Za-z]\.)+|[a-z]/[a-z]|[A-Z][a-z]?[A-Z]\d?|pt|pts|Pt|yo|hx|dx|tx|sx|fx|"
    r"prn|bid|tid|qid)(?![\w-])"
)


def as_lines(text: str) -> str:
    """A dictated text with each heading moved to the beginning of a line."""
    return COMMA_HEADING.sub("\n", "\n" + text).replace(":,", ":").strip()


def headings_of(text: str) -> list[str]:
    """The headings of a text in capitals: headings written in capitals, or of at most four words in a longer text."""
    words = text.split()
    return [
        " ".join(found.upper().split())
        for found in HEADING.findall(text)
        if found.isupper() or (len(found.split()) <= 4 and len(words) > 5)
    ]
