"""What happens to a generated text that says what its source does not: it is repaired, shortened or rejected.

In this order, as far as `on_unsupported` goes: one request to the teacher that lists what is wrong; then the sentences
that still hold something unsupported are taken out; then, where that would take too much, the text is rejected.
"""

import asyncio
import re
from collections.abc import Iterator
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from data_prep.contract.errors import UserError
from data_prep.contract.records import Certificate, Generation
from data_prep.execution.processes import process_pool
from data_prep.faithfulness.certificate import Finding, certificate, check, rules_version
from data_prep.synthesize.filters import reason_to_reject
from data_prep.synthesize.prompts import REPAIR_PROMPT, repair_messages
from data_prep.teachers.base import Reply, Request, Teacher


@dataclass(frozen=True)
class GateConfig:
    on_unsupported: Literal["repair", "remove", "reject", "keep"] = "repair"
    """What is done about numbers, doses, dates, sides, negations, drugs, ... that the source does not support. repair:
    ask the teacher once to mend them, then remove. remove: take out the sentences that hold them, and reject what is
    left with too little. reject: leave the record out. keep: only count them in the record's certificate."""

    most_removed: float = 0.25
    """Largest share of a text's words that may be taken out before it is rejected instead."""


def check_gate(config: GateConfig) -> None:
    if not 0 <= config.most_removed <= 1:
        raise UserError(f"--most-removed {config.most_removed}: it must be from 0 to 1")


@dataclass(frozen=True)
class Draft:
    """What is known of a text before it is judged."""

    kind: str  # "note" or "answer"
    record_id: str
    source: str  # what it may say: the report of a note, the note of an answer
    prompt_hash: str
    seed: int


@dataclass(frozen=True)
class Passed:
    """A text after the gate, and why it is rejected all the same, if it is."""

    text: str
    certificate: Certificate
    reply: Reply
    prompt_hash: str
    seed: int
    broken: tuple[str, str] | None

    def generation(self, teacher: str) -> Generation:
        return Generation(teacher, self.reply.model, self.prompt_hash, self.seed, self.reply.finish_reason)


async def pass_gate(draft: Draft, reply: Reply, config: GateConfig, teacher: Teacher) -> Passed:
    """The text as it may go on; one that does not pass keeps its text, so that the rejects show what was wrong."""
    text, prompt_hash = reply.text.strip(), draft.prompt_hash
    found, certified = await checked(text, draft.source)
    if config.on_unsupported == "repair" and unsupported(found):
        again = await ask_to_repair(draft, text, found, teacher)
        mended, of_mended = await checked(again.text.strip(), draft.source)
        # A repair that is no text of its kind, or that brings more of what is wrong, is none.
        if not reason_to_reject(draft.kind, again) and len(unsupported(mended)) < len(unsupported(found)):
            text, reply, prompt_hash = again.text.strip(), again, REPAIR_PROMPT.hash
            found, certified = mended, of_mended
    broken = None
    if config.on_unsupported in ("repair", "remove") and unsupported(found):
        shorter = without(text, unsupported(found))
        taken = 1 - len(shorter.split()) / len(text.split())
        if taken <= config.most_removed and not reason_to_reject(draft.kind, replace(reply, text=shorter)):
            text = shorter
            found, certified = await checked(text, draft.source)
    if config.on_unsupported != "keep" and unsupported(found):
        broken = "unsupported", f"{draft.kind}: " + "; ".join(described(unsupported(found)))
    return Passed(text, certified, reply, prompt_hash, draft.seed, broken)


# ---------------------------------------------------------------- where texts are checked


# A process takes a second to start: the first texts are checked in this one.
CHECKED_HERE = 64


