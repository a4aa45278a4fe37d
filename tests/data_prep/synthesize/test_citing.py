"""`instructions --cite`: answers whose sentences cite the note, checked, repaired once, or rejected with a reason."""

import json
from dataclasses import replace

import pytest

from data_prep.contract.manifests import read_manifest
from data_prep.contract.prompt.cited_sentences import cited, numbered_sentences
from data_prep.contract.records import Generation, Note
from data_prep.faithfulness.citations import ambiguous_citations, check_citations
from data_prep.synthesize import instructions, notes
from data_prep.synthesize.instructions import InstructionsConfig
from data_prep.synthesize.notes import NotesConfig
from data_prep.synthesize.prompts import CITED_ANSWER_PROMPT, CITED_FOLLOW_UP_ANSWER_PROMPT, CITED_REPAIR_PROMPT
from tests.helpers.endpoints.fake_endpoint import FakeEndpoint, completion
from tests.helpers.made_inputs import write_records
from tests.helpers.places import ROOT
from tests.helpers.text_stages import api, read_examples

TEXT = """COURSE:
Creatinine rose to 3.1 mg/dL. Metformin was stopped because of acute renal failure. She had no cough.
Dialysis was not needed. Her fever resolved on day 4. She went home."""
NOTE = Note("n1", "r1", "progress note", TEXT, "s", "CC0", "", Generation("t", "m", "h", 0, "stop"))
GOOD = "Metformin was stopped because of acute renal failure [2]."
UNSUPPORTED = "Metformin was stopped because of acute renal failure [5]."
IDLE = "Metformin was stopped because of acute renal failure [1, 2]."


def made(tmp_path, replies, note=NOTE, **settings):
    """The folder that an endpoint makes with these replies to the requests for an answer and for its repair."""
    left, repairs = list(replies), []

    def answer(body, number):
        prompt = body["messages"][1]["content"]
        if prompt.startswith(("Write one instruction", "A colleague asks")):
            return completion(f"Why was metformin stopped? ({number})")
        if "What is wrong:" in prompt:
            repairs.append(prompt)
        assert "[2] Metformin was stopped" in prompt
        return completion(left.pop(0))

    source = write_records(tmp_path / "notes", [note])
    with FakeEndpoint(answer) as endpoint:
        config = InstructionsConfig(
            source, tmp_path / "out", teacher=api(endpoint), pool_notes=0, cite=True, **settings
        )
        manifest = instructions.run(config)
    assert not left
    return manifest, *read_examples(tmp_path / "out"), repairs


def test_an_answer_that_cites_well_is_kept_with_its_markers(tmp_path):
    manifest, (example,), rejects, repairs = made(tmp_path, [GOOD])
    assert example.answer == GOOD
    assert example.cites
    assert manifest["cites"] is True
    assert not rejects
    assert not repairs
    assert example.answer_generation.prompt_hash == CITED_ANSWER_PROMPT.hash
    assert example.certificate.unsupported == 0


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (UNSUPPORTED, "the cited sentences do not support it"),
        (IDLE, "it cites a sentence that it does not need (1)"),
        ("Metformin was stopped because of acute renal failure [77].", "the note has no sentence of this number (77)"),
        ("Metformin was stopped because of acute renal failure.", "it cites no sentence of the note"),
        ("Metformin was stopped because of acute renal failure. [2-2]", "a citation has another form than [4, 7]"),
        ("Warfarin was stopped because of acute renal failure [2].", "drug “Warfarin”"),
    ],
)
def test_a_wrong_citation_is_repaired_once(tmp_path, wrong, why):
    _, (example,), rejects, (repair,) = made(tmp_path, [wrong, GOOD])
    assert example.answer == GOOD
    assert example.answer_generation.prompt_hash == CITED_REPAIR_PROMPT.hash
    assert not rejects
    listed = repair[repair.index("What is wrong:") : repair.index("The answer:")]
    assert why in listed
    assert wrong[:30] in listed


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (UNSUPPORTED, "citation_unsupported"),
        (IDLE, "citation_idle"),
        ("Metformin was stopped because of acute renal failure [77].", "citation_out_of_range"),
        ("Metformin was stopped because of acute renal failure.", "citation_missing"),
        ("Metformin was stopped [2] because of acute renal failure.", "citation_form"),
    ],
)
def test_what_a_repair_leaves_wrong_is_rejected_and_counted(tmp_path, wrong, reason):
    manifest, examples, (reject,), _ = made(tmp_path, [wrong, wrong])
    assert not examples
    assert reject.reason == reason
    assert manifest["rejected"] == {reason: 1}
    assert wrong[:30] in reject.detail


