"""A judge is calibrated as it is used: by all its votes, joined as the report joins them, and in lists."""

import dataclasses
import json
import re
from collections import Counter

import pytest

from asclepius_jax.evaluate.judge import judge, plant
from asclepius_jax.evaluate.judge.asking.orders import option_orders
from asclepius_jax.evaluate.judge.calibration import calibrate, read_labels, retest
from asclepius_jax.evaluate.judge.judge import JudgeConfig
from asclepius_jax.evaluate.records import Answer, Judgement, Label, Question, read_records
from data_prep.contract.errors import UserError
from data_prep.execution.shards import ShardsConfig
from data_prep.synthesize import instructions, notes
from tests.helpers.endpoints.fake_endpoint import FakeEndpoint, completion
from tests.helpers.evaluation.made_evaluation import write
from tests.helpers.places import shared
from tests.helpers.text_stages import api

LABELS = {
    (f"q{n}", "planted"): Label(f"q{n}", "dose" if n < 20 else "", "incorrect" if n < 20 else "") for n in range(40)
}


def vote(number: int, votes: list[bool], missing: tuple[int, ...] = ()) -> list[Judgement]:
    return [
        Judgement(f"q{number}", "planted", "j", place, 0, problem="?")
        if place in missing
        else Judgement(f"q{number}", "planted", "j", place, 1 if flag else 4, flag, "nothing")
        for place, flag in enumerate(votes)
    ]


def test_a_judge_is_calibrated_by_the_majority_of_its_votes_and_not_by_the_first():
    """The first vote is wrong on every answer, the two others are right."""
    votes = [j for n in range(40) for j in vote(n, [n >= 20, n < 20, n < 20])]
    figures = calibrate(LABELS, votes)
    assert (figures["sensitivity"]["value"], figures["specificity"]["value"]) == (1.0, 1.0)
    assert figures["youden"] == 1.0
    assert (figures["answers"], figures["votes"]) == (40, 3)
    assert figures["mean_scores"] == {"right": 3.0, "wrong": 2.0}


def test_a_tie_counts_half_and_an_answer_is_missing_only_without_any_vote():
    votes = [j for n in range(20) for j in vote(n, [True, False])]
    votes += [j for n in range(20, 30) for j in vote(n, [False, False], (0,))]
    votes += [j for n in range(30, 40) for j in vote(n, [False, False], (0, 1))]
    figures = calibrate(LABELS, votes)
    assert (figures["sensitivity"]["value"], figures["specificity"]["value"]) == (0.5, 1.0)
    assert (figures["specificity"]["n"], figures["specificity"]["missing"], figures["missing"]) == (10, 10, 10)


