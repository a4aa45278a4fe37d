"""What could name a person is found; what only looks like it is left alone."""

import json
from collections import Counter

import pytest

from data_prep.clinical_text.identifiers import NEVER_PUBLISHED, find_identifiers
from data_prep.synthesize.filters import reason_to_reject
from data_prep.teachers.base import Reply
from tests.helpers.places import shared

CASES = [
    ("name", "seen by Dr. McDonald today", "seen by the doctor in charge today"),
    ("name", "Mrs. Jane O'Hara is well", "Mrs is no name; an MS plaque and Dr in charge"),
    ("name", "Patient name: John Miller", "Patient name: not given"),
    ("name", "Dictated by: J. R. Smith Jones", "Signed by the surgeon"),
    ("e-mail", "write to j.doe+x@clinic.example.org", "a dose of 5 mg @ 8 pm"),
    ("phone", "call (617) 555-0123 soon", "sodium (136) 4.1 and 617 patients"),
    ("phone", "call +44 20 7946 0958", "an increase of +44 20 per cent"),
    ("phone", "Tel. no: 020 7946 0958", "a tel at 12"),
    ("social security number", "SSN 078-05-1120", "at 078-05 and 1120"),
    ("record number", "MRN: 00812345", "a record of 4 seizures"),
    ("record number", "Hospital number A-812345", "hospital day 12, 81234 cells"),
    ("address on the web", "see https://x.org/p?id=1", "T1.2.3 and ratio 1.2.3"),
    ("street", "lives at 221 Baker Street", "221 cells on Street drugs"),
    ("age over 89", "a 94-year-old woman", "a 89-year-old woman, BP 94/60"),
    ("age over 89", "a man aged 101", "aged 10; 101 cells"),
    ("date", "on March 8th, 2013", "on day 8, in 2013"),
    ("date", "on 13/10/2009 and 2009-10-13", "a ratio of 13/10; 5/5 strength"),
]


@pytest.mark.parametrize(("kind", "holds", "lacks"), CASES)
def test_each_kind_is_found_beside_what_looks_like_it(kind: str, holds: str, lacks: str):
    assert [item.kind for item in find_identifiers(holds) if item.kind == kind]
    assert not [item for item in find_identifiers(lacks) if item.kind == kind]


NOBODY = (
    "Seen by Infectious Disease",
    "seen by Physical Therapy and Social Work",
    "Reviewed by Tumor Board",
    "Signed by Attending Physician",
    "seen by Pediatric Neurology",
    "seen by Dr. Cardiology",
    "referred to Dr. Infectious Diseases",
    "seen by Dr. Internal Medicine",
    "Seen by Vascular Surgery",
    "Seen by Pain Management Service",
    "Dictated by Resident Physician",
    "seen by Speech Therapy",
    "Seen by Hematology Oncology",
    "Seen by Mayo Clinic",
    "Seen by Wound Care Nurse in Orthopedics",
    "a history of Mr. and Mrs. in the form",
    "Patient name: Unknown",
    "Name: Withheld",
    "Model Name: Sigma",
    "Drug name: Aspirin",
    "washed with Dr. Bronner's soap",
    "drank Dr. Pepper daily",
    "Dr. Alzheimer's disease of 1906",
)
SOMEBODY = (
    "seen by Dr. Miller of Cardiology",
    "seen by Dr. Pepper",
    "Dr. Pain",
    "Dr. J. Surgey",
    "Dr. Smith Cardiology",
    "Dr. Long, Dr. Young",
    "Mrs. Case",
    "Mr. Ward",
    "Dr. Will. He agreed",
    "Seen by Ann Case",
    "Reviewed by John Fellow",
    "Signed by: Maria Infante",
    "Dictated by: J. R. Smith Jones",
    "Patient's name: Ann",
    "Last name: Smith",
    "Surgeon name: Kim Lee",
    "\nName: Olga Petrova",
    "Prof. Dr. Weber",
    "Mrs. Jane O'Hara",
    "Dr. X. Miller",
    "Dr. Therapont",
    "Dr. Bill Board",
)


@pytest.mark.parametrize("text", NOBODY)
def test_departments_brands_and_sentences_are_no_names(text: str):
    assert find_identifiers(text, ("name",)) == []


@pytest.mark.parametrize("text", SOMEBODY)
def test_names_that_look_like_words_are_names(text: str):
    assert find_identifiers(text, ("name",))


def test_the_next_sentence_is_no_part_of_a_name():
    text = "Discussed with Dr. X. The patient agreed. Then Mrs. The answer."
    assert [item.text for item in find_identifiers(text)] == ["Dr. X"]


def test_a_reject_names_the_words():
    text = "The patient was seen by Dr. Miller, who can be reached at (617) 555-0123, and by Dr. Miller again. " * 2
    detail = reason_to_reject("note", Reply(text, "stop", "m"))
    assert detail == ("identifier", "note: name 'Dr. Miller', phone '(617) 555-0123'")


def test_a_place_is_where_the_text_stands():
    text = "Call (617) 555-0123; ask for Dr. Smith."
    assert [(item.kind, text[item.start : item.start + len(item.text)]) for item in find_identifiers(text)] == [
        ("phone", "(617) 555-0123"),
        ("name", "Dr. Smith"),
    ]


def test_published_reports_are_clean_and_dictated_ones_are_not():
    def found(name: str) -> Counter[str]:
        lines = shared(f"data/{name}").read_text(encoding="utf-8").splitlines()
        return Counter(kind for line in lines for kind in {i.kind for i in find_identifiers(json.loads(line)["text"])})

    published, dictated = found("case_reports.jsonl"), found("mtsamples.jsonl")
    assert not set(published) & set(NEVER_PUBLISHED)
    assert published["date"] < 30
    assert dictated["name"] > 80
    assert dictated["phone"] == 1


def test_a_generated_text_that_names_somebody_is_rejected():
    words = "The patient did well after surgery and was sent home in good condition on hospital day four, "
    reply = Reply(words * 2 + "to be seen by Dr. Miller.", "stop", "m")
    assert reason_to_reject("note", reply)[0] == "identifier"
    assert reason_to_reject("note", Reply(words * 2 + "to be seen on March 3, 2014.", "stop", "m")) is None
