"""Orders of options and answers are balanced, and a judge that goes by them is exposed by one run."""

import hashlib
import itertools
import json
import re
from collections import Counter
from dataclasses import replace

import pytest

from asclepius_jax.evaluate.judge.asking.orders import OPTIONS, answer_orders, option_orders
from asclepius_jax.evaluate.judge.judge import JudgeConfig, run
from asclepius_jax.evaluate.judge.position_bias import position_bias
from asclepius_jax.evaluate.records import Judgement, read_records
from tests.helpers.endpoints.fake_endpoint import FakeEndpoint, completion
from tests.helpers.evaluation.made_evaluation import write_answers, write_questions
from tests.helpers.text_stages import api

FAULTLESS = {"incorrect": "no", "harm": "none", "omitted": "nothing", "answerable": "yes", "recognised": "yes"}


def judged(tmp_path, reply, models, questions=12, **changed):
    folder = write_questions(tmp_path / "questions", questions)
    names = [f"q{number}" for number in range(questions)]
    answers = [
        write_answers(tmp_path / "answers" / m, m, {name: f"Aspirin for {name} by {m}" for name in names})
        for m in models
    ]
    with FakeEndpoint(reply) as endpoint:
        teacher = replace(api(endpoint), temperature=0.0)
        run(JudgeConfig(folder, tuple(answers), tmp_path / "judged", name="j", teacher=teacher, **changed))
    prompts = [body["messages"][1]["content"] for body in endpoint.requests]
    return list(read_records(tmp_path / "judged", "judgements", Judgement)), prompts


def without_tags(prompt: str) -> str:
    return re.sub(r"-[0-9a-f]{8}\b", "", prompt)


def offered(prompt: str) -> dict[str, list[str]]:
    """The options of each question, in the order of the prompt."""
    found = re.findall(r"(?m)^\d\. (\w+): .*?One of: ([^.]*)\.", prompt)
    return {name: options.split(", ") for name, options in found}


def listed(prompt: str) -> list[str]:
    return [text.split()[-1] for text in re.findall(r"(?m)^Aspirin for .*$", prompt)]


def by_content(prompt: str) -> str:
    """A verdict that depends on the answer alone."""
    answer = re.findall(r"(?m)^Aspirin for .*$", prompt)[-1]
    digest = hashlib.sha256(answer.encode()).digest()
    if digest[0] % 2:
        return json.dumps({**FAULTLESS, "evidence": []})
    quote = {"fault": "incorrect", "quote": answer, "why": ""}
    return json.dumps({**FAULTLESS, "incorrect": "yes", "harm": "minor", "evidence": [quote]})


def by_first_option(prompt: str) -> str:
    """A verdict that depends on the order of the options alone, with evidence that passes."""
    chosen = {name: options[0] for name, options in offered(prompt).items()}
    quotes = []
    if chosen["incorrect"] == "yes":
        quotes.append({"fault": "incorrect", "quote": re.findall(r"(?m)^Aspirin for .*$", prompt)[-1], "why": ""})
    else:
        chosen["harm"] = "none"
    if chosen["omitted"] != "nothing":
        quotes.append({"fault": "omitted", "quote": "Aspirin 100 mg was given twice daily", "why": ""})
    if "no" in (chosen["answerable"], chosen["recognised"]):
        quotes = [quote for quote in quotes if quote["fault"] == "incorrect"]
    return json.dumps({**chosen, "evidence": quotes})


