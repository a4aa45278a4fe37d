"""An endpoint is asked once for each question, and for none on a real note that may not go there."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from asclepius_jax.evaluate.answers.answers import AnswersConfig, run
from asclepius_jax.evaluate.answers.specs import Decoding
from asclepius_jax.evaluate.judge import judge
from asclepius_jax.evaluate.records import Judgement, Question, read_records
from data_prep.contract.errors import UserError
from data_prep.teachers.base import TeacherConfig
from tests.helpers.endpoints.fake_endpoint import FakeEndpoint, completion, failure
from tests.helpers.evaluation.made_evaluation import answered, content, judge_at, question, write, write_questions


def at_endpoint(endpoint, questions: Path, out: Path, **more) -> AnswersConfig:
    return AnswersConfig(
        questions, ("gpt=endpoint:some-model",), out, Decoding(max_new_tokens=9), judge_at(endpoint, model=""), **more
    )


def test_an_endpoint_is_asked_once_for_each_question_and_a_second_run_asks_nothing(tmp_path):
    questions = write_questions(tmp_path / "questions")
    with FakeEndpoint(lambda body, n: completion(f" About {n}. ", "length")) as endpoint:
        run(at_endpoint(endpoint, questions, tmp_path / "out"))
        # Cut at 9 tokens, and not asked for once more with 18: no other model of the comparison may say more.
        assert {body["max_tokens"] for body in endpoint.requests} == {9}
        assert {body["model"] for body in endpoint.requests} == {"some-model"}
        assert len(endpoint.requests) == 8
        before = content(tmp_path / "out/gpt")
        run(at_endpoint(endpoint, questions, tmp_path / "out"))
        shutil.rmtree(tmp_path / "out/gpt")
        run(at_endpoint(endpoint, questions, tmp_path / "out"))
        assert len(endpoint.requests) == 8, "what was answered is in the ledger"
    assert content(tmp_path / "out/gpt") == before
    assert {a.finish_reason for a in answered(tmp_path / "out/gpt").values()} == {"length"}


def test_a_request_that_failed_is_made_again_by_the_next_run(tmp_path):
    questions = write_questions(tmp_path / "questions")
    well = []

    def reply(body, number):
        return completion("Aspirin.") if well or number % 4 else failure(400)

    with FakeEndpoint(reply) as endpoint:
        run(at_endpoint(endpoint, questions, tmp_path / "out"))
        failed = [a for a in answered(tmp_path / "out/gpt").values() if a.finish_reason == "error"]
        assert len(failed) == 2
        well.append(True)
        run(at_endpoint(endpoint, questions, tmp_path / "out"))
        assert len(endpoint.requests) == 10
    assert {a.text for a in answered(tmp_path / "out/gpt").values()} == {"Aspirin."}


def test_an_endpoint_that_always_fails_leaves_no_answers(tmp_path):
    questions = write_questions(tmp_path / "questions")
    with (
        FakeEndpoint(lambda body, n: failure(400)) as endpoint,
        pytest.raises(UserError, match=r"answers of gpt: every request failed; the last error was: .*told to say 400"),
    ):
        run(at_endpoint(endpoint, questions, tmp_path / "out"))
    assert not (tmp_path / "out/gpt").exists()


def test_an_estimate_sends_nothing_and_counts_each_verdict_once(tmp_path, capsys):
    questions = write_questions(tmp_path / "questions")
    with FakeEndpoint(lambda body, n: completion("Aspirin.")) as endpoint:
        run(at_endpoint(endpoint, questions, tmp_path / "out"))
        sent = len(endpoint.requests)
        for mode in ("pointwise", "listwise"):
            teacher = judge_at(endpoint, estimate=True)
            config = judge.JudgeConfig(questions, (tmp_path / "out",), tmp_path / mode, mode=mode, teacher=teacher)
            judge.run(config)
            assert "8 requests of kind judge" in capsys.readouterr().out
        assert len(endpoint.requests) == sent


# ---------------------------------------------------------------- real notes


def test_a_real_note_goes_to_no_endpoint_that_was_not_named(tmp_path):
    made = [question(n) for n in range(7)] + [replace(question(7), restricted=True)]
    questions = write(tmp_path / "questions", "questions", Question, made)
    with FakeEndpoint(lambda body, n: completion("Aspirin.")) as endpoint:
        with pytest.raises(UserError, match=r"question q7 uses a real patient note: .*--allow-remote 127\.0\.0\.1"):
            run(at_endpoint(endpoint, questions, tmp_path / "out"))
        assert not endpoint.requests
        run(at_endpoint(endpoint, questions, tmp_path / "out", allow_remote="127.0.0.1"))
        sent = len(endpoint.requests)
        for mode in ("pointwise", "listwise"):
            config = judge.JudgeConfig(
                questions, (tmp_path / "out",), tmp_path / "judged", mode=mode, teacher=judge_at(endpoint)
            )
            with pytest.raises(UserError, match="question q7 uses a real patient note"):
                judge.run(config)
        assert len(endpoint.requests) == sent == 8


def test_a_real_note_goes_to_no_host_of_others_even_if_it_is_named(tmp_path):
    made = [replace(question(0), restricted=True)]
    questions = write(tmp_path / "questions", "questions", Question, made)
    teacher = TeacherConfig(base_url="https://models.example.com/v1")
    config = AnswersConfig(
        questions, ("gpt=endpoint:m",), tmp_path / "out", teacher=teacher, allow_remote="models.example.com"
    )
    with pytest.raises(UserError, match=r"models\.example\.com is not a host of your own"):
        run(config)


# ---------------------------------------------------------------- several seeds


def test_each_seed_is_asked_once_and_an_interrupted_run_asks_for_the_rest(tmp_path):
    """Three samples of eight questions are 24 requests, however often the run starts again."""
    questions = write_questions(tmp_path / "questions")
    with FakeEndpoint(lambda body, n: completion(f"About {n}.")) as endpoint:
        settings = at_endpoint(endpoint, questions, tmp_path / "out", seeds=3)
        settings = replace(settings, decoding=replace(settings.decoding, temperature=0.7, seed=5))
        run(replace(settings, seeds=1))
        before = content(tmp_path / "out/gpt")
        run(settings)
        assert len({body["seed"] for body in endpoint.requests}) == len(endpoint.requests) == 24
        assert content(tmp_path / "out/gpt") == before, "the first sample is that of a run with one seed"
        shutil.rmtree(tmp_path / "out/gpt-seed7")
        run(settings)
        assert len(endpoint.requests) == 24
        with pytest.raises(UserError, match="1 at temperature 0"):
            run(replace(settings, decoding=Decoding()))
        with pytest.raises(UserError, match="gives a further sample this name"):
            run(replace(settings, models=(*settings.models, "gpt-seed6=endpoint:x")))
    samples = {name: answered(tmp_path / "out" / name) for name in ("gpt", "gpt-seed6", "gpt-seed7")}
    assert [{a.seed for a in given.values()} for given in samples.values()] == [{5}, {6}, {7}]
    assert [{a.variant_of for a in given.values()} for given in samples.values()] == [{""}, {"gpt"}, {"gpt"}]
    assert len({a.text for given in samples.values() for a in given.values()}) == 24
    by_rule = judge.JudgeConfig(questions, (tmp_path / "out",), tmp_path / "judged", "rules")
    judge.run(replace(by_rule, teacher=TeacherConfig(model="rules")))
    judged = list(read_records(tmp_path / "judged", "judgements", Judgement))
    assert {(j.model, j.variant_of, j.seed) for j in judged} == {
        ("gpt", "", 5), ("gpt-seed6", "gpt", 6), ("gpt-seed7", "gpt", 7)
    }  # fmt: skip
    with pytest.raises(UserError, match="is a further sample of a model, and a list compares models"):
        judge.run(replace(by_rule, mode="listwise", out=tmp_path / "x", teacher=judge_at(endpoint)))
