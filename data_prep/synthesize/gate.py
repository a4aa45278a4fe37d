"""Repair, shortening or rejection of generated texts with statements that their source does not support.

The rules of `faithfulness` find unsupported atoms, and a second reader refuses sentences that the rules leave open. The
steps, as far as `on_unsupported` allows: one request to the teacher that lists both; then removal of the sentences that
are still unsupported; then rejection of the text if that would remove too much.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from data_prep.contract.errors import UserError
from data_prep.contract.records import Certificate, Generation
from data_prep.execution.processes import call_in_pool
from data_prep.faithfulness.certificate import Finding, certificate, check, rules_version
from data_prep.faithfulness.citations import PROBLEMS, CitationCheck, ambiguous_citations, check_citations
from data_prep.faithfulness.places import place_of_quote
from data_prep.synthesize.filters import reason_to_reject
from data_prep.synthesize.prompts import CITED_REPAIR_PROMPT, REPAIR_PROMPT, cited_repair_messages, repair_messages
from data_prep.synthesize.second_reader.calibration import Measurement, ReadCase, draw_cases
from data_prep.synthesize.second_reader.reader import (
    PROMPT,
    Opinion,
    Subject,
    as_record,
    open_sentences,
    read_sentences,
)
from data_prep.teachers.base import (
    BatchConfig,
    Flags,
    Reply,
    Request,
    Teacher,
    TeacherConfig,
    check_teacher,
    sampling,
)


@dataclass(frozen=True)
class GateConfig:
    on_unsupported: Literal["repair", "remove", "reject", "keep"] = "repair"
    """Treatment of numbers, doses, dates, sides, negations, drugs, ... that the source does not support. repair: ask
    the teacher once to correct them, then do as for remove. remove: delete the sentences that contain them, and
    reject the record if too much would be deleted. reject: reject the record. keep: only count them in the record's
    certificate."""

    most_removed: float = 0.25
    """Largest fraction of a text's words that may be deleted; a text that would lose more is rejected."""

    second_reader: str = ""
    """Name of a chat model that compares each sentence which the rules leave open with its source; empty for none. A
    sentence that it calls contradicted or not stated is treated as --on-unsupported says."""

    second_reader_url: str = ""
    """URL of the second reader's endpoint, with the key from SECOND_READER_API_KEY; empty for --base-url and its
    key."""

    second_reader_price_input: float = 0.0
    """Price in USD per million prompt tokens of the second reader; 0 for the same as --price-input."""

    second_reader_price_output: float = 0.0
    """Price in USD per million reply tokens of the second reader; 0 for the same as --price-output."""

    calibrate: int = 40
    """Number of sentences with a planted error, and of untouched ones, on which the second reader is measured before
    the run; 0 for none."""


def check_gate(config: GateConfig) -> None:
    if not 0 <= config.most_removed <= 1:
        raise UserError(f"--most-removed {config.most_removed}: must be from 0 to 1")
    for name in ("second_reader_price_input", "second_reader_price_output", "calibrate"):
        if getattr(config, name) < 0:
            raise UserError(f"--{name.replace('_', '-')} {getattr(config, name)}: must be 0 or above")
    if config.second_reader_url and not config.second_reader:
        raise UserError(f"--second-reader-url {config.second_reader_url} needs --second-reader MODEL")


def reader_of(config: GateConfig, teacher: TeacherConfig) -> TeacherConfig | None:
    """The settings of the second reader's endpoint, as those of a teacher; None if there is no second reader.

    Raises UserError for invalid settings.
    """
    if not config.second_reader:
        return None
    own = Flags("--second-reader-url", "--second-reader", "SECOND_READER_API_KEY")
    budget = replace(
        teacher.budget,
        price_input=config.second_reader_price_input or teacher.budget.price_input,
        price_output=config.second_reader_price_output or teacher.budget.price_output,
        price_cached_input=0.0 if config.second_reader_price_input else teacher.budget.price_cached_input,
    )
    reader = replace(
        teacher,
        teacher="openai",
        base_url=config.second_reader_url or teacher.base_url,
        model=config.second_reader,
        temperature=0.0,
        budget=budget,
        batches=BatchConfig(),
        # Another host must not see the teacher's key.
        flags=own if config.second_reader_url else replace(teacher.flags, model=own.model),
    )
    check_teacher(reader)
    return reader


