"""Answers are read however they are written, and what cannot be read is told apart from what names nothing."""

import json

import pytest

from asclepius_jax.evaluate.known_answers.parse import Item, items, typed
from asclepius_jax.evaluate.known_answers.scorers import SCORERS, Span
from asclepius_jax.evaluate.questions.datasets.references import dump, load, normal

TYPES = ["symptom", "disease", "drug", "test", "treatment"]
EXPECTED = [("symptom", "fever"), ("drug", "aspirin 100 mg"), ("drug", "heparin")]


@pytest.mark.parametrize(
    "answer",
    [
        "symptom: fever\ndrug: aspirin 100 mg\ndrug: heparin",
        "- **Symptom**: fever\n- **Drug**: aspirin 100 mg; heparin",
        "1. Symptom: fever\n2. Drugs: aspirin 100 mg, heparin",
        "Here is the list:\n\nSymptoms:\n* fever\n\nMedications:\n* aspirin 100 mg\n* heparin.",
        "1) fever (symptom)\n2) aspirin 100 mg (drug)\n3) heparin (drug)",
        "fever: symptom\naspirin 100 mg: drug\nheparin: drug",
        'Sure!\n```json\n[{"type": "symptom", "text": "fever"}, {"type": "drug", "text": "aspirin 100 mg"},'
        ' {"type": "drug", "text": "heparin"}]\n```',
        '{"symptoms": ["fever"], "medications": ["aspirin 100 mg", "heparin"]}',
        '{"entities": [{"label": "Sign_symptom", "entity": "fever"}, {"label": "Medication", "entity": '
        '"aspirin 100 mg"}, {"label": "Medication", "entity": "heparin"}]}',
        '[["symptom", "fever"], ["drug", "aspirin 100 mg"], ["drug", "heparin"]]',
        "symptom -> fever\ndrug -> aspirin 100 mg\ndrug -> heparin",
        "symptom - fever\ndrug - aspirin 100 mg\ndrug - heparin",
        "From the note [1]:\nsymptom: fever [1]\ndrug: aspirin 100 mg [2, 3]\ndrug: heparin [4]",
        "[1] symptom: fever\n[2] drug: aspirin 100 mg\n[3] drug: heparin",
        'See [12]. [["symptom", "fever"], ["drug", "aspirin 100 mg"], ["drug", "heparin"]]',
    ],
)
def test_one_list_in_many_forms(answer: str):
    found = items(answer)
    assert found is not None
    assert [tuple(item) for item in typed(found, TYPES)] == EXPECTED


@pytest.mark.parametrize(
    "answer", ["", "  \n", "The patient was seen by the team and a plan was made with the family " * 3]
)
def test_what_cannot_be_read(answer: str):
    assert items(answer) is None


@pytest.mark.parametrize(
    "answer", ["None", "none.", "No drugs", "There are none", "The note names no drugs.", "N/A", "[]"]
)
def test_naming_nothing_is_an_answer(answer: str):
    assert items(answer) == []


def test_what_a_small_model_says_around_a_list():
    assert items("The note names:\n- Dose: 40 mg\n- aspirin") == [Item("Dose", "40 mg"), Item("", "aspirin")]
    assert items("Aspirin:\n- 40 mg\n- daily") == [Item("Aspirin", "40 mg"), Item("Aspirin", "daily")]
    about = (
        "The note describes a symptom or disease more closely by its severity and its size and its kind (note: a typo)."
    )
    assert items(about) is None


def test_lists_without_types():
    assert items("- the mass\n- this lesion") == [Item("", "the mass"), Item("", "this lesion")]
    assert items("the mass, this lesion and more; it") == [Item("", "the mass, this lesion and more"), Item("", "it")]
    assert items('["the mass", "this lesion"]') == [Item("", "the mass"), Item("", "this lesion")]
    assert items("1,500 mg") == [Item("", "1,500 mg")]
    assert items("[see the note") == [Item("", "[see the note")]  # not JSON after all


def test_mentions_are_compared_without_what_stands_around_them():
    assert normal(" The  (CT), ") == "ct"
    assert normal("A\nmass.") == "mass"
    assert normal("40 %") == "40 %"


def test_a_reference_that_is_no_json_of_ours_is_a_text():
    assert load("Plain words.") == {"kind": "text", "gold": "Plain words."}
    assert load('{"kind": "other"}')["kind"] == "text"
    assert load('{"kind" broken')["kind"] == "text"
    assert load(dump("pairs", gold=[])) == {"kind": "pairs", "gold": []}


