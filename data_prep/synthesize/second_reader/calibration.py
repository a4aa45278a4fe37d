"""Measurement of the second reader, beside the rules, on sentences of the run's own sources.

Half of the sentences contain one planted error, of a class drawn in turn from all classes, and half are untouched. The
reader is asked about all of them as about the sentences of a text, and the rules check the same sentences.
"""

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from data_prep.contract.records import seeded_fraction
from data_prep.execution.processes import call_in_pool
from data_prep.execution.progress import say
from data_prep.faithfulness.certificate import check
from data_prep.faithfulness.places import places_of_sentences, plain
from data_prep.synthesize.planted.meaning import MEANING
from data_prep.synthesize.planted.mutations import CLASSES, is_true_elsewhere
from data_prep.synthesize.second_reader.reader import Sentence, Subject, near, read_sentences
from data_prep.teachers.base import Teacher

PLANTERS = CLASSES | MEANING
NAMES = ("drug swapped", "finding invented")  # no error if the source contains the new name elsewhere
FEWEST_WORDS = 6  # shorter sentences are often headings or parts of a list
MOST_ROUNDS = 10  # errors planted in one source


@dataclass(frozen=True)
class Case:
    """Sentences to read against one source, each with the class of its planted error, or "" if it is untouched."""

    id: str
    source: str
    sentences: tuple[tuple[str, str], ...]  # (sentence, class of error)


@dataclass(frozen=True)
class Outcome:
    """Verdicts on one sentence: True if reader or rules flag it, None if the reader's verdict is unread."""

    error: str
    reader: bool | None
    rules: bool


@dataclass(frozen=True)
class ReadCase:
    """Asynchronous task that has one case read."""

    seed: int

    async def __call__(self, case: Case, teacher: Teacher) -> list[Any]:
        sentences = [Sentence(text, near=near(text, case.source)) for text, _ in case.sentences]
        opinions = await read_sentences(Subject(case.id, "note", case.source, seed=self.seed), sentences, teacher)
        flags = await call_in_pool(flagged_by_rules, [text for text, _ in case.sentences], case.source)
        return [
            Outcome(error, None if opinion.evidence.verdict == "unread" else opinion.refused, flag)
            for (_, error), opinion, flag in zip(case.sentences, opinions, flags, strict=True)
        ]


def flagged_by_rules(sentences: Sequence[str], source: str) -> list[bool]:
    return [any(not finding.supported for finding in check(sentence, source)) for sentence in sentences]


# ---------------------------------------------------------------- drawing the cases


def draw_cases(sources: Iterable[tuple[str, str]], count: int, seed: int) -> list[Case]:
    """Up to `count` sentences with a planted error and as many untouched ones, from sources given as (id, text).

    The sources are drawn by the seed, one pass over them. A source yields one pair of sentences, and more if there are
    fewer sources than pairs.
    """
    if not count:
        return []
    # Some sources have no place for an error.
    drawn = heapq.nsmallest(2 * count, sources, key=lambda source: seeded_fraction(seed, "calibrate", source[0]))
    chosen: dict[str, list[tuple[str, str]]] = {name: [] for name, _ in drawn}
    used: Counter[str] = Counter()
    for _ in range(MOST_ROUNDS):
        for name, text in drawn:
            if used.total() < count and (pair := next_pair(text, chosen[name], used, f"{seed} {name}")):
                chosen[name] += pair
                used[pair[0][1]] += 1
    cases = []
    for name, text in drawn:
        if sentences := chosen[name]:
            Random(f"{seed} {name}").shuffle(sentences)
            cases.append(Case(name, text, tuple(sentences)))
    return cases


def next_pair(
    source: str, taken: Sequence[tuple[str, str]], used: Counter[str], seed: str
) -> list[tuple[str, str]] | None:
    """A sentence with an error of the class used least so far, and an untouched sentence that is not its original."""
    random = Random(f"{seed} {len(taken)}")
    names = sorted(random.sample(list(PLANTERS), len(PLANTERS)), key=lambda name: used[name])
    untouched = [text for text in whole_sentences(source) if (text, "") not in taken]
    for name in names:
        if name in [error for _, error in taken] or not (found := planted_sentence(source, name, random)):
            continue
        wrong, original = found
        others = [text for text in untouched if text != original]
        if others and wrong not in [text for text, _ in taken]:
            return [(wrong, name), (random.choice(others), "")]
    return None