@dataclass(frozen=True)
class Draft:
    """The properties of a text before it passes the gate."""

    kind: str  # "note" or "answer"
    record_id: str
    source: str  # the text that must support it: the report of a note, the note of an answer
    prompt_hash: str
    seed: int
    question: str = ""  # of an answer
    cites: bool = False  # the sentences of an answer cite those of the note


@dataclass(frozen=True)
class Checked:
    """A text with its certificate, the rules' findings, and the second reader's opinions if there is one."""

    text: str
    found: list[Finding]
    certificate: Certificate
    opinions: list[Opinion] = field(default_factory=list)
    citations: list[CitationCheck] = field(default_factory=list)  # those with a problem

    @property
    def statements(self) -> list[Finding | Opinion]:
        """The unsupported atoms and the refused sentences."""
        return [*unsupported(self.found), *(opinion for opinion in self.opinions if opinion.refused)]

    @property
    def problems(self) -> list[Finding | Opinion | CitationCheck]:
        """All that a repair is asked for."""
        return [*self.statements, *self.citations]


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
    reading = Reading(draft, config.second_reader, teacher)
    now, prompt_hash = await reading.check(reply.text.strip()), draft.prompt_hash
    if config.on_unsupported == "repair" and now.problems:
        repair = await ask_to_repair(draft, now, teacher)
        # A repair counts only if it passes the filters and has fewer problems.
        if not reason_to_reject(draft.kind, repair):
            repaired = await reading.check(repair.text.strip())
            if len(repaired.problems) < len(now.problems):
                now, reply = repaired, repair
                prompt_hash = CITED_REPAIR_PROMPT.hash if draft.cites else REPAIR_PROMPT.hash
    broken = None
    # An answer by rule that loses a sentence is no longer the answer to its question.
    by_rule = draft.kind == "answer" and teacher.name == "offline"
    if config.on_unsupported in ("repair", "remove") and now.statements and not by_rule:
        shorter = without(now.text, now.statements)
        removed = 1 - len(shorter.split()) / len(now.text.split())
        if removed <= config.most_removed and not reason_to_reject(draft.kind, replace(reply, text=shorter)):
            now = await reading.check(shorter)
    if config.on_unsupported != "keep" and now.statements:
        broken = "unsupported", f"{draft.kind}: " + "; ".join(map(described, now.statements))
    elif draft.cites:
        broken = await wrong_citation(now, draft.source)
    return Passed(now.text, now.certificate, reply, prompt_hash, draft.seed, broken)


async def wrong_citation(now: Checked, note: str) -> tuple[str, str] | None:
    """The reason and the detail by which an answer is rejected for its citations; None if all are right."""
    wrong = now.citations or await call_in_pool(ambiguous_citations, note, now.text)
    return (wrong[0].problem, "answer: " + "; ".join(map(described, wrong))) if wrong else None


@dataclass(frozen=True)
class Reading:
    """The checks of one draft and its corrections, by the rules and a second reader if `model` names one."""

    draft: Draft
    model: str
    teacher: Teacher
    known: dict[str, Opinion] = field(default_factory=dict)  # by sentence, so that none is asked about twice

    async def check(self, text: str) -> Checked:
        draft = self.draft
        found, certified = await checked(text, draft.source)
        citations = await call_in_pool(citation_problems, draft.source, text) if draft.cites else []
        if not self.model:
            return Checked(text, found, certified, citations=citations)
        sentences, settled = await call_in_pool(open_sentences, text, draft.kind, draft.source, found)
        new = [sentence for sentence in sentences if sentence.text not in self.known]
        subject = Subject(draft.record_id, draft.kind, draft.source, draft.question, draft.seed)
        for opinion in await read_sentences(subject, new, self.teacher):
            self.known[opinion.sentence.text] = opinion
        opinions = [replace(self.known[sentence.text], sentence=sentence) for sentence in sentences]
        certified = replace(certified, reader=as_record(self.model, opinions, settled))
        return Checked(text, found, certified, opinions, citations)


