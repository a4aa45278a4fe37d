"""Citations of an answer: supported by the cited sentences alone, by no fewer, and not by the rest of the note."""

import pytest

from data_prep.contract.prompt.cited_sentences import numbered_sentences
from data_prep.faithfulness.certificate import certify, check
from data_prep.faithfulness.citations import NoteSentences, add_citations, ambiguous_citations, check_citations

NOTE = """DISCHARGE SUMMARY

HISTORY:
A 54-year-old woman presented with fever. She had taken metformin 500 mg daily for diabetes. Her father had gout.

COURSE:
Creatinine rose to 3.1 mg/dL. Metformin was stopped because of acute renal failure. A chest radiograph was normal.
She had no cough. Her fever resolved on day 4.

ALLERGIES:
- penicillin"""


def problems(answer: str) -> list[str]:
    return [found.problem for found in check_citations(NOTE, answer)]


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("Metformin was stopped because of acute renal failure [5].", [""]),
        ("She took metformin 500 mg daily, which was stopped because of acute renal failure [2, 5].", [""]),
        ("She took metformin 500 mg daily [5].", ["citation_unsupported"]),
        ("Creatinine rose to 3.2 mg/dL [4].", ["citation_unsupported"]),
        ("She had no cough [6].", ["citation_unsupported"]),
        ("Metformin was stopped because of acute renal failure [4, 5].", ["citation_idle"]),
        ("Metformin was stopped because of acute renal failure [5, 99].", ["citation_out_of_range"]),
        ("Metformin was stopped because of acute renal failure.", ["citation_missing"]),
        ("Metformin was stopped [5] because of acute renal failure.", ["citation_form"]),
        ("Metformin was stopped because of acute renal failure.[5]", ["citation_form"]),
        ("Metformin was stopped because of acute renal failure [4-5].", ["citation_form"]),
        ("Findings:\n- fever [1]\n- acute renal failure [5]", ["", ""]),
        ("Findings:\n- fever [1]\n- acute renal failure", ["", "citation_missing"]),
        ("The note says: “Her father had gout” [3].", [""]),
        ("The note says: “Her father had gout” [2].", ["citation_unsupported"]),
        ("This is not stated in the note.", [""]),
        ("This is not stated in the note [3].", ["citation_idle"]),
        ("Yes.", ["citation_missing"]),
        ("Yes. The note says: “She had no cough” [7].", ["", ""]),
        ("Yes [7]. The note says: “She had no cough” [7].", ["citation_idle", ""]),
    ],
)
def test_each_sentence_is_checked_against_the_sentences_that_it_cites(answer, found):
    assert problems(answer) == found


def test_a_check_names_the_sentence_and_the_idle_numbers():
    (found,) = check_citations(NOTE, " Metformin was stopped because of acute renal failure [4, 5].")
    assert (found.cited, found.supported, found.idle) == ((4, 5), True, (4,))
    assert (found.start, found.end) == (1, 61)
    (found,) = check_citations(NOTE, "Metformin was stopped [1].")
    assert (found.cited, found.supported, found.idle) == ((1,), False, ())


def test_a_sentence_without_a_statement_that_the_rules_read_needs_its_words():
    note = "The hobby was rowing. The job was nursing."
    assert [found.problem for found in check_citations(note, "The hobby was rowing [1].")] == [""]
    assert [found.problem for found in check_citations(note, "The hobby was rowing [2].")] == ["citation_unsupported"]


def test_the_heading_of_a_cited_sentence_is_read_with_it():
    note = NoteSentences.of(NOTE)
    assert note.passage([9, 5]).split("\n")[0] == "COURSE:"
    assert note.passage([9]) == "ALLERGIES:\n- penicillin"
    assert "metformin" not in note.rest([2, 5]).lower()


def test_what_the_note_says_twice_has_no_sure_citation():
    note = "The patient had fever.\nAspirin 100 mg was given.\nShe received aspirin 100 mg."
    answer = "Aspirin 100 mg was given [2]."
    assert [found.problem for found in ambiguous_citations(note, answer)] == ["citation_ambiguous"]
    assert not ambiguous_citations(note.replace("100 mg.", "50 mg."), answer)


@pytest.mark.parametrize(
    ("answer", "cited"),
    [
        ("Metformin was stopped because of acute renal failure.", " [5]."),
        ("She took metformin 500 mg daily, which was stopped because of acute renal failure.", " [2, 5]."),
        ("- penicillin", " [9]"),
        ("The note says: “Her father had gout.”", "” [3]."),
        ("Warfarin was started.", "started."),
        ("This is not stated in the note.", "note."),
        ("Yes.", "Yes."),
    ],
)
def test_the_fewest_sentences_are_found(answer, cited):
    made = add_citations(NOTE, answer)
    assert made.endswith(cited)
    assert len(numbered_sentences(made)) == 1


def test_the_numbers_of_citations_are_no_facts():
    plain, cited = "Metformin was stopped. Her fever resolved.", "Metformin was stopped [5]. Her fever resolved [8]."
    a, b = certify(plain, NOTE), certify(cited, NOTE)
    assert (a.stated, a.derived, a.unsupported, a.omitted) == (b.stated, b.derived, b.unsupported, b.omitted)
    for found in check(cited, NOTE):
        assert cited[found.start : found.end] == found.atom.text
        assert cited[slice(*found.within)] in ("Metformin was stopped [5].", "Her fever resolved [8].")
    nitric_oxide = check("The note abbreviates nitric oxide as NO [5].", "Inhaled nitric oxide (NO) was given.")
    assert nitric_oxide
    assert all(found.supported for found in nitric_oxide)  # no "no 5"
    assert check("- warfarin [5]", NOTE)[0].within == (0, len("- warfarin [5]"))