def planted_sentence(source: str, name: str, random: Random) -> tuple[str, str] | None:
    """The sentence with an error of this class and its original; None if the source has no place for one."""
    planted = PLANTERS[name](source, random)
    if not planted or (name in NAMES and is_true_elsewhere(planted, source)):
        return None
    inside = [span for span in places_of_sentences(planted.text) if span[0] <= planted.start < span[1]]
    if not inside:
        return None
    wrong = in_one_line(planted.text[inside[0][0] : inside[0][1]])
    original = next((text for text in whole_sentences(source) if shares_most(text, wrong)), "")
    return None if plain(wrong) in {plain(text) for text in whole_sentences(source)} else (wrong, original)


def shares_most(one: str, other: str) -> bool:
    words, others = set(plain(one).split()), set(plain(other).split())
    return 2 * len(words & others) > len(words | others)


def whole_sentences(source: str) -> list[str]:
    spans = places_of_sentences(source)
    texts = [in_one_line(source[start:end]) for start, end in spans]
    return [text for text in texts if len(text.split()) >= FEWEST_WORDS and text[-1] in ".!?"]


def in_one_line(text: str) -> str:
    return " ".join(text.split())


# ---------------------------------------------------------------- the figures


@dataclass
class Measurement:
    """The calibration of a run: its cases, and after `conclude` its figures, which the manifest contains."""

    model: str
    work: ReadCase
    cases: list[Case]
    facts: dict[str, Any] = field(default_factory=dict)

    def conclude(self, shards: Iterable[list[Any]]) -> None:
        outcomes = [each for shard in shards for each in shard if isinstance(each, Outcome)]
        self.facts.update(figures_of(outcomes))
        say(f"second reader {self.model}: {in_words(self.facts)}")


def figures_of(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Recall on planted errors and false alarms on untouched sentences, of the reader, of the rules and of both."""
    wrong = [outcome for outcome in outcomes if outcome.error]
    right = [outcome for outcome in outcomes if not outcome.error]
    figures: dict[str, Any] = {"planted": len(wrong), "untouched": len(right)}
    for name in ("reader", "rules", "both"):
        figures[name] = {
            "recall": wilson([flag(outcome, name) for outcome in wrong]),
            "false_alarms": wilson([flag(outcome, name) for outcome in right]),
        }
    figures["classes"] = {
        name: wilson([flag(outcome, "reader") for outcome in wrong if outcome.error == name])
        for name in sorted({outcome.error for outcome in wrong})
    }
    recall, alarms = figures["reader"]["recall"], figures["reader"]["false_alarms"]
    if recall["low"] is None or alarms["high"] is None:
        figures["warning"] = "no verdict of the reader could be read"
    elif recall["low"] <= alarms["high"]:
        figures["warning"] = "the reader is not shown to be better than guessing"
    return figures


def flag(outcome: Outcome, name: str) -> bool | None:
    if name == "both":
        return bool(outcome.reader) or outcome.rules
    return outcome.reader if name == "reader" else outcome.rules


def wilson(flags: Sequence[bool | None], z: float = 1.959964) -> dict[str, Any]:
    """The share of true flags among the known ones, with Wilson's interval at 95 % (J. Am. Stat. Assoc. 22, 1927)."""
    known = [each for each in flags if each is not None]
    n, count = len(known), sum(known)
    if not n:
        return {"value": None, "low": None, "high": None, "count": 0, "n": 0, "missing": len(flags)}
    middle, spread = count + z * z / 2, z * math.sqrt(count * (n - count) / n + z * z / 4)
    low, high = (middle - spread) / (n + z * z), (middle + spread) / (n + z * z)
    return {"value": count / n, "low": max(0.0, low), "high": min(1.0, high), "count": count, "n": n,
            "missing": len(flags) - n}  # fmt: skip


def in_words(figures: dict[str, Any]) -> str:
    def counts(name: str) -> Iterator[str]:
        return (f"{each['count']} of {each['n']}" for each in figures[name].values())

    (found, alarms), (rules_found, rules_alarms) = counts("reader"), counts("rules")
    unread = sum(each["missing"] for each in figures["reader"].values())
    warning = f"; {figures['warning']}" if "warning" in figures else ""
    return (
        f"flags {found} sentences with planted errors and {alarms} untouched ones, {unread} unread (the rules flag "
        f"{rules_found} and {rules_alarms}){warning}"
    )