async def checked(text: str, source: str) -> tuple[list[Finding], Certificate]:
    # A check takes about 10 ms, which would block an event loop.
    return await call_in_pool(check_and_certify, text, source)


def check_and_certify(text: str, source: str) -> tuple[list[Finding], Certificate]:
    found = check(text, source)
    return found, certificate(found, source)


def citation_problems(note: str, answer: str) -> list[CitationCheck]:
    return [found for found in check_citations(note, answer) if found.problem]


# ---------------------------------------------------------------- repair and removal


def unsupported(found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if not finding.supported]


async def ask_to_repair(draft: Draft, now: Checked, teacher: Teacher) -> Reply:
    wrong = [described(each) for each in now.problems]
    messages = repair_messages(draft.kind, now.text, draft.source, wrong)
    if draft.cites:
        messages = cited_repair_messages(now.text, draft.source, wrong)
    inputs = {"text": now.text, "source": draft.source}
    return await teacher.ask(Request("repair", draft.record_id, messages, inputs, draft.seed))


def described(problem: Finding | Opinion | CitationCheck) -> str:
    """One line of the repair request: an atom, the reason, and its sentence; or the verdict on a refused sentence."""
    if isinstance(problem, CitationCheck):
        detail = f" ({problem.detail[:200]})" if problem.detail else ""
        return f"{PROBLEMS[problem.problem]}{detail}: {problem.sentence[:300]}"
    if isinstance(problem, Finding):
        return f"{problem.atom.kind} “{problem.atom.text}” ({problem.verdict.rule}), in: {problem.sentence[:300]}"
    evidence = problem.evidence
    quote = f" (the source says “{evidence.quote[:200]}”)" if evidence.quote else ""
    return f"{evidence.verdict}{quote}: {problem.sentence.text[:300]}"


HEADING = re.compile(r"^[#*\s]*[A-Z][\w ,/&()-]{1,60}:[*\s]*$")
GAP = "\0"  # marks a removed sentence until its line is joined up


def without(text: str, found: Sequence[Finding | Opinion]) -> str:
    """The text without the sentences of these problems, and without bullets and headings that become empty."""
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


QUOTED = re.compile(r"“([^“”]+)”|\"([^\"]+)\"|‘([^‘’]{4,})’")


def misquoted(question: str, note: str) -> str:
    """The first quotation in the question whose words do not occur in the note in sequence; "" if there is none.

    Case and punctuation are ignored.
    """
    quotes = [next(filter(None, match)) for match in QUOTED.findall(question)]
    return next((quote for quote in quotes if place_of_quote(quote, note) is None), "")


# Counts of `SecondReading`.
READ = ("supported", "contradicted", "not_stated", "unread", "not_asked")


@dataclass
class Tally:
    """The sums of a run's certificates, for its manifest."""

    config: GateConfig
    reader: TeacherConfig | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = dict.fromkeys(("stated", "derived", "unsupported", "omitted"), 0)
        self.facts.update(rules=rules_version(), on_unsupported=self.config.on_unsupported, **counts)
        if self.reader:
            self.facts["second_reader"] = {**sampling(self.reader), "prompt": PROMPT.hash, **dict.fromkeys(READ, 0)}

    def calibration(self, sources: Iterable[tuple[str, str]], seed: int) -> Measurement | None:
        """The calibration of the second reader on sources given as (id, text); None if there is none to make."""
        cases = draw_cases(sources, self.config.calibrate, seed)
        if not cases:
            return None
        measurement = Measurement(self.config.second_reader, ReadCase(seed), cases)
        self.facts["second_reader"]["calibration"] = measurement.facts
        return measurement

    def count(self, certificate: Certificate) -> None:
        for name in ("stated", "derived", "unsupported", "omitted"):
            self.facts[name] += getattr(certificate, name)
        if self.reader:
            for name in READ:
                self.facts["second_reader"][name] += getattr(certificate.reader, name)
