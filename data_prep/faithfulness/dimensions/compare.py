"""Whether a source says the same of a thing as a text does.

Two ways to find "the same thing". A value is compared with the values of the source that have the most of the words
around them in common with it. And where a sentence copies one of the source, word by word, what differs is compared.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import NamedTuple

from data_prep.clinical_text.statuses import count_of, statuses_at
from data_prep.faithfulness.checks.agreement import agree
from data_prep.faithfulness.dimensions.tables import DIMENSIONS
from data_prep.faithfulness.dimensions.values import PHRASES, Value, Word, values_of, words_of

# Least share of the words around a value that a rival in the source has too, and how much more of them it must have
# than the best agreeing value.
ALIKE, MORE = 0.34, 1.25
# Least share of a sentence's words that another sentence must have, in order, to be its original.
COPIED = 0.7


class Compared(NamedTuple):
    """A value of a sentence, compared with the source: `reason` is empty if the source agrees."""

    dimension: str
    value: str
    start: int
    end: int
    reason: str
    sentence: int  # of the source, which agrees or contradicts


class Statements:
    """What the sentences of a source say in each dimension."""

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
        if len(content) < 3 or not shared:
            return None
        number, count = max(shared.items(), key=lambda item: (item[1], -len(self.roots[item[0]])))
        return number if count >= COPIED * len(content) else None


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
        if dimension.apart or not total:
            continue
        same, rival = 0.0, 0.0
        agreeing, against = -1, None
        for number, other in source.values.get(value.dimension, ()):
            shared = sum(
                min(weight, other.about[name]) * source.weight(name)
                for name, weight in value.about.items()
                if name in other.about
            )
            if (other.value, other.negated) == (value.value, value.negated):
                if shared > same:
                    same, agreeing = shared, number
            elif shared > rival and other.value != value.value and not (other.negated or value.negated):
                rival, against = shared, (number, other)
        if against and rival > ALIKE * total and rival > MORE * same:
            number, other = against
            yield Compared(*named(value), said_of_it(source.sentences[number], other), number)
        elif same > ALIKE * total:
            yield Compared(*named(value), "", agreeing)


def named(value: Value) -> tuple[str, str, int, int]:
    return value.dimension, value.value, value.start, value.end


def said_of_it(sentence: str, value: Value) -> str:
    """The reason of a contradiction, with the words of the source from the two before the value."""
    before = words_of(sentence)[max(0, value.first - 2)]
    return f"the source says “{sentence[before.start : value.end]}” of it"


def by_copy(sentence: str, words: tuple[Word, ...], number: int, source: Statements) -> Iterator[Compared]:
    """What a copied sentence changes: a value for another one, or the status of its words."""
    original, theirs = source.sentences[number], source.words[number]
    matcher = SequenceMatcher(None, [w.text for w in theirs], [w.text for w in words], autojunk=False)
    blocks = matcher.get_matching_blocks()
    if sum(block.size for block in blocks) < COPIED * len(words):
        return
    yield from changed_values(sentence, original, number, matcher)
    for block in blocks:
        for step in range(block.size):
            mine, other = words[block.b + step], theirs[block.a + step]
            if not mine.content or mine.text in PHRASES or mine.text[0].isdigit():
                continue
            claimed = statuses_at(sentence, mine.start, mine.end)
            said = statuses_at(original, other.start, other.end)
            # The same cues in both sentences may reach differently far; only a cue left out or added counts.
            changed = any(count_of(sentence, one) != count_of(original, one) for one in claimed ^ said)
            if changed and not agree(claimed, said):
                reason = f"the source says it as {', '.join(sorted(said)) or 'certain, of the patient'}"
                yield Compared("status", "", mine.start, mine.end, reason, number)
                return


def changed_values(sentence: str, original: str, number: int, matcher: SequenceMatcher) -> Iterator[Compared]:
    mine, theirs = values_of(sentence), values_of(original)
    for tag, a_start, a_end, b_start, b_end in matcher.get_opcodes():
        if tag != "replace":
            continue
        for value in mine:
            if value.last <= b_start or value.first >= b_end:
                continue
            replaced = [v for v in theirs if v.dimension == value.dimension and v.last > a_start and v.first < a_end]
            if replaced and all((v.value, v.negated) != (value.value, value.negated) for v in replaced):
                yield Compared(*named(value), said_of_it(original, replaced[0]), number)
