"""Paraphrasing: rewording of the note's sentences by replacements that keep every number and every negation."""

import re

from data_prep.clinical_text.number_words import MONTHS
from data_prep.clinical_text.time_phrases import find_times
from data_prep.clinical_text.vocabulary.lexicon import PLAIN_WORDS
from data_prep.teachers.offline.note_view import NOT_STATED, NoteView, Sentence, sentence_case
from data_prep.teachers.offline.sections import COURSE, FOLLOW_UP, PRESENT
from data_prep.teachers.offline.tasks.entities_and_abbreviations import write_out
from data_prep.teachers.offline.tasks.forms import Form

# Phrases with one meaning -> a replacement that fits the same place in the sentence.
REWORDINGS = {
    "presented to": "came to", "presented with": "came in with", "presented at": "came in at",
    "complained of": "reported", "complaining of": "reporting", "underwent": "had", "revealed": "showed",
    "demonstrated": "showed", "disclosed": "showed", "exhibited": "showed", "showed": "revealed",
    "was commenced on": "was started on", "was initiated": "was started", "were initiated": "were started",
    "was administered": "was given", "were administered": "were given", "prior to": "before", "due to": "because of",
    "owing to": "because of", "because of": "due to", "subsequently": "afterwards", "approximately": "about",
    "whereas": "while", "was referred to": "was sent to", "was unremarkable": "showed nothing unusual",
    "were unremarkable": "showed nothing unusual", "was uneventful": "went smoothly",
    "was performed": "was carried out", "were performed": "were carried out", "was noted": "was seen",
    "were noted": "were seen", "was observed": "was seen", "were observed": "were seen", "was detected": "was found",
    "were detected": "were found", "at the time of": "at", "suffered from": "had", "suffering from": "affected by",
    "initially": "at first", "therefore": "for this reason", "consequently": "as a result",
    "additionally": "in addition", "furthermore": "in addition", "moreover": "in addition",
    "thereafter": "after that", "in order to": "to", "was excised": "was cut out", "was resected": "was cut out",
    "was removed": "was taken out", "were removed": "were taken out", "secondary to": "caused by",
    "was diagnosed with": "was found to have", "consisted of": "was made up of", "attempted": "tried",
    "located in": "situated in", "located at": "situated at", "was located": "was situated",
    "was normal": "was within normal limits", "were normal": "were within normal limits",
    "no evidence of": "no sign of", "evidence of": "signs of", "was treated with": "was given treatment with",
    "were treated with": "were given treatment with", "at presentation": "when first seen",
    "on examination": "when examined", "was done": "was carried out", "were done": "were carried out",
    "was started on": "was put on", "however": "even so", "was initially": "was at first",
    "no history of": "no record of", "a history of": "a record of",
    "postoperative course": "course after the operation", "post-operative course": "course after the operation",
    "postoperatively": "after the operation", "preoperatively": "before the operation",
    "intraoperatively": "during the operation", "administered": "given", "utilized": "used", "rapidly": "quickly",
    "was decided to": "was agreed to", "in addition": "also", "as well as": "and also", "subsequent": "later",
    "adjacent to": "next to", "with no": "without any", "ceased": "stopped", "discontinued": "stopped",
    "commenced": "began", "occurred": "took place",
}  # fmt: skip
# Not after an auxiliary ("had undergone", "has been noted"), where another form of the verb would be needed.
REWORDABLE = re.compile(
    r"(?<![\w-])(?<!had )(?<!has )(?<!have )(?<!been )(?<!having )(?:"
    + "|".join(sorted(map(re.escape, REWORDINGS), key=len, reverse=True))
    + r")(?![\w-])",
    re.IGNORECASE,
)
# Matches a technical word only if it is not part of a longer term: "portal hypertension" stays.
PLAIN = re.compile(
    r"(?:(?<=^)|(?<=with )|(?<=of )|(?<=and )|(?<=, )|(?<=for )|(?<=had )|(?<=no )|(?<=without )|(?<=the )|"
    r"(?<=showed )|(?<=or )|(?<=revealed )|(?<=: ))(?<!\w-)("
    + "|".join(sorted(map(re.escape, PLAIN_WORDS.keys() - {"renal", "hepatic"}), key=len, reverse=True))
    + r")\b(?![-/(])(?=[.,;]| and\b| or\b| with\b| for\b| in\b| on\b| after\b| was\b| were\b| since\b|$)",
    re.IGNORECASE,
)
ADJECTIVES = re.compile(
    r"\b(renal|hepatic) (failure|function|biopsy|disease|transplantation|transplant|insufficiency|impairment|abscess|"
    r"cyst|stones?|lesions?|mass)\b",
    re.IGNORECASE,
)
FRONTED = re.compile(r"^([^,]{3,60}), ((?:the|she|he|her|his|a|an|patient|we|this)\b[^,;:()]*)\.$", re.IGNORECASE)
UNSAFE_FRONT = re.compile(r"\b(?:and|but|however|therefore|although)\b", re.IGNORECASE)


