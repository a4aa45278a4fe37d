"""What the offline teacher makes of a report: sections by what sentences say, one patient, nothing of the paper."""

import asyncio
import json
import re

import pytest

from data_prep.teachers.base import Request
from data_prep.teachers.offline.cues import COURSE, EXAMINATION, HISTORY, INVESTIGATIONS, PAST, WHOLE
from data_prep.teachers.offline.layouts import LAYOUTS
from data_prep.teachers.offline.note import compose, find_complaint, header, why_no_note, write_note
from data_prep.teachers.offline.one_patient import patient_sentences, why_not
from data_prep.teachers.offline.sections import divide
from data_prep.teachers.offline.teacher import OfflineTeacher
from tests.data_prep.teachers.offline.test_offline import REAL_REPORTS

OPENING = "A 60-year-old man presented with fever and chest pain for 3 days."


def sections(*sentences: str) -> dict[str, str]:
    """The section of each sentence of a report that begins with OPENING."""
    return {s: part.heading for part in divide([OPENING, *sentences]) for s in part.sentences if s != OPENING}


@pytest.mark.parametrize(
    ("sentence", "section"),
    [
        ("His family history was positive for diabetes.", PAST),
        ("He was taking aspirin and metformin at home.", PAST),
        ("On examination, his blood pressure was 120/80 mmHg.", EXAMINATION),
        ("Chest auscultation revealed crackles.", EXAMINATION),
        ("The haemoglobin was 8.2 g/dL.", INVESTIGATIONS),
        ("Chest radiography showed an infiltrate.", INVESTIGATIONS),
        ("An ECG and a chest radiograph were normal.", INVESTIGATIONS),
        ("Histology of the skin biopsy revealed a granuloma.", INVESTIGATIONS),
        ("His mother had leukemia.", PAST),
        # Not surely of one kind: these stay in the story.
        ("He had a history of weight loss but no fever.", WHOLE),
        ("His home medications included warfarin for thrombosis with a low platelet count.", WHOLE),
        ("Examination of the gene revealed a high density of repeats.", WHOLE),
        ("He was accompanied by his wife.", WHOLE),
        ("He was fed via percutaneous endoscopic gastrostomy.", WHOLE),
        ("His parents had noted a swelling in the last week.", WHOLE),
        ("A malignant tumor was suspected on ultrasonography.", WHOLE),
        ("A visual field test was normal.", WHOLE),
        ("Decompression was performed and histological examination confirmed a ganglion.", WHOLE),
        ("He was started on heparin because the CT showed an embolus.", WHOLE),
        ("He complained of cough and had no history of smoking.", WHOLE),
        ("This revealed a white blood cell count of 8,000/mm3.", WHOLE),
    ],
)
def test_a_sentence_stands_under_a_special_heading_only_if_all_of_it_surely_belongs_there(sentence: str, section: str):
    assert sections(sentence)[sentence] == section


def test_the_order_of_the_report_is_kept_so_that_then_and_this_keep_their_reference():
    report = (
        "Abdominal CT showed a mass in the liver.",
        "This was 3 cm in diameter.",
        "His family history was positive for hypertension.",
        "He underwent hepatectomy.",
        "During the procedure, the mass ruptured.",
        "Histology of the specimen revealed a sarcoma.",
        "Two months later, the serum bilirubin was normal.",
    )
    for name in ("discharge summary", "consultation letter"):
        note = write_note(" ".join((OPENING, *report)), name)
        places = [note.index(sentence) for sentence in (OPENING, *report)]
        assert places == sorted(places)
    # What follows the treatment is course, whatever it names.
    assert list(sections(*report).values()) == [INVESTIGATIONS] * 2 + [PAST] + [COURSE] * 4


def test_each_heading_occurs_once_and_a_torn_report_stays_whole():
    placed = sections("Chest CT showed a mass.", "He was worried.", "The haemoglobin was 8 g/dL.", "MRI was normal.")
    assert list(placed.values()) == [HISTORY, HISTORY, INVESTIGATIONS, INVESTIGATIONS]
    assert sections("He was worried.", "He went home.") == {"He was worried.": WHOLE, "He went home.": WHOLE}