def test_an_answer_that_the_note_gives_twice_is_rejected(tmp_path):
    note = replace(NOTE, text=f"{TEXT}\nMetformin was stopped because of acute renal failure.")
    manifest, _, _, repairs = made(tmp_path, [GOOD], note)
    assert manifest["rejected"] == {"citation_ambiguous": 1}
    assert not repairs


def test_a_removed_statement_takes_its_marker_along(tmp_path):
    answer = f"{GOOD} She had no cough [3].\nHer fever resolved on day 4 [5]. Warfarin was started [6]."
    _, (example,), _, _ = made(tmp_path, [answer, answer])
    assert example.answer == answer.removesuffix(" Warfarin was started [6].")


def test_a_silent_note_is_not_cited(tmp_path):
    _, (example,), _, _ = made(tmp_path, ["The dose of metformin is not stated in the note."])
    assert example.answer == "The dose of metformin is not stated in the note."
    assert example.cites


def test_follow_up_turns_cite_too(tmp_path):
    _, (example,), rejects, _ = made(tmp_path, [GOOD, "She had no cough [3]."], follow_ups=1)
    (turn,) = example.follow_ups
    assert turn.answer == "She had no cough [3]."
    assert turn.answer_generation.prompt_hash == CITED_FOLLOW_UP_ANSWER_PROMPT.hash
    assert not rejects


def test_a_note_with_numbers_in_brackets_is_not_asked_about(tmp_path):
    note = replace(NOTE, text=f"{TEXT} See [3].")
    manifest, _, _, _ = made(tmp_path, [], note)
    assert manifest["rejected"] == {"bracketed_number": 1}


def test_the_requests_show_the_numbered_note_and_ask_for_numbers():
    assert "End each sentence of the answer" in CITED_ANSWER_PROMPT.user
    assert "Note:\n{note}" in CITED_FOLLOW_UP_ANSWER_PROMPT.user
    assert "End each sentence of the answer" in CITED_FOLLOW_UP_ANSWER_PROMPT.user


def test_the_offline_teacher_cites_and_every_citation_passes(tmp_path):
    notes.run(NotesConfig(str(ROOT / "data_prep/ingest/demo_reports.jsonl"), tmp_path / "notes"))
    config = InstructionsConfig(tmp_path / "notes", tmp_path / "out", per_note=8, follow_ups=1, cite=True)
    manifest = instructions.run(config)
    examples, rejects = read_examples(tmp_path / "out")
    assert manifest["out"] == len(examples) > 40
    assert {reject.reason for reject in rejects} <= {
        "declined", "empty", "citation_ambiguous", "citation_missing", "citation_idle", "unsupported", "duplicate",
    }  # fmt: skip
    numbers = 0
    for example in examples:
        for answer in (example.answer, *(turn.answer for turn in example.follow_ups)):
            assert not [found for found in check_citations(example.note, answer) if found.problem], answer
            assert not ambiguous_citations(example.note, answer)
            shown = [s.number for s in numbered_sentences(example.note)]
            for sentence in numbered_sentences(answer):
                numbers += len(cited(sentence.text))
                assert set(cited(sentence.text)) <= set(shown)
    assert numbers > 60
    assert len({example.task for example in examples}) >= 7


def test_without_cite_nothing_changes(tmp_path):
    source = write_records(tmp_path / "notes", [NOTE])
    manifest = instructions.run(InstructionsConfig(source, tmp_path / "out", per_note=8))
    examples, _ = read_examples(tmp_path / "out")
    assert not manifest["cites"]
    assert examples
    assert not any(example.cites or "[" in example.answer for example in examples)
    assert "cites" in json.dumps(read_manifest(tmp_path / "out", "instructions"))
