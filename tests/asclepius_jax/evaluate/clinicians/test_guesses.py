"""The test of the blinding: names come after the last score and close it, and guesses reach the ratings."""

import csv
import json
import sqlite3
from dataclasses import replace

import pytest
from starlette.testclient import TestClient

from asclepius_jax.evaluate.clinicians import paper, ratings, store
from asclepius_jax.evaluate.clinicians.app import application
from asclepius_jax.evaluate.clinicians.paper import PaperConfig
from asclepius_jax.evaluate.clinicians.ratings import RatingsConfig
from data_prep.contract.errors import UserError
from data_prep.contract.manifests import read_manifest
from tests.helpers.evaluation import made_study
from tests.helpers.evaluation.made_study import MODELS, links

JSON = {"Accept": "application/json"}


class Guessed:
    def __init__(self, folder, capsys):
        self.settings = replace(made_study.config(folder, 12), guesses=True)
        self.paths = links(capsys, self.settings)
        self.database = self.settings.out / store.DATABASE
        self.browser = TestClient(
            application(self.database), headers={"Origin": "http://testserver"}, follow_redirects=False
        )

    def score_all(self, rater: str) -> None:
        with store.transaction(self.database, write=True) as db:
            row = db.execute("SELECT id FROM raters WHERE name = ?", (rater,)).fetchone()
            draft = {"incorrect": False, "omitted": "nothing", "treatment": "answered"}
            db.execute(
                "UPDATE shown SET draft = ? WHERE item_id IN (SELECT id FROM items WHERE rater_id = ?)",
                (json.dumps(draft), row["id"]),
            )


@pytest.fixture
def study(tmp_path, capsys) -> Guessed:
    return Guessed(tmp_path, capsys)


def test_names_stand_in_one_row_of_the_database_in_alphabetical_order_without_what_they_wrote(study):
    with sqlite3.connect(study.database) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = [
            (t, row) for t in tables for row in db.execute(f"SELECT * FROM {t}") if any(m in str(row) for m in MODELS)
        ]
    assert rows == [("study", ("models", json.dumps(sorted(MODELS))))]


def test_no_page_shows_a_name_before_all_items_are_scored(study):
    rater = study.paths["Dr Ito"]
    assert study.browser.get(rater + "/guess").headers["location"] == rater
    refused = study.browser.post(rater + "/guess", data={"1": MODELS[0]}, headers=JSON)
    assert (refused.status_code, "score all items first" in refused.json()["error"]) == (400, True)
    for page in (rater, rater + "/item/1", study.paths["Administrator"]):
        assert not any(model in study.browser.get(page).text for model in MODELS)
    study.score_all("Dr Ito")
    start = study.browser.get(rater).text
    assert "Close my scores and guess" in start
    assert not any(model in start for model in MODELS)


def test_scores_are_closed_once_the_names_are_seen(study):
    rater = study.paths["Dr Ito"]
    study.score_all("Dr Ito")
    assert study.browser.post(rater + "/item/1/A", data={"incorrect": "yes"}, headers=JSON).status_code == 200
    assert study.browser.post(rater + "/guess", data={}).headers["location"] == rater + "/guess"
    page = study.browser.get(rater + "/guess").text
    assert page.count('class="guess"') == 10
    assert all(page.count(f'value="{model}"') == 10 for model in MODELS)
    assert "<script>document.title" not in page
    refused = study.browser.post(rater + "/item/1/A", data={"incorrect": "no"}, headers=JSON)
    assert (refused.status_code, "your scores are closed" in refused.json()["error"]) == (400, True)
    # The other rater goes on scoring.
    other = study.paths["Dr Weiss"]
    assert study.browser.post(other + "/item/1/A", data={"incorrect": "no"}, headers=JSON).status_code == 200


