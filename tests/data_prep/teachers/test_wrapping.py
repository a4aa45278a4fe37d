"""What chat models put around a text is removed, and nothing else."""

import hashlib
import json
import random
from pathlib import Path

import pytest

from data_prep.contract.manifests import read_manifest
from data_prep.synthesize import instructions, notes
from data_prep.synthesize.instructions import InstructionsConfig
from data_prep.synthesize.notes import NotesConfig
from data_prep.teachers.endpoint.replies import read_response, read_usage
from data_prep.teachers.wrapping import unwrap
from tests.helpers.endpoints.fake_endpoint import FakeEndpoint, completion
from tests.helpers.places import shared
from tests.helpers.text_stages import api, read_examples, read_notes, write_reports

NOTE = "DISCHARGE SUMMARY\n\nHPI: chest pain for 2 days.\n\nPlan: aspirin 100 mg daily. Call if the pain returns."
LINE = "Metformin, because of renal failure."
WRAPPED = (
    "<think>\nThe user wants a note.\n</think>\n\nTEXT",
    "The report is about a woman.\n</think>\nTEXT",
    "<thinking>First the complaint.</thinking>TEXT",
    "<reasoning>\nx\n</reasoning>\nTEXT",
    "<think>\n\n</think>\n\nTEXT",
    "[THINK]plan[/THINK]TEXT",
    "<|channel|>analysis<|message|>The user asks.<|end|><|start|>assistant<|channel|>final<|message|>TEXT<|return|>",
    "TEXT\n<think>Should I also add",
    "```markdown\nTEXT\n```",
    "```\nTEXT",
    "~~~text\nTEXT\n~~~",
    "```\nTEXT\n```\nThis note is based on the report.",
    "Here is the discharge summary:\n\nTEXT",
    "Sure! Here's the corrected note:\n\n```\nTEXT\n```\n\nI hope this helps!",
    "Certainly. Below is the progress note you asked for:\nTEXT",
    "Below is a discharge summary based on the case report.\n\nTEXT",
    "Here you go:\n\nTEXT",
    "Okay, I'll write the note.\n\nTEXT",
    "Of course! I'd be happy to help.\n\nTEXT",
    "<think>a</think>Here is the answer: TEXT",
    "**Note:** TEXT",
    "**Answer:**\nTEXT",
    "Answer: TEXT",
    "Assistant: TEXT",
    "<answer>TEXT</answer>",
    "TEXT<|eot_id|>",
    "TEXT</s>",
    "<|im_start|>assistant\nTEXT<|im_end|>",
    "TEXT<|im_end|>\n<|im_start|>user\nAnother question",
    "TEXT<end_of_turn>\n<start_of_turn>user\nNext",
    "TEXT <|eot_id|><|start_header_id|>user<|end_header_id|>\n\nMore",
    "TEXT<｜end▁of▁sentence｜>",
    "TEXT\n\nUser: and now?\n\nAssistant: more",
    "TEXT\n### Instruction:\nAnother",
    "TEXT\n\nLet me know if you would like any changes to this note.",
    "TEXT\n\n*Let me know if you need any changes!*",
    "TEXT\n\n---\nWould you like me to adjust the format?",
    "TEXT\n\nIf you would like any edits, please let me know.",
    "TEXT\n\nPlease feel free to ask if you have further questions.",
    "TEXT\n\nIs there anything else I can help you with?",
)  # fmt: skip
UNTOUCHED = (
    NOTE,
    LINE,
    "Note: the patient is allergic to penicillin.",
    "Discharge summary:\nThe patient was admitted.",
    "## Plan\n\n- aspirin",
    "Here is what the patient said: she had pain.",
    "Dear colleague,\n\nThank you for this referral. Please feel free to contact us with any questions.",
    "Please call if the fever returns. We hope this plan suits him.",
    "Sodium was <130 mmol/L and potassium >5 mmol/L.",
    "Plan: let the family know if results change.",
    'The patient was told: "come back"',
    '"Nothing by mouth" and "bed rest" were ordered.',
    "Which drug was stopped?",
    "Analysis of the CSF showed 5 cells.",
    "She asked: is there anything else to do?",
    "He works for a think tank.",
)
CUT = ("<think>\nI should begin with the chief compl", "<reasoning>so", "<|channel|>analysis<|message|>The user wants",
       "<|im_start|>assistant\n<think>hm")  # fmt: skip


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_wrapping_is_removed(wrapped: str):
    for text in (NOTE, LINE):
        found = unwrap(wrapped.replace("TEXT", text))
        assert found.text == text
        assert found.removed


@pytest.mark.parametrize("text", UNTOUCHED)
def test_what_may_be_part_of_a_note_stays(text: str):
    assert unwrap(text).text == text


@pytest.mark.parametrize("text", CUT)
def test_a_reply_that_ends_in_its_reasoning_holds_no_answer(text: str):
    assert unwrap(text).text is None
    reply = read_response(completion(text)[2], "m")
    assert (reply.text, reply.finish_reason) == ("", "unfinished")


