"""Questions to a second reader about the sentences of a text that the rules have neither proved nor refuted.

All open sentences of a text are in one request, with the sentences of the source that could support them. The reader
quotes the source for each verdict. A verdict whose quotation is not in the source is no verdict: it is asked for once
more, and if that fails too, the sentence is counted as unread.
"""

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from data_prep.clinical_text.sentences import split_sentences, tidy
from data_prep.clinical_text.words import EMPTY, TOKEN, stem, stems, word_set
from data_prep.contract.prompt.cited_sentences import LIKE_MARKER, without_citations
from data_prep.contract.records import SecondReading
from data_prep.faithfulness.certificate import Finding, source_of
from data_prep.faithfulness.places import places_of_sentences, plain
from data_prep.synthesize.prompts import Prompt
from data_prep.synthesize.second_reader.verdicts import SAYS_ABSENT, Evidence, evidence_in, items_in
from data_prep.teachers.base import Request, Teacher
from data_prep.teachers.json_replies import ATTEMPTS, is_dry_run, usable

# Each verdict, and whether it counts only with a quotation from the source.
VERDICTS = {"supported": True, "contradicted": True, "not stated": False}
UNREAD = "unread"
MOST_IN_REQUEST = 25  # sentences; longer lists are answered with gaps
WHOLE_WORDS = 1500  # a source up to this length is sent whole, a longer one in passages
NEAR = 8  # sentences of a longer source that are sent for each sentence, with their neighbours

PROMPT = Prompt(
    system="You are an experienced clinician who checks sentences against the source that they were written from. "
    "You accept nothing that the source does not state.",
    user="""\
Below are a source and numbered sentences of a {kind} that was written from it. The sentences are in order, and others \
between them are left out. Choose for each sentence how the source relates to everything that it says:

- supported: the source says all of it, in the same or in other words
- contradicted: the source says the opposite of a part of it, or something incompatible, such as another value, side, \
person, time, order, degree or certainty
- not stated: none of these, because the source does not mention a part of it

For supported and contradicted, quote the words of the source that show it, word for word, with " ... " where you \
leave words out. A sentence that rightly says that the source does not state something is supported, with an empty \
quote.

Reply with one JSON object that contains every number, and with nothing else:
{"sentences": [{"number": 1, "verdict": "supported, contradicted or not stated", "quote": "the source's words"}]}

Source:
{source}

{question}Sentences:
{sentences}

JSON:""",
)

HEADING = re.compile(r"#.*|[^.!?]{1,60}:[*\s]*|\*\*[^.!?]{1,60}\*\*")
TITLE = re.compile(r"(?:(?:[A-Z][\w/&()'-]*|of|and|the|on|at|for|to|in|with)[\s,]*){1,8}")
TITLE_WORDS = word_set("""
admission allergies assessment complaint condition consultation course data diagnoses diagnosis discharge disposition
exam examination findings follow-up history impression indication instructions investigations medication medications
note plan presentation problems procedure procedures recommendations report results review signs studies summary
technique
""")
LIST_NUMBER = re.compile(r"^\W*\d{1,2}[.)]\s+")


@dataclass(frozen=True)
class Subject:
    """A text whose sentences are read: its source, and the question that an answer was written for."""

    record_id: str
    kind: str  # "note" or "answer"
    source: str
    question: str = ""
    seed: int = 0


@dataclass(frozen=True)
class Sentence:
    """A sentence to ask about, its place in its text, and the numbers of the source's sentences to send with it."""

    text: str  # in one line
    start: int = 0
    end: int = 0
    near: tuple[int, ...] = ()


@dataclass(frozen=True)
class Opinion:
    """Verdict of the second reader on a sentence: one of VERDICTS or UNREAD."""

    sentence: Sentence
    evidence: Evidence

    @property
    def refused(self) -> bool:
        return self.evidence.verdict in ("contradicted", "not stated")

    @property
    def within(self) -> tuple[int, int]:
        return self.sentence.start, self.sentence.end


# ---------------------------------------------------------------- which sentences to ask about


def open_sentences(text: str, kind: str, source: str, found: Sequence[Finding]) -> tuple[list[Sentence], int]:
    """The sentences of a text that the rules leave open, and the number of those that they have settled.

    `found` has the rules' findings in the text. Headings are neither.
    """
    copied = {plain(form) for sentence in split_sentences(source) for form in (sentence, tidy(sentence))}
    left_open, settled = [], 0
    # Without citations, but with every character in its place.
    shown = LIKE_MARKER.sub(lambda marker: " " * len(marker[0]), text)
    for start, end in places_of_sentences(shown):
        marker = LIKE_MARKER.match(text, end)
        sentence, end = without_citations(text[start:end]), marker.end() if marker else end
        inside = [finding for finding in found if finding.start < end and start < finding.end]
        if not inside and is_heading(sentence, kind):
            continue
        if is_settled(sentence, start, inside, copied):
            settled += 1
        else:
            left_open.append(Sentence(" ".join(sentence.split()), start, end, near(sentence, source)))
    return left_open, settled