@pytest.mark.parametrize("count", range(2, 8))
def test_in_a_williams_square_each_follows_each_equally_often_and_stands_everywhere(count):
    orders = answer_orders(count)
    assert len(orders) == (count if count % 2 == 0 else 2 * count)
    assert all(sorted(order) == list(range(count)) for order in orders)
    follows = Counter(pair for order in orders for pair in itertools.pairwise(order))
    assert len(follows) == count * (count - 1)
    assert len(set(follows.values())) == 1
    places = Counter((place, item) for order in orders for place, item in enumerate(order))
    assert set(places.values()) == {len(orders) // count}
    assert answer_orders(1) == [(0,)]


@pytest.mark.parametrize(("models", "votes"), [("abc", 1), ("abcd", 1), ("abc", 3), ("abcd", 2)])
def test_over_questions_and_votes_each_model_follows_each_other_equally_often(tmp_path, models, votes):
    def reply(body, n):
        return completion(json.dumps(dict.fromkeys("ABCD"[: len(models)], 3)))

    made, prompts = judged(tmp_path, reply, models, mode="listwise", votes=votes)
    assert len(prompts) == 12 * votes
    follows = Counter(pair for prompt in prompts for pair in itertools.pairwise(listed(prompt)))
    assert len(follows) == len(models) * (len(models) - 1)
    assert len(set(follows.values())) == 1
    assert Counter(json.loads(j.order)[0] for j in made if j.model == "a") == dict.fromkeys(
        models, 12 * votes // len(models)
    )


def test_there_are_48_orders_of_options_in_which_every_option_is_first_equally_often():
    by_turn, by_vote = [option_orders(turn) for turn in range(48)], [option_orders(5, vote) for vote in range(48)]
    assert len({json.dumps(order) for order in by_turn}) == len({json.dumps(order) for order in by_vote}) == 48
    for name, options in OPTIONS.items():
        for start, stop in (0, 48), (0, 12), (12, 24):
            counts = Counter(order[name][0] for order in by_turn[start:stop])
            assert counts == dict.fromkeys(options, (stop - start) // len(options)), (name, start)
        assert by_vote[0][name] == by_vote[1][name][::-1]
        assert by_turn[6][name] == by_turn[7][name][::-1]


@pytest.mark.parametrize("votes", [1, 3])
def test_half_of_the_first_votes_see_the_favourable_option_first_and_no_two_votes_the_same_prompt(tmp_path, votes):
    _, prompts = judged(
        tmp_path, lambda body, n: completion(by_content(body["messages"][1]["content"])), "ab", votes=votes
    )
    assert len(prompts) == 24 * votes
    assert len({without_tags(prompt) for prompt in prompts}) == 24 * votes
    firsts = Counter((offered(prompt)["incorrect"][0], listed(prompt)[-1]) for prompt in prompts)
    assert firsts == {(option, model): 6 * votes for option in ("yes", "no") for model in "ab"}


def test_two_models_are_judged_with_the_same_options_first_on_the_same_question(tmp_path):
    made, _ = judged(tmp_path, lambda body, n: completion(by_content(body["messages"][1]["content"])), "ab")
    orders = {(j.question_id, j.order) for j in made}
    assert len(orders) == 12


def test_a_judge_that_takes_the_first_option_is_exposed_by_one_run_and_one_that_reads_is_not(tmp_path, capsys):
    for name, judge in (("first", by_first_option), ("reads", by_content)):
        made, _ = judged(
            tmp_path / name, lambda body, n, judge=judge: completion(judge(body["messages"][1]["content"])), "abc", 48
        )
        bias = position_bias(made)
        if name == "first":
            assert bias["first_option"]["incorrect"]["value"] == 1.0
            assert "j is biased by position: the order of options decides 100% of its verdicts" in bias["warning"]
            assert bias["warning"] in capsys.readouterr().err
        else:
            assert bias["first_option"]["incorrect"]["value"] == pytest.approx(0.5, abs=0.15)
            assert not bias["warning"]


def test_a_judge_that_takes_the_last_option_is_exposed_as_well():
    made = [
        Judgement(f"q{turn}", "m", "j", 0, 3, options["incorrect"][-1] == "yes", options["omitted"][-1],
                  options["answerable"][-1] == "yes", options["recognised"][-1] == "yes", harm=options["harm"][-1],
                  order=json.dumps(options))
        for turn in range(48)
        for options in [option_orders(turn)]
    ]  # fmt: skip
    bias = position_bias(made)
    assert bias["first_option"]["incorrect"]["decided"] == -1.0
    assert bias["warning"]


def test_a_bias_is_told_of_beside_a_larger_one_that_few_verdicts_show():
    """Three verdicts say anything of harm, and take the first option; of 96, five in six say what comes first."""
    made = [
        Judgement(f"q{turn}", "m", "j", 0, 3, (options["incorrect"][0] == "yes") == (turn % 6 > 0),
                  harm=options["harm"][0] if turn < 3 else "", order=json.dumps(options))
        for turn in range(96)
        for options in [option_orders(turn)]
    ]  # fmt: skip
    bias = position_bias(made)
    harm, incorrect = (bias["first_option"][name] for name in ("harm", "incorrect"))
    assert not harm["exceeds"]
    assert harm["decided"] > incorrect["decided"] > 0.5
    assert f"decides {incorrect['decided']:.0%}" in bias["warning"]


def test_a_judge_of_lists_that_favours_the_first_answer_is_exposed(tmp_path):
    def favours(body, n):
        return completion(json.dumps({"A": 4, "B": 3, "C": 3}))

    def reads(body, n):
        worth = {"a": 1, "b": 3, "c": 4}
        return completion(
            json.dumps(dict(zip("ABC", (worth[m] for m in listed(body["messages"][1]["content"])), strict=True)))
        )

    biased, _ = judged(tmp_path / "biased", favours, "abc", 12, mode="listwise")
    fair, _ = judged(tmp_path / "fair", reads, "abc", 12, mode="listwise")
    assert [round(place["value"], 2) for place in position_bias(biased)["places"]] == [0.67, -0.33, -0.33]
    assert "the answer that it sees first scores +0.67 more" in position_bias(biased)["warning"]
    assert [place["value"] for place in position_bias(fair)["places"]] == [0, 0, 0]
    assert not position_bias(fair)["warning"]
