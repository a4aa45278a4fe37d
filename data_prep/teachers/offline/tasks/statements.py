"""What a sentence states beyond doubt: problems that it affirms or denies, and whose they are.

Stricter than the negation of `entities`: a sentence with any word of denial, doubt, risk or another person affirms
nothing here, and denies only what it lists right after the denial.
"""

import re

from data_prep.clinical_text.entities import Entity, is_qualifier
from data_prep.clinical_text.words import word_set
from data_prep.teachers.offline.cues import ACTED, DIAGNOSED, LEFT, MOVED_ON, RELATIVE
from data_prep.teachers.offline.lists import GIVEN_UP
from data_prep.teachers.offline.note_view import NoteView, Sentence, per_note, word_pattern

DENIAL = re.compile(
    r"\b(?:no|not|non|nor|neither|never|none|without|cannot|den(?:y|ied|ies|ying)|absen\w+|negative\w*|exclu\w+|"
    r"rul\w+ out|free|lack\w*|fail\w*|unremarkable|normal\w*|"
    r"devoid|disappear\w*|resol\w+|subsid\w+|eliminat\w+|regress\w*|avoid\w*|unlikely)\b|n['’]t\b|\bnon-",
    re.IGNORECASE,
)
DOUBT = re.compile(
    r"\b(?:suspect\w*|suspici\w+|possib\w+|probab\w+|presum\w+|likely|may|might|could|would|should|can|if|whether|"
    r"differential\w*|consider\w*|question\w*|unclear|unknown|risk\w*|prevent\w*|prophyla\w+|fear\w*|threat\w*|"
    r"susceptib\w+|potential\w*|suggest\w*|compatible|consistent|favou?r\w*|concern\w*|evok\w+|mimic\w*|like|rather|"
    r"versus|vs|or|evaluat\w+|assess\w*|investigat\w+|screen\w*|search\w*|exclude|hypothes\w+|thought|initial\w*|"
    r"history|previous\w*|known|ago|working|provisional|such as|newborn|inten(?:t|ded) to|vaccin\w+|test(?:s|ed|ing)?|"
    r"antibod\w+|marker\w*|serolog\w+|scale|score|questionnaire|index)\b",
    re.IGNORECASE,
)
# "She denied fever, chills or cough.", "There was no fever or cough.": the list runs to the end of the clause.
OF = r"(?:(?:evidence|signs?|history|symptoms?|complaints?|episodes?|presence) of )?(?:any )?"
# "No other signs of sepsis" denies no sepsis.
NOT_MORE = r"(?!other|further|additional|more|new|longer)"
DENIED_LIST = re.compile(
    rf"(?:\b(?:denied|denies) (?:any |having )?{OF}|\b(?:there (?:was|were|is|are)|had|has|showed|revealed|"
    rf"demonstrated|disclosed|found|with|but) (?:also )?no {NOT_MORE}{OF}"
    rf"|(?<!and )(?<!or )\bwithout (?:any )?{OF}|(?:^|[,;] )(?:and )?no {NOT_MORE}{OF}(?=[\w ,-]+ (?:was|were) (?:noted"
    rf"|found|seen|observed|detected|present|reported|identified)\b))"
    r"([\w/-]+(?:,? [\w/-]+){0,30}?)(?: (?:was|were) (?:noted|found|seen|observed|detected|present|reported|"
    r"identified))?(?=[.;]|$)",
    re.IGNORECASE,
)
ITEM = re.compile(r",? (?:or|and|nor) (?:any |no )?|, (?:no )?")
NOT_ITEM = re.compile(
    r"\b(?:he|she|was|were|is|had|has|but|which|that|the|of|in|on|with|at|for|to|by|from|other|further|recent|"
    r"similar|corresponding|heard|found|seen|noted|present|since|during|due)\b",
    re.IGNORECASE,
)
VAGUE = word_set("""
lesion lesions mass masses tumor tumour tumors tumours injury injuries infection infections cyst cysts nodule
nodules pain wound collection symptoms complication complications disease diseases recurrence inflammation
abnormality abnormalities finding findings defect disorder syndrome cancer dissection compression culture complement
removal repair operation surgery isolation graft flap aspiration reconstruction examination change changes sign
signs problem problems deficit deficits swelling stenosis obstruction trauma shock condition damage evidence
metastasis metastases
""")


def specific(name: str) -> bool:
    """Return True if a name is specific enough to ask about; "lesion" alone is not."""
    return name.lower() not in VAGUE and len(name) > 3