def test_a_finding_without_a_cue_goes_on_with_the_findings_before_it():
    placed = sections("Physical examination revealed a mass in the left breast.", "The right breast was normal.")
    assert set(placed.values()) == {EXAMINATION}
    placed = sections("Physical examination revealed a mass in the left breast.", "The pain was constant.")
    assert placed["The pain was constant."] == COURSE
    placed = sections("Physical examination revealed a mass.", "The biological check-up was normal.")
    assert set(placed.values()) == {EXAMINATION, INVESTIGATIONS}
    placed = sections("Physical examination revealed a mass.", "Her inflammatory markers were elevated.")
    assert placed["Her inflammatory markers were elevated."] == COURSE
    assert sections("Physical examination was performed.") == {"Physical examination was performed.": WHOLE}


@pytest.mark.parametrize(
    ("sentence", "line"),
    [
        ("A fourty two year old lady presented with fever.", "CHIEF COMPLAINT: fever"),
        ("A forty-two year old lady was seen.", "PATIENT: forty-two year old lady"),
        (
            "A 42-year-old man presented pain of the right shoulder with an oedema of the arm.",
            "PATIENT: 42-year-old man",
        ),
        ("A 6-year-old boy was seen with pain in the back and showed high levels.", "PATIENT: 6-year-old boy"),
        ("A 6-year-old boy was seen with pain ten years ago.", "PATIENT: 6-year-old boy"),
        ("A 28 year old farmer came to our clinic, complaining of fatigue.", "CHIEF COMPLAINT: fatigue"),
        ("The patient had presented recurrent infections for 2 months, cough, and dyspnea.", ""),
        ("A 42-year-old man presented with dry cough occurring at night and.", "PATIENT: 42-year-old man"),
    ],
)
def test_a_header_line_is_whole_or_absent(sentence: str, line: str):
    assert header([sentence]) == line


@pytest.mark.parametrize("name", ["progress note", "operative note", "nursing note"])
def test_types_of_notes_that_rules_cannot_write_are_declined_with_a_reason(name: str):
    assert compose(OPENING, name) == ("", f"rules cannot write a {name}")


def test_an_emergency_note_needs_an_emergency_department():
    findings = "On examination, his blood pressure was 120/80 mmHg. Chest radiography showed an infiltrate."
    assert (
        why_no_note(f"{OPENING} {findings}", "emergency department note") == "the report names no emergency department"
    )
    came = OPENING.replace("presented", "presented to the emergency department")
    assert write_note(f"{came} {findings}", "emergency department note")


def test_a_radiology_report_holds_one_unbroken_run_about_images():
    findings = "Chest CT showed a mass. It was 3 cm in size. MRI was normal. The haemoglobin was 8.2 g/dL."
    note = write_note(f"{OPENING} {findings} A bone scan was normal.", "radiology report")
    assert note.endswith("FINDINGS:\n- Chest CT showed a mass.\n- It was 3 cm in size.\n- MRI was normal.")
    assert (
        why_no_note(f"{OPENING} Chest CT showed a mass.", "radiology report") == "the report has nothing for FINDINGS"
    )


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
        "This disease is a rare entity. This is the second description of this variant. Our search revealed 49 cases. "
        "This is a case report of a man with a mass (red arrow) that met the criteria. It was red.12 "
        "Later it grew. M.K. had a cough."
    )
    assert kept == [
        "A 54-year-old man with fever.",
        "A patient came.",
        "We removed the mass.",
        "A man with a mass that met the criteria.",
        "The patient had a cough.",
    ]


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        ("We report three patients with gout. All recovered.", "several patients"),
        ("Case 1: A 40-year-old man had gout. Case 2: A 50-year-old man had gout.", "several patients"),
        ("A 40-year-old man had gout. A 50-year-old woman had gout too. Both were treated.", "several patients"),
        ("Case I A 40-year-old man had gout. Case II A 50-year-old man had gout.", "several patients"),
        ("A 40-year-old man had gout. Another female patient had a rash.", "several patients"),
        ("Two siblings with gout were treated.", "several patients"),
        ("A 40-year-old man gave a kidney. The donor and recipient went home.", "several patients"),
        ("Gout was treated in the clinic. He went home on day 3. She stayed for another week.", "several patients"),
        ("In this cohort, the mean age was 40 years and gout was common.", "cohort"),
        ("A 4-year-old, neutered male, European cat was presented with gout. The cat was treated.", "animal"),
        ("Gout is common. Its treatment is well known.", "no patient"),
        ("A course trains nurses in the treatment of gout. Its cost was low.", "no patient"),
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
