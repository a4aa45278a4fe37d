"""The offline teacher: it keeps what a report says, adds nothing, and says so where a note is silent."""

import asyncio
import json
import os
import re
import subprocess
import sys

import pytest

from data_prep.clinical_text.abbreviations import find_pairs, find_undefined
from data_prep.clinical_text.entities import find_entities
from data_prep.clinical_text.sentences import normalise, split_sentences, tidy
from data_prep.clinical_text.time_phrases import find_times
from data_prep.clinical_text.vocabulary.lexicon import UNITS
from data_prep.contract.records import TASKS
from data_prep.teachers.base import Request
from data_prep.teachers.offline.cues import CHIEF_COMPLAINT, SECTIONS
from data_prep.teachers.offline.layouts import LAYOUTS
from data_prep.teachers.offline.note import PATIENT, write_note
from data_prep.teachers.offline.note_view import NOT_STATED, read_note
from data_prep.teachers.offline.one_patient import is_about_patient
from data_prep.teachers.offline.tasks.paraphrasing import REWORDINGS, changed
from data_prep.teachers.offline.teacher import FORMS, OfflineTeacher, answer_question, ask_question
from tests.helpers.places import ROOT, SHARED

REAL_REPORTS = SHARED / "data" / "case_reports.jsonl"
DEMO = [
    json.loads(line)
    for line in (ROOT / "data_prep" / "ingest" / "demo_reports.jsonl").read_text(encoding="utf-8").splitlines()
]

WORD = re.compile(r"[^\W\d_]+")
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
NEGATIONS = re.compile(r"\b(?:no|not|without|never|neither|nor|denied|denies|absent|absence|negative)\b", re.IGNORECASE)
# What the teacher says in its own words. Anything else in an answer must stand in the note or in the question.
FRAMES = """
    the note gives dose of as time says uses but does not spell out stated be absent appears in stands for abbreviates
    said problem symptom sign or disease medication test procedure body part refers refer patient introduced mentioned
    earlier same sentence under it to yes no chief complaint was described diagnosis history a at an in
"""


def words(text: str) -> set[str]:
    return {word.lower() for word in WORD.findall(text)}


def numbers(text: str) -> set[str]:
    return {number.rstrip(".,") for number in NUMBER.findall(text)}


HEADINGS = [text for row in LAYOUTS.values() for text in (row.title, row.opening)]
HEADINGS += [heading for row in LAYOUTS.values() for heading in row.takes]
HEADINGS += ["DIAGNOSES", "CONDITION AT DISCHARGE", "DISCHARGE MEDICATIONS"]
LABELS = words(" ".join((PATIENT, CHIEF_COMPLAINT, *SECTIONS, *HEADINGS)))
OWN_WORDS = words(FRAMES) | words(NOT_STATED) | LABELS
OTHER_WORDINGS = words(" ".join(REWORDINGS.values()))


