"""Abbreviations that a text itself defines, with the short form before or after the long form.

    find_pairs("Magnetic resonance imaging (MRI) and an ECG (electrocardiogram)")
    -> {"MRI": "Magnetic resonance imaging", "ECG": "electrocardiogram"}

The matching follows Schwartz and Hearst (2003): the letters of the short form, read backwards, must occur in the words
before it, and its first letter must begin a word.
"""

import re

from data_prep.clinical_text.words import word_set

BRACKET = re.compile(r"\(([^()]{2,80})\)")
SHORT = re.compile(r"^(?=[^\s]*[A-Z])(?=(?:[^A-Za-z]*[A-Za-z]){2})[A-Za-zα-ω0-9][\wα-ω/&.-]{1,9}$")
LAST_WORD = re.compile(r"([A-Za-z0-9][\w/&-]{1,9})\s*$")
WORD_SPAN = re.compile(r"\S+")
UNDEFINED = re.compile(r"(?<![\w/-])[A-Z]{2,6}\b(?![-/]?\w)")
STAGE = re.compile(r"[IVX]+[ABC]?")
# Tokens in capitals that are not abbreviations: Roman numerals, headings, units.
NOT_SHORT = word_set("""
II III IV VI VII VIII IX XI XII XIII IU MHz HU AND OR THE OF NO NOT NOTE PATIENT HISTORY PRESENT ILLNESS PAST
MEDICAL FAMILY SOCIAL DATA OTHER COURSE DISCHARGE CHIEF IMAGING USA UK MD PHYSICAL AM PM DR MBq Gy MPa KV KDA IN
ON AS AT
""")
# "α-fetoprotein (AFP)": a Greek letter counts as the Latin one.
GREEK = str.maketrans("αβγδκλμµ", "abgdklmm")


def find_pairs(text: str) -> dict[str, str]:
    """A dictionary of short form to long form, in order of first definition."""
    pairs: dict[str, str] = {}
    for match in BRACKET.finditer(text):
        before = text[max(0, match.start() - 160) : match.start()]
        short, long = inside_short(match[1], before) or inside_long(match[1], before) or ("", "")
        if short and short not in pairs:
            pairs[short] = long
    return pairs


def inside_short(inside: str, before: str) -> tuple[str, str] | None:
    """The pair (short, long) of a definition in the order "long form (SHORT)", or None."""
    short = re.split(r"[;,:=]", inside)[0].strip()
    if not SHORT.match(short) or not before.endswith(" "):
        return None
    clause = re.split(r"[.;:()]\s|, ", before)[-1]
    words = list(WORD_SPAN.finditer(clause))
    letters = sum(character.isalnum() for character in short)
    reach = words[-min(letters + 5, letters * 2) :]
    long = match_backwards(short, clause[reach[0].start() :].strip()) if reach else ""
    return (short, long) if long else None


def inside_long(inside: str, before: str) -> tuple[str, str] | None:
    """The pair (short, long) of a definition "SHORT (long form)", where the whole bracket is the long form, or None."""
    last = LAST_WORD.search(before)
    if (
        not last
        or not SHORT.match(last[1])
        or not last[1][:2].isupper()
        or len(inside.split()) < 1
        or re.search(r"\d", inside)
    ):
        return None
    long = match_backwards(last[1], inside.strip())
    return (last[1], long) if long and long == inside.strip() else None


def match_backwards(short: str, text: str) -> str:
    """The shortest suffix of `text` with the letters of `short` in order, the first at the start of a word; or ""."""
    letters = [character.lower().translate(GREEK) for character in short if character.isalnum()]
    lowered = text.lower().translate(GREEK)
    position = len(text)
    for index in range(len(letters) - 1, -1, -1):
        position -= 1
        while position >= 0 and not (
            lowered[position] == letters[index] and (index > 0 or position == 0 or not lowered[position - 1].isalnum())
        ):
            position -= 1
        if position < 0:
            return ""
    long = text[position:].strip()
    too_long = len(long.split()) > min(len(letters) + 5, 2 * len(letters))
    return (
        "" if too_long or len(long) <= len(short) + 1 or short in long.split() or not plausible(letters, long) else long
    )


def plausible(letters: list[str], long: str) -> bool:
    """Return True if at least half of the letters begin a word or a part of a compound; fewer may match by chance."""
    initials = [word[0].lower().translate(GREEK) for word in re.split(r"[\s/-]+", long) if word]
    content = [initial for initial in initials if initial in letters]
    return len(initials) == 1 or len(content) >= max(2, len([c for c in letters if c.isalpha()]) // 2)


def find_undefined(text: str, defined: dict[str, str]) -> list[str]:
    """Short forms in capitals that the text uses but never spells out."""
    found = dict.fromkeys(UNDEFINED.findall(text))
    return [short for short in found if short not in defined and short not in NOT_SHORT and not STAGE.fullmatch(short)]
