"""What a judge is asked, how its replies are read, and what becomes of those that cannot be."""

import json
import re
from dataclasses import replace

import pytest

from asclepius_jax.evaluate.answers.answers import read_answers
from asclepius_jax.evaluate.judge.asking import prompts
from asclepius_jax.evaluate.judge.asking.orders import option_orders
from asclepius_jax.evaluate.judge.asking.prompts import listwise_messages, pointwise_messages
from asclepius_jax.evaluate.judge.asking.verdict_replies import Quotable, read_scores, read_verdict
from asclepius_jax.evaluate.judge.by_rule import by_rules
from asclepius_jax.evaluate.judge.judge import JudgeConfig, items_of, run
from asclepius_jax.evaluate.judge.rubric import Verdict
from asclepius_jax.evaluate.records import Answer, Judgement, read_records
from data_prep.contract.errors import UserError
from data_prep.teachers.base import TeacherConfig
from tests.helpers.endpoints.fake_endpoint import FakeEndpoint, completion
from tests.helpers.evaluation.made_evaluation import NOTE, question, write_answers, write_questions
from tests.helpers.text_stages import api

FAULTLESS = {"incorrect": "no", "harm": "none", "omitted": "nothing", "answerable": "yes", "recognised": "yes"}
GOOD = json.dumps({**FAULTLESS, "evidence": []})
QUOTE = {"fault": "incorrect", "quote": "Aspirin 100 mg", "why": "it was 1000 mg"}
BAD = json.dumps({**FAULTLESS, "incorrect": "yes", "harm": "serious", "evidence": [QUOTE]})
RIGHT = "Aspirin 100 mg was given twice daily."
WRONG = "Aspirin 1000 mg was given twice daily."
TEXTS = Quotable(RIGHT, NOTE)


def judged(tmp_path, reply, models=("a", "b"), **changed):
    """Eight questions, answered by each model, judged by an endpoint; the judgements, and what was sent."""
    questions = write_questions(tmp_path / "questions")
    names = [f"q{number}" for number in range(8)]
    folders = [
        write_answers(tmp_path / "answers" / model, model, dict.fromkeys(names, f"{RIGHT} {model}")) for model in models
    ]
    with FakeEndpoint(reply) as endpoint:
        config = JudgeConfig(
            questions,
            tuple(folders),
            tmp_path / "judged",
            name="j",
            teacher=replace(api(endpoint), temperature=0.0),
            **changed,
        )
        manifest = run(config)
    return list(read_records(tmp_path / "judged", "judgements", Judgement)), endpoint.requests, manifest


def test_every_answer_gets_every_vote_and_no_model_is_named(tmp_path):
    made, requests, _ = judged(tmp_path, lambda body, n: completion(GOOD), models=("secret-a", "secret-b"), votes=3)
    assert {(j.question_id, j.model, j.vote) for j in made} == {
        (f"q{number}", model, vote) for number in range(8) for model in ("secret-a", "secret-b") for vote in range(3)
    }
    assert {j.score for j in made} == {4}
    # The answers end in the name of their model here; nothing else of what is sent may hold it.
    sent = [message["content"].replace("daily. secret", "") for body in requests for message in body["messages"]]
    assert not [text for text in sent if "secret" in text]


def test_a_judge_sees_no_citations():
    """The note that it is shown has no numbers."""
    cited = Answer("q0", "a", "Aspirin was given [3]. It was stopped [4, 7].", "stop")
    failed = Answer("q0", "b", "timed out [5].", "error")
    (item,) = items_of([question(0)], {"a": {"q0": cited}, "b": {"q0": failed}}, together=True)
    assert [answer.text for answer in item.answers] == ["Aspirin was given. It was stopped.", "timed out [5]."]


def test_braces_and_placeholders_in_a_note_stay_text():
    asked = question(0, note="{answer} \0a {0}", instruction="{note}")
    text = pointwise_messages(asked, "the answer", option_orders(0), None, "")[1]["content"]
    assert "{answer}" in text
    assert text.count("the answer") >= 1
    assert "{note}" in text


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"Here is what I think {{not JSON}}: {GOOD} Good luck!",
        GOOD.replace('"no"', "false"),
        GOOD.replace('"harm": "none", ', ""),
    ],
)
def test_a_verdict_is_read_however_it_is_wrapped(text):
    assert read_verdict(text, TEXTS)[0] == Verdict(False, "nothing", harm="none")


def test_a_judge_that_repeats_the_example_first_is_read_by_its_answer():
    assert read_scores('Such as {"A": 3, "B": 3}? Here: {"A": 1, "B": 4}', 2) == [1, 4]
    assert read_verdict(f"{GOOD} No, wait. {BAD}", TEXTS)[0].incorrect


@pytest.mark.parametrize("text", ["", "4", "{}", GOOD.replace("nothing", "maybe"), "{" * 50, '{"incorrect": "no"}'])
def test_what_is_no_verdict_is_an_error_and_never_one(text):
    with pytest.raises(ValueError, match=r"no JSON object|is "):
        read_verdict(text, TEXTS)


