"""Stage 3 from notes to examples: tasks by hash, questions by few-shot, answers by a call of their own."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import tyro

from data_prep.contract.errors import UserError
from data_prep.contract.records import TASKS
from data_prep.execution.shards import ShardsConfig
from data_prep.synthesize import instructions, notes
from data_prep.synthesize.gate import GateConfig
from data_prep.synthesize.instructions import InstructionsConfig
from data_prep.synthesize.notes import NotesConfig
from data_prep.synthesize.prompts import ANSWER_PROMPT, QUESTION_PROMPT
from data_prep.synthesize.questions.seed_instructions import SEED_INSTRUCTIONS
from data_prep.synthesize.questions.task_weights import TaskWeights, tasks_of_note
from data_prep.synthesize.questions.write_examples import SHOWN, shown_examples
from data_prep.teachers.base import TeacherConfig
from tests.helpers.endpoints.fake_endpoint import FakeEndpoint, completion, failure
from tests.helpers.text_stages import api, read_examples, write_reports

EQUAL = TaskWeights().by_task()


@pytest.fixture
def source(tmp_path) -> Path:
    notes.run(NotesConfig(write_reports(tmp_path / "a.jsonl", 12), tmp_path / "notes"))
    return tmp_path / "notes"


def test_tasks_follow_their_weights():
    drawn = Counter(tasks_of_note(f"n{k}", 1, EQUAL, 0)[0] for k in range(8000))
    assert set(drawn) == set(TASKS)
    assert all(abs(count - 1000) < 130 for count in drawn.values())
    weights = TaskWeights(summarization=6, paraphrasing=0).by_task()
    drawn = Counter(tasks_of_note(f"n{k}", 1, weights, 0)[0] for k in range(8000))
    assert "Paraphrasing" not in drawn
    assert abs(drawn["Summarization"] - 4000) < 200


def test_the_tasks_of_one_note_are_distinct_and_stay():
    assert sorted(tasks_of_note("n1", 8, EQUAL, 0)) == sorted(TASKS)
    assert tasks_of_note("n1", 8, EQUAL, 0)[:3] == tasks_of_note("n1", 3, EQUAL, 0)
    assert tasks_of_note("n1", 8, EQUAL, 0) != tasks_of_note("n1", 8, EQUAL, 1)
    assert Counter(tasks_of_note("n1", 16, EQUAL, 0)) == dict.fromkeys(TASKS, 2)
    two = TaskWeights(*[0] * 6, 1, 1).by_task()
    assert sorted(tasks_of_note("n1", 2, two, 0)) == ["Question Answering", "Summarization"]


def test_weights_that_leave_no_task_are_refused():
    with pytest.raises(UserError, match="all are 0, at least one must be above 0"):
        TaskWeights(*[0] * 8).by_task()
    with pytest.raises(UserError, match=r"--task-weights.summarization -1"):
        TaskWeights(summarization=-1).by_task()


def test_examples_shown_are_seeds_and_some_of_the_pool():
    shown = shown_examples("n1-0", "Paraphrasing", [], 0)
    assert len(set(shown)) == SHOWN
    assert set(shown) <= set(SEED_INSTRUCTIONS["Paraphrasing"])
    pool = [f"own {k}" for k in range(20)]
    mixed = shown_examples("n1-0", "Paraphrasing", pool, 0)
    assert len(mixed) == SHOWN
    assert sum(text in pool for text in mixed) == 2
    assert mixed == shown_examples("n1-0", "Paraphrasing", pool[::-1], 0)
    assert len({tuple(shown_examples(f"n{k}-0", "Paraphrasing", pool, 0)) for k in range(20)}) > 10


def test_every_example_says_where_it_comes_from(source, tmp_path):
    manifest = instructions.run(InstructionsConfig(source, tmp_path / "out", per_note=2))
    examples, rejects = read_examples(tmp_path / "out")
    assert manifest["in"] == 12
    assert len(examples) + len(rejects) == 24
    assert examples[0].id == "r0-ds-0"
    for example in examples:
        assert example.id.startswith(f"{example.note_id}-")
        assert example.note_id == f"{example.report_id}-ds"
        assert (example.licence, example.article) == ("CC0", f"10/{example.report_id[1:]}")
        assert example.question_generation.prompt_hash == QUESTION_PROMPT.hash
        assert example.answer_generation.prompt_hash == ANSWER_PROMPT.hash
        assert example.question_generation.seed != example.answer_generation.seed
        assert example.answer


def test_the_output_does_not_depend_on_workers(source, tmp_path):
    files = [
        instructions.run(InstructionsConfig(source, tmp_path / f"{w}", per_note=3, shards=ShardsConfig(3, w)))["files"]
        for w in (1, 2)
    ]
    assert files[0] == files[1]


def answer_by_prompt(body, n):
    """Questions that tell which examples they were shown; answers that tell their question."""
    prompt = body["messages"][1]["content"]
    if prompt.startswith("Write one instruction"):
        return completion(f"How is the patient of request {body['seed']}?")
    return completion("As asked: " + prompt.split("Instruction:\n")[-1].split("\n")[0].rstrip("?"))


def test_question_and_answer_are_separate_calls_and_a_rerun_sends_none(source, tmp_path):
    with FakeEndpoint(answer_by_prompt) as endpoint:
        config = InstructionsConfig(
            source, tmp_path / "out", teacher=api(endpoint), per_note=2, pool_notes=4, gate=GateConfig("keep")
        )
        first = instructions.run(config)
        asked = list(endpoint.requests)
        again = instructions.run(config)
        assert len(endpoint.requests) == len(asked)
        other = InstructionsConfig(
            source,
            tmp_path / "out",
            teacher=api(endpoint, concurrency=1, timeout_seconds=9),
            per_note=2,
            pool_notes=4,
            shards=ShardsConfig(5),
            gate=GateConfig("keep"),
        )
        assert instructions.run(other)["out"] == first["out"]
        assert len(endpoint.requests) == len(asked), "how fast it is asked is no part of a request"
    assert first["files"] == again["files"]
    assert len(asked) == 12 * 2 * 2
    examples, _ = read_examples(tmp_path / "out")
    assert len(examples) == 24
    for example in examples:
        assert example.answer == f"As asked: {example.question.rstrip('?')}"
    answers = [body["messages"][1]["content"] for body in asked if "Carry out" in body["messages"][1]["content"]]
    assert all(task not in prompt for task in TASKS for prompt in answers)


def test_later_questions_are_shown_a_pool_that_was_frozen(source, tmp_path):
    with FakeEndpoint(answer_by_prompt) as endpoint:
        config = InstructionsConfig(source, tmp_path / "out", teacher=api(endpoint), per_note=8, pool_notes=4)
        instructions.run(config)
    prompts = [body["messages"][1]["content"] for body in endpoint.requests]
    questions = [prompt for prompt in prompts if prompt.startswith("Write one instruction")]
    shown = ["- How is the patient of request" in prompt for prompt in questions]
    # Four notes of eight tasks make the pool; the other eight notes are all shown two of their task's four.
    assert shown[:32] == [False] * 32
    assert shown[32:] == [True] * 64
    assert all(prompt.split("Note:")[0].count("\n- ") == SHOWN for prompt in questions)
    pool = {f"- How is the patient of request {body['seed']}?" for body in endpoint.requests[:32]}
    for prompt in questions[32:]:
        own = [line for line in prompt.splitlines() if line.startswith("- How is the patient of request")]
        assert len(own) == 2
        assert set(own) <= pool


def test_the_requests_of_the_pool_are_counted_too(source, tmp_path, capsys):
    with FakeEndpoint(answer_by_prompt) as endpoint:
        config = InstructionsConfig(source, tmp_path / "out", teacher=api(endpoint), per_note=8, pool_notes=4)
        instructions.run(config)
        assert f"; {len(endpoint.requests)} requests (" in capsys.readouterr().err
        instructions.run(config)
    assert f"0 requests (0.0/s), {len(endpoint.requests)} from the ledger" in capsys.readouterr().err


def test_a_pool_with_failures_stays_when_they_are_mended(source, tmp_path):
    sick = True

    def answer(body, n):
        return failure(500) if sick and n == 3 else answer_by_prompt(body, n)

    with FakeEndpoint(answer) as endpoint:
        config = InstructionsConfig(
            source,
            tmp_path / "out",
            per_note=8,
            teacher=api(endpoint, concurrency=1),
            pool_notes=6,
            gate=GateConfig("keep"),
        )
        first = instructions.run(config)
        sick = False
        asked = len(endpoint.requests)
        second = instructions.run(replace(config, teacher=api(endpoint, concurrency=3)))
    assert first["out"] == second["out"] == 96, "what failed in the pool is asked again in the run itself"
    assert len(endpoint.requests) == asked


@pytest.mark.parametrize("fault", [failure(500), (504, {}, "<html>"), completion(None)])
def test_a_pool_with_transient_errors_is_not_frozen(source, tmp_path, fault):
    """A rerun after an endpoint was sick ends in the folder of a run that saw none of it."""
    with FakeEndpoint(answer_by_prompt) as endpoint:
        teacher = api(endpoint, concurrency=1)
        clean = InstructionsConfig(
            source, tmp_path / "clean", per_note=2, teacher=teacher, pool_notes=4, gate=GateConfig("keep")
        )
        files = instructions.run(clean)["files"]
        asked = len(endpoint.requests)
        of_pool = endpoint.requests[5]["seed"]
        endpoint.answer = lambda body, n: fault if body["seed"] == of_pool else answer_by_prompt(body, n)
        with pytest.raises(UserError, match=r"1 of the 8 questions that become examples .* run this again"):
            instructions.run(replace(clean, out=tmp_path / "sick"))
        assert len(endpoint.requests) == asked + 9, "what failed was tried once more, and nothing was built on it"
        endpoint.answer = answer_by_prompt
        assert instructions.run(replace(clean, out=tmp_path / "sick"))["files"] == files
    assert len(endpoint.requests) == 2 * asked + 2


def test_a_pool_is_frozen_without_what_the_endpoint_refuses_for_good(source, tmp_path):
    def answer(body, n):
        return failure(400) if "20-year" in body["messages"][1]["content"] else answer_by_prompt(body, n)

    with FakeEndpoint(answer) as endpoint:
        config = InstructionsConfig(
            source, tmp_path / "out", teacher=api(endpoint), per_note=2, pool_notes=4, gate=GateConfig("keep")
        )
        first = instructions.run(config)
        again = instructions.run(config)
    assert first["rejected"] == {"error": 2}
    assert first["files"] == again["files"]


def test_bad_questions_and_answers_are_kept_with_their_reason(source, tmp_path):
    def answer(body, n):
        prompt = body["messages"][1]["content"]
        if prompt.startswith("Write one instruction"):
            return completion("As an AI, I ask about the ECG." if "20-year" in prompt else "Why was the ECG done?")
        return completion("Because of", "length") if "21-year" in prompt else completion("Chest pain.")

    with FakeEndpoint(answer) as endpoint:
        config = InstructionsConfig(source, tmp_path / "out", teacher=api(endpoint), pool_notes=0)
        manifest = instructions.run(config)
    _, rejects = read_examples(tmp_path / "out")
    assert manifest["rejected"] == {"ai_self_reference": 1, "truncated": 1}
    assert [(r.id, r.reason) for r in rejects] == [("r0-ds-0", "ai_self_reference"), ("r1-ds-0", "truncated")]
    assert json.loads(rejects[1].record)["answer"] == "Because of"
    assert len(endpoint.requests) == 12 + 11 + 1, "a rejected question is not answered, a cut answer asked for again"


def test_the_same_question_twice_on_one_note_is_a_duplicate(source, tmp_path):
    with FakeEndpoint(lambda body, n: completion("The very same words")) as endpoint:
        config = InstructionsConfig(source, tmp_path / "out", teacher=api(endpoint), per_note=3, pool_notes=0)
        manifest = instructions.run(config)
    assert manifest["out"] == 12
    assert manifest["rejected"] == {"duplicate": 24}


def test_sources_and_settings_that_cannot_work(source, tmp_path):
    with pytest.raises(UserError, match="--per-note 0"):
        instructions.run(InstructionsConfig(source, tmp_path / "out", per_note=0))
    with pytest.raises(UserError, match="no such folder"):
        instructions.run(InstructionsConfig(tmp_path / "absent", tmp_path / "out"))
    with pytest.raises(UserError, match="choose another --out"):
        instructions.run(InstructionsConfig(source, source))
    (source / "manifest.json").unlink()
    with pytest.raises(UserError, match="not finished"):
        instructions.run(InstructionsConfig(source, tmp_path / "out"))


def test_the_flags_read_as_users_know_them():
    line = "--source a --out b --teacher openai --base-url http://x/v1 --model m --per-note 2"
    line += " --task-weights.summarization 3"
    assert tyro.cli(InstructionsConfig, args=line.split()) == InstructionsConfig(
        Path("a"), Path("b"), 2, 0, TaskWeights(summarization=3), TeacherConfig("openai", "http://x/v1", "m")
    )
