"""Numbers of sentences: the same in Python and in the chat template, and nothing else of a note is changed."""

import json
import random
import time

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from data_prep.contract.prompt.cited_sentences import (
    NUMBERING_MACRO,
    Places,
    answer_sentences,
    cited,
    number_note,
    numbered_sentences,
    places_of_citations,
    with_citation,
    without_citations,
)
from data_prep.contract.prompt.training_prompt import CITED_TEMPLATE, chat_template, render_prompt
from data_prep.synthesize import notes
from data_prep.synthesize.notes import NotesConfig
from tests.helpers.places import ROOT
from tests.helpers.text_stages import read_notes

# As transformers sets it up for chat templates.
ENVIRONMENT = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
MACRO = ENVIRONMENT.from_string(NUMBERING_MACRO + "{{ numbered(note | trim) }}")


def in_jinja(note: str) -> str:
    return MACRO.render(note=note)


NOTE = """DISCHARGE SUMMARY

PATIENT: 54-year-old woman

HISTORY AND COURSE:
Seen by Dr. Adams (Ref. 3) at 3.5 mg. 3 times a day. E. coli grew. Vitamin D. The dose was 10 mg. No fever.
1. Appendicitis. 2. Diabetes.

MEDICATIONS:
- aspirin 100 mg
- heparin"""


def test_sentences_end_where_a_clinician_would_end_them():
    assert (
        number_note(NOTE)
        == """DISCHARGE SUMMARY

[1] PATIENT: 54-year-old woman

HISTORY AND COURSE:
[2] Seen by Dr. Adams (Ref. 3) at 3.5 mg. 3 times a day. [3] E. coli grew. [4] Vitamin D. [5] The dose was 10 mg. \
[6] No fever.
[7] 1. Appendicitis. [8] 2. Diabetes.

MEDICATIONS:
[9] - aspirin 100 mg
[10] - heparin"""
    )


def test_a_wrapped_line_goes_on_with_its_sentence():
    note = "She had a\nfever and\n  was treated. Then\nshe went home.\nfine:\n- fine\nand well\n\nand\n- Good"
    assert number_note(note) == (
        "[1] She had a\nfever and\n  was treated. [2] Then\nshe went home.\nfine:\n"
        "[3] - fine\nand well\n\n[4] and\n[5] - Good"
    )
    assert [s.text for s in numbered_sentences(note)][:3] == [
        "She had a\nfever and\n  was treated.", "Then\nshe went home.", "- fine\nand well",
    ]  # fmt: skip


def test_a_sentence_knows_its_place_and_its_heading():
    for note in (NOTE, f"\n\n  {NOTE}\n "):
        for sentence in numbered_sentences(note):
            assert note[sentence.start : sentence.end] == sentence.text == sentence.text.strip() != ""
    assert [s.heading for s in numbered_sentences(NOTE)][-2:] == ["MEDICATIONS:"] * 2


PIECES = (
    "Fever", "no", "10", "3.5", "mg.", "Dr.", "B.", "The", "[3]", "[1]", "(see", "1.", "2.", "PLAN:", "Why?", "Stop!",
    "“Yes.”", "a.", "**A.**", "é.", "Ä", "²", "١.", "ǅ.", "ß.", "</s>", "<s>", "{{", "{%", "\\n", "'", '"', "-", "",
    " ", "  ", "\t", "\r\n", "\n", "\n\n", "\r", "\u00a0", "\u2028", "\x0b", "\x1c", "\u200b", "\ufeff", "𝐀.", "漢字。",
    "e.g.", "and", "then;",
)  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_jinja_numbers_random_text_as_python_does(seed):
    draw = random.Random(seed)
    for _ in range(700):
        note = "".join(draw.choice(PIECES) + draw.choice(("", " ", " ", "\n")) for _ in range(draw.randrange(30)))
        assert in_jinja(note) == number_note(note), repr(note)
        as_shown(note)


def as_shown(note: str) -> None:
    """The numbered note is the note with numbers put in before the sentences, and nothing else."""
    pieces, done = [], len(note) - len(note.lstrip())
    for sentence in numbered_sentences(note):
        assert note[sentence.start : sentence.end] == sentence.text
        place = sentence.start
        while place > done and note[place - 1].isspace() and note[place - 1] not in " \n":
            place -= 1
        pieces += [note[done:place], f"[{sentence.number}] "]
        done = place
    assert number_note(note) == "".join(pieces) + note[done : len(note.rstrip())]


def test_jinja_numbers_notes_as_python_does(tmp_path):
    notes.run(NotesConfig(str(ROOT / "data_prep/ingest/demo_reports.jsonl"), tmp_path / "notes"))
    for note in read_notes(tmp_path / "notes")[0]:
        assert in_jinja(note.text) == number_note(note.text)
        assert len(numbered_sentences(note.text)) > 3
        as_shown(note.text)