def entities(answer: str) -> list[Span] | None:
    note = "Fever for two days. CT showed a mass. The mass was removed; CT again. Aspirin\n100 mg."
    gold = [["symptom", 0, 5, "Fever"], ["test", 60, 62, "CT"], ["drug", 70, 84, "Aspirin\n100 mg"]]
    return SCORERS["entities"].read(answer, json.loads(dump("entities", types=TYPES, gold=gold)), note)


def test_words_are_placed_in_the_note():
    # CT stands twice: where it is known is where it was meant.
    assert entities("test: CT\nsymptom: fever") == [Span("test", 60, 62), Span("symptom", 0, 5)]
    assert entities("drug: aspirin 100 mg\ndrug: Aspirin 100 mg") == [Span("drug", 70, 84)]
    assert entities("disease: mass") == [Span("disease", 32, 36)]
    assert entities("disease: gout") == [Span("disease", -1, -1)]
    assert entities("none") == []
    assert entities("fever\nCT") is None  # of which type, the answer does not say


LABELS = json.loads(dump("labels", options=["before", "after", "overlap"], gold=["before", "overlap", "after"]))


@pytest.mark.parametrize(
    "answer",
    [
        "1. before\n2. overlap\n3. after",
        '1) "fever" and "before surgery": before\n2) "a" and "b" overlap\n3) After',
        "Pair 1: before\nPair 2: they overlap\nPair 3: after",
        '{"1": "before", "2": "overlap", "3": "after"}',
        '["before", "overlap", "after"]',
        "before\noverlaps\nafter",
    ],
)
def test_labels_in_many_forms(answer: str):
    assert SCORERS["labels"].read(answer, LABELS, "") == {1: "before", 2: "overlap", 3: "after"}


def test_labels_that_cannot_be_read():
    assert SCORERS["labels"].read("They are related.", LABELS, "") is None
    assert SCORERS["labels"].read("Before that\nshe came", LABELS, "") is None  # one line for three pairs
    assert SCORERS["labels"].read("2. after\n9. after", LABELS, "") == {2: "after"}


NOTE = "0 A 24-year-old man has a cough.\n1 The left lung is clear.\n2 He was given penicillin."


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("1: The right lung is clear.", (1, "The right lung is clear.")),
        ("Sentence 1: The right lung is clear.", (1, "The right lung is clear.")),
        ("The error is in sentence 2. He got none.", (2, "He got none.")),
        ('{"sentence": 2, "corrected": "He was given aspirin."}', (2, "He was given aspirin.")),
        ("none", (None, "")),
        ("None, all sentences are right.", (None, "")),
        ("No doubt an error in sentence 2: he got none.", (2, "he got none.")),
        ("Without a doubt, sentence 2 is wrong.", (2, "is wrong.")),
        ("There is no question that sentence 2 contains an error.", (2, "contains an error.")),
        ("The text is not without error: sentence 2.", (2, "")),
        ("There are no errors in sentence 1, but sentence 2 is wrong.", (2, "is wrong.")),
        ("I found no error other than in sentence 2.", (2, "")),
        ("Sentence 2 is wrong. There are no other errors.", (2, "is wrong. There are no other errors.")),
        ("I could not find any mistakes.", (None, "")),
        ("Sentence 2 has no error.", (None, "")),
        ("Every sentence is consistent.", (None, "")),
        ("There is no medical error in the text.", (None, "")),
        ("CORRECT", (None, "")),
        ('{"sentence": null}', (None, "")),
    ],
)
def test_errors_in_many_forms(answer: str, expected: tuple):
    assert tuple(SCORERS["error"].read(answer, {}, NOTE)) == expected


@pytest.mark.parametrize("answer", ["24-year-old woman", "7: no such sentence", "The text is long.", "", "106/min"])
def test_errors_that_cannot_be_read(answer: str):
    assert SCORERS["error"].read(answer, {}, NOTE) is None


def test_an_abbreviation_is_right_alone():
    reference = json.loads(dump("form", gold=["multiple sclerosis"], others=["mitral stenosis", "sclerosis"]))

    def right(answer: str) -> float:
        scorer = SCORERS["form"]
        return scorer.sums(scorer.read(answer, reference, ""), reference)["accuracy"][0]

    assert right("Multiple Sclerosis") == right("MS stands for multiple-sclerosis.") == 1
    assert right("multiple sclerosis or mitral stenosis") == right("mitral stenosis") == right("multiple") == 0
    assert SCORERS["form"].read(" . ", reference, "") is None
