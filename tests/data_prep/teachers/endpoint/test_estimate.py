"""`--estimate`: what a stage would ask and cost, before the first request."""

import asyncio
import json
from pathlib import Path

import pytest

from data_prep.execution.shards import ShardsConfig
from data_prep.synthesize import instructions, notes
from data_prep.synthesize.filters import reason_to_reject
from data_prep.synthesize.gate import GateConfig
from data_prep.synthesize.instructions import InstructionsConfig
from data_prep.synthesize.notes import NotesConfig
from data_prep.teachers.base import Request, TeacherConfig
from data_prep.teachers.endpoint.budget import BudgetConfig
from data_prep.teachers.endpoint.dry_run import PLACEHOLDER, Counting
from data_prep.teachers.endpoint.replies import Reply
from tests.helpers.endpoints.fake_endpoint import FakeEndpoint
from tests.helpers.text_stages import api, usage, write_reports

KEEP = GateConfig("keep")
PRICES = BudgetConfig(price_input=1, price_output=10)
NOTE, QUESTION, ANSWER = "HPI: chest pain, stable. " * 20, "What was the pressure of request {}?", "It was 150/90."


def answer(body, n):
    """As many tokens as there are bytes / 5 and words: what the endpoint counts, the estimate has to find out."""
    prompt = body["messages"][1]["content"]
    text = NOTE + prompt[-200:]
    if prompt.startswith("Write one instruction"):
        text = QUESTION.format(body["seed"])
    elif "Carry out" in prompt:
        text = ANSWER
    size = sum(len(message["content"].encode()) for message in body["messages"])
    return usage(text, size // 5, len(text.split()))


def charged(endpoint):
    replies = [json.loads(answer(body, 0)[2])["usage"] for body in endpoint.requests]
    return sum(each["prompt_tokens"] + 10 * each["completion_tokens"] for each in replies) / 1e6


def test_nothing_is_sent_and_no_folder_is_made(tmp_path, capsys):
    source = write_reports(tmp_path / "a.jsonl", 30)
    with FakeEndpoint(answer) as endpoint:
        teacher = api(endpoint, estimate=True, budget=PRICES, max_tokens=1000)
        figures = notes.run(NotesConfig(source, tmp_path / "out", teacher=teacher, shards=ShardsConfig(7), gate=KEEP))
    assert endpoint.requests == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl"]
    assert (figures["requests"], figures["in_ledger"]) == (30, 0)
    told = capsys.readouterr().out
    assert "30 requests of kind note" in told
    assert "nothing was sent" in told


def test_the_bound_holds_and_the_ledger_sharpens_the_rest(tmp_path):
    source = write_reports(tmp_path / "a.jsonl", 60)
    with FakeEndpoint(answer) as endpoint:
        config = NotesConfig(source, tmp_path / "out", teacher=api(endpoint, budget=PRICES, max_tokens=1000), gate=KEEP)
        asking = NotesConfig(
            source, tmp_path / "out", teacher=api(endpoint, estimate=True, budget=PRICES, max_tokens=1000), gate=KEEP
        )
        first = notes.run(asking)
        notes.run(
            NotesConfig(source, tmp_path / "out", teacher=config.teacher, shards=ShardsConfig(limit=20), gate=KEEP)
        )
        spent = charged(endpoint)
        second = notes.run(asking)
        notes.run(config)
        rest = charged(endpoint) - spent
        assert notes.run(asking)["cost"] == 0
    assert first["most_cost"] > charged(endpoint)
    assert (second["requests"], second["in_ledger"]) == (40, 20)
    assert second["cost"] == pytest.approx(rest, rel=0.02), "after twenty replies it knows what the endpoint counts"
    assert abs(first["cost"] - charged(endpoint)) > abs(second["cost"] - rest)


def test_answers_are_estimated_before_there_is_a_question(tmp_path):
    notes.run(NotesConfig(write_reports(tmp_path / "a.jsonl", 12), tmp_path / "notes"))
    with FakeEndpoint(answer) as endpoint:
        plan = {"budget": PRICES, "max_tokens": 1000}
        stage = InstructionsConfig(
            tmp_path / "notes", tmp_path / "out", 2, teacher=api(endpoint, **plan), pool_notes=4, gate=KEEP
        )
        asking = InstructionsConfig(
            tmp_path / "notes",
            tmp_path / "out",
            2,
            teacher=api(endpoint, estimate=True, **plan),
            pool_notes=4,
            gate=KEEP,
        )
        figures = instructions.run(asking)
        assert endpoint.requests == []
        instructions.run(stage)
        assert figures["requests"] == len(endpoint.requests) == 48
        assert figures["most_cost"] > charged(endpoint)
        # An estimate froze no pool of its own, and afterwards there is nothing left to ask.
        assert instructions.run(asking)["in_ledger"] == 48


def test_a_tokenizer_counts_prompts_where_one_is_given(tmp_path, small_tokenizer):
    source = write_reports(tmp_path / "a.jsonl", 3)
    with FakeEndpoint(answer) as endpoint:
        by_bytes = notes.run(NotesConfig(source, tmp_path / "out", teacher=api(endpoint, estimate=True)))
        counted = notes.run(
            NotesConfig(source, tmp_path / "out", teacher=api(endpoint, estimate=True, tokenizer=str(small_tokenizer)))
        )
    assert "cost" not in by_bytes, "no prices were given"
    assert counted["prompt_tokens"] > 1.2 * by_bytes["prompt_tokens"], "320 pieces need many more tokens than usual"


def test_a_reply_inside_a_prompt_may_be_as_long_as_replies_may():
    def most(content, max_tokens):
        counting = Counting(TeacherConfig("openai", "http://x/v1", "m", max_tokens=max_tokens), Path("no ledger"))
        asyncio.run(counting.ask(Request("answer", "r", ({"role": "user", "content": content},))))
        return counting.kinds["answer"].most_prompt

    plain = most("Instruction: Why?", 1000)
    assert most("Instruction: Why?", 9000) == plain
    # Cut once, such a reply has twice the room; and the request that quotes it may be cut, and sent twice.
    assert most(f"Instruction: {PLACEHOLDER}", 9000) - most(f"Instruction: {PLACEHOLDER}", 1000) == 2 * 2 * 8000


@pytest.mark.parametrize("kind", ["note", "question", "answer"])
def test_what_stands_for_a_reply_is_rejected_by_no_rule(kind):
    assert reason_to_reject(kind, Reply(PLACEHOLDER, "stop", "m")) is None