def real_texts() -> list[str]:
    if not REAL_REPORTS.is_file():
        pytest.skip(f"{REAL_REPORTS} is absent")
    lines = REAL_REPORTS.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines[:: len(lines) // 150]]


def check_note(report: str) -> None:
    source = normalise(report)
    for note_type in LAYOUTS:
        note = write_note(report, note_type)
        assert words(note) - words(source) <= LABELS, note_type
        assert numbers(note) <= numbers(source), note_type


def check_answers(note: str, seed: int) -> None:
    for task in TASKS:
        question = ask_question(note, task, seed)
        if not question:
            continue
        answer = answer_question(note, task, question)
        source = f"{note} {question}"
        allowed = words(source) | OWN_WORDS | (OTHER_WORDINGS if task == "Paraphrasing" else set())
        allowed |= words(" ".join(UNITS.values())) if task == "Abbreviation Expansion" else set()
        assert words(answer) <= allowed, (task, question, answer, words(answer) - allowed)
        assert numbers(answer) <= numbers(source), (task, question, answer)
        assert answer


def test_notes_of_demo_reports_add_no_word_and_no_number():
    for report in DEMO:
        check_note(report["text"])


def test_notes_of_real_reports_add_no_word_and_no_number():
    for text in real_texts():
        check_note(text)


def test_notes_keep_every_sentence_about_the_patient():
    for report in DEMO:
        note_words = words(write_note(report["text"]))
        for sentence in split_sentences(report["text"]):
            assert words(tidy(sentence)) - note_words <= {"the", "a", "an", "there", "was", "were", "on", "examination"}


def test_notes_are_about_as_long_as_their_reports():
    for report in DEMO:
        ratio = len(write_note(report["text"]).split()) / len(report["text"].split())
        assert 0.9 < ratio < 1.35


def test_answers_on_demo_notes_invent_nothing():
    for index, report in enumerate(DEMO):
        for seed in (index, index + 1000, index + 2000):
            check_answers(write_note(report["text"]), seed)


def test_answers_on_real_notes_invent_nothing():
    for index, text in enumerate(real_texts()):
        check_answers(write_note(text), index)


def test_the_same_request_gets_the_same_reply():
    async def run() -> list[str]:
        teacher = OfflineTeacher()
        report = DEMO[3]["text"]
        note = await teacher.ask(Request("note", "n", (), {"report": report, "note_type": "discharge summary"}))
        texts = [note.text]
        for task in TASKS:
            question = await teacher.ask(Request("question", "q", (), {"note": note.text, "task": task}, seed=7))
            inputs = {"note": note.text, "task": task, "question": question.text}
            answer = await teacher.ask(Request("answer", "a", (), inputs, seed=7))
            assert question.finish_reason in ("stop", "declined")
            assert answer.model == "rules-1"
            texts += [question.text, answer.text]
        return texts

    assert asyncio.run(run()) == asyncio.run(run())


def test_questions_do_not_depend_on_the_process():
    script = (
        "import json; from data_prep.contract.records import TASKS\n"
        "from data_prep.teachers.offline.note import write_note\n"
        "from data_prep.teachers.offline.teacher import ask_question\n"
        "text = json.loads(open('data_prep/ingest/demo_reports.jsonl', encoding='utf-8').readline())['text']\n"
        "print([ask_question(write_note(text), task, seed) for task in TASKS for seed in range(12)])"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]


def test_an_unknown_request_is_refused_by_name():
    with pytest.raises(ValueError, match="'rewrite'"):
        asyncio.run(OfflineTeacher().ask(Request("rewrite", "n", ())))
    with pytest.raises(ValueError, match="Translation"):
        ask_question("NOTE", "Translation", 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Seen by Dr. Adams at 3.5 mg. She left.", ["Seen by Dr. Adams at 3.5 mg.", "She left."]),
        ("Cultures grew S. Aureus and E. coli. No fever.", ["Cultures grew S. Aureus and E. coli.", "No fever."]),
        ("It was large (Fig. 2). CT vs. MRI, e.g. T2.", ["It was large (Fig. 2).", "CT vs. MRI, e.g. T2."]),
        (
            "He took 10 mg. 3 times a day. Then 2.5 ml. He slept.",
            ["He took 10 mg. 3 times a day.", "Then 2.5 ml.", "He slept."],
        ),
        ("She lacked vitamin D. The level was low.", ["She lacked vitamin D.", "The level was low."]),
        ("The drain was removed.The wound healed.", ["The drain was removed.", "The wound healed."]),
        ("The mass\nwas soft.\nIt grew.", ["The mass was soft.", "It grew."]),
    ],
)
def test_sentences(text: str, expected: list[str]):
    assert split_sentences(text) == expected


def test_citations_and_figure_pointers_go_and_values_stay():
    text = "A mass [12,13] was seen (Fig. 2A, B) at 45 mg/m2 [45 mg/m2] (Table 1) in a 3 cm (range 2-4 cm) area."
    assert tidy(text) == "A mass was seen at 45 mg/m2 [45 mg/m2] in a 3 cm (range 2-4 cm) area."


def test_literature_is_left_out_and_the_patient_stays():
    assert not is_about_patient("To our knowledge, this is the first such case.")
    assert not is_about_patient("The results are shown in Table 2.")
    assert is_about_patient("The temperature was 38.2 °C.")
    note = write_note("We report the case of a 54-year-old man with fever. Written informed consent was obtained.")
    assert "54-year-old man with fever" in note
    assert "consent" not in note


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("Magnetic resonance imaging (MRI) was done.", {"MRI": "Magnetic resonance imaging"}),
        ("An ECG (electrocardiogram) was normal.", {"ECG": "electrocardiogram"}),
        ("The α-fetoprotein (AFP) was high.", {"AFP": "α-fetoprotein"}),
        ("He had chronic kidney disease (CKD; stage 3).", {"CKD": "chronic kidney disease"}),
        ("A second operation (Grade) and the left eye (OD) were seen.", {}),
    ],
)
def test_abbreviation_pairs(text: str, pairs: dict[str, str]):
    assert find_pairs(text) == pairs


def test_undefined_abbreviations_leave_out_numerals_and_compounds():
    assert find_undefined("CT showed stage III disease with HBV-DNA and CT again.", {}) == ["CT"]


@pytest.mark.parametrize(
    ("sentence", "times"),
    [
        ("In October 2014, surgery was arranged.", [("In October 2014", "date")]),
        ("Three months later, she was well.", [("Three months later", "relative")]),
        ("She had a 2-week history of fever.", [("2-week history", "duration")]),
        ("On hospital day 5, he was sent home.", [("On hospital day 5", "relative")]),
        ("A 54-year-old man took 2000 mg.", []),
        (
            "He had pain for 3 days and died two days after surgery.",
            [("for 3 days", "duration"), ("two days after surgery", "relative")],
        ),
    ],
)
def test_time_expressions(sentence: str, times: list[tuple[str, str]]):
    assert [(time.text, time.kind) for time in find_times(sentence)] == times


