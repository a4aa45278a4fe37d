"""Places in a text: of its sentences, and of a quotation from it."""

import re

from data_prep.clinical_text.sentences import INVISIBLE, split_sentences

WORD = re.compile(r"\w+")
LEFT_OUT = re.compile(r"\[?(?:\.\.\.+|…)\]?")


def solid(character: str) -> bool:
    return not character.isspace() and not INVISIBLE.match(character)


def places_of_sentences(text: str) -> list[tuple[int, int]]:
    """[start, end) of each sentence.

    Counts visible characters, because `split_sentences` changes only white space and invisible characters."""
    where = [index for index, character in enumerate(text) if solid(character)]
    places, done = [], 0
    for sentence in split_sentences(text):
        length = sum(map(solid, sentence))
        if length:
            places.append((where[done], where[done + length - 1] + 1))
            done += length
    return places


def plain(text: str) -> str:
    """The words of a text in lower case, each between single spaces."""
    return f" {' '.join(WORD.findall(text)).lower()} "


def place_of_quote(quote: str, text: str) -> tuple[int, int] | None:
    """[start, end) of the first place where the text has the words of the quote in sequence; None if it has not.

    Case and punctuation are ignored. Words may be left out of the text where the quote has an ellipsis.
    """
    body, parts = plain(text), [plain(part) for part in LEFT_OUT.split(quote) if WORD.search(part)]
    first, place = -1, 0
    for part in parts:
        place = body.find(part, place)
        if place < 0:
            return None
        first = place if first < 0 else first
        place += len(part) - 1  # the space after it may be the one before the next part
    if first < 0:
        return None
    words = [match.span() for match in WORD.finditer(text)]
    return words[body.count(" ", 0, first)][0], words[body.count(" ", 0, place) - 1][1]
