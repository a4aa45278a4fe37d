"""Numbered sentences of a note, in the note's own layout, and the numbers by which an answer cites them.

The numbers are those of prompts and of the check of citations.
"""

from data_prep.contract.prompt.cited_sentences import numbered_sentences, places_of_citations


def numbered(note: str) -> list[tuple[int, str]]:
    """The whole note in pieces: sentences numbered from 1, and the text between sentences with number 0."""
    found, done = [], 0
    for sentence in numbered_sentences(note):
        if note[done : sentence.start]:
            found.append((0, note[done : sentence.start]))
        found.append((sentence.number, sentence.text))
        done = sentence.end
    if note[done:]:
        found.append((0, note[done:]))
    return found


def citations(answer: str, note: str) -> list[tuple[int, int, int]]:
    """(number, start, end) of each citation in an answer of a sentence that the note has."""
    last = len(numbered_sentences(note))
    return [place for place in places_of_citations(answer) if place[0] <= last]