def test_answers_on_one_note_count_as_one_for_the_interval():
    votes = [j for n in range(40) for j in vote(n, [n < 20])]
    alone, shared_note = calibrate(LABELS, votes), calibrate(LABELS, votes, {f"q{n}": n // 4 for n in range(40)})
    assert shared_note["sensitivity"]["low"] < alone["sensitivity"]["low"] - 0.2


def test_position_bias_shows_in_the_calibration():
    votes = [
        Judgement(f"q{n}", "planted", "j", 0, 3, option_orders(n)["incorrect"][0] == "yes", "nothing",
                  order=json.dumps(option_orders(n)))
        for n in range(40)
    ]  # fmt: skip
    assert "biased by position" in calibrate(LABELS, votes)["position"]["warning"]


def test_an_answer_without_a_label_is_named():
    with pytest.raises(UserError, match="q99 is judged but has no label"):
        calibrate(LABELS, vote(99, [True]))


@pytest.mark.parametrize(
    ("record_type", "new"),
    [(Judgement, {"harm", "order", "seed", "variant_of"}), (Label, {"model"}), (Question, {"teacher", "evidence"})],
)
def test_folders_from_before_a_field_are_read_with_its_default(tmp_path, record_type, new):
    fields = [field for field in dataclasses.fields(record_type) if field.name not in new]
    older = dataclasses.make_dataclass("Older", [(field.name, field.type) for field in fields], frozen=True)
    values = [{str: "x", int: 3, bool: True}[field.type] for field in fields]
    write(tmp_path / "folder", "older", older, [older(*values)])
    (record,) = read_records(tmp_path / "folder", "older", record_type)
    assert record == record_type(*values[: len(fields)])
    assert getattr(record, "model", "planted") in ("planted", "x")


# ---------------------------------------------------------------- lists


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lists")
    few = ShardsConfig(limit=60, workers=1)
    notes.run(notes.NotesConfig(str(shared("data/case_reports.jsonl")), folder / "notes", shards=few))
    instructions.run(instructions.InstructionsConfig(folder / "notes", folder / "instructions", per_note=2))
    plant.run(plant.PlantConfig(folder / "instructions", folder / "set", per_class=6, per_question=3))
    return folder / "set"


def test_every_list_has_right_and_wrong_answers_in_any_place(lists):
    labels = read_labels(lists / "labels")
    questions = {q.id: q for q in read_records(lists / "questions", "questions", Question)}
    answers = {(a.question_id, a.model): a.text for a in read_records(lists / "answers", "answers", Answer)}
    assert labels.keys() == answers.keys()
    assert len(labels) == 3 * len(questions) > 60
    for name, question in questions.items():
        wrong = [bool(labels[name, f"planted {place}"].error) for place in (1, 2, 3)]
        assert any(wrong)
        assert not all(wrong)
        assert all(
            (answers[name, f"planted {place}"] == question.reference) is not is_wrong
            for place, is_wrong in enumerate(wrong, 1)
        )
    for place in (1, 2, 3):
        share = sum(bool(labels[name, f"planted {place}"].error) for name in questions) / len(questions)
        assert 0.3 < share < 0.7, "no place gives an answer away"
    common = [Counter(answers[name, f"planted {place}"] for place in (1, 2, 3)).most_common(1)[0] for name in questions]
    right = [
        text == questions[name].reference for name, (text, count) in zip(questions, common, strict=True) if count > 1
    ]
    assert 0.25 < sum(right) / len(right) < 0.75, "nor does being repeated"


def test_a_judge_of_lists_is_calibrated_on_lists(lists, tmp_path):
    """This judge knows the right answers, and sees three answers at a time, as in use."""
    references = {q.reference for q in read_records(lists / "questions", "questions", Question)}

    def knows(body, n):
        found = re.findall(r"Answer (\w):\n<answer-\w+>\n(.*?)\n</answer-", body["messages"][1]["content"], re.DOTALL)
        return completion(json.dumps({name: 4 if text in references else 1 for name, text in found}))

    with FakeEndpoint(knows) as endpoint:
        config = JudgeConfig(
            lists / "questions", (lists / "answers",), tmp_path / "judged", "j", 2, "listwise", api(endpoint)
        )
        judge.run(config)
    made = list(read_records(tmp_path / "judged", "judgements", Judgement))
    figures = calibrate(read_labels(lists / "labels"), made)
    assert figures["answers"] == len(made) / 2
    assert figures["specificity"]["value"] == 1.0
    assert figures["incorrect_flag"]["sensitivity"]["value"] == 1.0
    assert figures["sensitivity"]["value"] > 0.8, "what is left out is no error of this judge's kind, and scores 1"


def test_lists_without_a_length_or_with_single_answers_of_medec_are_refused(lists, tmp_path):
    source = lists.parent / "instructions"
    with pytest.raises(UserError, match="--per-question 27: must be from 1 to 26"):
        plant.run(plant.PlantConfig(source, tmp_path / "a", per_question=27))
    with pytest.raises(UserError, match="--medec has one answer per question"):
        plant.run(plant.PlantConfig(source, tmp_path / "a", shared("data/medec_ms_validation.csv"), per_question=2))


def test_agreement_between_votes_is_clustered():
    """Ten questions on each of five notes: all votes of two notes differ."""
    votes = [Judgement(f"q{n}", "m", "j", v, 4 - v * (n < 20)) for n in range(50) for v in (0, 1)]
    told = retest(votes, {f"q{n}": n // 10 for n in range(50)})["same_score"]
    assert (told["value"], told["clusters"]) == (0.6, 5)
    assert told["low"] < 0.2
