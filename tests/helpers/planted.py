"""The least recall of the gate for each class of planted errors, and rewordings that plant none."""

import re
from random import Random

LEAST_RECALL = {
    "dose x10": 0.95,
    "number changed": 0.95,
    "unit swapped": 0.95,
    "side swapped": 0.95,
    "drug swapped": 0.9,
    "date shifted": 0.9,
    "duration shifted": 0.9,
    "age changed": 0.9,
    "negation dropped": 0.85,
    "negation added": 0.85,
    "finding invented": 0.85,
}


# ---------------------------------------------------------------- rewordings that change no fact

UNIT_FORMS = (
    (r"(?<=\d) ?mg\b(?!/)", " milligrams"), (r"(?<=\d) ?mL\b(?!/)", " ml"), (r"(?<=\d) ml\b", " mL"),
    (r"(?<=\d) ?cm\b", "-cm"),
    (r"mg/dl\b", "mg/dL"), (r"g/dl\b", "g/dL"), (r"\bmm Hg\b", "mmHg"), (r"/mm3\b", "/µL"), (r"\bµg\b", "mcg"), (r"℃",
    "°C"),
)  # fmt: skip
WORD_FORMS = (
    (r"\btwice (?:a day|daily)\b", "bid"), (r"\bthree times (?:a day|daily)\b", "tid"), (r"\bonce daily\b", "daily"),
    (r"\b(\d{1,3})[- ]years?[- ]old\b", r"\1 y/o"), (r"\btwo (?=weeks|days|months|years|hours)", "2 "),
    (r"\bthree (?=weeks|days|months|years)", "3 "),
    (r"\b2 (?=weeks\b)", "two "), (r"\b14 days\b", "2 weeks"), (r"\bone year\b", "12 months"), (r"\b48 hours\b",
    "2 days"), (r"\b6 months\b", "six months"),
    (r"\bmagnetic resonance imaging\b", "MRI"), (r"\bcomputed tomography\b", "CT"), (r"\bblood pressure\b", "BP"),
    (r"\bheart rate\b", "HR"),
    (r"\bhemoglobin\b", "Hb"), (r"\bwhite blood cell(?:s| count)?\b", "WBC"), (r"\bcreatinine\b", "Cr"),
    (r"\bshortness of breath\b", "SOB"),
    (r"\bdyspn(?:o)?ea\b", "shortness of breath"), (r"\bhypertension\b", "HTN"), (r"\bdiabetes mellitus\b", "DM"),
    (r"\bchest x-ray\b", "CXR"),
    (r"\bmyocardial infarction\b", "MI"), (r"\belectrocardiogram\b", "ECG"), (r"\bhaem", "hem"), (r"\btumour",
    "tumor"), (r"\boedema", "edema"),
    (r"\banaemia", "anemia"), (r"\bwas administered\b", "was given"), (r"\bunderwent\b", "had"), (r"\brevealed\b",
    "showed"), (r"\bdemonstrated\b", "showed"),
    (r"\bpresented with\b", "came in with"), (r"\bcomplained of\b", "reported"), (r"\bThe patient\b", "Pt"),
    (r"\bwas started on\b", "was put on"),
    (r"\bdenied\b", "denies"), (r"\bThere was no\b", "No"), (r"\bwithout any\b", "without"), (r"\bno evidence of\b",
    "no"), (r"\bhistory of\b", "h/o"),
    (r"\bapproximately\b", "~"), (r"\bintravenous(?:ly)?\b", "IV"), (r"\bultrasonography\b", "ultrasound"),
    (r"\bacetaminophen\b", "paracetamol"),
    (r"\bbilateral\b", "left and right"), (r"\bbody temperature\b", "Temp"), (r"\bfever\b(?! of)", "pyrexia"),
    (r"\bpostoperative day (\d+)", r"POD \1"),
)  # fmt: skip
REWORDINGS = tuple((re.compile(pattern), new) for pattern, new in UNIT_FORMS + WORD_FORMS)


def reworded(note: str, random: Random) -> str:
    """The note in a chart's hand: each rule applied or not by chance, none of which changes a fact."""
    for pattern, new in REWORDINGS:
        if random.random() < 0.8:
            note = pattern.sub(new, note)
    return note