def test_the_replies_that_were_seen_are_read_as_meant():
    for line in shared("cases/replies.jsonl").read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        for text in (NOTE, LINE):
            wanted = None if case["keep"] is None else case["keep"].replace("TEXT", text)
            assert unwrap(case["sent"].replace("TEXT", text)).text == wanted


def test_any_text_is_unwrapped_quickly_and_without_an_error():
    parts = [
        "<think>",
        "</think>",
        "```",
        "\n",
        "Here is the note:",
        "TEXT",
        "<|im_end|>",
        "User:",
        "**",
        '"',
        "?",
        " ",
    ]
    chance = random.Random(0)
    for _ in range(2000):
        text = "".join(chance.choice(parts) for _ in range(chance.randrange(12)))
        found = unwrap(text)
        assert found.text is None or found.text in text
    for text in ("<think>" * 50_000, "[" * 200_000, "Let me know " * 20_000, "\n" * 100_000 + "x", "a: " * 60_000):
        unwrap(text)


# ---------------------------------------------------------------- responses of other gateways


@pytest.mark.parametrize("reason", ["stop", "STOP", "end_turn", "eos", "eos_token", "COMPLETE", None])
def test_a_whole_reply_is_whole_whatever_its_gateway_calls_it(reason):
    assert read_response(completion(LINE, reason)[2], "m").finish_reason == "stop"
    body = json.loads(completion(LINE)[2])
    del body["choices"][0]["finish_reason"]
    assert read_response(json.dumps(body), "m").text == LINE


def test_reasons_that_are_none_of_these_stay_errors():
    assert read_response(completion(LINE, "MAX_TOKENS")[2], "m").finish_reason == "length"
    assert read_response(completion(LINE, "SAFETY")[2], "m").finish_reason == "content_filter"
    assert read_response(completion(LINE, "tool_calls")[2], "m").finish_reason == "error"


def test_content_in_parts_is_text():
    parts = [
        {"type": "thinking", "thinking": "hm"},
        {"type": "text", "text": "Metformin, "},
        {"type": "text", "text": "because"},
    ]
    assert read_response(completion(parts)[2], "m").text == "Metformin, because"


def test_brackets_by_the_thousand_and_impossible_usage_are_read_as_errors():
    deep = '{"choices": ' + "[" * 200_000
    assert read_response(deep, "m").finish_reason == "error"
    for tokens in ("1e400", "Infinity", "1e30", "-1", "NaN", '"many"'):
        raw = f'{{"usage": {{"prompt_tokens": {tokens}, "completion_tokens": 1}}}}'
        assert read_usage(raw) is None
    assert read_usage(deep) is None


# ---------------------------------------------------------------- whole stages


def written(body) -> str:
    """A note, a question or an answer, as a model would write it from the request."""
    asked = body["messages"][1]["content"]
    if "Case report:\n" in asked:
        return "HPI:\n" + asked.split("Case report:\n")[1].rsplit("\n\nThe ", 1)[0]
    if "Instruction:\n" in asked:
        note = asked.split("\nNote:\n")[1].split("\n\nInstruction:")[0]
        return next(line for line in note.splitlines() if len(line.split()) > 3)[:400].rsplit(".", 1)[0] + "."
    number = int(hashlib.sha256(asked.encode()).hexdigest()[:6], 16)
    return f"What does this note say of the patient's course, in at most {number % 90 + 10} words?"


def wrapped_at_random(body, number) -> str:
    chance = random.Random(json.dumps(body["messages"]))
    return chance.choice(WRAPPED).replace("TEXT", written(body)) if chance.random() < 0.8 else written(body)


def stages(source: str, out: Path, answer) -> None:
    with FakeEndpoint(lambda body, n: completion(answer(body, n))) as endpoint:
        notes.run(NotesConfig(source, out / "notes", teacher=api(endpoint)))
        instructions.run(InstructionsConfig(out / "notes", out / "instructions", teacher=api(endpoint)))


def same_records(source: str, tmp_path: Path) -> None:
    stages(source, tmp_path / "plain", lambda body, n: written(body))
    stages(source, tmp_path / "wrapped", wrapped_at_random)
    for read, name in ((read_notes, "notes"), (read_examples, "instructions")):
        plain, wrapped = (read(tmp_path / side / name) for side in ("plain", "wrapped"))
        assert plain == wrapped
        assert plain[0]
    for file in sorted((tmp_path / "plain").glob("*/*.parquet")):
        assert file.read_bytes() == (tmp_path / "wrapped" / file.parent.name / file.name).read_bytes(), file
    assert "wrappings_removed" not in read_manifest(tmp_path / "plain/notes", "notes")
    counts = read_manifest(tmp_path / "wrapped/notes", "notes")["wrappings_removed"]
    assert counts["reasoning"] > 0
    assert counts["offer"] > 0


def test_an_endpoint_that_wraps_its_replies_ends_in_the_bytes_of_one_that_does_not(tmp_path: Path):
    same_records(write_reports(tmp_path / "reports.jsonl", 60), tmp_path)


@pytest.mark.slow
def test_so_it_does_over_real_reports(tmp_path: Path):
    same_records(str(shared("data/case_reports.jsonl")), tmp_path)
