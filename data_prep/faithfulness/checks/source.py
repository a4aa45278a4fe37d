"""The index of a source text, against which the atoms of other texts are checked."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from functools import cached_property

from data_prep.clinical_text.abbreviations import find_pairs
from data_prep.clinical_text.entities import KIND_OF
from data_prep.clinical_text.sentences import SOLID, rejoined, split_sentences, tidy
from data_prep.clinical_text.statuses.people import PERSONS
from data_prep.clinical_text.statuses.scopes import statuses_at
from data_prep.clinical_text.words import EMPTY, stem, stems
from data_prep.faithfulness.atoms.kinds import Atom
from data_prep.faithfulness.atoms.quantities import NUMBER, magnitude
from data_prep.faithfulness.atoms.read import Reading, read
from data_prep.faithfulness.atoms.terms import HEADING, PHRASE, named_in_scopes
from data_prep.faithfulness.checks.agreement import agree
from data_prep.faithfulness.dimensions.comparison import Compared, Statements, compare
from data_prep.faithfulness.dimensions.heads import Said, contradicted, said_of_heads
from data_prep.faithfulness.dimensions.order import Order, orders, reversed_orders
from data_prep.faithfulness.dimensions.overstated import overstated
from data_prep.faithfulness.dimensions.panels import items, misplaced, values_by_item
from data_prep.faithfulness.dimensions.purpose import Names, exchanged, purposes
from data_prep.faithfulness.dimensions.whole import of_whole, sex_of

NAMES_IN_CAPITALS = re.compile(r"[A-Z][a-z]+ [A-Z][a-z]+")
Found = tuple[int, Atom]  # a sentence's number, and an atom in it
FINDINGS = ("finding", "negated finding")
QUALIFIED = (*FINDINGS, "drug", "test", "procedure")


class Source:
    """A case report, or the note of an answer, indexed: sentences by their words, atoms by their kind."""

    def __init__(self, text: str):
        self.text = text
        self.readings: Sequence[Reading] = [read(rejoined(tidy(sentence))) for sentence in split_sentences(text)]
        self._copies = {reading.text: number for number, reading in reversed(list(enumerate(self.readings)))}
        self.sentences_of: dict[str, list[int]] = defaultdict(list)
        self.atoms: dict[str, list[Found]] = defaultdict(list)
        for number, reading in enumerate(self.readings):
            for word in reading.stems:
                self.sentences_of[word].append(number)
            for atom in reading.atoms:
                self.atoms[atom.kind].append((number, atom))
        # What is named under a status anywhere, by the last word of its name: it may be stated without one elsewhere.
        self.qualified: dict[str, set[tuple[str, ...]]] = defaultdict(set)
        for reading in self.readings:
            for words, _ in named_in_scopes(reading.text):
                self.qualified[words[-1].stem].add(tuple(word.stem for word in words))
            for atom in reading.atoms:
                if atom.statuses:
                    self.qualified[str(atom.value[-1])].add(tuple(map(str, atom.value)))
        self.pairs = {short: tuple(stems(long)) for short, long in find_pairs(text).items()}
        self.compact = "".join(text.lower().split()).replace("-", "")
        self._numbers: list[tuple[int, float]] | None = None

    def copy_of(self, sentence: str) -> int | None:
        """The number of the sentence that is this one, to the letter; None if there is none."""
        return self._copies.get(sentence)

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """The start and end of each sentence in the text."""
        solid = [match.start() for match in SOLID.finditer(self.text)]
        found, passed = [], 0
        for sentence in split_sentences(self.text):
            count = len("".join(sentence.split()))
            found.append((solid[passed], solid[passed + count - 1] + 1))
            passed += count
        return found

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

    def mentions(self, words: tuple[str, ...]) -> dict[int, set[frozenset[str]]]:
        """Sentence number -> the statuses under which the sentence names this thing."""
        return {number: statuses_of(self.readings[number], words) for number in self.holding(words)}

    def holding_roots(self, roots: Sequence[str]) -> list[int]:
        """The numbers of the sentences with words of all of these roots."""
        found = [set(self.statements.holding.get(name, ())) for name in roots]
        return sorted(set.intersection(*found)) if found else []

    @cached_property
    def vocabulary(self) -> dict[str, list[int]]:
        """Each word in lower case -> the numbers of its sentences."""
        found: dict[str, list[int]] = defaultdict(list)
        for number, words in enumerate(self.statements.words):
            for word in {word.text for word in words}:
                found[word].append(number)
        return found

    def ending_in(self, word: str) -> list[int]:
        return sorted({n for other, numbers in self.vocabulary.items() if stem(other).endswith(word) for n in numbers})

    def containing(self, part: str) -> list[int]:
        return sorted({n for word, numbers in self.vocabulary.items() if part in word for n in numbers})

    def spelled_like(self, word: str) -> list[int]:
        """The sentences with a word of almost the same letters that is no term of the lexicon: "gentamycin"."""
        found: list[int] = []
        for other, numbers in self.vocabulary.items():
            near = other[:2] == word[:2] and abs(len(other) - len(word)) <= 2 and other not in KIND_OF
            if near and SequenceMatcher(None, other, word).ratio() > 0.88:
                found += numbers
        return sorted(found)

    def matching(self, pattern: re.Pattern[str]) -> list[int]:
        return sorted({n for word, numbers in self.vocabulary.items() if pattern.fullmatch(word) for n in numbers})

    def with_initials(self, letters: str) -> list[int]:
        """The sentences with a sequence of words that begin with these letters: LES, the lower esophageal sphincter."""
        found = []
        for number, words in enumerate(self.statements.words):
            parts = [part for word in words for part in word.text.split("-") if part and part not in EMPTY]
            compounds = [
                "".join(part[0] for part in word.text.split("-") if part) for word in words if "-" in word.text
            ]
            # Two letters may stand next to one another by chance, except those of names: "Ziehl Neelsen".
            text = self.readings[number].text
            names = ["".join(part[0] for part in match[0].split()) for match in NAMES_IN_CAPITALS.finditer(text)]
            if (
                letters in compounds
                or letters.upper() in names
                or (len(letters) > 2 and letters in "".join(part[0] for part in parts))
            ):
                found.append(number)
        return found

    def statuses_in(self, number: int) -> set[frozenset[str]]:
        """The statuses of the words of a sentence."""
        text = self.readings[number].text
        return {statuses_at(text, word.start, word.end) for word in self.statements.words[number] if word.content}

    @cached_property
    def statements(self) -> Statements:
        return Statements([reading.text for reading in self.readings])

    @cached_property
    def sex(self) -> str:
        return sex_of(self.statements.text)

    @cached_property
    def orders(self) -> list[tuple[int, Order]]:
        return [(n, order) for n, text in enumerate(self.statements.sentences) for order in orders(text)]

    @cached_property
    def purposes(self) -> list[tuple[int, Names, Names]]:
        texts = enumerate(self.statements.sentences)
        return [(number, given, problem) for number, text in texts for given, problem, _, _ in purposes(text)]

    @cached_property
    def listed(self) -> dict[str, dict[str, int]]:
        return values_by_item(self.statements.sentences)

    @cached_property
    def of_heads(self) -> Said:
        return said_of_heads(self.statements.sentences)

    def compare(self, sentence: str) -> list[Compared]:
        """The values of a sentence in each dimension, each compared with the source's value for the same thing."""
        # What a list says of its items is surer than the words around a result.
        listed = {("result", value) for name, value, _, _ in items(sentence) if value in self.listed.get(name, ())}
        found = [one for one in compare(sentence, self.statements) if (one.dimension, one.value) not in listed]
        if not self.statements.has(sentence):
            found += of_whole(sentence, self.statements, self.sex)
            found += reversed_orders(sentence, self.statements, self.orders)
            found += exchanged(sentence, self.statements, self.purposes)
            found += overstated(sentence, self.statements)
            found += misplaced(sentence, self.listed, self.statements)
            seen = {(one.dimension, one.start) for one in found}
            found += (
                one
                for one in contradicted(sentence, self.of_heads, self.statements)
                if (one.dimension, one.start) not in seen
            )
        return found


