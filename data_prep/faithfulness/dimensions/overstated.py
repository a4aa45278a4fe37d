"""Statements that are surer than their source: "proven to have caused" for "thought to be a potential cause".

A word such as "proven" contradicts the source if every sentence that says the same leaves it open.
"""

from collections.abc import Iterator

from data_prep.clinical_text.statuses.cue_patterns import SUSPECTED
from data_prep.clinical_text.statuses.scopes import count_of
from data_prep.faithfulness.dimensions.comparison import Compared, Statements, named
from data_prep.faithfulness.dimensions.values import Value, values_of, words_of

SAME = 0.5  # least share of the words of a statement, by weight, in a sentence that says the same


def overstated(sentence: str, source: Statements) -> Iterator[Compared]:
    certain = [v for v in values_of(sentence) if v.dimension == "certainty" and v.value == "certain" and not v.negated]
    if not certain or any(is_open(value) for value in values_of(sentence)):
        return
    names = {word.root for word in words_of(sentence) if word.content and word.root in source.holding}
    names -= {word.root for word in words_of(sentence) if any(v.start <= word.start < v.end for v in certain)}
    total = sum(map(source.weight, names))
    if len(names) < 2:
        return
    alike = [
        number
        for number in {number for name in names for number in source.holding[name]}
        if sum(source.weight(name) for name in names if number in source.holding[name]) >= SAME * total
    ]
    if alike and all(leaves_open(source.sentences[number]) for number in alike):
        reason = f"the source leaves it open: “{source.sentences[alike[0]][:160]}”"
        yield Compared(*named(certain[0]), reason, alike[0])


def is_open(value: Value) -> bool:
    return value.dimension == "certainty" and value.value != "certain"


def leaves_open(sentence: str) -> bool:
    values = [value for value in values_of(sentence) if value.dimension == "certainty"]
    doubts = any(value.value == "uncertain" for value in values) or count_of(sentence, SUSPECTED) > 0
    return doubts and not any(value.value == "certain" and not value.negated for value in values)