class Beside:
    """Processes that check texts: one takes about 10 ms, in which an event loop would hear no endpoint."""

    def __init__(self, processes: int):
        self.processes, self.count = processes, 0
        self.pool: Executor | None = None

    async def check(self, text: str, source: str) -> tuple[list[Finding], Certificate]:
        self.count += 1
        if self.count <= CHECKED_HERE:
            return check_and_certify(text, source)
        if self.pool is None:
            self.pool = process_pool(self.processes)
        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, check_and_certify, text, source)
        except BrokenProcessPool as error:
            raise UserError(
                "a process that checks texts was killed, perhaps for want of memory: run this again; what "
                "was answered is kept"
            ) from error


_beside: Beside | None = None


@contextmanager
def checking_beside(processes: int) -> Iterator[None]:
    """While this lasts, texts are checked in processes of their own. For a run on an event loop."""
    global _beside
    before, ours = _beside, Beside(processes)
    _beside = ours
    try:
        yield
    finally:
        _beside = before
        if ours.pool:
            ours.pool.shutdown(wait=True, cancel_futures=True)


async def checked(text: str, source: str) -> tuple[list[Finding], Certificate]:
    return await _beside.check(text, source) if _beside else check_and_certify(text, source)


def check_and_certify(text: str, source: str) -> tuple[list[Finding], Certificate]:
    found = check(text, source)
    return found, certificate(found, source)


# ---------------------------------------------------------------- mending


def unsupported(found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if not finding.supported]


async def ask_to_repair(draft: Draft, text: str, found: list[Finding], teacher: Teacher) -> Reply:
    messages = repair_messages(draft.kind, text, draft.source, described(unsupported(found)))
    inputs = {"text": text, "source": draft.source}
    return await teacher.ask(Request("repair", draft.record_id, messages, inputs, draft.seed))


def described(found: list[Finding]) -> list[str]:
    """One line for each: what it is, why, and the sentence that says it."""
    return [f"{f.atom.kind} “{f.atom.text}” ({f.verdict.rule}), in: {f.sentence[:300]}" for f in found]


HEADING = re.compile(r"^[#*\s]*[A-Z][\w ,/&()-]{1,60}:[*\s]*$")
GAP = "\0"  # stands for what was taken out, until its line is closed up


def without(text: str, found: list[Finding]) -> str:
    """The text without the sentences of these, nor bullets and headings that would stand empty."""
    parts, end = [], 0
    for start, last in sorted({finding.within for finding in found}):
        parts.append(text[end:start])
        end = max(end, last)
    lines = [
        re.sub(f" ?{GAP}", "", line) if GAP in line else line
        for line in GAP.join([*parts, text[end:]]).split("\n")
        if GAP not in line or line.replace(GAP, "").strip(" \t-*•")
    ]
    filled: list[str] = []
    for line in reversed(lines):
        below = next((other for other in reversed(filled) if other.strip()), "")
        if HEADING.match(line) and (not below or HEADING.match(below)):
            continue
        filled.append(line.rstrip())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(reversed(filled))).strip()


# ---------------------------------------------------------------- quotations


WORD = re.compile(r"\w+")
QUOTED = re.compile(r"“([^“”]+)”|\"([^\"]+)\"|‘([^‘’]{4,})’")


def misquoted(question: str, note: str) -> str:
    """The first string in quotation marks that the note does not hold, word for word, whatever stands between."""
    body = plain(note)
    quotes = [next(filter(None, match)) for match in QUOTED.findall(question)]
    return next((quote for quote in quotes if plain(quote) not in body), "")


def plain(text: str) -> str:
    return f" {' '.join(WORD.findall(text.lower()))} "


@dataclass
class Tally:
    """The certificates of a whole run, for its manifest."""

    config: GateConfig
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = dict.fromkeys(("stated", "derived", "unsupported", "omitted"), 0)
        self.facts.update(rules=rules_version(), on_unsupported=self.config.on_unsupported, **counts)

    def count(self, certificate: Certificate) -> None:
        for name in ("stated", "derived", "unsupported", "omitted"):
            self.facts[name] += getattr(certificate, name)
