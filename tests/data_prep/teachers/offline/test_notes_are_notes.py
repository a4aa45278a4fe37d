"""What the offline teacher makes of a report: sections by what sentences say, one patient, nothing of the paper."""

import asyncio
import json
import re

import pytest

from data_prep.teachers.base import Request
from data_prep.teachers.offline.cues import (
    COURSE,
    EXAMINATION,
    IMAGING,
    LABORATORY,
    MEDICATIONS,
    OUTCOME,
    PAST,
    PATHOLOGY,
    PRESENT,
    STUDIES,
)
from data_prep.teachers.offline.layouts import LAYOUTS
from data_prep.teachers.offline.note import find_complaint, why_no_note, write_note
from data_prep.teachers.offline.one_patient import patient_sentences, why_not
from data_prep.teachers.offline.sections import units_of
from data_prep.teachers.offline.teacher import OfflineTeacher
from tests.data_prep.teachers.offline.test_offline import REAL_REPORTS

OPENING = "A 60-year-old man presented with fever and chest pain for 3 days."


def sections(*sentences: str) -> dict[str, str]:
    """The section of each sentence of a report that begins with OPENING."""
    return {s: unit.section for unit in units_of([OPENING, *sentences]) for s in unit.sentences if s != OPENING}


@pytest.mark.parametrize(
    ("sentence", "section"),
    [
        ("He was taking aspirin and metformin at home.", MEDICATIONS),
        ("His home medications included warfarin for thrombosis with a low platelet count.", COURSE),
        ("He was a dog breeder.", PAST),
        ("He worked as a farmer and had contact with blood of sheep.", PAST),
        ("He had a history of diabetes mellitus.", PAST),
        ("His mother had died of leukemia.", PAST),
        ("On examination, his blood pressure was 120/80 mmHg.", EXAMINATION),
        ("The haemoglobin was 8.2 g/dL.", LABORATORY),
        ("Chest radiography showed an infiltrate.", IMAGING),
        ("An ECG and a chest radiograph were normal.", STUDIES),
        ("Histology of the skin biopsy revealed a granuloma.", PATHOLOGY),
        ("He was started on heparin because the CT showed an embolus.", COURSE),
        ("He complained of cough and had no history of weight loss.", PRESENT),
    ],
)
def test_a_sentence_stands_where_all_its_words_belong(sentence: str, section: str):
    before = "Urinalysis was normal."
    assert sections(before, sentence)[sentence] in ({section, PRESENT} if section == COURSE else {section})


def test_a_sentence_that_leans_on_another_follows_it_in_the_same_section():
    report = (
        "Abdominal CT showed a mass in the liver.",
        "This was 3 cm in diameter.",
        "He had a history of hypertension.",
        "It was treated with amlodipine.",
        "He underwent hepatectomy.",
        "Two months later, the serum bilirubin was normal.",
    )
    note = write_note(" ".join((OPENING, *report)))
    for first, second in zip(report[::2], report[1::2], strict=True):
        assert re.search(re.escape(first) + r"\s(?:- )?" + re.escape(second), note)
    assert set(sections(*report).values()) == {IMAGING, PAST, COURSE}


def test_the_order_of_time_is_kept_after_treatment_began():
    placed = sections(
        "Chest CT showed an embolus.",
        "He received heparin.",
        "A repeat CT showed no embolus.",
        "He was discharged in good condition.",
        "The haemoglobin was normal at follow-up.",
    )
    assert list(placed.values()) == [IMAGING, COURSE, COURSE, OUTCOME, OUTCOME]


def test_diagnoses_condition_and_medications_at_discharge_are_lists():
    note = write_note(
        f"{OPENING} Chest CT showed an embolus. The diagnosis of pulmonary embolism was made. He received heparin. "
        "Pneumonia was suspected. He was discharged in good condition. He was discharged on warfarin 5 mg and aspirin."
    )
    assert "DIAGNOSES:\n- pulmonary embolism\n\n" in note
    assert "CONDITION AT DISCHARGE:\n- good condition\n\n" in note
    assert note.endswith("DISCHARGE MEDICATIONS:\n- warfarin 5 mg\n- aspirin")


def test_the_paper_and_persons_initials_are_left_out():
    kept = patient_sentences(
        "Case presentation: We report the case of Mr. J.B., a 54-year-old man with fever. To our knowledge, this is "
        "the first case. The values are listed in Table 2. Written informed consent was obtained. A patient, A.B., "
        "came. "
        "After obtaining informed consent, we removed the mass, as shown in (Fig. 2). Jones et al. saw this. "
        "This disease is a rare entity."
    )
    assert kept == ["A 54-year-old man with fever.", "A patient came.", "We removed the mass."]


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        ("We report three patients with gout. All recovered.", "several patients"),
        ("Case 1: A 40-year-old man had gout. Case 2: A 50-year-old man had gout.", "several patients"),
        ("A 40-year-old man had gout. A 50-year-old woman had gout too. Both were treated.", "several patients"),
        ("In this cohort, the mean age was 40 years and gout was common.", "cohort"),
        ("A 4-year-old, neutered male, European cat was presented with gout. The cat was treated.", "animal"),
        ("Gout is common. Its treatment is well known.", "no patient"),
    ],
)
def test_reports_of_others_than_one_patient_are_declined_with_the_reason(report: str, reason: str):
    assert reason in why_not(report)
    request = Request("note", "n", (), {"report": report, "note_type": "discharge summary"})
    reply = asyncio.run(OfflineTeacher().ask(request))
    assert reply.finish_reason == "declined"
    assert reason in reply.text


def test_relatives_and_bites_make_no_second_patient_and_no_animal():
    assert not why_not(
        f"{OPENING} His two sisters were healthy. He was bitten by a dog. Patients with fever were near."
    )
    assert why_no_note(OPENING, "operative note") == "the report has nothing for PROCEDURE"


@pytest.mark.parametrize(
    ("sentence", "complaint"),
    [
        ("She presented with headache for 2 days.", "headache for 2 days"),
        ("She was referred to the Faculty of Rabat complaining of pain in the jaw.", "pain in the jaw"),
        ("She was admitted with a diagnosis of missed abortion.", ""),
        ("She presented with pain that radiated to the arm.", "pain"),
    ],
)
def test_the_chief_complaint_is_a_symptom(sentence: str, complaint: str):
    assert find_complaint(sentence) == complaint


@pytest.mark.slow
def test_at_most_one_real_note_in_a_hundred_has_boilerplate():
    if not REAL_REPORTS.is_file():
        pytest.skip(f"{REAL_REPORTS} is absent")
    boilerplate = re.compile(
        r"\bconsent|ethics committee|institutional review|conflict of interest|\bwe (?:herein )?report\b|\bet al\b|"
        r"\bCase [12]\b|\bTable \d|\bFig(?:ure)?\.? ?\d|in the literature",
        re.IGNORECASE,
    )
    texts = [json.loads(line)["text"] for line in REAL_REPORTS.read_text(encoding="utf-8").splitlines()]
    notes = [note for text in texts for name in LAYOUTS if (note := write_note(text, name))]
    assert sum(bool(boilerplate.search(note)) for note in notes) <= 0.01 * len(notes)
