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