def is_settled(sentence: str, start: int, found: Sequence[Finding], copied: set[str]) -> bool:
    """Report whether the rules have proved or refuted a sentence, which begins at `start`, by their findings in it.

    Refuted: they do not support one of its statements. Proved: the source has the whole sentence word for word, or
    they support at least one statement, and their statements contain every word of the sentence except those that
    state nothing by themselves ("the", "was", "patient").
    """
    if any(not finding.supported for finding in found) or plain(LIST_NUMBER.sub("", sentence)) in copied:
        return True
    words = [word for word in TOKEN.finditer(sentence) if stem(word[0]) not in EMPTY]
    return bool(found) and all(
        any(finding.start < start + word.end() and start + word.start() < finding.end for finding in found)
        for word in words
    )


def is_heading(sentence: str, kind: str) -> bool:
    """Report whether a sentence in which the rules find nothing is a heading: by its marks or, in a note, its words."""
    if HEADING.fullmatch(sentence) or not TOKEN.search(sentence):
        return True
    return kind == "note" and bool(TITLE.fullmatch(sentence)) and not TITLE_WORDS.isdisjoint(sentence.lower().split())


def near(sentence: str, source: str) -> tuple[int, ...]:
    """The numbers of the source's sentences that share most of a sentence's words, and of their neighbours.

    Rare words weigh more. Empty if the source is short enough to be sent whole.
    """
    if len(source.split()) <= WHOLE_WORDS:
        return ()
    shared = source_of(source).akin(sorted(set(stems(sentence)) - EMPTY))
    best = sorted(shared, key=lambda number: (-shared[number], number))[:NEAR]
    return tuple(sorted({number + step for number in best for step in (-1, 0, 1)}))


def passages(source: str, sentences: Iterable[Sentence]) -> str:
    """The source, or the passages of it that could support the sentences, with [...] in their gaps."""
    wanted = {number for sentence in sentences for number in sentence.near}
    if not wanted:
        return source.strip()
    parts, before = [], -1
    for number, text in enumerate(split_sentences(source)):
        if number in wanted:
            parts += [text] if number == before + 1 else ["[...]", text]
            before = number
    return "\n".join(parts)


# ---------------------------------------------------------------- asking


async def read_sentences(subject: Subject, sentences: Sequence[Sentence], teacher: Teacher) -> list[Opinion]:
    """The reader's opinion of each sentence. Equal sentences are asked about once."""
    distinct = list({sentence.text: sentence for sentence in sentences}.values())
    read: dict[str, Evidence] = {}
    for start in range(0, len(distinct), MOST_IN_REQUEST):
        read |= await ask_about(subject, distinct[start : start + MOST_IN_REQUEST], teacher)
    return [Opinion(sentence, read.get(sentence.text, Evidence(UNREAD))) for sentence in sentences]


async def ask_about(subject: Subject, sentences: Sequence[Sentence], teacher: Teacher) -> dict[str, Evidence]:
    """The verdict on each sentence; a second request asks about those without a verdict in the first reply."""
    read: dict[str, Evidence] = {}
    for attempt in range(ATTEMPTS):
        unread = [sentence for sentence in sentences if sentence.text not in read]
        if not unread:
            break
        messages = messages_about(subject, unread)
        reply = await teacher.ask(
            Request("reading", subject.record_id, messages, seed=subject.seed + attempt, sample=attempt)
        )
        with contextlib.suppress(ValueError):
            read |= verdicts_in(usable(reply), unread, subject.source)
        if is_dry_run(reply):
            break
    return read


def messages_about(subject: Subject, sentences: Sequence[Sentence]) -> tuple[dict[str, str], ...]:
    question = f"The sentences answer this instruction:\n{subject.question.strip()}\n\n" if subject.question else ""
    listed = "\n".join(f"{number}. {each.text}" for number, each in enumerate(sentences, 1))
    return PROMPT.messages(
        kind=subject.kind, source=passages(subject.source, sentences), question=question, sentences=listed
    )


def verdicts_in(reply: str, sentences: Sequence[Sentence], source: str) -> dict[str, Evidence]:
    """The verdicts in a reply that can be read and verified, by the text of the sentence.

    Two verdicts on one sentence are none. Raises ValueError if the reply has no list of sentences.
    """
    items = [item for item in items_in(reply, "sentences") if isinstance(item, dict)]
    times = Counter(str(item.get("number")) for item in items)
    read = {}
    for number, sentence in enumerate(sentences, 1):
        needs_quote = VERDICTS | {"supported": not SAYS_ABSENT.search(sentence.text)}
        for item in items:
            if str(item.get("number")) == str(number) and times[str(number)] == 1:
                with contextlib.suppress(ValueError):
                    read[sentence.text] = evidence_in(item, "verdict", needs_quote, source)
    return read


# ---------------------------------------------------------------- the record


def as_record(model: str, opinions: Sequence[Opinion], settled: int) -> SecondReading:
    """The counts and details for the certificate of a text."""
    counts = Counter(opinion.evidence.verdict for opinion in opinions)
    details = []
    for opinion in opinions:
        evidence = opinion.evidence
        detail = {"start": opinion.sentence.start, "end": opinion.sentence.end, "verdict": evidence.verdict}
        if evidence.quote:
            detail |= {"quote": evidence.quote, "quote_start": evidence.quote_start, "quote_end": evidence.quote_end}
        details.append(detail)
    return SecondReading(
        model=model,
        supported=counts["supported"],
        contradicted=counts["contradicted"],
        not_stated=counts["not stated"],
        unread=counts[UNREAD],
        not_asked=settled,
        details=json.dumps(details, ensure_ascii=False) if details else "",
    )