def is_plain(sentence: Sentence) -> bool:
    """Return True if a sentence holds no word of denial, doubt or another person."""
    return not (DENIAL.search(sentence.text) or DOUBT.search(sentence.text) or RELATIVE.search(sentence.text))


# What may follow the full name of a problem; a noun ("cancer antigen") may not.
NAME_ENDS = re.compile(
    r"[.,;:)]|$| (?:\(|\d|and|with|in|of|on|at|was|were|is|for|from|by|which|that|who|since|as|after|over|under|"
    r"around|due|associated|measuring|evolving|extending|involving|had|has|he|she|within|during|before|secondary|"
    r"located|noted|radiating|despite|when|while|throughout|to)\b"
)


@per_note
def affirmed(view: NoteView) -> list[tuple[Entity, Sentence]]:
    """The problems that the note affirms and that it names in no other sentence, each with its sentence."""
    return [
        (entity, sentence)
        for sentence in view.prose
        if is_plain(sentence) and not (GIVEN_UP.search(view.text) and DIAGNOSED.search(sentence.text))
        for entity in sentence.entities
        if entity.kind == "problem" and specific(entity.text) and entity.text in sentence.text
        and NAME_ENDS.match(sentence.text, entity.end) and only_here(view, entity, sentence)
    ]  # fmt: skip


def only_here(view: NoteView, entity: Entity, sentence: Sentence) -> bool:
    """Return True if no other sentence names the entity or its core term."""
    core = word_pattern(entity.term or entity.text)
    return all(other.index == sentence.index or not core.search(other.text) for other in view.prose)


def denied_in(sentence: Sentence) -> list[str]:
    """The problems that a sentence denies one by one, in its own words; [] if it is unclear where the denial ends."""
    match = DENIED_LIST.search(sentence.text)
    if (
        not match
        or RELATIVE.search(sentence.text)
        or len(re.findall(r"\b(?:no|not|denie[ds]|without|nor)\b", sentence.text)) > 1
    ):
        return []
    items = [re.sub(r"^an? ", "", item.strip()) for item in ITEM.split(match[1])]
    problems = [entity.text.lower() for entity in sentence.entities if entity.kind == "problem"]
    # In "motor or sensory deficit", "motor" is no item of its own.
    whole = not any(is_qualifier(item.split()[-1].lower()) for item in items[:-1] if item)
    named = all(any(problem in item.lower() for problem in problems) for item in items)
    return (
        items if whole and named and all(len(item.split()) <= 4 and not NOT_ITEM.search(item) for item in items) else []
    )


# Names of one symptom: a denial of one is doubtful where another occurs.
SYNONYMS = (
    r"dyspn|breath|respirat|asphyx", r"fever|febrile|pyrexia|temperature|chill", r"vomit|emesis|nausea",
    r"oedema|edema|swell",
    r"bleed|h(?:a)?emorrh|mel(?:a)?ena|h(?:a)?ematemesis|h(?:a)?emopty|h(?:a)?ematuria|h(?:a)?ematochezia|blood",
    r"pain|ache|tender|discomfort|colic", r"seizure|convuls|epilep", r"lymphadenopath|adenopath|nodes?\b",
    r"jaundice|icter",
    r"diarrh|stool", r"weight", r"syncop|conscious|faint", r"hypertens|blood pressure", r"diabet|glyc",
    r"infect|sepsis|pneumon",
    r"ascites|effusion|fluid", r"metasta", r"trauma|injur|accident|fall", r"weak|paresis|paraly|deficit",
    r"vis(?:ion|ual)",
    r"rash|erupti|erythem|lesion", r"hepatomegal|splenomegal|organomegal|enlarge", r"numb|sens|par(?:a)?esthes",
)  # fmt: skip


def denied(view: NoteView) -> list[tuple[str, Sentence]]:
    """The single items that the note denies at presentation and names nowhere else, each with its sentence."""
    return [
        (item, sentence)
        for sentence in view.prose
        if not any(pattern.search(sentence.text) for pattern in (ACTED, LEFT, MOVED_ON))
        for item in denied_in(sentence)
        if specific(item.split()[-1]) and not any(named(item, other) for other in view.prose if other is not sentence)
    ]


def named(item: str, sentence: Sentence) -> bool:
    """Return True if a sentence may name an item in any form."""
    text = sentence.text.lower()
    stems = [re.escape(word[:6]) for word in item.lower().split() if len(word) > 3]
    groups = [group for group in SYNONYMS if re.search(group, item.lower())]
    return any(re.search(pattern, text) for pattern in (*stems, *groups))
