"""The check of an answer's citations: each sentence against the sentences of the note that it cites, and no others.

    check_citations("Metformin was stopped. Creatinine rose.", "Metformin was stopped [1, 2].")
    -> [CitationCheck("Metformin was stopped [1, 2].", 0, 29, cited=(1, 2), supported=True, idle=(2,))]

A sentence is supported if, with the cited sentences and their headings as its whole source,

- the rules of `faithfulness` find no unsupported statement in it,
- the source has each of its quotations, and
- the source has at least half of those of its words that the note has: a sentence without a number, a drug or another
  statement that the rules can read would otherwise be supported by anything.

A citation is idle if the sentence is supported without it. A sentence that says that the note is silent cites nothing.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import islice

from data_prep.clinical_text.words import EMPTY, stems, word_set
from data_prep.contract.prompt.cited_sentences import (
    NumberedSentence,
    cited,
    has_citation,
    numbered_sentences,
    with_citation,
    without_citations,
)
from data_prep.faithfulness.atoms.lines import SAID_ABSENT
from data_prep.faithfulness.certificate import check, source_of
from data_prep.faithfulness.places import place_of_quote

LEAST_SHARED = 0.5  # of the words of an answer's sentence that the note has
MOST_CITED = 4  # sentences, of one sentence of an answer
MOST_CANDIDATES = 8
QUOTED = re.compile(r"“([^“”]+)”")
# Words in which an answer speaks about the note rather than about the patient.
FRAME = frozenset(
    stems(
        "note say says state states stated mention mentions describe describes record records refer refers yes give "
        "gives time use uses stand stands spell abbreviate abbreviates introduce introduces appear appears"
    )
)
# A quotation of these words alone names what the answer explains: “She” refers to ...
MENTIONS = word_set("the patient he his him himself she her hers herself they them their")


@dataclass(frozen=True)
class CitationCheck:
    """A sentence of an answer and what is found of its citations; `problem` is a fixed word, "" if all is well."""

    sentence: str  # with its marker
    start: int
    end: int  # characters [start, end) of the answer
    cited: tuple[int, ...]
    supported: bool  # by the cited sentences alone; also if there is nothing to support
    idle: tuple[int, ...] = ()  # numbers that the sentence does not need, or that no sentence has
    problem: str = ""  # a key of PROBLEMS
    detail: str = ""

    @property
    def within(self) -> tuple[int, int]:
        return self.start, self.end


# What can be wrong with the citations of a sentence, in words for a repair.
PROBLEMS = {
    "citation_form": "a citation has another form than [4, 7] before the final stop",
    "citation_out_of_range": "the note has no sentence of this number",
    "citation_missing": "it cites no sentence of the note",
    "citation_unsupported": "the cited sentences do not support it",
    "citation_idle": "it cites a sentence that it does not need",
    "citation_ambiguous": "the note says it in other sentences too",
}


def ambiguous_citations(note: str, answer: str) -> list[CitationCheck]:
    """The sentences whose statement the note makes in other sentences than the cited ones too."""
    source = NoteSentences.of(note)
    return [
        replace(check, problem="citation_ambiguous")
        for check in check_citations(note, answer)
        if check.cited
        and not check.problem
        and source.is_stated_elsewhere(without_citations(check.sentence), check.cited)
    ]


def check_citations(note: str, answer: str) -> list[CitationCheck]:
    """The sentences of an answer, headings left out, each with what is found of its citations."""
    cite = NoteSentences.of(note)
    checks = [check_sentence(cite, sentence) for sentence in numbered_sentences(answer)]
    # "Yes." states nothing by itself, but an answer needs evidence somewhere.
    silent = any(check.cited or check.problem or SAID_ABSENT.search(check.sentence) for check in checks)
    if checks and not silent:
        first = checks[0]
        checks[0] = CitationCheck(first.sentence, first.start, first.end, (), False, (), "citation_missing")
    return checks


def check_sentence(note: "NoteSentences", sentence: NumberedSentence) -> CitationCheck:
    numbers, plain = cited(sentence.text), without_citations(sentence.text)

    def found(supported: bool, problem: str = "", detail: str = "", idle: tuple[int, ...] = ()) -> CitationCheck:
        where = sentence.text, sentence.start, sentence.end
        return CitationCheck(*where, numbers, supported, idle, problem, detail)

    marker = with_citation("", numbers)
    if has_citation(sentence.text.replace(marker, "", 1) if numbers else sentence.text):
        return found(False, "citation_form")
    if outside := tuple(n for n in numbers if n > len(note.sentences)):
        return found(False, "citation_out_of_range", ", ".join(map(str, outside)), outside)
    if not numbers:
        return found(False, "citation_missing") if states_something(note, plain) else found(True)
    if problems := note.problems(plain, numbers):
        return found(False, "citation_unsupported", "; ".join(problems))
    if idle := tuple(n for n in numbers if not note.problems(plain, [m for m in numbers if m != n])):
        return found(True, "citation_idle", ", ".join(map(str, idle)), idle)
    return found(True)


def states_something(note: "NoteSentences", plain: str) -> bool:
    """Return True if a sentence makes a statement of the patient; not if it says that the note is silent."""
    if SAID_ABSENT.search(plain):
        return False
    return bool(quotations(plain) or note.known_words(plain) or check(plain, note.text))


def quotations(text: str) -> list[str]:
    """The quotations of a text, without those that only name what the text explains."""
    return [quote for quote in QUOTED.findall(text) if not MENTIONS.issuperset(quote.lower().split())]


# ---------------------------------------------------------------- the note


@dataclass(frozen=True)
class NoteSentences:
    """A note as a source of citations: its numbered sentences and their words."""

    text: str

    @staticmethod
    @lru_cache(maxsize=16)
    def of(text: str) -> "NoteSentences":
        return NoteSentences(text)

    @cached_property
    def sentences(self) -> list[NumberedSentence]:
        return numbered_sentences(self.text)

    @cached_property
    def words(self) -> list[frozenset[str]]:
        """The words of each sentence and of its heading."""
        return [frozenset(stems(f"{sentence.heading} {sentence.text}")) for sentence in self.sentences]

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        return frozenset().union(*self.words)

    def known_words(self, plain: str) -> set[str]:
        """The words of a sentence that carry meaning and that the note has too."""
        return {word for word in stems(plain) if word not in EMPTY and word not in FRAME} & self.vocabulary

    def passage(self, numbers: Iterable[int]) -> str:
        """The sentences of these numbers, each under its heading, as a text of their own."""
        lines, heading = [], ""
        for number in sorted(set(numbers)):
            sentence = self.sentences[number - 1]
            if sentence.heading != heading:
                heading = sentence.heading
                lines.append(heading)
            lines.append(sentence.text)
        return "\n".join(lines)

    def rest(self, numbers: Iterable[int]) -> str:
        """The note without the sentences of these numbers."""
        kept, done = [], 0
        for number in sorted(set(numbers)):
            sentence = self.sentences[number - 1]
            kept.append(self.text[done : sentence.start])
            done = sentence.end
        return "".join([*kept, self.text[done:]])

    def problems(self, plain: str, numbers: Sequence[int]) -> list[str]:
        """Statements, quotations and words of a sentence without markers that these sentences lack; [] if none."""
        return self.lacking(plain, self.passage(numbers))

    def lacking(self, plain: str, source: str) -> list[str]:
        """Statements, quotations and words of a sentence without markers that a source lacks."""
        found = statements_lacking(plain, source)
        known = self.known_words(plain)
        missing = known - set(stems(source))
        # One word may be in the note by chance, where the sentence says something else as well.
        by_chance = len(known) == 1 and (quotations(plain) or check(plain, self.text))
        if len(missing) > (1 - LEAST_SHARED) * len(known) and not by_chance:
            found.append(f"its words {', '.join(sorted(missing))}")
        return found

    def is_stated_elsewhere(self, plain: str, numbers: Sequence[int]) -> bool:
        """Return True if the note supports a sentence without the sentences of these numbers too."""
        return not self.lacking(plain, self.rest(numbers))

    def overlapping(self, start: int, end: int) -> Iterator[int]:
        return (s.number for s in self.sentences if s.start < end and start < s.end)

    def quoting(self, text: str, fewest_words: int = 1) -> list[int]:
        """The numbers of the sentences that contain a quotation of the text."""
        found: list[int] = []
        for quote in quotations(text):
            if len(quote.split()) >= fewest_words and (place := place_of_quote(quote, self.text)):
                found += self.overlapping(*place)
        return found


# ---------------------------------------------------------------- finding citations


def add_citations(note: str, answer: str, question: str = "") -> str:
    """The answer with the fewest sentences of the note that support each of its sentences, where they are found.

    Sentences that the question or the answer quotes are tried first.
    """
    source, pieces, done = NoteSentences.of(note), [], 0
    asked_about = source.quoting(question, fewest_words=4)
    for sentence in numbered_sentences(answer):
        plain = sentence.text
        numbers = find_citations(source, plain, asked_about) if states_something(source, plain) else ()
        pieces += [answer[done : sentence.start], with_citation(plain, numbers)]
        done = sentence.end
    return "".join([*pieces, answer[done:]])


def statements_lacking(plain: str, source: str) -> list[str]:
    """The statements and quotations of a sentence that a source does not support, in words."""
    found = [f"{f.atom.kind} “{f.atom.text}”" for f in check(plain, source) if not f.supported]
    return found + [f"“{quote}”" for quote in quotations(plain) if place_of_quote(quote, source) is None]


def find_citations(note: NoteSentences, plain: str, first: Sequence[int] = ()) -> tuple[int, ...]:
    """The numbers of the fewest sentences that support a sentence; () if none, or no more than MOST_CITED, do."""
    candidates = candidates_for(note, plain, first)
    for number in candidates:
        if not note.problems(plain, [number]):
            return (number,)
    chosen: list[int] = []
    known, left = note.known_words(plain), True
    while left and len(chosen) < MOST_CITED:
        # Each adds a statement or a quotation; of equals, the one that shares most words. Words alone add no sentence:
        # "disease" may be anywhere.
        after: dict[int, tuple[int, int]] = {}
        for number in (number for number in candidates if number not in chosen):
            passage = note.passage([*chosen, number])
            after[number] = len(statements_lacking(plain, passage)), len(known - set(stems(passage)))
        if not after:
            return ()
        best = min(after, key=lambda number: after[number])
        chosen, left = [*chosen, best], after[best][0] > 0
    if left or note.problems(plain, chosen):
        return ()
    for number in tuple(chosen):
        fewer = [other for other in chosen if other != number]
        if not note.problems(plain, fewer):
            chosen = fewer
    return tuple(sorted(chosen))


def candidates_for(note: NoteSentences, plain: str, first: Sequence[int]) -> list[int]:
    """The sentences that may support a sentence, the most likely first.

    Those that are quoted, those that the gate's verdicts rest on, and those that share most of its words.
    """
    spans = source_of(note.text).spans
    known = note.known_words(plain)
    shared = {s.number: len(known & words) for s, words in zip(note.sentences, note.words, strict=True)}
    rested = [
        number
        for finding in check(plain, note.text)
        for place in finding.verdict.sentences
        for number in note.overlapping(*spans[place])
    ]
    likely = sorted(shared, key=lambda number: (-shared[number], number))
    by_gate = sorted(set(rested), key=lambda number: (-shared[number], number))
    return list(islice(dict.fromkeys([*note.quoting(plain), *first, *by_gate[:4], *likely[:4]]), MOST_CANDIDATES))
