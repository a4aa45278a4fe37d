"""Answers claim by claim: what is counted, what is missing, and what never reaches an endpoint."""

import json

import pytest

from asclepius_jax.evaluate.judge.claims import Claim, ClaimsConfig, figures_of, read_claims, run
from asclepius_jax.evaluate.records import Question, read_records
from data_prep.contract.errors import UserError
from tests.helpers.endpoints.fake_endpoint import FakeEndpoint, completion
from tests.helpers.evaluation.made_evaluation import question, write, write_answers
from tests.helpers.text_stages import api

NONE = Claim("q0", "m", "", "")


def reply_of(*verdicts: str) -> str:
    items = [{"claim": f"claim {n}", "note": v, "quote": "aspirin 100 MG"} for n, v in enumerate(verdicts)]
    return json.dumps({"claims": items})


def checked(tmp_path, reply, questions=None):
    questions = questions or [question(number) for number in range(4)]
    folder = write(tmp_path / "questions", "questions", Question, questions)
    answers = write_answers(tmp_path / "answers", "m", {q.id: f"Answer to {q.id}." for q in questions})
    with FakeEndpoint(reply) as endpoint:
        run(ClaimsConfig(folder, (answers,), tmp_path / "claims", teacher=api(endpoint)))
    claims = list(read_records(tmp_path / "claims", "claims", Claim))
    return figures_of(claims, {q.id: q for q in questions})["m"], endpoint.requests


def test_two_readings_differ_by_what_follows(tmp_path):
    figures, _ = checked(tmp_path, lambda body, n: completion(reply_of("stated", "follows", "absent", "contradicted")))
    assert figures["verdicts"] == {"stated": 4, "follows": 4, "contradicted": 4, "absent": 4}
    assert (figures["strict"]["value"], figures["inference_aware"]["value"]) == (0.75, 0.5)
    assert figures["answers_with_unsupported"]["count"] == 4
    assert {example["verdict"] for example in figures["examples"]} == {"absent", "contradicted"}


def test_an_answer_without_claims_says_nothing_and_one_that_is_not_read_is_missing(tmp_path):
    def reply(body, n):
        asked = body["messages"][1]["content"]
        if "Answer to q0." in asked:
            return completion('{"claims": []}')
        return completion("garbage" if "Answer to q1." in asked else reply_of("absent"))

    figures, requests = checked(tmp_path, reply)
    assert figures["missing"] == 1
    assert (figures["inference_aware"]["value"], figures["inference_aware"]["n"]) == (1.0, 2)
    assert len(requests) == 5, "garbage is asked for once more"


@pytest.mark.parametrize("text", ["none", '{"claims": 3}', reply_of("maybe"), '{"claims": [{"note": "stated"}]}'])
def test_what_is_no_list_of_claims_is_an_error(text):
    with pytest.raises(ValueError, match=r"no JSON object|no list of claims|invalid claim|no verdict in"):
        read_claims(text, NONE, "Aspirin 100 mg.")


@pytest.mark.parametrize(
    ("verdict", "counts"), [("stated", False), ("contradicted", False), ("follows", True), ("absent", True)]
)
def test_a_verdict_with_words_that_the_note_does_not_have_is_none(tmp_path, verdict, counts):
    """What a note says or contradicts can be quoted; what follows from it or is absent, not always."""
    item = {"claim": "Aspirin was given.", "note": verdict, "quote": "aspirin 500 mg"}
    figures, requests = checked(tmp_path, lambda body, n: completion(json.dumps({"claims": [item]})))
    assert (figures["verdicts"][verdict], figures["misquoted"], figures["missing"]) == (
        (4, 0, 0) if counts else (0, 4, 0)
    )
    assert [claim.quote for claim in read_claims(json.dumps({"claims": [item]}), NONE, "Aspirin 100 mg.")] == [""]
    assert len(requests) == 4, "the other claims of the reply are of use"


def test_only_garbage_ends_in_one_line(tmp_path):
    with pytest.raises(
        UserError, match="4 of 4 answers could not be checked; the first reason was: no JSON object: Hm"
    ):
        checked(tmp_path, lambda body, n: completion("Hm"))


def test_a_question_on_a_real_note_stays_in_the_house(tmp_path):
    with pytest.raises(UserError, match="uses a real patient note"):
        checked(tmp_path, lambda body, n: completion(reply_of()), [question(0, restricted=True)])
