"""What happens to a text that says what its source does not: with an endpoint that repairs, and one that will not."""

import asyncio
import json
import os

import pytest

from data_prep.contract.errors import UserError
from data_prep.execution.processes import calling_in_pool
from data_prep.faithfulness.certificate import check, rules_version
from data_prep.synthesize import instructions, notes
from data_prep.synthesize.gate import Draft, GateConfig, checked, misquoted, pass_gate, without
from data_prep.synthesize.instructions import InstructionsConfig
from data_prep.synthesize.note_types import NOTE_TYPES
from data_prep.synthesize.notes import NotesConfig
from data_prep.synthesize.prompts import REPAIR_PROMPT, note_prompt_hash
from data_prep.teachers.base import Reply, Request
from data_prep.teachers.offline.teacher import OfflineTeacher
from tests.helpers.endpoints.fake_endpoint import FakeEndpoint, completion
from tests.helpers.text_stages import api, read_examples, read_notes

REPORT = (
    "A 45-year-old man was admitted with fever for 2 weeks. He had no chest pain. CT showed a mass in the left lung. "
    "Aspirin 100 mg was given twice daily. He was discharged on day 5 in good condition, and the mass had not grown."
)
GOOD = REPORT.replace("Aspirin", "The drug aspirin")
BAD = GOOD.replace("100 mg", "1000 mg").replace("left lung", "right lung")


def write_report(path, text=REPORT) -> str:
    path.write_text(json.dumps({"id": "r1", "text": text}) + "\n")
    return str(path)


def run_notes(tmp_path, replies, on_unsupported="repair", **more):
    """One report through the notes stage; the endpoint gives these replies in turn."""
    with FakeEndpoint(lambda body, n: completion(replies[n])) as endpoint:
        config = NotesConfig(
            write_report(tmp_path / "a.jsonl"),
            tmp_path / "out",
            teacher=api(endpoint),
            gate=GateConfig(on_unsupported, **more),
        )
        manifest = notes.run(config)
    made, rejects = read_notes(tmp_path / "out")
    assert len(endpoint.requests) == len(replies)
    return made, rejects, manifest, endpoint.requests


def test_a_faithful_note_is_asked_for_once(tmp_path):
    (note,), _, manifest, _ = run_notes(tmp_path, [GOOD])
    assert note.text == GOOD
    assert note.certificate.unsupported == 0
    assert note.certificate.stated > 10
    assert note.generation.prompt_hash == note_prompt_hash(NOTE_TYPES["discharge summary"])
    told = manifest["faithfulness"]
    assert (told["rules"], told["unsupported"], told["stated"]) == (rules_version(), 0, note.certificate.stated)


def test_one_repair_lists_what_is_wrong_and_its_answer_stands(tmp_path):
    (note,), _, _, requests = run_notes(tmp_path, [BAD, GOOD])
    assert note.text == GOOD
    assert note.generation.prompt_hash == REPAIR_PROMPT.hash
    asked = requests[1]["messages"][1]["content"]
    assert "- dose “1000 mg” (absent), in: The drug aspirin 1000 mg was given twice daily." in asked
    assert "- side “right”" in asked
    assert "fever” (" not in asked, "what is supported is not listed"
    assert BAD in asked
    assert REPORT in asked


def test_what_repair_leaves_is_taken_out(tmp_path):
    half = GOOD.replace("100 mg", "1000 mg")
    (note,), _, _, _ = run_notes(tmp_path, [BAD, half])
    assert note.text == " ".join(GOOD.replace("The drug aspirin 100 mg was given twice daily. ", "").split())
    assert (note.certificate.unsupported, note.certificate.omitted) == (0, 3)


def test_a_repair_that_is_worse_or_no_note_is_ignored(tmp_path):
    for k, reply in enumerate(["I'm sorry, I cannot help with that.", BAD + " He had pneumonia and gout."]):
        (tmp_path / f"{k}").mkdir()
        (note,), _, _, _ = run_notes(tmp_path / f"{k}", [BAD, reply], most_removed=0.5)
        assert note.generation.prompt_hash == note_prompt_hash(NOTE_TYPES["discharge summary"])
        assert "lung" not in note.text
        assert "1000" not in note.text
        assert "pneumonia" not in note.text


def test_remove_asks_nothing_more(tmp_path):
    (note,), _, _, _ = run_notes(tmp_path, [BAD], "remove", most_removed=0.5)
    assert "mass in" not in note.text


def test_a_note_that_would_lose_too_much_is_rejected_whole(tmp_path):
    made, (reject,), manifest, _ = run_notes(tmp_path, [BAD], "remove", most_removed=0.1)
    assert not made
    assert reject.reason == "unsupported"
    assert "1000 mg" in reject.detail
    assert json.loads(reject.record)["text"] == BAD
    assert manifest["rejected"] == {"unsupported": 1}


def test_reject_and_keep(tmp_path):
    (tmp_path / "0").mkdir()
    made, (reject,), _, _ = run_notes(tmp_path / "0", [BAD], "reject")
    assert (made, reject.reason) == ([], "unsupported")
    (tmp_path / "1").mkdir()
    (note,), _, manifest, _ = run_notes(tmp_path / "1", [BAD], "keep")
    assert note.text == BAD
    assert note.certificate.unsupported == manifest["faithfulness"]["unsupported"] == 2


