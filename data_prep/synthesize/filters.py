"""Reasons to reject a generated text: one small rule each, in one table, tried in order."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass

from data_prep.clinical_text.identifiers import NEVER_PUBLISHED, find_identifiers
from data_prep.teachers.endpoint.replies import Reply


@dataclass(frozen=True)
class WordLimits:
    """Fewest and most words of a text."""

    fewest: int
    most: int


# Wide on purpose: outside them a text is broken, not merely terse or thorough.
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
# A report about language models may name them; only a text that speaks as one is meant.
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
# Typographic apostrophes would hide a refusal from the patterns.
APOSTROPHES = str.maketrans("’‘`", "'''")


@dataclass(frozen=True)
class Candidate:
    """A generated text under judgement. `kind` is "note", "question" or "answer"."""

    kind: str
    text: str
    finish_reason: str

    @property
    def words(self) -> int:
        return len(self.text.split())

    @property
    def opening(self) -> str:
        """Where a refusal stands. Further down, a note may quote a patient who says sorry."""
        return self.text[:200].translate(APOSTROPHES)

    @property
    def asking(self) -> str:
        """Where a model turns to its user. A discharge note ends in requests to the patient, so only its opening."""
        return self.opening if self.kind == "note" else self.text.translate(APOSTROPHES)


# Reason, rule. What the endpoint says comes first: an error's text is not to be judged as an answer.
RULES: tuple[tuple[str, Callable[[Candidate], object]], ...] = (
    ("error", lambda c: c.finish_reason == "error"),
    ("content_filter", lambda c: c.finish_reason == "content_filter"),
    ("refusal", lambda c: c.finish_reason == "refusal"),
    ("truncated", lambda c: c.finish_reason == "length"),
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
    """The first rule that a reply breaks, with a detail for the person who looks at the rejects; None if it is good."""
    candidate = Candidate(kind, reply.text, reply.finish_reason)
    for reason, rule in RULES:
        if rule(candidate):
            if reason == "error":
                return reason, f"{kind}: {reply.text}"
            return reason, f"{kind}: {candidate.words} words, finish reason {reply.finish_reason}"
    return None


class Duplicates:
    """Which texts came before, by hash: sixteen bytes a record, whatever the texts' length.

    Ask in input order; then what counts as the first does not depend on which worker was faster.
    """

    def __init__(self) -> None:
        self.seen: set[bytes] = set()

    def is_duplicate(self, *texts: str) -> bool:
        """Whether the same texts, in this order, came before."""
        key = hashlib.sha256("\0".join(texts).encode()).digest()[:16]
        if key in self.seen:
            return True
        self.seen.add(key)
        return False