def test_garbage_is_asked_for_once_more_then_missing_and_never_a_score(tmp_path):
    garbled = {"q1", "q5"}

    def reply(body, n):
        return completion("I would rather not say." if n % 4 == 0 else BAD)

    made, requests, _ = judged(tmp_path, reply, models=("a",))
    assert {j.score for j in made} <= {0, 1}
    assert len(made) == 8
    assert all(bool(j.problem) == (j.score == 0) for j in made)
    assert len(requests) > 8, garbled


def test_a_judge_that_answers_garbage_for_ever_ends_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"16 of 16 verdicts are missing; the first reason was: no JSON object: Hm"):
        judged(tmp_path, lambda body, n: completion("Hm"))


def test_a_list_is_judged_in_balanced_orders_and_scores_go_to_their_models(tmp_path):
    # This judge knows the answers by their last letter: a is always worth 1, b 2, c 3.
    def reply(body, n):
        listed = re.findall(r"Answer (\w):\n<answer-\w+>\n(.+)\n</answer", body["messages"][1]["content"])
        worth = {name: "abc".index(text[-1]) + 1 for name, text in listed}
        return completion(json.dumps(worth))

    made, requests, _ = judged(tmp_path, reply, models=("a", "b", "c"), mode="listwise", votes=3)
    assert {(j.model, j.score) for j in made} == {("a", 1), ("b", 2), ("c", 3)}
    assert len(requests) == 8 * 3
    firsts = [body["messages"][1]["content"].split("Answer A:\n")[1].split("\n")[1][-1] for body in requests]
    assert sorted(firsts) == sorted("abc" * 8), "each model stands first as often as any other"


def test_scores_off_the_scale_are_missing():
    assert read_scores('{"A": 5, "B": "3", "C": {"score": 2}, "Answer D": "4/4", "E": 2.5}', 6) == [0, 3, 2, 4, 0, 0]


def test_a_list_shows_the_scale_and_hides_the_models():
    text = listwise_messages(question(0), ["one", "two"], None, "")[1]["content"]
    assert re.search(r"Answer A:\n<answer-\w+>\none\n", text)
    assert "4: excellent" in text


def test_a_judge_may_not_go_by_the_name_of_the_clinicians(tmp_path):
    for name in ("clinicians", "jury"):
        with pytest.raises(UserError, match=f"--name {name}: tables use this name for"):
            run(JudgeConfig(tmp_path, (tmp_path,), tmp_path / "out", name, teacher=TeacherConfig(model="m")))
    with pytest.raises(UserError, match="--model is missing"):
        run(JudgeConfig(tmp_path, (tmp_path,), tmp_path / "out"))


def test_the_hash_of_the_prompts_is_in_the_manifest(tmp_path):
    _, _, manifest = judged(tmp_path, lambda body, n: completion(GOOD))
    assert manifest["prompt"] == prompts.HASH
    assert manifest["judge"] == "j"


# ---------------------------------------------------------------- by rule


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        (RIGHT, 4),
        (WRONG, 1),
        ("Aspirin.", 2),
        ("This is not stated in the note.", 2),
        ("qua zzk blorp trin vask", 1),
        ("", 1),
    ],
)
def test_the_score_by_rule(answer, score):
    assert by_rules(question(0), Answer("q0", "m", answer, "stop"), "rules").score == score


def test_a_lesser_part_that_is_left_out_is_minor():
    asked = question(0, reference=f"{RIGHT} She was discharged on day 5.")
    assert by_rules(asked, Answer("q0", "m", RIGHT, "stop"), "rules").score == 3


def test_what_the_note_does_not_say_must_be_said_to_be_absent():
    asked = question(0, instruction="Which allergies does she have?", reference="This is not stated in the note.")
    assert by_rules(asked, Answer("q0", "m", "The note does not mention allergies.", "stop"), "rules").score == 4
    assert by_rules(asked, Answer("q0", "m", "She was discharged on day 5.", "stop"), "rules").score == 1


def test_rules_judge_without_an_endpoint(tmp_path):
    questions = write_questions(tmp_path / "questions")
    texts = {f"q{number}": WRONG if number % 2 else RIGHT for number in range(8)}
    answers = write_answers(tmp_path / "answers", "m", texts)
    run(JudgeConfig(questions, (answers,), tmp_path / "judged", teacher=TeacherConfig(model="rules")))
    made = {j.question_id: j.score for j in read_records(tmp_path / "judged", "judgements", Judgement)}
    assert made == {f"q{number}": 1 if number % 2 else 4 for number in range(8)}


# ---------------------------------------------------------------- ids


def test_answers_to_other_questions_are_refused_with_the_id(tmp_path):
    questions = write_questions(tmp_path / "questions")
    with pytest.raises(UserError, match=r"answers q99, which is not in"):
        read_answers([write_answers(tmp_path / "one", "m", {"q99": "x"})], questions)
    with pytest.raises(UserError, match=r"m answers 1 of 8 questions; missing, for example: q1"):
        read_answers([write_answers(tmp_path / "two", "m", {"q0": "x"})], questions)
