"""How a clinical sentence qualifies the things it names: absent, uncertain, not done, of a relative.

    statuses_at("Her father had colon cancer.", 15, 27)      -> {"of:father"}
    statuses_at("Fever: none.", 0, 5)                        -> {"absent"}
    statuses_at("Embolism could not be excluded.", 0, 8)     -> {"suspected"}

A cue such as "denied" has a scope: the words after it, or before it, up to the end of its clause. The statuses of a
span are those of the scopes that contain it. A span without a status is stated of the patient, as certain and as done.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

from data_prep.clinical_text.statuses.cue_patterns import (
    ABSENT,
    ALLERGY,
    BACKWARD,
    FORWARD,
    SOFT,
    SUSPECTED,
    Scope,
    status_of,
)
from data_prep.clinical_text.statuses.people import SENTENCE_PART, of_relatives

# What ends a scope: punctuation, a contrast, a new predicate or a new subject.
CLAUSE_END = re.compile(
    r"[;:]|\.(?=\s|$)|\b(?:but|after|before|during|following|however|although|though|whereas|while|except|apart from"
    r"|other than|which|that|who|because|due to|as well as a|and (?:remain\w*|continu\w*|became|improv\w*|discharged"
    r"|treated)|(?:\d+|two|three|four|five|six|\w+teen) (?:hours?|days?|weeks?|months?|years?)"
    r" (?:after|later|before|ago|following|post)"
    r"|and (?:the|he|she|was|were|had|has|his|her|showed|then|a|an|is|underwent|received)"
    r"|(?:from|to|into|in|on|within|between|against) (?:the|his|her|this|these|those|its|their)"
    r" (?!form|absence|presence)"
    r"|was|were|is|are|had|has|showed|shows|revealed|demonstrated|disclosed|present(?:ed|s|ing)"
    r"|complain(?:ed|s|ing) of|admitted|referred|came|developed|underwent|consulted|hospitali[sz]ed|visited|attended"
    r"|sought|received|confirmed|grew|then|until|followed by|therefore|so)\b"
    r"|, (?:and (?:he|she|the|was|had|a|an)|he|she|the|with|a|an|his|her|it|there|we)\b",
    re.IGNORECASE,
)
# Phrases with a negation that affirm what follows.
AFFIRMING = re.compile(
    r"not only|no longer(?! (?:had|has|reported|complained))|without (?:any )?(?:change|improvement|relief|response"
    r"|success|delay|benefit|effect)|no (?:significant |further |marked |relevant |major |substantial |apparent |real |"
    r"clear )*(?:change|changes|increase|decrease|improvement|response|progression|worsening|difference|relief"
    r"|resolution|regression|benefit|effect|reduction|success|alteration|variation|deterioration"
    r"|interval change)\b|no doubt"
    r"|never (?:stopped|ceased|resolved|recovered|regained|disappeared|completely)"
    r"|not (?:un|in|im)(?:likely|common|usual|frequent|expected|remarkable|significant|affected|possible)\w*|no sooner"
    r"|not (?:\w+ ){0,4}?until\b|none the less|no (?:one|wonder|matter)\b|without (?:treatment|knowing)\b|nothing but",
    re.IGNORECASE,
)
# ", and lymph nodes were identified": a subject of its own
NEW_CLAUSE = re.compile(r", and (?=[^,.;]{3,60}\b(?:was|were|is|are|had|has|showed|revealed)\b)", re.IGNORECASE)
AND_ANOTHER = re.compile(r"and (?:an?|the|his|her)", re.IGNORECASE)
SUBORDINATE = re.compile(
    r"\W*(?:when|after|while|as|because|although|though|if|since|once|before|despite|following|due to|on"
    r"|at|in|during)\b"
    r"[^,;.]{3,80}, ",
    re.IGNORECASE,
)
LONGEST_SCOPE = 130  # characters
BACK = 160


@lru_cache(maxsize=16384)
def scopes(sentence: str) -> tuple[Scope, ...]:
    """The scopes of all cues of a sentence."""
    return (*of_relatives(sentence), *forward(sentence), *backward(sentence))


def forward(sentence: str) -> Iterator[Scope]:
    for match in FORWARD.finditer(sentence):
        if affirms(sentence, match):
            continue
        status = status_of(match)
        ending = (CLAUSE_END if status in (ABSENT, ALLERGY) else SENTENCE_PART).search(sentence, match.end() + 1)
        end = min(ending.start() if ending else len(sentence), match.end() + LONGEST_SCOPE)
        if status == ABSENT:
            if re.match(r"\s?[:=]", sentence[match.end() :]):  # "Denied: a; b; c."
                end = len(sentence)
            elif clause := NEW_CLAUSE.search(sentence, match.end()):
                end = min(end, clause.start())
        yield Scope(status, match.end(), end, match.end())


def backward(sentence: str) -> Iterator[Scope]:
    for match in BACKWARD.finditer(sentence):
        if affirms(sentence, match):
            continue
        yield Scope(status_of(match), subject_start(sentence, match.start()), match.start(), match.start())


def subject_start(sentence: str, end: int) -> int:
    """The start of the subject of a predicate that begins at `end`: "fever, chills and cough" were denied."""
    start = max(0, end - BACK)
    last = None
    for match in CLAUSE_END.finditer(sentence, start, end):
        # "embolism and a tumor were excluded": both
        last = last if AND_ANOTHER.fullmatch(match[0]) else match
    # "When papules appeared, malaria was ruled out": the subject is that of the main clause.
    if (opening := SUBORDINATE.match(sentence)) and opening.end() < end:
        start = max(start, opening.end())
    if last is None or last.end() < start:
        return start
    start = last.end()
    # "had pain, fever was absent": behind a verb, the subject begins after the comma.
    comma = sentence.rfind(", ", start, end)
    return comma + 2 if comma >= 0 and last[0].isalpha() else start


def affirms(sentence: str, cue: re.Match[str]) -> bool:
    """Return True if the cue is a part of a phrase that denies nothing: "not only", "no change of"."""
    return any(
        match.start() < cue.end() and cue.start() < match.end()
        for match in AFFIRMING.finditer(sentence, max(0, cue.start() - 20))
    )


def count_of(sentence: str, status: str) -> int:
    """The number of cues for a status in a sentence."""
    return sum(scope.status == status for scope in scopes(sentence))


def statuses_at(sentence: str, start: int, end: int) -> frozenset[str]:
    """The statuses of the characters [start, end) of a sentence."""
    return frozenset(scope.status for scope in scopes(sentence) if scope.start <= start and end <= scope.end)


# Cues before what was not done, and predicates after it. "Neither ECG nor echo was abnormal" denies neither test.
NOT_DONE_BEFORE = re.compile(
    r"(?:\bno|\bnil|\bwithout|\brefus\w+(?: of)?|\bdeclin\w+|\bcancel\w+|\brejected"
    r"|\bnever (?:had|received|underwent|took)|\bto avoid"
    r"|\bnot (?:been |want(?:ed)? to )?(?:offered|afford\w*(?: for)?|undergo|undergone|receive|received|given|have|get"
    r"|take|taken|want|need|require|pursue)|\bdenie[sd]|contraindicat\w+ to|\babstain\w+ from|\bnor|\bneither"
    r"|\black of|\babsence of)(?:\s+[\w-]+){0,3}\s*$",
    re.IGNORECASE,
)
NOT_DONE_AFTER = re.compile(
    r"[^.;]{0,40}(?:performed|done|carried out|undertaken|given|administered|started|obtained|taken|attempted|used"
    r"|tried"
    r"|prescribed|refused|declined|cancell?ed|rejected|received|avoided|averted|withheld|omitted|required|needed"
    r"|available|possible|offered|necessary|afforded)\b|\s?[:(]",
    re.IGNORECASE,
)
PREDICATED = re.compile(
    r"\s?(?:$|[.,;)]|and\b|or\b|nor\b|for\b|of\b|due\b|because\b|by\b|on\b|in\b|at\b|before\b|after\b|until\b|but\b"
    r"|was\b|were\b|to\b|with\b|the\b)",
    re.IGNORECASE,
)
BETWEEN = re.compile(
    r"\b(?:on|at|by|with|in|after|before|during|from|for|to|despite|under|via|through|following|prior|upon|since)\b",
    re.IGNORECASE,
)


def own_statuses(sentence: str, start: int, end: int) -> frozenset[str]:
    """The statuses of what was done or given: in "no mass on CT", the CT is not denied; nothing done is suspected."""
    found = set()
    for scope in scopes(sentence):
        if scope.status in (SUSPECTED, SOFT) or not (scope.start <= start and end <= scope.end):
            continue
        if scope.cue == scope.start and BETWEEN.search(sentence, scope.cue, start):
            continue
        if scope.status == ABSENT and not is_not_done(sentence, scope, start, end):
            continue
        found.add(scope.status)
    return frozenset(found)


def is_not_done(sentence: str, scope: Scope, start: int, end: int) -> bool:
    if scope.cue == scope.start:
        direct = NOT_DONE_BEFORE.search(sentence[max(0, scope.cue - 40) : start])
        verb = re.search(r"(?:neither|nor)\s*$", sentence[: scope.cue], re.I) and not re.search(
            r"\b(?:performed|done|given|used|taken)\b", sentence[end:], re.I
        )
        return bool(direct and not verb and PREDICATED.match(sentence, end))
    return bool(NOT_DONE_AFTER.match(sentence, scope.cue))


def is_denied_before(sentence: str, start: int, end: int) -> bool:
    """Return True if a cue before the span denies it: in "planned surgery was not done", "planned" is not denied."""
    return any(
        scope.status == ABSENT and scope.cue == scope.start and scope.start <= start and end <= scope.end
        for scope in scopes(sentence)
    )