def test_all_characters_are_treated_alike():
    for code in range(0x3000):
        if not 0xD800 <= code < 0xE000:
            note = f"A.{chr(code)} B fell.{chr(code)}C. {chr(code)}d. {chr(code)}\nE"
            assert in_jinja(note) == number_note(note), hex(code)


def test_a_bracketed_number_of_the_note_is_text_and_does_not_begin_a_line():
    assert number_note("[7] PLAN:\nAs in [3]. [2] Rest.\n[1]") == "[1] [7] PLAN:\n[2] As in [3]. [3] [2] Rest.\n[4] [1]"


def test_a_long_note_takes_no_long_time():
    for note in ("Fever was treated with 10 mg. " * 700, "a. " * 7000, "\n" * 20000, "A." * 10000, "x: \n" * 5000):
        start = time.perf_counter()
        assert in_jinja(note) == number_note(note)
        assert time.perf_counter() - start < 1


def test_the_exported_template_numbers_the_plain_note():
    template = chat_template(CITED_TEMPLATE, "<s>", "</s>", ["<s>", "</s>"])
    messages = [
        {"role": "system", "content": f" {NOTE}\nA </s> was read."},
        {"role": "user", "content": "Which drugs?"},
        {"role": "assistant", "content": "Aspirin [9]."},
        {"role": "user", "content": "And heparin [10]?"},
    ]
    shown = ENVIRONMENT.from_string(template).render(messages=messages)
    assert shown.startswith("<s>" + render_prompt(CITED_TEMPLATE, f"{NOTE}\nA < /s> was read.", "Which drugs?"))
    assert "[11] A < /s> was read." in shown
    assert "Aspirin [9].</s>" in shown


def test_only_templates_with_numbers_carry_the_rule():
    assert "macro numbered" not in chat_template("{note}{instruction}\n", "", "</s>", [])


# ---------------------------------------------------------------- markers


@pytest.mark.parametrize(
    ("sentence", "numbers", "plain"),
    [
        ("Metformin was stopped [4, 7].", (4, 7), "Metformin was stopped."),
        ("- aspirin 100 mg [9]", (9,), "- aspirin 100 mg"),
        ("Did it help [3]?", (3,), "Did it help?"),
        ("The note says: “No fever” [6].", (6,), "The note says: “No fever”."),
        ("This is not stated in the note.", (), "This is not stated in the note."),
        ("Fever.[4]", (), "Fever."),  # not our form
        ("Fever. [4]", (4,), "Fever."),
        ("Fever [4,7].", (), "Fever."),
        ("Fever [4-7].", (), "Fever."),
        ("Fever [0].", (), "Fever."),
        ("Fever [4] and chills.", (), "Fever and chills."),
        ("Hb [g/dl] fell.", (), "Hb [g/dl] fell."),
    ],
)
def test_markers_are_read_in_one_form_and_removed_in_any(sentence, numbers, plain):
    assert cited(sentence) == numbers
    assert without_citations(sentence) == plain


@pytest.mark.parametrize(
    ("sentence", "shown"),
    [
        ("Fever.", "Fever [2, 5]."),
        ("- fever", "- fever [2, 5]"),
        ("It says “Fever.”", "It says “Fever” [2, 5]."),
        ("It says “Fever.” ", "It says “Fever” [2, 5]."),
        ("Fever (38 °C)", "Fever (38 °C) [2, 5]"),
    ],
)
def test_a_marker_stands_before_the_final_stop(sentence, shown):
    assert with_citation(sentence, [5, 2]) == shown
    assert cited(shown) == (2, 5)
    assert with_citation(sentence, []) == sentence.rstrip()


def test_each_cited_number_has_its_place():
    answer = "Stopped [4, 17]. Then [3] on.\n- A list item [2]\nNo [1,2]. “Fever” [0]."
    found = [(number, answer[start:end]) for number, start, end in places_of_citations(answer)]
    assert found == [(4, "4"), (17, "17"), (2, "2")]
    assert [number for number, _, _ in places_of_citations(answer)] == [
        number for sentence in answer_sentences(answer) for number in cited(sentence.text)
    ]


def test_places_in_the_plain_answer_are_found_in_the_cited_one():
    answer = "Fever [4]. Chills [5, 6].\n- cough [7]"
    places, plain = Places(answer), without_citations(answer)
    for word in ("Fever", "Chills", "cough"):
        start = plain.index(word)
        assert answer[places(start) : places(start + len(word) - 1) + 1] == word
    assert json.dumps(plain) == json.dumps("Fever. Chills.\n- cough")
