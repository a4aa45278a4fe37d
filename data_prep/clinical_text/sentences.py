"""Sentence splitting for reports and notes.

split_sentences("Seen by Dr. Adams at 3.5 mg. E. coli grew (Fig. 2).")
-> ["Seen by Dr. Adams at 3.5 mg.", "E. coli grew."]     after `tidy`
"""

import re

from data_prep.clinical_text.words import word_set

# Abbreviations whose full stop never ends a sentence.
NEVER_END = word_set("""
dr mr mrs ms prof st fig figs figure eq ref refs vs approx ca cf resp viz eg ie e.g i.e et al spp var dept vol
""")
# A full stop after these ends the sentence unless a digit follows: "10 mg. 3 times a day", "No. 5".
NEVER_END_BEFORE_DIGIT = word_set("""
no nos mg g kg ml l mcg cm mm hr hrs min sec day days wk wks yr yrs no tab tabs
""")
# Words that begin a new sentence after a single letter ("vitamin D. The ..."). Before other words, the letter is an
# initial ("J. Smith").
STARTERS = word_set("""
the a an he she it his her they their there this that these those we in on at after before during with no both
all by for from to as following however then thus therefore when while although since despite initially patient
subsequently physical laboratory blood serum chest abdominal ct mri given based due histology examination
""")

SPACES = re.compile(r"[ \t\u00a0\u2000-\u200a\u202f\u205f\u3000]+")
INVISIBLE = re.compile(r"[\u200b-\u200f\u2060\ufeff\u00ad]")
# A character that sentence splitting keeps: neither white space nor invisible.
SOLID = re.compile(rf"(?!{INVISIBLE.pattern})\S")
FIGURE_WORD = (
    r"(?:[Ff]ig(?:ure|s|ures)?|FIG(?:URE)?S?|[Tt]ab(?:le|les)?|TABLE|[Vv]ideo|[Mm]ovie|[Ss]upplementary|[Aa]ppendix)"
)
FIGURE_REFERENCE = re.compile(
    rf"\s*[(\[](?:see |as in |shown in )?(?:{FIGURE_WORD}|[Aa]rrows?)\b"
    rf"(?:[\s.,;:&*–-]|\d+[A-Za-z]?(?:\b|[–-])|\b[A-Za-z]\b|\band\b|\bto\b|\barrow(?:s|heads?)?\b|\bpanels?\b|"
    rf"\bleft\b|\bright\b"
    rf"|{FIGURE_WORD})*[)\]]"
)
CITATION = re.compile(r"\s*\[\s*\d{1,3}(?:\s*[-–,]\s*\d{1,3})*\s*\]")
STOP_BEFORE_SPACE = re.compile(r"\s+([.,;:])(?=\s|$)")
# "SpO 2" and "11 th", where a subscript or a superscript was lost.
LOST_INDEX = re.compile(
    r"\b(SpO|SaO|PaO|PvO|PaCO|PCO|pCO|PO|pO|FiO|EtCO|CO|HCO|VO|HbA|CHADS|CHA|NaHCO|Na|H)\s(?=\d[A-Za-z]{0,2}\b(?![.,]?\d))"
)
LOST_ORDINAL = re.compile(r"(?<=\d)\s(?=(?:st|nd|rd|th)\s[a-z])")
REPEATED_STOP = re.compile(r"\.(?:\s*\.)+(?=\s|$)")

# The end of a sentence: a stop, closing quotes or brackets, space, then something that can begin one.
BOUNDARY = re.compile(r"[.!?][\"'’”)\]]*\s+(?=[\"'“‘(\[]*[A-Z0-9αβγµ])")
# "was removed.The patient": a lost space. Three small letters before it keep "e.g.The" and "pH7.4" out.
LOST_SPACE = re.compile(
    r"(?<=[a-z]{3}[.])(?=[A-Z][a-z]+\s)|(?<=(?:19|20)\d\d[.])(?=[A-Z][a-z]+\s)|(?<=[a-z]{2}\)[.])(?=[A-Z][a-z]+\s)"
)
LAST_TOKEN = re.compile(r"([^\s(\[]+)[.!?][\"'’”)\]]*\s*$")
NEXT_WORD = re.compile(r"[\"'“‘(\[]*([\w.-]+)")
# "2." or "**2.**" before an item of a list, or "DIAGNOSES: 1." before the first. It belongs to the sentence of the item
# and is not a quantity.
LIST_NUMBER = re.compile(r"(?:[\s#*•_(-]*\d{1,2}|[#*_\s]*[A-Z][\w /&-]{2,40}:[*_\s]*1)[.)][*_]*(?:\s+|$)")


def normalise(text: str) -> str:
    """The text with one kind of space and without invisible characters or byte-order marks; line breaks stay."""
    return SPACES.sub(" ", INVISIBLE.sub("", text)).replace("\r\n", "\n").strip()


def tidy(text: str) -> str:
    """Remove citation numbers and references to figures and tables, which are meaningless in a note."""
    text = CITATION.sub("", FIGURE_REFERENCE.sub("", text))
    return REPEATED_STOP.sub(".", STOP_BEFORE_SPACE.sub(r"\1", text)).strip()


def rejoined(sentence: str) -> str:
    """The sentence without the spaces that a lost subscript or superscript left: "SpO 2", "the 11 th day"."""
    return LOST_ORDINAL.sub("", LOST_INDEX.sub(r"\1", sentence))


def split_sentences(text: str) -> list[str]:
    """The sentences in order; together they contain every character of the text except white space."""
    return [sentence for block in blocks(normalise(text)) for sentence in split_block(LOST_SPACE.sub(" ", block))]


def blocks(text: str) -> list[str]:
    """The lines of a text, with wrapped lines joined.

    A line was wrapped if it does not end in .!?: and the next line begins in lower case, or if it ends in a comma.
    """
    joined: list[str] = []
    for line in filter(None, (line.strip() for line in text.split("\n"))):
        if joined and joined[-1][-1] not in ".!?:" and (line[0].islower() or joined[-1][-1] == ","):
            joined[-1] += " " + line
        else:
            joined.append(line)
    return joined


def split_block(block: str) -> list[str]:
    sentences, start = [], 0
    for match in BOUNDARY.finditer(block):
        if ends_sentence(block[start : match.end()], block[match.end() :]):
            sentences.append(block[start : match.end()].strip())
            start = match.end()
    sentences.append(block[start:].strip())
    return [sentence for sentence in sentences if sentence]


def ends_sentence(before: str, after: str) -> bool:
    last = LAST_TOKEN.search(before)
    following = NEXT_WORD.match(after)
    if before.count("(") > before.count(")") or not last or not following or LIST_NUMBER.fullmatch(before):
        return False
    token, word = last[1].lower().rstrip("."), following[1]
    if last[0].lstrip().startswith(last[1]) and before.rstrip()[-1] in "!?":
        return True
    if token in NEVER_END or (token in NEVER_END_BEFORE_DIGIT and word[0].isdigit()):
        return False
    if token == "al" or (len(token) == 1 and token.isalpha() and last[1][0].isupper()):
        return word.lower() in STARTERS
    return True
