"""Comparison of the values in a text with the values that its source gives to the same things.

Two ways to find "the same thing". A value is compared with the values of the source that have the most of the words
around them in common with it. And where a sentence copies one of the source, word by word, what differs is compared.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from difflib import Match, SequenceMatcher
from typing import NamedTuple

from data_prep.clinical_text.entities import KIND_OF
from data_prep.clinical_text.statuses.cue_patterns import PLANNED
from data_prep.clinical_text.statuses.scopes import count_of, is_denied_before, statuses_at
from data_prep.faithfulness.atoms.kinds import Atom
from data_prep.faithfulness.atoms.read import read
from data_prep.faithfulness.checks.agreement import agree
from data_prep.faithfulness.dimensions.tables import DIMENSIONS
from data_prep.faithfulness.dimensions.values import PHRASES, Value, Word, values_of, words_of

# Least share of the words around a value that a rival in the source has too, and how much more of them it must have
# than the best agreeing value.
ALIKE, MORE, SURELY_ALIKE = 0.34, 1.25, 0.45
# Least share of a sentence's words that another sentence must have, in order, to be its original.
COPIED = 0.7
# Least share of its content words, before the order of all words is compared.
PERHAPS_COPIED = 0.5
LOOSEST = 1.6  # times the words of the copy that its original may take
LONGEST_EDIT = 6  # words of a doubt with what belongs to it: "which could possibly represent a"
MEASURED = ("number", "quantity", "dose")
COUNTED = (*MEASURED, "duration", "frequency")
OF_TESTS = frozenset(("test", "tests", "testing", "tested", "analysis", "examination"))
# Two dimensions of change, and their common value.
CHANGES = {"trend": "course", "course": "trend"}
UNCHANGED = "same"
PREFIXES = frozenset(("un", "in", "im", "ir", "il", "non", "non-", "a", "an", "dis", "anti", "mal", "ab"))


class Compared(NamedTuple):
    """A value of a sentence, compared with the source: `reason` is empty if the source agrees."""

    dimension: str
    value: str
    start: int
    end: int
    reason: str
    sentence: int  # of the source, which agrees or contradicts


class Statements:
    """The words and values of the sentences of a source, indexed."""

    def __init__(self, sentences: list[str]):
        self.sentences = sentences
        self.words = [words_of(sentence) for sentence in sentences]
        self.values: dict[str, list[tuple[int, Value]]] = defaultdict(list)
        for number, sentence in enumerate(sentences):
            for value in values_of(sentence):
                self.values[value.dimension].append((number, value))
        self.holding: dict[str, list[int]] = defaultdict(list)
        for number, words in enumerate(self.words):
            for name in {name for word in words if word.content for name in word.roots}:
                self.holding[name].append(number)
        self.roots = [[word.root for word in words if word.text[0].isalnum()] for words in self.words]
        self.text = " ".join(sentences)
        self.known = {tuple(names): number for number, names in reversed(list(enumerate(self.roots)))}

    def has(self, sentence: str) -> bool:
        return tuple(word.root for word in words_of(sentence) if word.text[0].isalnum()) in self.known

    def weight(self, name: str) -> float:
        """Rare words identify a thing better; a word that the source lacks weighs as one that it has once."""
        return math.log(1 + len(self.sentences) / max(1, len(self.holding.get(name, ()))))

    def original_of(self, words: tuple[Word, ...]) -> int | None:
        """The sentence of the source that these words copy, if there is one."""
        shared: Counter[int] = Counter()
        content = {word.root for word in words if word.content}
        for name in content:
            shared.update(self.holding.get(name, ()))
        if not shared:
            return None
        number, count = max(shared.items(), key=lambda item: (item[1], -len(self.roots[item[0]])))
        return number if count >= PERHAPS_COPIED * len(content) else None


def compare(sentence: str, source: Statements) -> list[Compared]:
    """The values of a sentence that the source agrees with or contradicts; the others are left out."""
    words = words_of(sentence)
    values = values_of(sentence)
    known = source.known.get(tuple(word.root for word in words if word.text[0].isalnum()))
    if known is not None:
        return [Compared(v.dimension, v.value, v.start, v.end, "", known) for v in values]
    found = {(one.dimension, one.start): one for one in by_neighbours(values, source)}
    original = source.original_of(words)
    if original is not None:
        found |= {(one.dimension, one.start): one for one in by_copy(sentence, words, original, source)}
    return list(found.values())


def by_neighbours(values: tuple[Value, ...], source: Statements) -> Iterator[Compared]:
    for value in values:
        dimension = DIMENSIONS[value.dimension]
        total = sum(weight * source.weight(name) for name, weight in value.about.items() if name in source.holding)
        if dimension.copies or not total:
            continue
        same, rival = 0.0, 0.0
        agreeing, against = -1, None
        for number, other in rivals_of(value, source):
            shared = sum(
                min(weight, other.about[name]) * source.weight(name)
                for name, weight in value.about.items()
                if name in other.about
            )
            if (other.value, other.negated) == (value.value, value.negated):
                if shared > same:
                    same, agreeing = shared, number
            elif shared > rival and is_rival(other, value, shared / total):
                rival, against = shared, (number, other)
        if against and rival > ALIKE * total and rival > MORE * same:
            number, other = against
            yield Compared(*named(value), said_of_it(source.sentences[number], other), number)
        elif same > ALIKE * total:
            yield Compared(*named(value), "", agreeing)


def rivals_of(value: Value, source: Statements) -> Iterator[tuple[int, Value]]:
    """The values of the same dimension; "stable" excludes any change, and a change "stable", in both of two."""
    yield from source.values.get(value.dimension, ())
    for number, other in source.values.get(CHANGES.get(value.dimension, ""), ()):
        if (other.value == UNCHANGED) != (value.value == UNCHANGED):
            yield number, other


def is_rival(other: Value, value: Value, share: float) -> bool:
    """A different value, or the same one denied, of what is very much the same thing."""
    if other.value == value.value:
        return other.negated and not value.negated and share > SURELY_ALIKE
    return not (other.negated or value.negated)


def named(value: Value) -> tuple[str, str, int, int]:
    return value.dimension, value.value, value.start, value.end


def said_of_it(sentence: str, value: Value) -> str:
    """The reason of a contradiction, with the words of the source from the two before the value."""
    before = words_of(sentence)[max(0, value.first - 2)]
    return f"the source says “{sentence[before.start : value.end]}” of it"


def by_copy(sentence: str, words: tuple[Word, ...], number: int, source: Statements) -> Iterator[Compared]:
    """The changes in a copied sentence: a value replaced by another one, or the status of a word."""
    original, theirs = source.sentences[number], source.words[number]
    matcher = SequenceMatcher(None, [w.text for w in theirs], [w.text for w in words], autojunk=False)
    blocks = matcher.get_matching_blocks()
    if sum(block.size for block in blocks) < COPIED * len(words):
        return
    # A few words of a long sentence, far from one another, are no copy of it.
    first, last = blocks[0], blocks[-2] if len(blocks) > 1 else blocks[0]
    if last.a + last.size - first.a > LOOSEST * len(words) + 3:
        return
    yield from changed_values(sentence, original, number, matcher)
    yield from changed_denials(sentence, original, number, blocks)
    yield from changed_numbers(sentence, original, number, matcher)
    yield from changed_grades(sentence, original, number, matcher)
    yield from changed_certainty(sentence, original, number, matcher)
    for block in blocks:
        for step in range(block.size):
            mine, other = words[block.b + step], theirs[block.a + step]
            if (
                not mine.content
                or mine.text in PHRASES
                or mine.text[0].isdigit()
                or KIND_OF.get(mine.text) == "anatomy"
                or mine.text in OF_TESTS
            ):
                continue
            planned = {PLANNED} if KIND_OF.get(mine.text) == "drug" else set()  # what was advised was taken
            claimed = statuses_at(sentence, mine.start, mine.end) - planned
            said = statuses_at(original, other.start, other.end) - planned
            # The same cues in both sentences may reach differently far; only a cue left out or added counts.
            changed = any(count_of(sentence, one) != count_of(original, one) for one in claimed ^ said)
            if changed and not agree(claimed, said):
                reason = f"the source says it as {', '.join(sorted(said)) or 'certain, of the patient'}"
                yield Compared("status", "", mine.start, mine.end, reason, number)
                return


def changed_denials(sentence: str, original: str, number: int, blocks: list[Match]) -> Iterator[Compared]:
    """Values that the copy denies and the original does not, or the other way round: "no decrease"."""
    theirs = {value.first: value for value in values_of(original)}
    for value in values_of(sentence):
        block = next((block for block in blocks if block.b <= value.first < block.b + block.size), None)
        other = theirs.get(value.first - block.b + block.a) if block else None
        if (
            other
            and other.dimension == value.dimension
            and (other.value, other.negated) != (value.value, value.negated)
        ):
            yield Compared(*named(value), said_of_it(original, other), number)


def changed_numbers(sentence: str, original: str, number: int, matcher: SequenceMatcher) -> Iterator[Compared]:
    """Numbers in the place of other numbers of the same dimension: "length 17 cm, width 5 cm" exchanged."""
    mine, theirs = words_of(sentence), words_of(original)
    for tag, a_start, a_end, b_start, b_end in matcher.get_opcodes():
        if tag != "replace" or not any(word.root[0].isdigit() for word in mine[b_start:b_end]):
            continue
        claimed = measured(sentence, mine[b_start].start, mine[b_end - 1].end)
        said = measured(original, theirs[a_start].start, theirs[a_end - 1].end)
        for atom in claimed:
            alike = [other for other in said if measure_of(other) == measure_of(atom)]
            if atom.thing and any(a.thing == atom.thing and same_amount(a, atom) for a in read(original).atoms):
                continue  # a list in another order
            if alike and not any(same_amount(other, atom) or is_rounded(atom, other) for other in alike):
                reason = f"the source says “{alike[0].text}” of it"
                yield Compared("value", atom.text, atom.start, atom.end, reason, number)


def changed_grades(sentence: str, original: str, number: int, matcher: SequenceMatcher) -> Iterator[Compared]:
    """Grades and stages in the place of others of the same scale."""
    mine, theirs = words_of(sentence), words_of(original)
    for tag, a_start, a_end, b_start, b_end in matcher.get_opcodes():
        if tag != "replace":
            continue
        claimed = grades_in(sentence, mine[b_start].start, mine[b_end - 1].end)
        said = grades_in(original, theirs[a_start].start, theirs[a_end - 1].end)
        for atom in claimed:
            alike = [other for other in said if other.value[0] == atom.value[0]]
            if alike and all(other.value[:2] != atom.value[:2] for other in alike):
                reason = f"the source says “{alike[0].text}” of it"
                yield Compared("value", atom.text, atom.start, atom.end, reason, number)


def grades_in(sentence: str, start: int, end: int) -> list[Atom]:
    return [
        atom
        for atom in read(sentence).atoms
        if atom.kind == "code" and len(atom.value) == 3 and atom.start < end and start < atom.end
    ]


def same_amount(one: Atom, other: Atom) -> bool:
    if measure_of(one) != measure_of(other) or one.kind not in COUNTED:
        return False
    return abs(one.amount - other.amount) <= 1e-3 * abs(one.amount)


def measure_of(atom: Atom) -> str:
    """The dimension of a quantity; a duration, a frequency and an age are their own."""
    return str(atom.value[1]) if atom.kind in MEASURED else atom.kind


def is_rounded(atom: Atom, original: Atom) -> bool:
    if atom.kind not in MEASURED:
        return False
    decimals, factor = int(atom.value[3] or 0), float(atom.value[2] or 1)
    return abs(atom.amount - original.amount) / factor <= 0.501 * 10.0**-decimals


def measured(sentence: str, start: int, end: int) -> list[Atom]:
    return [
        atom
        for atom in read(sentence).atoms
        if atom.kind in COUNTED and measure_of(atom) != "pair" and atom.start < end and start < atom.end
    ]


def changed_certainty(sentence: str, original: str, number: int, matcher: SequenceMatcher) -> Iterator[Compared]:
    """A doubt that a copy leaves out or adds; that it replaces one is seen with the other values."""
    mine, theirs = words_of(sentence), words_of(original)

    def doubts(text: str, first: int, last: int) -> list[Value]:
        found = (v for v in values_of(text) if v.dimension == "certainty" and v.value == "uncertain")
        return [value for value in found if first <= value.first < last]

    for tag, a_start, a_end, b_start, b_end in matcher.get_opcodes():
        left_out = (
            [] if tag in ("insert", "equal") or doubts(sentence, 0, len(mine)) else doubts(original, a_start, a_end)
        )
        # Only beside words that the copy has: a part of the sentence may be left out with its doubts.
        if left_out and a_end - a_start <= LONGEST_EDIT and b_end < len(mine):
            said = said_of_it(original, left_out[0])
            yield Compared("certainty", "certain", mine[b_start].start, mine[b_end].end, said, number)
        if tag in ("insert", "replace") and doubts(sentence, b_start, b_end) and not doubts(original, 0, len(theirs)):
            value = doubts(sentence, b_start, b_end)[0]
            yield Compared(
                "certainty", "uncertain", value.start, value.end, "the source says it without a doubt", number
            )


def opposites(sentence: str, original: str, places: tuple[int, ...], number: int) -> Iterator[Compared]:
    """Words that were replaced by their opposites, which differ in a prefix: "favorable" and "unfavorable"."""
    a_start, a_end, b_start, b_end = places
    for word in words_of(sentence)[b_start:b_end]:
        for other in words_of(original)[a_start:a_end]:
            longer, shorter = sorted((word.text, other.text), key=len, reverse=True)
            prefixed = (
                len(shorter) > 3
                and shorter != "patient"
                and longer.endswith(shorter)
                and longer[: -len(shorter)] in PREFIXES
            )
            # "hypertension" and "hypotension"
            denied = any(
                is_denied_before(text, one.start, one.end) or text[: one.start].lower().endswith("not ")
                for text, one in ((original, other), (sentence, word))
            )
            if denied:
                continue  # "unchanged" for "not changed"
            if prefixed or (longer[:5] == "hyper" and shorter[:4] == "hypo" and longer[5:] == shorter[4:]):
                yield Compared("opposite", word.text, word.start, word.end, f"the source says “{other.text}”", number)


def is_matched(value: Value, matcher: SequenceMatcher) -> bool:
    """Return True if the copy has the value in its place."""
    return any(block.a <= value.first < block.a + block.size for block in matcher.get_matching_blocks())


def changed_values(sentence: str, original: str, number: int, matcher: SequenceMatcher) -> Iterator[Compared]:
    mine, theirs = values_of(sentence), values_of(original)
    for tag, a_start, a_end, b_start, b_end in matcher.get_opcodes():
        if tag != "replace":
            continue
        yield from opposites(sentence, original, (a_start, a_end, b_start, b_end), number)
        for value in mine:
            if value.last <= b_start or value.first >= b_end:
                continue
            replaced = [v for v in theirs if v.dimension == value.dimension and v.last > a_start and v.first < a_end]
            moved = any(
                v.value == value.value and v.dimension == value.dimension and not is_matched(v, matcher) for v in theirs
            )
            if replaced and not moved and all((v.value, v.negated) != (value.value, value.negated) for v in replaced):
                yield Compared(*named(value), said_of_it(original, replaced[0]), number)
