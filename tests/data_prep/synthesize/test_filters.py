"""Reasons to reject: each rule on texts it must catch and on near misses that it must let pass."""

import pytest

from data_prep.synthesize.filters import RULES, Duplicates, reason_to_reject
from data_prep.teachers.endpoint.replies import Reply

NOTE = "HPI: 56 y/o F, bitten by a snake on the L foot. " * 4
CAUGHT = [
    ("note", "", "stop", "empty"),
    ("note", " \n ", "stop", "empty"),
    ("note", NOTE, "length", "truncated"),
    ("note", NOTE, "content_filter", "content_filter"),
    ("answer", "status 500: overloaded", "error", "error"),
    ("answer", "Not something that I do.", "refusal", "refusal"),
    ("note", "describes several patients (Case 1)", "declined", "declined"),
    ("answer", '{"score": "four"}', "invalid", "invalid"),
    ("answer", "I'm sorry, but I can't help with that.", "stop", "refusal"),
    ("answer", "I’m sorry, the chart is beyond me.", "stop", "refusal"),
    ("note", "I cannot provide medical records. " + NOTE, "stop", "refusal"),
    ("answer", "As an AI, I do not see patients.", "stop", "ai_self_reference"),
    ("answer", "The dose was 5 mg. I am a large language model.", "stop", "ai_self_reference"),
    ("answer", "Could you please provide the note?", "stop", "asks_back"),
    ("answer", "The INR was 2.1. Let me know if you need more.", "stop", "asks_back"),
    ("answer", "Which of the two operations do you mean?", "stop", "asks_back"),
    ("note", "Please share the case report that I should use. " + NOTE, "stop", "asks_back"),
    ("note", NOTE + "Follow-up with Dr. Miller.", "stop", "identifier"),
    ("note", "56 y/o F. Snake bite.", "stop", "too_short"),
    ("note", "word " * 5001, "stop", "too_long"),
    ("question", "Summarize.", "stop", "too_short"),
    ("question", "why " * 201, "stop", "too_long"),
    ("answer", "word " * 2001, "stop", "too_long"),
]
PASS = [
    ("note", NOTE),
    (
        "note",
        NOTE + "Pt cannot walk unaided. He says: I'm sorry, I cannot help it. Please call the clinic and let us know.",
    ),
    ("note", NOTE + "The plan was drafted with a large language model under supervision."),
    ("note", NOTE + "A 93-year-old, seen again on March 3, 2014."),
    ("question", "Can you provide a summary of the hospital course?"),
    ("question", "Please list all drugs."),
    ("answer", "Not stated in the note."),
    ("answer", "Hypertension"),
    ("answer", "Yes."),
    ("answer", "She was asked to provide a urine sample; her relatives apologised."),
]


@pytest.mark.parametrize(("kind", "text", "finish_reason", "reason"), CAUGHT)
def test_a_bad_text_gets_its_reason(kind, text, finish_reason, reason):
    found = reason_to_reject(kind, Reply(text, finish_reason, "m"))
    assert found
    assert found[0] == reason


@pytest.mark.parametrize(("kind", "text"), PASS)
def test_a_good_text_passes(kind, text):
    assert reason_to_reject(kind, Reply(text, "stop", "m")) is None


def test_every_rule_is_seen_to_catch_something():
    assert {reason for reason, _ in RULES} == {case[3] for case in CAUGHT}


def test_duplicates_are_exact_and_the_first_one_stays():
    seen = Duplicates()
    assert [seen.is_duplicate(*texts) for texts in [("a", "b"), ("a", "c"), ("ab",), ("a", "b"), ("A", "b")]] == [
        False,
        False,
        False,
        True,
        False,
    ]