def test_guesses_are_saved_logged_and_unblinded(study, tmp_path):
    rater = study.paths["Dr Ito"]
    study.score_all("Dr Ito")
    study.browser.post(rater + "/guess", data={})
    study.browser.post(rater + "/guess", data={"1": MODELS[0], "2": MODELS[1]})
    study.browser.post(rater + "/guess", data={"2": MODELS[0]})
    assert "2 of 10 saved" in study.browser.get(rater + "/guess").text
    refused = study.browser.post(rater + "/guess", data={"3": "gpt"}, headers=JSON)
    assert "must be one of" in refused.json()["error"]
    log = csv.DictReader(study.browser.get(study.paths["Administrator"] + "/log.csv").text.splitlines())
    assert [row["field"] for row in log] == ["scores", "guess", "guess", "guess"]
    ratings.run(RatingsConfig(study.settings.out, study.settings.out / "key.json", tmp_path / "ratings"))
    guesses = read_manifest(tmp_path / "ratings", "ratings")["guesses"]
    assert [(g["rater"], g["guess"], g["choices"]) for g in guesses] == [("Dr Ito", MODELS[0], 2)] * 2
    assert {g["model"] for g in guesses} <= set(MODELS)
    assert (tmp_path / "ratings/guesses.csv").read_text().startswith("rater,question_id,model,guess,choices\nDr Ito,")


def test_paper_forms_name_models_to_raters_who_are_done_and_come_back(study, tmp_path):
    forms = tmp_path / "guesses.csv"
    with pytest.raises(UserError, match="no rater has scored all items"):
        paper.run(PaperConfig(study.settings.out, out=forms, guesses=True))
    study.score_all("Dr Weiss")
    paper.run(PaperConfig(study.settings.out, out=tmp_path / "guesses.html", guesses=True))
    printed = (tmp_path / "guesses.html").read_text()
    assert "Dr Weiss" in printed
    assert "Dr Ito" not in printed
    paper.run(PaperConfig(study.settings.out, out=forms, guesses=True))
    rows = list(csv.DictReader(forms.read_text().splitlines()))
    assert {row["rater"] for row in rows} == {"Dr Weiss"}
    filled = [{**row, "guess": MODELS[number % 2]} for number, row in enumerate(rows)]
    with forms.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows([*filled[:-1], {**filled[-1], "guess": "nobody"}])
    with pytest.raises(UserError, match=r"row 11: guess 'nobody': must be one of"):
        paper.run(PaperConfig(study.settings.out, back_in=forms, guesses=True))
    with store.transaction(study.database) as db:
        assert db.execute("SELECT count(*) FROM guesses WHERE guess != ''").fetchone()[0] == 0
    forms.write_text(forms.read_text().replace("nobody", MODELS[0]))
    paper.run(PaperConfig(study.settings.out, back_in=forms, guesses=True))
    with store.transaction(study.database) as db:
        assert db.execute("SELECT count(*) FROM guesses WHERE guess != ''").fetchone()[0] == 10


def test_a_study_of_the_version_before_is_read_and_has_no_guesses(study, tmp_path):
    with sqlite3.connect(study.database) as db:
        db.execute("DROP TABLE guesses")
        db.execute("ALTER TABLE raters DROP COLUMN closed")
        db.execute("ALTER TABLE shown DROP COLUMN seconds")
        db.execute("DELETE FROM study WHERE name = 'models'")
        db.execute("PRAGMA user_version = 1")
    study.score_all("Dr Ito")
    assert "You can close this page" in study.browser.get(study.paths["Dr Ito"]).text
    ratings.run(RatingsConfig(study.settings.out, study.settings.out / "key.json", tmp_path / "ratings"))
    assert read_manifest(tmp_path / "ratings", "ratings")["guesses"] == []


def test_repeats_do_not_count_in_what_the_administrator_sees(study):
    """Seen again, an item takes a second and cannot be judged."""
    study.score_all("Dr Ito")
    with store.transaction(study.database, write=True) as db:
        db.execute("UPDATE items SET seconds = CASE kind WHEN 'repeat' THEN 1 ELSE 60 END")
        repeats = "item_id IN (SELECT id FROM items WHERE kind = 'repeat')"
        db.execute(f"UPDATE shown SET draft = ? WHERE {repeats}", (json.dumps({"cannot_judge": True}),))
        assert db.execute("SELECT count(*) FROM items WHERE kind = 'repeat'").fetchone()[0] > 0
    page = study.browser.get(study.paths["Administrator"]).text
    assert "<td>0 answers</td>\n<td>60</td>" in page