def test_negation_reaches_its_list_and_stops_at_but():
    found = {e.text: e.negated for e in find_entities("She denied fever and chest pain but had a dry cough.")}
    assert found == {"fever": True, "chest pain": True, "dry cough": False}
    found = {
        e.text: e.negated
        for e in find_entities("Appendicitis was ruled out, and the ascites resolved without surgery.")
    }
    assert found["appendicitis"]
    assert not found["ascites"]
    assert not any(e.negated for e in find_entities("Tablets were not necessary to control her polyuria."))


def test_no_rewording_adds_or_drops_a_negation():
    for old, new in REWORDINGS.items():
        negations = NEGATIONS.findall(new.replace("without any", "no"))
        assert len(negations) == len(NEGATIONS.findall(old)), (old, new)


def test_paraphrases_keep_numbers_and_negations():
    sentences = [s for report in DEMO for s in split_sentences(write_note(report["text"]))]
    reworded = 0
    for sentence in sentences:
        answer, made = changed(read_note(sentence), sentence)
        reworded += made > 0
        assert sorted(NUMBER.findall(answer)) == sorted(NUMBER.findall(sentence))
        # "with no" becomes "without any": the count stays, the words need not.
        assert len(NEGATIONS.findall(answer)) == len(NEGATIONS.findall(sentence)), (sentence, answer)
    assert reworded > 50


MASS = "Computed tomography (CT) of the head showed a mass of 2 cm."
NOTE = f"""DISCHARGE SUMMARY

PATIENT: 40-year-old woman
CHIEF COMPLAINT: headache

HISTORY OF PRESENT ILLNESS:
40-year-old woman presented with headache for 3 days. She denied fever.

IMAGING:
- {MASS} The mass was removed on 3 May 2020."""


@pytest.mark.parametrize(
    ("task", "question"),
    [
        ("Named Entity Recognition", "List the medications that the note names."),
        ("Abbreviation Expansion", "What does COPD stand for in this note?"),
        ("Relation Extraction", "What dose of warfarin does the note give?"),
        ("Temporal Information Extraction", "What does the note record on hospital day 21?"),
        ("Coreference Resolution", "Whom does the note mean by the patient's uncle?"),
        ("Paraphrasing", "Rewrite ALLERGIES in your own words."),
        ("Temporal Information Extraction", "When did this take place, according to the note: “She fell”?"),
        ("Summarization", "Summarize the section CONSULTATIONS."),
        ("Question Answering", "What does the note say about allergies?"),
        ("Question Answering", "Did the cardiologist recommend anticoagulation with apixaban?"),
    ],
)
def test_what_the_note_lacks_is_not_stated(task: str, question: str):
    assert answer_question(NOTE, task, question) == NOT_STATED


@pytest.mark.parametrize(
    ("task", "question", "answer"),
    [
        ("Abbreviation Expansion", "What does CT stand for in this note?", "CT stands for computed tomography."),
        ("Question Answering", "Does the note report fever, yes or no?", "No. The note says: “She denied fever.”"),
        (
            "Named Entity Recognition",
            "List what this sentence denies: “She denied fever.”",
            "Stated to be absent: fever.",
        ),
        (
            "Relation Extraction",
            "What did computed tomography show?",
            MASS,
        ),
        (
            "Coreference Resolution",
            "What does the note mean by “The mass” in this sentence: “The mass was removed on 3 May 2020.”",
            f"“The mass” refers to “a mass”, mentioned in: “{MASS}”",
        ),
        (
            "Temporal Information Extraction",
            "When did this take place, according to the note: “The mass was removed”?",
            "The note gives the time as “on 3 May 2020.”",
        ),
    ],
)
def test_known_answers(task: str, question: str, answer: str):
    assert answer_question(NOTE, task, question) == answer


def test_each_task_has_several_forms_and_uses_them():
    notes = [write_note(report["text"]) for report in DEMO]
    for task in TASKS:
        assert len(FORMS[task]) >= 3
        openings = {ask_question(note, task, seed)[:14] for seed, note in enumerate(notes * 4)}
        assert len(openings) >= 3


def test_demo_reports_are_24_distinct_texts_of_200_to_400_words():
    assert [report["id"] for report in DEMO] == [f"demo-{n:02d}" for n in range(1, 25)]
    assert all(200 <= len(report["text"].split()) <= 400 for report in DEMO)
    assert len({report["text"] for report in DEMO}) == len({report["title"] for report in DEMO}) == 24
    assert all(report["title"].startswith("Fictional: ") and report["article"] == report["id"] for report in DEMO)
    assert {(report["source"], report["licence"], report["url"]) for report in DEMO} == {
        ("asclepius-jax demo (fictional)", "Apache-2.0", "")
    }
