"""Each class of errors of meaning, on sentences of its own: all that it may make of them, and what it leaves alone."""

from random import Random

import pytest

from data_prep.synthesize.planted.meaning import MEANING
from data_prep.synthesize.planted.mutations import is_true_elsewhere


def outcomes(name: str, text: str) -> set[str]:
    """Every text that the class makes of this one, without what all of them share at either end."""
    planted = [MEANING[name](text, Random(seed)) for seed in range(60)]
    return {error.text for error in planted if error}


# Class, sentence, and each text that an error of the class may make of it.
PLANTED = [
    ("severity", "He had mild anemia.", {"He had severe anemia.", "He had marked anemia.", "He had profound anemia."}),
    ("severity", "The liver was mildly enlarged.", {"The liver was markedly enlarged."}),
    ("trend", "Sodium rose to 131.", {"Sodium fell to 131."}),
    ("trend", "Her condition improved.", {"Her condition worsened.", "Her condition deteriorated."}),
    (
        "route",
        "He was given intravenous colistin.",
        {"He was given oral colistin.", "He was given subcutaneous colistin."},
    ),
    ("route", "She took it by mouth.", {"She took it by injection."}),
    ("result", "The smear was positive.", {"The smear was negative."}),
    ("result", "She tested negative for mumps.", {"She tested positive for mumps."}),
    ("normality", "The scan was unremarkable.", {"The scan was abnormal.", "The scan was markedly abnormal."}),
    ("normality", "Urea was raised.", {"Urea was normal."}),
    (
        "started or stopped",
        "Heparin was stopped.",
        {"Heparin was continued.", "Heparin was started.", "Heparin was resumed."},
    ),
    ("started or stopped", "We started lithium.", {"We stopped lithium.", "We discontinued lithium."}),
    ("done or not done", "A swab was not done.", {"A swab was done."}),
    ("done or not done", "He refused surgery.", {"He accepted surgery."}),
    (
        "order",
        "Two days after birth she fell ill.",
        {"Two days before birth she fell ill.", "Two days prior to birth she fell ill."},
    ),
    ("order", "It began prior to admission.", {"It began after admission."}),
    ("outcome", "The rash resolved.", {"The rash persisted.", "The rash recurred."}),
    ("outcome", "There was no recurrence.", {"There was a recurrence."}),
    (
        "value exchanged",
        "Urea was 12 mmol/L and glucose 5.4 mmol/L.",
        {"Urea was 5.4 mmol/L and glucose 12 mmol/L."},
    ),
    ("value exchanged", "Albumin 31 g/L, protein 62 g/L.", {"Albumin 62 g/L, protein 31 g/L."}),
    (
        "dose exchanged",
        "He took ramipril 5 mg and metoprolol 50 mg.",
        {"He took ramipril 50 mg and metoprolol 5 mg."},
    ),
    (
        "dose exchanged",
        "She had codeine (30 mg) with doxycycline (100 mg).",
        {"She had codeine (100 mg) with doxycycline (30 mg)."},
    ),
    (
        "blood pressure",
        "BP was 120/80.",
        {f"BP was {new}." for new in ("100/80", "140/80", "150/80", "120/60", "120/100", "120/110", "80/120")},
    ),
    (
        "blood pressure",
        "He had 90/50 mmHg.",
        {f"He had {new} mmHg." for new in ("70/50", "110/50", "120/50", "90/30", "90/70", "90/80", "50/90")},
    ),
    ("frequency", "Take it twice a day.", {"Take it four times a day."}),
    ("frequency", "Given every 8 hours.", {"Given every 24 hours."}),
    ("grade or stage", "NYHA class II.", {"NYHA class I.", "NYHA class III.", "NYHA class IV."}),
    ("grade or stage", "Child-Pugh C.", {"Child-Pugh A.", "Child-Pugh B."}),
    ("sex", "A 40-year-old man came.", {"A 40-year-old woman came."}),
    ("sex", "She bore a healthy male infant.", {"She bore a healthy female infant."}),
    ("subject", "The donor was old.", {"The recipient was old."}),
    ("subject", "It was maternal fever.", {"It was fetal fever.", "It was neonatal fever.", "It was paternal fever."}),
    ("family", "Her aunt had lupus.", {"The patient had lupus.", "Her uncle had lupus."}),
    ("family", "He had a history of asthma.", {"He had a family history of asthma."}),
    ("hedge left out", "Gout was suspected.", set()),  # too short a word to say that nothing else mentions it
    ("hedge left out", "Sarcoidosis was suspected.", {"Sarcoidosis was confirmed."}),
    ("hedge left out", "It was probably viral.", {"It was definitely viral."}),
    (
        "hedge added",
        "She was diagnosed with gout.",
        {"She was suspected of having gout.", "She was thought possibly to have gout."},
    ),
    (
        "hedge added",
        "Biopsy confirmed the lymphoma.",
        {"Biopsy suggested the lymphoma.", "Biopsy raised the suspicion of the lymphoma."},
    ),
]


@pytest.mark.parametrize(("name", "text", "expected"), PLANTED, ids=[f"{row[0]}: {row[1]}" for row in PLANTED])
def test_a_class_plants_what_it_says(name, text, expected):
    assert outcomes(name, text) == expected


def test_every_class_has_two_sentences():
    assert {name: [row[0] for row in PLANTED if row[2]].count(name) for name in MEANING} == dict.fromkeys(MEANING, 2)


LEFT_ALONE = [
    ("severity", "He had severe acute respiratory syndrome."),
    ("trend", "He had increased intracranial pressure."),  # a state
    ("trend", "There was an increased risk of bleeding."),
    ("route", "The oral cavity was clean, with an intravenous line in place."),
    ("result", "Gram-negative rods were seen."),
    ("started or stopped", "He stopped breathing."),
    ("order", "He was named after the head of the clinic."),
    ("value exchanged", "The mass was 3 cm x 4 cm."),
    ("value exchanged", "Urea was 12 mmol/L (normal 2-8 mmol/L)."),
    ("family", "She denied a family history of cancer."),
    ("hedge left out", "Sarcoidosis was suspected. Biopsy proved sarcoidosis."),  # the error would be true
    ("hedge left out", "Sarcoidosis was suspected and later confirmed."),
    ("hedge added", "Examination revealed a thin man."),
]


@pytest.mark.parametrize(("name", "text"), LEFT_ALONE)
def test_a_place_where_the_change_is_no_error_is_left_alone(name, text):
    assert outcomes(name, text) == set()


def test_an_error_that_the_text_says_elsewhere_is_not_planted():
    said_twice = "The pain improved after surgery. At home the pain worsened after surgery."
    assert "pain worsened after surgery. At home the pain worsened" not in " ".join(outcomes("trend", said_twice))


def test_an_error_covers_its_sentence():
    text = "He came on Monday. Sodium rose to 131.5 mmol/L then. He left."
    planted = MEANING["trend"](text, Random(0))
    assert planted is not None
    assert planted.text[planted.start : planted.end] == "Sodium fell to 131.5 mmol/L then"
    assert planted.was == "rose"
    assert not is_true_elsewhere(planted, text)
