"""Numbered sentences of a note, in the note's own layout."""

from data_prep.clinical_text.sentences import INVISIBLE, split_sentences


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
