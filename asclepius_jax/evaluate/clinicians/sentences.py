"""Numbered sentences of a note, in the note's own layout."""

from data_prep.faithfulness.places import places_of_sentences


def numbered(text: str) -> list[tuple[int, str]]:
    """The whole text in pieces: sentences numbered from 1, and the text between sentences with number 0."""
    found, done = [], 0
    for number, (start, end) in enumerate(places_of_sentences(text), 1):
        if text[done:start]:
            found.append((0, text[done:start]))
        found.append((number, text[start:end]))
        done = end
    if text[done:]:
        found.append((0, text[done:]))
    return found
