"""Dates, relative times and durations in a sentence.

find_times("In October 2014, surgery was arranged.") -> [Time("In October 2014", "date", 0, 15)]
"""

import re
from dataclasses import dataclass
from functools import lru_cache

NUMBER = (
    r"(?:\d+(?:\.\d+)?(?:\s?(?:-|–|to)\s?\d+)?|an?|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fifteen|twenty|thirty|several|"
    r"a few|few|half a|a couple of)"
)
UNIT = r"(?:seconds?|minutes?|min|hours?|hrs?|h|days?|d|weeks?|wks?|wk|months?|years?|yrs?|yr)"
MONTH = r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sep(?:t|tember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)\.?"
ORDINAL = r"(?:\d+(?:st|nd|rd|th)|first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth|thirteenth|fourteenth|next|following|same|previous)"
# Turns of care that date a sentence without a number.
ANCHORS = (
    r"\b(?:(?:on|at|upon|before|after|since|during|following|prior to|at the time of) (?:the |her |his |this )?(?:initial |first |second |current |hospital )?(?:admission|discharge|birth|presentation|delivery|surgery|operation|pregnancy|"
    r"hospitali[sz]ation|childhood|follow-?up)|post-?operatively|pre-?operatively|intra-?operatively|the (?:next|same|following) (?:day|morning|night|week|month|year)|in (?:early |late )?childhood|in infancy)\b"
)
PATTERNS: tuple[tuple[str, str], ...] = (
    ("date", rf"(?:(?:[Oo]n|[Ii]n|[Aa]t|[Ss]ince|[Ff]rom|[Bb]y|[Uu]ntil) )?(?:the )?(?:early |late |mid-?)?(?:\d{{1,2}}(?:st|nd|rd|th)? (?:of )?)?{MONTH},? (?:\d{{1,2}}(?:st|nd|rd|th)?,? )?(?:of )?(?:19|20)\d\d\b"),
    ("date", r"(?:[Oo]n )?(?:the )?\b\d{1,2}[/.-]\d{1,2}[/.-](?:19|20)\d\d\b"),
    ("date", r"\b(?:[Ii]n|[Ss]ince|[Dd]uring|[Uu]ntil|[Bb]y) (?:the year |early |late )?(?:19|20)\d\d\b(?! ?(?:mg|ml|m|g|/|µ|cells|IU|cc))"),
    ("relative", rf"(?:[Aa]bout |[Aa]pproximately |[Aa]round |[Aa]lmost |[Oo]ver |[Oo]nly |[Nn]early )?\b{NUMBER} (?:\w+ )?{UNIT} (?:later|earlier|ago|afterwards?|before (?:admission|presentation)|prior to (?:admission|presentation|this admission|this presentation)|post-?operatively|"
                 rf"(?:after|following|prior to|before) (?:the |her |his |this |initial |first |second |last )*(?:surgery|operation|admission|discharge|presentation|delivery|birth|treatment|transplantation|diagnosis|therapy|procedure|injury|onset|birth|chemotherapy))"),
    ("relative", rf"\b(?:[Aa]fter|[Ww]ithin|[Bb]y) (?:about |approximately |only |the first |a total of |another )?{NUMBER} {UNIT}\b(?: of (?:follow-?up|treatment|therapy|admission|hospitali[sz]ation))?"),
    ("relative", rf"\b(?:[Oo]n|[Bb]y|[Aa]t|[Ff]rom|[Uu]ntil) (?:the )?(?:hospital |post-?operative |postpartum |admission |treatment )?days? \d+\b(?: (?:of|after) (?:admission|treatment|life|hospitali[sz]ation|surgery|therapy))?"),
    ("relative", rf"\b(?:(?:[Oo]n|[Bb]y|[Aa]t|[Ii]n) )?[Tt]he {ORDINAL} (?:post-?operative |hospital |follow-?up )?(?:day|week|month|year|morning|night)\b(?: (?:of|after) (?:admission|treatment|life|hospitali[sz]ation|surgery|the operation|therapy))?"),
    ("relative", rf"\b[Aa]t (?:the |her |his |a )?{NUMBER}[- ](?:days?|weeks?|months?|years?)(?:[- ]follow-?up|(?: of)? follow-?up| of age| after \w+|(?=[,.]))"),
    ("relative", rf"\b(?:[Aa]t|[Oo]n|[Bb]y) {NUMBER} (?:{UNIT} )?(?:post-?operative(?:ly)?|after (?:surgery|discharge|treatment|admission|delivery))"),
    ("duration", rf"\b(?:[Ff]or|[Oo]ver|[Dd]uring|[Ff]or up to|[Ff]or at least) (?:the |a |an )?(?:past |last |next |first |previous |preceding |about |approximately |another |total of |more than |over |at least |almost |nearly )*{NUMBER}[- ]{UNIT}\b(?: period)?"),
    ("duration", rf"\b(?:\d+|one|two|three|four|five|six|seven|eight|nine|ten|several|few)[- ](?:hours?|days?|weeks?|months?|years?)[- ](?:long )?(?:history|course|duration)\b"),
    ("relative", rf"\bat (?:the )?age (?:of )?{NUMBER}(?: (?:and a half )?{UNIT})?\b"),
    ("duration", rf"\b(?:since|over|in|during|for) (?:the |her |his )?(?:past |last |next |first |previous |preceding )?{NUMBER} {UNIT}\b(?! (?:later|ago|earlier|after))"),
    ("duration", rf"\b{NUMBER}[- ](?:hours?|days?|weeks?|months?|years?)['’](?:s)? (?:history|duration|course|follow-?up)\b"),
    ("anchor", ANCHORS),
    ("duration", rf"\b(?:of|with) {NUMBER} {UNIT}['’]? (?:duration|evolution)"),
)  # fmt: skip
COMPILED = tuple((kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in PATTERNS)
AGE_AFTER = re.compile(r"^[- ]?(?:old\b|of age)")
# What any time expression holds; most sentences are done after this one look.
HINT = re.compile(
    r"(?:19|20)\d\d|\d ?(?:days?|weeks?|months?|years?)|operativ|admission|discharge|birth|presentation|delivery|surgery|operation|pregnancy|hospitali|childhood|infancy|\b(?:day|week|wk|month|year|yr|hour|hr|minute|min|h|d|night|morning)s?\b",
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
    """The time expressions from left to right; where two overlap, the longer one."""
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
    """The event alone, where the time stands at the very start or end of the sentence; else the empty string."""
    before, after = sentence[: time.start].strip(), sentence[time.end :].strip(" .")
    if not before and after.startswith(","):
        event = after.lstrip(" ,")
    elif not after and before and before[-1] not in ",;(" and time.kind != "duration":
        event = before
    else:
        return ""
    return event if len(event.split()) >= 4 else ""