def test_an_answer_goes_through_the_same_gate(tmp_path):
    with FakeEndpoint(lambda body, n: completion(GOOD)) as endpoint:
        notes.run(NotesConfig(write_report(tmp_path / "a.jsonl"), tmp_path / "notes", teacher=api(endpoint)))

    def answer(body, n):
        prompt = body["messages"][1]["content"]
        if prompt.startswith("Write one instruction"):
            return completion("Which drug was given, and at which dose?")
        if prompt.startswith("The answer below"):
            return completion("Aspirin, 100 mg twice daily.")
        return completion("Aspirin, 1000 mg twice daily.")

    with FakeEndpoint(answer) as endpoint:
        instructions.run(InstructionsConfig(tmp_path / "notes", tmp_path / "out", teacher=api(endpoint), pool_notes=0))
    (example,), _ = read_examples(tmp_path / "out")
    assert example.answer == "Aspirin, 100 mg twice daily."
    assert (example.certificate.unsupported, example.certificate.stated) == (0, 3)
    assert example.answer_generation.prompt_hash == REPAIR_PROMPT.hash


def test_an_answer_by_rule_is_whole_or_rejected():
    """Without its last sentence it would answer another question; a chat model's may lose one, and is read again."""
    text = "He had fever. CT showed a mass. Aspirin 100 mg was given. He was discharged. He had gout."
    draft = Draft("answer", "r1", REPORT, "hash", 0)
    reply = Reply(text, "rules", "stop")

    class Named(OfflineTeacher):
        def __init__(self, name: str):
            self.name = name

    broken = {
        name: asyncio.run(pass_gate(draft, reply, GateConfig("remove", 0.5), Named(name))).broken
        for name in ("offline", "openai")
    }
    assert broken["offline"] is not None
    assert "gout" in broken["offline"][1]
    assert broken["openai"] is None


def test_a_question_that_misquotes_its_note_is_rejected(tmp_path):
    with FakeEndpoint(lambda body, n: completion(GOOD)) as endpoint:
        notes.run(NotesConfig(write_report(tmp_path / "a.jsonl"), tmp_path / "notes", teacher=api(endpoint)))
    question = 'What does "a mass in the right lung" refer to?'
    with FakeEndpoint(lambda body, n: completion(question)) as endpoint:
        config = InstructionsConfig(tmp_path / "notes", tmp_path / "out", teacher=api(endpoint), pool_notes=0)
        assert instructions.run(config)["rejected"] == {"quote_not_in_note": 1}
    assert len(endpoint.requests) == 1, "no answer is paid for"


@pytest.mark.parametrize(
    ("question", "quote"),
    [
        ("Who is “the patient”?", ""),
        ('What about “The Patient.” and "mild fever"?', ""),
        ("What about ‘severe fever’?", "severe fever"),
        ("Explain the patient's “fever, mild”", "fever, mild"),
        ("Is “fev” in it?", "fev"),
    ],
)
def test_quotations_are_compared_word_for_word(question, quote):
    assert misquoted(question, "The patient\nhad mild fever.") == quote


def test_taking_out_leaves_no_empty_bullet_or_heading():
    note = "HISTORY:\nHe had fever.\n\nMEDICATIONS:\n- Aspirin 50 mg.\n- Ibuprofen.\n\nIMAGING:\n- CT was normal.\n"
    found = [f for f in check(note, "He had fever. Aspirin 10 mg. Ibuprofen.") if not f.supported]
    assert without(note, found) == "HISTORY:\nHe had fever.\n\nMEDICATIONS:\n- Ibuprofen."


def test_the_offline_teacher_repeats_itself():
    request = Request("repair", "r", (), {"text": "As it was.", "source": ""})
    assert asyncio.run(OfflineTeacher().ask(request)).text == "As it was."


def test_a_share_beyond_one_is_refused(tmp_path):
    with pytest.raises(UserError, match="--most-removed 2"):
        notes.run(NotesConfig(write_report(tmp_path / "a.jsonl"), tmp_path / "out", gate=GateConfig(most_removed=2)))


def test_texts_are_checked_alike_here_and_in_processes_beside_the_event_loop(monkeypatch):
    async def check_all() -> list:
        return await asyncio.gather(*(checked(text, REPORT) for text in (GOOD, BAD, GOOD)))

    here = asyncio.run(check_all())
    monkeypatch.setattr("data_prep.execution.processes.CALLS_HERE", 0)
    with calling_in_pool(1):
        beside = asyncio.run(check_all())
    assert beside == here
    assert [certificate.unsupported for _, certificate in here] == [0, 2, 0]


def kill_itself(*_: str) -> None:
    os.abort()


def test_a_checking_process_that_is_killed_ends_the_run_in_one_line(monkeypatch):
    monkeypatch.setattr("data_prep.execution.processes.CALLS_HERE", 0)
    monkeypatch.setattr("data_prep.synthesize.gate.check_and_certify", kill_itself)
    with calling_in_pool(1), pytest.raises(UserError, match="a worker process was killed"):
        asyncio.run(checked(GOOD, REPORT))
