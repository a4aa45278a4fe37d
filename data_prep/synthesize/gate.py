"""Repair, shortening or rejection of generated texts with atoms that their source does not support.

The steps, as far as `on_unsupported` allows: one request to the teacher that lists the unsupported atoms; then removal
of the sentences that still have unsupported atoms; then rejection of the text if that would remove too much.
"""

import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from data_prep.contract.errors import UserError
from data_prep.contract.records import Certificate, Generation
from data_prep.execution.processes import call_in_pool
from data_prep.faithfulness.certificate import Finding, certificate, check, rules_version
from data_prep.synthesize.filters import reason_to_reject
from data_prep.synthesize.prompts import REPAIR_PROMPT, repair_messages
from data_prep.teachers.base import Reply, Request, Teacher


@dataclass(frozen=True)
class GateConfig:
    on_unsupported: Literal["repair", "remove", "reject", "keep"] = "repair"
    """Treatment of numbers, doses, dates, sides, negations, drugs, ... that the source does not support. repair: ask
    the teacher once to correct them, then do as for remove. remove: delete the sentences that contain them, and
    reject the record if too much would be deleted. reject: reject the record. keep: only count them in the record's
    certificate."""

    most_removed: float = 0.25
    """Largest fraction of a text's words that may be deleted; a text that would lose more is rejected."""


def check_gate(config: GateConfig) -> None:
    if not 0 <= config.most_removed <= 1:
        raise UserError(f"--most-removed {config.most_removed}: must be from 0 to 1")


@dataclass(frozen=True)
class Draft:
    """The properties of a text before it passes the gate."""

    kind: str  # "note" or "answer"
    record_id: str
    source: str  # the text that must support it: the report of a note, the note of an answer
    prompt_hash: str
    seed: int


@dataclass(frozen=True)
class Passed:
    """A text after the gate. `broken` is the (reason, detail) of its rejection, or None."""

    text: str
    certificate: Certificate
    reply: Reply
    prompt_hash: str
    seed: int
    broken: tuple[str, str] | None

    def generation(self, teacher: str) -> Generation:
        return Generation(teacher, self.reply.model, self.prompt_hash, self.seed, self.reply.finish_reason)


async def pass_gate(draft: Draft, reply: Reply, config: GateConfig, teacher: Teacher) -> Passed:
    """Check a reply, and repair or shorten it if needed.

    A text that does not pass is returned unchanged, so that the rejects show what was wrong.
    """
    text, prompt_hash = reply.text.strip(), draft.prompt_hash
    found, certified = await checked(text, draft.source)
    if config.on_unsupported == "repair" and unsupported(found):
        repair = await ask_to_repair(draft, text, found, teacher)
        found_in_repair, certified_repair = await checked(repair.text.strip(), draft.source)
        # A repair counts only if it passes the filters and has fewer unsupported atoms.
        if not reason_to_reject(draft.kind, repair) and len(unsupported(found_in_repair)) < len(unsupported(found)):
            text, reply, prompt_hash = repair.text.strip(), repair, REPAIR_PROMPT.hash
            found, certified = found_in_repair, certified_repair
    broken = None
    if config.on_unsupported in ("repair", "remove") and unsupported(found):
        shorter = without(text, unsupported(found))
        removed = 1 - len(shorter.split()) / len(text.split())
        if removed <= config.most_removed and not reason_to_reject(draft.kind, replace(reply, text=shorter)):
            text = shorter
            found, certified = await checked(text, draft.source)
    if config.on_unsupported != "keep" and unsupported(found):
        broken = "unsupported", f"{draft.kind}: " + "; ".join(described(unsupported(found)))
    return Passed(text, certified, reply, prompt_hash, draft.seed, broken)


async def checked(text: str, source: str) -> tuple[list[Finding], Certificate]:
    # A check takes about 10 ms, which would block an event loop.
    return await call_in_pool(check_and_certify, text, source)


def check_and_certify(text: str, source: str) -> tuple[list[Finding], Certificate]:
    found = check(text, source)
    return found, certificate(found, source)


# ---------------------------------------------------------------- repair and removal


def unsupported(found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if not finding.supported]


async def ask_to_repair(draft: Draft, text: str, found: list[Finding], teacher: Teacher) -> Reply:
    messages = repair_messages(draft.kind, text, draft.source, described(unsupported(found)))
    inputs = {"text": text, "source": draft.source}
    return await teacher.ask(Request("repair", draft.record_id, messages, inputs, draft.seed))


def described(found: list[Finding]) -> list[str]:
    """One line for each finding: the atom, the reason, and its sentence. The lines are part of the repair request."""
    return [f"{f.atom.kind} “{f.atom.text}” ({f.verdict.rule}), in: {f.sentence[:300]}" for f in found]


HEADING = re.compile(r"^[#*\s]*[A-Z][\w ,/&()-]{1,60}:[*\s]*$")
GAP = "\0"  # marks a removed sentence until its line is joined up


def without(text: str, found: list[Finding]) -> str:
    """The text without the sentences of these findings, and without bullets and headings that become empty."""
    kept, end = [], 0
    for start, last in sorted({finding.within for finding in found}):
        kept.append(text[end:start])
        end = max(end, last)
    lines = [
        re.sub(f" ?{GAP}", "", line) if GAP in line else line
        for line in GAP.join([*kept, text[end:]]).split("\n")
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
    """The first quotation in the question whose words do not occur in the note in sequence; "" if there is none.

    Case and punctuation are ignored.
    """
    body = plain(note)
    quotes = [next(filter(None, match)) for match in QUOTED.findall(question)]
    return next((quote for quote in quotes if plain(quote) not in body), "")


def plain(text: str) -> str:
    return f" {' '.join(WORD.findall(text.lower()))} "


@dataclass
class Tally:
    """The sums of a run's certificates, for its manifest."""

    config: GateConfig
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = dict.fromkeys(("stated", "derived", "unsupported", "omitted"), 0)
        self.facts.update(rules=rules_version(), on_unsupported=self.config.on_unsupported, **counts)

    def count(self, certificate: Certificate) -> None:
        for name in ("stated", "derived", "unsupported", "omitted"):
            self.facts[name] += getattr(certificate, name)