def plain_words(text: str) -> str:
    text = ADJECTIVES.sub(lambda match: f"{PLAIN_WORDS[match[1].lower()]} {match[2]}", text)
    return PLAIN.sub(lambda match: fitting(PLAIN_WORDS[match[1].lower()], text, match.start()), text)


def fitting(plain: str, text: str, start: int) -> str:
    """The plain words, without their article if one or a "no" precedes them."""
    before = text[:start].split()[-1:] or [""]
    bare = re.sub(r"^an? ", "", plain) if before[0].lower() in ("no", "the", "or", "without", "and") else plain
    return bare[0].upper() + bare[1:] if start == 0 else bare


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
    """The sentence in other words, or NOT_STATED if fewer than two safe changes are possible."""
    expanded = write_out(view, sentence)
    moved = move_front(expanded)
    plain = plain_words(moved)
    reworded, made = reword(plain)
    made += (expanded != sentence) + (moved != expanded) + (plain != moved)
    return sentence_case(reworded) if made >= 2 and reworded.rstrip(".") != sentence.rstrip(".") else NOT_STATED


def paraphrasable(view: NoteView, *sections: str) -> list[str]:
    return [
        s.text for s in view.sentences
        if 8 <= len(s.text.split()) <= 45 and (not sections or s.section in sections) and paraphrase(view,
        s.text) != NOT_STATED
    ]  # fmt: skip


def answer_paraphrase(view: NoteView, sentence: str) -> str:
    if not any(sentence == s.text for s in view.sentences):
        return NOT_STATED
    answer = paraphrase(view, sentence)
    return answer if answer != NOT_STATED else sentence_case(simplified(view, sentence))


def simplified(view: NoteView, sentence: str) -> str:
    """The sentence after all safe changes, even if there are none."""
    return reword(plain_words(move_front(write_out(view, sentence))))[0]


def plain_sentences(view: NoteView) -> list[str]:
    return [s.text for s in view.sentences if plain_words(s.text) != s.text and 6 <= len(s.text.split()) <= 45]


def in_plain_words(view: NoteView, sentence: str) -> str:
    if not any(sentence == s.text for s in view.sentences):
        return NOT_STATED
    return sentence_case(simplified(view, sentence))


def reword_section(view: NoteView, section: str) -> str:
    sentences = view.section(section)
    return " ".join(sentence_case(simplified(view, s.text)) for s in sentences) if sentences else NOT_STATED


def short_sections(view: NoteView) -> list[str]:
    def fits(sentences: list[Sentence]) -> bool:
        words = sum(len(s.text.split()) for s in sentences)
        changed = sum(simplified(view, s.text) != s.text for s in sentences)
        return 12 <= words <= 110 and changed * 2 >= len(sentences)

    return [name for name in view.sections if fits(view.section(name))]


def first_line(view: NoteView, *sections: str) -> str:
    """The paraphrase of the first sentence of these sections that can be reworded, or NOT_STATED."""
    return next((paraphrase(view, text) for text in paraphrasable(view, *sections)), NOT_STATED)


PARAPHRASE_FORMS = (
    Form(
        ("Paraphrase this sentence without changing its meaning: “{}”", "Say the following in other words: “{}”",
        "Reword this line of the note: “{}”"),
        paraphrasable,
        answer_paraphrase,
    ),
    Form(
        ("Rewrite this sentence in words that a patient would understand: “{}”",
        "How could this be put in plain language: “{}”?"),
        plain_sentences,
        in_plain_words,
    ),
    Form(
        ("Paraphrase the section {}, keeping every number and every negation.", "Rewrite {} in your own words."),
        short_sections,
        reword_section,
        absent=("ALLERGIES", "VACCINATIONS", "DISCHARGE MEDICATIONS"),
    ),
    Form(
        ("Reword for a colleague outside the specialty, with abbreviations written out: “{}”",),
        lambda view: [text for text in paraphrasable(view) if write_out(view, text) != text],
        answer_paraphrase,
    ),
    Form(
        ("Choose a sentence on how the illness began and paraphrase it.",
        "Put one sentence of the history of present illness in other words."),
        lambda view: [""],
        lambda view, _: first_line(view, PRESENT),
    ),
    Form(
        ("Choose a sentence on treatment or outcome and paraphrase it.",
        "Put one sentence on the hospital course or follow-up in other words."),
        lambda view: [""],
        lambda view, _: first_line(view, COURSE, FOLLOW_UP),
    ),
)  # fmt: skip
