"""The index of a source text, against which the atoms of other texts are checked."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from data_prep.clinical_text.abbreviations import find_pairs
from data_prep.clinical_text.entities import is_negated
from data_prep.clinical_text.sentences import split_sentences, tidy
from data_prep.clinical_text.words import stems
from data_prep.faithfulness.atoms.kinds import Atom
from data_prep.faithfulness.atoms.quantities import NUMBER, magnitude
from data_prep.faithfulness.atoms.read import Reading, read
from data_prep.faithfulness.atoms.terms import HEADING, PHRASE

Found = tuple[int, Atom]  # a sentence's number, and an atom in it
FINDINGS = ("finding", "negated finding")


class Source:
    """A case report, or the note of an answer, indexed: sentences by their words, atoms by their kind."""

    def __init__(self, text: str):
        self.readings: Sequence[Reading] = [read(tidy(sentence)) for sentence in split_sentences(text)]
        self.sentences_of: dict[str, list[int]] = defaultdict(list)
        self.atoms: dict[str, list[Found]] = defaultdict(list)
        for number, reading in enumerate(self.readings):
            for word in reading.stems:
                self.sentences_of[word].append(number)
            for atom in reading.atoms:
                self.atoms[atom.kind].append((number, atom))
        self.denied = {tuple(map(str, atom.value)) for _, atom in self.atoms["negated finding"]}
        self.pairs = {short: tuple(stems(long)) for short, long in find_pairs(text).items()}
        self.compact = "".join(text.lower().split()).replace("-", "")
        self._numbers: list[tuple[int, float]] | None = None

    def atoms_of(self, *kinds: str) -> Iterator[Found]:
        for kind in kinds:
            yield from self.atoms.get(kind, ())

    @property
    def numbers(self) -> list[tuple[int, float]]:
        """Every number as (sentence number, value), with or without a unit."""
        if self._numbers is None:
            self._numbers = [(n, magnitude(m)) for n, r in enumerate(self.readings) for m in NUMBER.finditer(r.text)]
        return self._numbers

    def holding(self, words: Iterable[str]) -> list[int]:
        """The numbers of the sentences that contain all of these words."""
        found: set[int] | None = None
        for word in words:
            here = self.sentences_of.get(word)
            if not here:
                return []
            found = set(here) if found is None else found.intersection(here)
        return sorted(found or ())

    def weight(self, word: str) -> float:
        """The weight of a word, log(1 + sentences / sentences with the word): rare words identify a sentence better.

        A word that the source lacks has weight 0.
        """
        count = len(self.sentences_of.get(word, ()))
        return math.log(1 + len(self.readings) / count) if count else 0.0

    def akin(self, words: Iterable[str]) -> dict[int, float]:
        """Sentence number -> the share, from 0 to 1, of the words' weight that the sentence contains.

        Empty if the source contains fewer than two of the words.
        """
        scores: dict[int, float] = defaultdict(float)
        total, known = 0.0, 0
        for word in words:
            weight = self.weight(word)
            total += weight
            known += weight > 0
            for number in self.sentences_of.get(word, ()):
                scores[number] += weight
        # One word may be shared by chance.
        return {number: score / total for number, score in scores.items()} if known >= 2 else {}

    def polarities(self, words: tuple[str, ...]) -> dict[int, set[str]]:
        """Sentence number -> the kinds ("finding", "negated finding") under which the sentence states this finding."""
        return {number: kinds for number in self.holding(words) if (kinds := polarity(self.readings[number], words))}


def affirmed_phrases(reading: Reading, source: Source) -> Iterator[Atom]:
    """Findings that the source denies and this sentence affirms, unless they are atoms of the sentence already."""
    heading = HEADING.match(reading.text)
    for words in sorted(source.denied):
        if not reading.stems.issuperset(words) or polarity(reading, words) != {"finding"}:
            continue
        _, start, end = next(place for place in (*reading.words, *reading.shorts) if place[0] == words[-1])
        if heading and end <= heading.end():
            continue
        if not any(atom.kind in FINDINGS and atom.start < end and start < atom.end for atom in reading.atoms):
            yield Atom("finding", reading.text[start:end], start, end, words, PHRASE)


def polarity(reading: Reading, words: tuple[str, ...]) -> set[str]:
    head = words[-1]
    named = {
        atom.kind
        for atom in reading.atoms
        if atom.kind in FINDINGS and (head in atom.value or set(atom.value) <= set(words))
    }
    if named:
        return named
    places = [(start, end) for word, start, end in (*reading.words, *reading.shorts) if word == head]
    return {FINDINGS[is_negated(reading.text, start, end)] for start, end in places}
