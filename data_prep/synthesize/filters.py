"""Filters for generated texts: a table of rules that each give a reason to reject, tried in order."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass

from data_prep.clinical_text.identifiers import NEVER_PUBLISHED, described, find_identifiers
from data_prep.teachers.endpoint.replies import Reply


@dataclass(frozen=True)
class WordLimits:
    """Smallest and largest number of words of a text."""

    fewest: int
    most: int


# Wide on purpose: a text outside these limits is broken, not merely terse or thorough.
LIMITS = {
    "note": WordLimits(20, 5000),
    "question": WordLimits(3, 200),
    "answer": WordLimits(1, 2000),
}

# "I cannot", not "cannot": a note may say what the patient cannot do.
REFUSAL = re.compile(
    r"\bI(?:'m| am) (?:(?:very |truly )?sorry|afraid)\b"
    r"|\bI (?:can(?:no|')t|can not|won't|will not|am (?:unable|not able) to|must decline to)"
    r" (?:help|assist|provide|generate|create|write|comply|fulfil|answer|do that|complete|share|produce)"
    r"|^(?:sorry|apologies|my apologies)\b",
    re.IGNORECASE,
)
# Matches only a text that speaks as a language model: a case report may mention language models.
AI_SELF_REFERENCE = re.compile(
    r"\b(?:as|I am|I'm|being) (?:just |only )?an? "
    r"(?:AI\b|artificial intelligence|(?:large )?language model|chatbot|virtual assistant)"
    r"|\bmy (?:training data|knowledge cutoff|programming)\b",
    re.IGNORECASE,
)
ASKS_BACK = re.compile(
    r"\b(?:please|could you|can you|would you|kindly)\b[^.?!\n]{0,40}"
    r"\b(?:provide|share|clarify|specify|paste|supply|send|let me know|tell me)\b"
    r"|\b(?:let me know if|do you (?:want|need) me to|would you like me to|how can I help)\b",
    re.IGNORECASE,
)
# Otherwise typographic apostrophes would hide a refusal from the patterns.
APOSTROPHES = str.maketrans("’‘`", "'''")


@dataclass(frozen=True)
class Candidate:
    """A generated text to filter. `kind` is "note", "question" or "answer"."""

    kind: str
    text: str
    finish_reason: str

    @property
    def words(self) -> int:
        return len(self.text.split())

    @property
    def opening(self) -> str:
        """The beginning of the text, where refusals occur. Further down, a note may quote a patient who says sorry."""
        return self.text[:200].translate(APOSTROPHES)

    @property
    def asking(self) -> str:
        """The part of the text in which a question to the user is a reason to reject.

        Of a note only the opening, because a discharge summary ends in requests to the patient.
        """
        return self.opening if self.kind == "note" else self.text.translate(APOSTROPHES)


# (reason, rule). Finish reasons come first, because the text of an error must not be judged as an answer.
RULES: tuple[tuple[str, Callable[[Candidate], object]], ...] = (
    ("error", lambda c: c.finish_reason == "error"),
    ("content_filter", lambda c: c.finish_reason == "content_filter"),
    ("refusal", lambda c: c.finish_reason == "refusal"),
    ("declined", lambda c: c.finish_reason == "declined"),
    ("truncated", lambda c: c.finish_reason in ("length", "unfinished")),
    ("invalid", lambda c: c.finish_reason == "invalid"),
    ("empty", lambda c: not c.text.strip()),
    ("ai_self_reference", lambda c: AI_SELF_REFERENCE.search(c.text.translate(APOSTROPHES))),
    ("refusal", lambda c: REFUSAL.search(c.opening)),
    ("asks_back", lambda c: c.kind != "question" and ASKS_BACK.search(c.asking)),
    ("asks_back", lambda c: c.kind == "answer" and c.text.rstrip().endswith("?")),
    ("identifier", lambda c: find_identifiers(c.text, NEVER_PUBLISHED)),
    ("too_short", lambda c: c.words < LIMITS[c.kind].fewest),
    ("too_long", lambda c: c.words > LIMITS[c.kind].most),
)


def reason_to_reject(kind: str, reply: Reply) -> tuple[str, str] | None:
    """The reason and a readable detail of the first rule that a reply breaks; None if it breaks none."""
    candidate = Candidate(kind, reply.text, reply.finish_reason)
    for reason, rule in RULES:
        if rule(candidate):
            if reason in ("error", "declined"):
                return reason, f"{kind}: {reply.text}"
            if reason == "identifier":
                return reason, f"{kind}: {described(find_identifiers(reply.text, NEVER_PUBLISHED))}"
            return reason, f"{kind}: {candidate.words} words, finish reason {reply.finish_reason}"
    return None


class Duplicates:
    """A set of the texts seen so far, as hashes of 16 bytes per record.

    Texts must be checked in input order, so that the first of several duplicates does not depend on the workers' speed.
    """

    def __init__(self) -> None:
        self.seen: set[bytes] = set()

    def is_duplicate(self, *texts: str) -> bool:
        """Return True if the same texts, in this order, were seen before; otherwise remember them."""
        key = hashlib.sha256("\0".join(texts).encode()).digest()[:16]
        if key in self.seen:
            return True
        self.seen.add(key)
        return False
