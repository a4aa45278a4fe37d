"""Time to verify each answer: counted on the page while it is the current one, and stored with whether it cites."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from asclepius_jax.evaluate.clinicians import ratings, store
from asclepius_jax.evaluate.clinicians.app import application
from asclepius_jax.evaluate.clinicians.verdicts import Draft
from asclepius_jax.evaluate.records import Answer, Rating, read_records
from tests.asclepius_jax.evaluate.clinicians.test_page_in_browser import CHROMIUM, Rater, Server, chromium
from tests.helpers.evaluation import made_study
from tests.helpers.evaluation.made_study import MODELS, links

# Of the second model, the answer to q2 cites a sentence that its note does not have.
CITING = {"q0": "He takes metoprolol [3].", "q1": "He takes aspirin [4, 99].", "q2": "He takes aspirin [99]."}


@pytest.fixture
def made(tmp_path, capsys) -> tuple[dict[str, str], Path]:
    """Links, and a study of three items in which one model cites."""
    answers = [Answer(name, MODELS[1], text, "stop") for name, text in CITING.items()]
    answers += [Answer(name, MODELS[0], "He takes metoprolol.", "stop") for name in CITING]
    settings = made_study.config(tmp_path, 3, ("Dr Ito",))
    settings = replace(settings, answers=(made_study.write(tmp_path / "given", "answers", answers),))
    return links(capsys, settings), settings.out


def seconds(study: Path, position: int) -> dict[str, float]:
    with store.transaction(study / store.DATABASE) as db:
        item = store.items_of(db, 1)[position - 1]
    assert item.seconds == pytest.approx(sum(answer.seconds for answer in item.answers))
    return {answer.label: answer.seconds for answer in item.answers}


def score_all(study: Path) -> None:
    with store.transaction(study / store.DATABASE, write=True) as db:
        for item in store.items_of(db, 1):
            for answer in item.answers:
                store.save(db, "Dr Ito", item, answer, Draft(False, "nothing", "answered"))


def unblinded(study: Path, out: Path) -> dict[tuple[str, str], Rating]:
    ratings.run(ratings.RatingsConfig(study, study / "key.json", out))
    return {(r.question_id, r.model): r for r in read_records(out, "ratings", Rating)}


def test_time_goes_to_the_answers_that_the_page_names_and_is_no_more_than_has_passed(made, monkeypatch):
    paths, study = made
    clock = [1000.0]
    monkeypatch.setattr("asclepius_jax.evaluate.clinicians.app.time.time", lambda: clock[0])
    browser = TestClient(application(study / store.DATABASE), headers={"Origin": "http://testserver"})
    browser.get(paths["Dr Ito"] + "/item/1")
    # The third claims more than has passed, in the proportion 1 : 3; the last names an answer that is not there.
    for passed, claimed in (
        (10, {"A": "6", "B": "4"}),
        (10, {"B": "1"}),
        (8, {"A": "10", "B": "30"}),
        (5, {"A": "-5", "C": "2"}),
    ):
        clock[0] += passed
        assert browser.post(paths["Dr Ito"] + "/time/1", data=claimed).status_code == 204
    assert seconds(study, 1) == pytest.approx({"A": 6 + 2, "B": 4 + 1 + 6})
    assert seconds(study, 2) == {"A": 0, "B": 0}
    for claimed in ("nan", "inf", "soon", ""):
        assert browser.post(paths["Dr Ito"] + "/time/1", data={"B": claimed}).status_code == 400


def test_a_rating_has_the_time_of_its_answer_and_says_whether_it_cites(made, tmp_path):
    _, study = made
    score_all(study)
    with store.transaction(study / store.DATABASE, write=True) as db:
        for item in store.items_of(db, 1):
            store.add_seconds(db, item, {"A": 10.0 * item.position, "B": 1.0}, 1000.0)
        labels = {
            (item.position, a.label): (item.question_id, a.text) for item in store.items_of(db, 1) for a in item.answers
        }
    found = unblinded(study, tmp_path / "ratings")
    assert {key for key, rating in found.items() if rating.cites} == {("q0", MODELS[1]), ("q1", MODELS[1])}
    for (position, label), (question, text) in labels.items():
        rating = found[question, MODELS[text == CITING[question]]]
        assert rating.answer_seconds == (10.0 * position if label == "A" else 1.0)
        assert rating.seconds == 10.0 * position + 1.0


def test_a_study_of_the_version_before_is_read_without_times(made, tmp_path):
    paths, study = made
    with sqlite3.connect(study / store.DATABASE) as db:
        db.execute("ALTER TABLE shown DROP COLUMN seconds")
        db.execute("PRAGMA user_version = 2")
    browser = TestClient(application(study / store.DATABASE), headers={"Origin": "http://testserver"})
    assert browser.get(paths["Dr Ito"] + "/item/1").status_code == 200
    score_all(study)
    assert {r.answer_seconds for r in unblinded(study, tmp_path / "ratings").values()} == {0.0}


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_the_page_counts_the_time_of_the_current_answer(made):
    paths, study = made
    server = Server(study)
    try:
        with chromium() as browser:
            rater = Rater(browser, "Dr Ito", server.base + paths["Dr Ito"])
            rater.begin()
            rater.page.wait_for_timeout(400)
            rater.press("j")
            rater.page.wait_for_timeout(1500)
            rater.press("k", "n")
            rater.page.wait_for_url("**/item/2")
            assert not rater.problems
    finally:
        server.kill()
    found = seconds(study, 1)
    assert 0.3 < found["A"] < 1.2
    assert found["B"] > 1.4
