"""Paraphrasing: rewording of the note's sentences by replacements that keep every number and every negation."""

import re

from data_prep.clinical_text.number_words import MONTHS
from data_prep.clinical_text.time_phrases import find_times
from data_prep.teachers.offline.note_view import NOT_STATED, NoteView, sentence_case
from data_prep.teachers.offline.tasks.entities_and_abbreviations import (
    ABBREVIATION,
    exactly,
    expandable_sentences,
    write_out,
)
from data_prep.teachers.offline.tasks.forms import Form

# Phrases with one meaning -> a replacement that fits the same place in the sentence.
REWORDINGS = {
    "presented to": "came to", "presented with": "had", "complained of": "reported",
    "complaining of": "reporting", "underwent": "had", "revealed": "showed", "demonstrated": "showed",
    "was commenced on": "was started on",
    "was initiated": "was started", "were initiated": "were started", "was administered": "was given",
    "were administered": "were given", "prior to": "before", "due to": "because of", "owing to": "because of",
    "because of": "due to", "subsequently": "afterwards", "approximately": "about", "whereas": "while",
    "was referred to": "was sent to", "was unremarkable": "showed nothing unusual",
    "were unremarkable": "showed nothing unusual", "was uneventful": "went smoothly",
    "was performed": "was carried out", "were performed": "were carried out", "was noted": "was seen",
    "were noted": "were seen", "was observed": "was seen", "were observed": "were seen", "was detected": "was found",
    "were detected": "were found", "at the time of": "at", "suffered from": "had",
    "suffering from": "affected by", "initially": "at first", "therefore": "for this reason",
    "consequently": "as a result", "additionally": "in addition", "furthermore": "in addition",
    "moreover": "in addition", "thereafter": "after that", "in order to": "to",
    "was removed": "was taken out", "were removed": "were taken out", "secondary to": "caused by",
    "was located": "was situated", "was normal": "was within normal limits",
    "were normal": "were within normal limits", "no evidence of": "no sign of",
    "was treated with": "was given treatment with", "were treated with": "were given treatment with",
    "on examination": "when examined", "was done": "was carried out", "were done": "were carried out",
    "was started on": "was put on", "postoperative course": "course after the operation",
    "post-operative course": "course after the operation", "postoperatively": "after the operation",
    "preoperatively": "before the operation", "intraoperatively": "during the operation", "utilized": "used",
    "rapidly": "quickly", "as well as": "and also", "adjacent to": "next to",
    "commenced on": "started on", "consistent with": "in keeping with",
    "compatible with": "in keeping with", "despite": "in spite of", "upon admission": "on admission", "via": "through",
    "bilaterally": "on both sides", "required": "needed", "frequently": "often",
    "currently": "at present", "consisted of": "was made up of",
    "revealing": "showing", "demonstrating": "showing",
    "was transferred to": "was moved to", "the following day": "the next day",
    "regarding": "about", "beneath": "under", "several": "a number of", "in addition to": "besides",
    "was admitted with": "came in with", "utilizing": "using", "by means of": "with", "began": "started",
    "was discontinued": "was stopped", "were discontinued": "were stopped", "occurred": "took place",
}  # fmt: skip
# Not after an auxiliary or "to" ("had undergone", "was due to"), and no participle ("a mass demonstrated on CT").
REWORDABLE = re.compile(
    r"(?<![\w-])(?<!had )(?<!has )(?<!have )(?<!been )(?<!having )(?<!was )(?<!were )(?<!is )(?<!are )(?<!be "
    r")(?<!being )(?<!to )(?<!not )(?<!likely )(?<!probably )(?:"
    + "|".join(sorted(map(re.escape, REWORDINGS), key=len, reverse=True))
    + r")(?![\w-])(?! (?:on|in|by|at|during|from|the fact|other)\b)",
    re.IGNORECASE,
)
FRONTED = re.compile(r"^([^,]{3,60}), ((?:the|she|he|her|his|a|an|patient|we|this)\b[^,;:()]*)\.$", re.IGNORECASE)
# Clauses in which a time at the end would belong to something else.
UNSAFE_FRONT = re.compile(
    r"\b(?:and|but|however|therefore|although|due|because|caused|which|that|who|after|before|when|until|for|history|"
    r"since|with)\b",
    re.IGNORECASE,
)
FEWEST_CHANGES = 3


def reword(text: str) -> tuple[str, int]:
    """The reworded text, and the number of replacements."""
    return REWORDABLE.subn(lambda match: keep_case(match[0], REWORDINGS[match[0].lower()]), text)


def keep_case(old: str, new: str) -> str:
    return new[0].upper() + new[1:] if old[0].isupper() else new


def move_front(text: str) -> str:
    """Move a time at the start to the end: "On day 2, the drain was removed." Only before a single clause."""
    match = FRONTED.match(text)
    times = find_times(text)
    if not match or UNSAFE_FRONT.search(match[2]) or len(times) != 1 or times[0].start or times[0].end != len(match[1]):
        return text
    time, clause = match[1], match[2]
    front = time if is_month(time) or not time[1:2].islower() else time[0].lower() + time[1:]
    return f"{clause[0].upper()}{clause[1:]} {front}."


def is_month(text: str) -> bool:
    return text.startswith(MONTHS)


def paraphrase(view: NoteView, sentence: str) -> str:
    """The sentence in other words, or NOT_STATED if fewer than three safe changes are possible."""
    reworded, made = changed(view, sentence)
    return sentence_case(reworded) if made >= FEWEST_CHANGES else NOT_STATED


def changed(view: NoteView, sentence: str) -> tuple[str, int]:
    """The sentence after all safe changes, and their number."""
    expanded = write_out(view, sentence)
    moved = move_front(expanded)
    reworded, made = reword(moved)
    # Words in another order are a sentence built anew.
    return reworded, made + (expanded != sentence) + FEWEST_CHANGES * (moved != expanded)


def paraphrasable(view: NoteView) -> list[str]:
    return [s.text for s in view.prose if 7 <= len(s.text.split()) <= 45 and paraphrase(view, s.text) != NOT_STATED]


def answer_paraphrase(view: NoteView, sentence: str) -> str:
    return paraphrase(view, sentence) if exactly(view, sentence) else NOT_STATED


def answer_written_out(view: NoteView, sentence: str) -> str:
    return (
        paraphrase(view, sentence)
        if exactly(view, sentence) and not ABBREVIATION.search(write_out(view, sentence))
        else NOT_STATED
    )


def first_line(view: NoteView, section: str) -> str:
    """The paraphrase of the first sentence of a section that can be reworded, or NOT_STATED."""
    sentences = [s.text for s in view.section(section)]
    return next((paraphrase(view, text) for text in paraphrasable(view) if text in sentences), NOT_STATED)


PARAPHRASE_FORMS = (
    Form(("Paraphrase this sentence without changing its meaning: “{}”", "Say the following in other words: “{}”",
        "Reword this line of the note: “{}”"), paraphrasable, answer_paraphrase),
    Form(("Reword for a colleague outside the specialty, with abbreviations written out: “{}”",),
        expandable_sentences, answer_written_out),
    Form(("Choose a sentence under {} and put it in other words.", "Rephrase one sentence of {}."),
        lambda view: [name for name in view.sections if first_line(view, name) != NOT_STATED], first_line),
)  # fmt: skip