def statuses_of(reading: Reading, words: tuple[str, ...]) -> set[frozenset[str]]:
    head = words[-1]
    named = [
        atom
        for atom in reading.atoms
        if atom.kind in QUALIFIED and (head in atom.value or set(atom.value) <= set(words))
    ]
    statuses = {atom.statuses for atom in named}
    for word, start, end in (*reading.words, *reading.shorts):
        if word == head and not any(atom.start <= start and end <= atom.end for atom in named):
            statuses.add(statuses_at(reading.text, start, end))
    return statuses


def unqualified(reading: Reading, source: Source) -> Iterator[Atom]:
    """Things that the source names under a status alone, and this sentence without it; not the sentence's own atoms."""
    heading = HEADING.match(reading.text)
    for word, start, end in (*reading.words, *reading.shorts):
        if word in EMPTY or word in PERSONS or KIND_OF.get(word) == "anatomy":
            continue
        for words in source.qualified.get(word, ()):
            if not reading.stems.issuperset(words) or (heading and end <= heading.end()):
                continue
            if any(atom.kind in QUALIFIED and atom.start < end and start < atom.end for atom in reading.atoms):
                continue
            claimed = statuses_at(reading.text, start, end)
            said = [statuses for found in source.mentions(words).values() for statuses in found]
            if said and not any(agree(claimed, statuses) for statuses in said):
                yield Atom("finding", reading.text[start:end], start, end, words, PHRASE, claimed)
                break
