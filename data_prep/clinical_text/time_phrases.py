"""Dates, relative times and durations in a sentence.

find_times("In October 2014, surgery was arranged.") -> [Time("In October 2014", "date", 0, 15)]
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from data_prep.clinical_text import number_words
from data_prep.clinical_text.number_words import ONE_TO_NINETEEN, ORDINALS

NUMBER = (
    rf"(?:\d+(?:\.\d+)?(?:\s?(?:-|–|to)\s?\d+)?|an?|{'|'.join(ONE_TO_NINETEEN[:12])}"
    r"|fifteen|twenty|thirty|several|a few|few|half a|a couple of)"
)
UNIT = r"(?:seconds?|minutes?|min|hours?|hrs?|h|days?|d|weeks?|wks?|wk|months?|years?|yrs?|yr)"
LONG_UNIT = r"(?:hours?|days?|weeks?|months?|years?)"
MONTH = rf"{number_words.MONTH}\.?"
YEAR = r"(?:19|20)\d\d\b"
DAY = r"\d{1,2}(?:st|nd|rd|th)?"
ORDINAL = rf"(?:\d+(?:st|nd|rd|th)|{'|'.join(ORDINALS)}|next|following|same|previous)"
ABOUT = r"(?:(?:about|approximately|around|almost|over|only|nearly|another|more than|at least|the first|a total of) )?"
THE = r"(?:(?:the|her|his|this|initial|first|second|last|current|hospital) )*"
EVENT = (
    r"(?:surgery|operation|admission|discharge|presentation|delivery|birth|treatment|transplantation|diagnosis|therapy"
    r"|procedure|injury|onset|chemotherapy)"
)
STAY = r"(?: (?:of|after) (?:follow-?up|admission|treatment|therapy|life|hospitali[sz]ation|surgery|the operation))?"

# Events of care that date a sentence without a number.
ANCHORS = (
    r"\b(?:(?:on|at|upon|before|after|since|during|following|prior to|at the time of) "
    + THE
    + r"(?:admission|discharge|birth"
    r"|presentation|delivery|surgery|operation|pregnancy|hospitali[sz]ation|childhood|follow-?up)"
    r"|post-?operatively|pre-?operatively|intra-?operatively|the (?:next|same|following) (?:day|morning|night|week"
    r"|month|year)|in (?:early |late )?childhood|in infancy)\b"
)
PATTERNS: tuple[tuple[str, str], ...] = (
    # "On 12 March 2019", "in early June 2014", "March 3rd, 2020"
    (
        "date",
        rf"(?:\b(?:on|in|at|since|from|by|until) )?(?:the )?(?:early |late |mid-?)?(?:{DAY} (?:of )?)?\b{MONTH},? "
        rf"(?:{DAY},? )?(?:of )?{YEAR}",
    ),
    ("date", rf"(?:on )?(?:the )?\b\d{{1,2}}[/.-]\d{{1,2}}[/.-]{YEAR}"),
    ("date", rf"\b(?:in|since|during|until|by) (?:the year |early |late )?{YEAR}(?! ?(?:mg|ml|m|g|/|µ|cells|IU|cc))"),
    # "about three months later", "2 days before admission"
    (
        "relative",
        rf"{ABOUT}\b{NUMBER} (?:\w+ )?{UNIT} (?:later|earlier|ago|afterwards?|post-?operatively"
        rf"|(?:after|following|prior to|before) {THE}{EVENT})",
    ),
    ("relative", rf"\b(?:after|within|by) {ABOUT}{NUMBER} {UNIT}\b{STAY}"),
    # "on hospital day 5", "on the ninth postoperative day"
    (
        "relative",
        rf"\b(?:on|by|at|from|until|since) (?:the )?(?:hospital |post-?operative |postpartum |admission |"
        rf"treatment )?days? \d+\b{STAY}",
    ),
    (
        "relative",
        rf"\b(?:(?:on|by|at|in) )?the {ORDINAL} (?:post-?operative |hospital |follow-?up )?(?:day|week|month|year|"
        rf"morning|night)\b{STAY}",
    ),
    # "at the 6-month follow-up", "at 12 months, "
    (
        "relative",
        rf"\bat (?:the |her |his |a )?{NUMBER}[- ]{LONG_UNIT}(?:(?: of)?[- ]follow-?up| of age| after \w+|(?=[,.]))",
    ),
    ("relative", rf"\b(?:at|on|by) {NUMBER} (?:{UNIT} )?(?:post-?operative(?:ly)?|after {EVENT})"),
    ("relative", rf"\bat (?:the )?age (?:of )?{NUMBER}(?: (?:and a half )?{UNIT})?\b"),
    # "for the past 2 weeks", "a 3-week history", "2 months' duration"
    (
        "duration",
        rf"\b(?:for|over|during|since|in) (?:the |a |an |her |his )?(?:up to )?(?:(?:past|last|next|first|previous"
        rf"|preceding|about|approximately|another|total of|more than|over|at least|almost|nearly) )*{NUMBER}[- ]"
        rf"{UNIT}\b(?:[- ]period)?(?! (?:later|ago|earlier))"
        r"(?! after (?:the |her |his )?(?:surgery|operation|admission|discharge|birth))",
    ),
    ("duration", rf"\b{NUMBER}[- ]{LONG_UNIT}(?:['’]s?|[- ]long)?[- ](?:history|course|duration|follow-?up)\b"),
    ("duration", rf"\b(?:of|with) {NUMBER} {UNIT}['’]? (?:duration|evolution)"),
    ("anchor", ANCHORS),
)
COMPILED = tuple((kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in PATTERNS)
CLAUSE = re.compile(r"(?:she|he|the|his|her|it|a|an|no)\b")
AGE_AFTER = re.compile(r"^[- ]?(?:old\b|of age)")
# Every time expression matches this pattern, so one search rules out most sentences.
HINT = re.compile(
    r"(?:19|20)\d\d|\d ?(?:days?|weeks?|months?|years?)|operativ|admission|discharge|birth|presentation|delivery"
    r"|surgery|operation|pregnancy|hospitali|childhood|infancy|follow-?up|\bat (?:the )?age\b"
    r"|\b(?:day|week|wk|month|year|yr|hour|hr|minute|min|h|d|night|morning)s?\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Time:
    text: str
    kind: str  # "date", "relative", "duration" or "anchor"
    start: int
    end: int


@lru_cache(maxsize=4096)
def find_times(sentence: str) -> tuple[Time, ...]:
    """The time expressions from left to right; of two that overlap, only the longer one."""
    if not HINT.search(sentence):
        return ()
    found = [
        Time(match[0], kind, match.start(), match.end())
        for kind, pattern in COMPILED
        for match in pattern.finditer(sentence)
        if not AGE_AFTER.match(sentence[match.end() :])
    ]
    chosen: list[Time] = []
    for time in sorted(found, key=lambda time: (time.start - time.end, time.start)):
        if all(time.end <= other.start or other.end <= time.start for other in chosen):
            chosen.append(time)
    return tuple(sorted(chosen, key=lambda time: time.start))


def without_time(sentence: str, time: Time) -> str:
    """The sentence without a time expression at its very start or end; otherwise, or if too short, an empty string."""
    before, after = sentence[: time.start].strip(), sentence[time.end :].strip(" .")
    if not before and (after.startswith(",") or CLAUSE.match(after)):
        event = after.lstrip(" ,")
    elif not after and before and before[-1] not in ",;(" and time.kind != "duration":
        event = before
    else:
        return ""
    return event if len(event.split()) >= 4 else ""
