"""The clinicians' page: who gets in, what is shown as text, what is saved and logged, what is refused."""

import csv
import io
import json
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from dataclasses import replace

import pytest
from starlette.testclient import TestClient

from asclepius_jax.evaluate.clinicians import store
from asclepius_jax.evaluate.clinicians.app import application
from asclepius_jax.evaluate.records import Rating
from data_prep.contract.errors import UserError
from tests.helpers.evaluation import made_study
from tests.helpers.evaluation.made_study import MODELS, SCRIPT, links

ORIGIN = {"Origin": "http://testserver"}
JSON = {"Accept": "application/json"}


class Study:
    """A study that was made, and a browser before it."""

    def __init__(self, settings, capsys):
        self.paths = links(capsys, settings)
        self.database = settings.out / store.DATABASE
        self.browser = TestClient(application(self.database), headers=ORIGIN, follow_redirects=False)

    def post(self, address: str, **form: str) -> dict:
        reply = self.browser.post(address, data=form, headers=JSON)
        return {"status": reply.status_code, **reply.json()}

    def log(self) -> list[dict[str, str]]:
        text = self.browser.get(self.paths["Administrator"] + "/log.csv").text
        return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture
def study(tmp_path, capsys) -> Study:
    return Study(made_study.config(tmp_path), capsys)


@pytest.fixture
def item(study) -> str:
    return study.paths["Dr Ito"] + "/item/1"


def positions_of(study: Study, rater: str, question: str) -> list[int]:
    with store.transaction(study.database) as db:
        rows = db.execute(
            "SELECT position FROM items JOIN raters ON raters.id = rater_id WHERE name = ? AND question_id = ? "
            "ORDER BY position",
            (rater, question),
        )
        return [row["position"] for row in rows]


# ---------------------------------------------------------------- access


def test_a_wrong_link_tells_nothing(study):
    token = study.paths["Dr Ito"].removeprefix("/r/")
    administrator = study.paths["Administrator"].removeprefix("/admin/")
    wrong = [
        study.browser.get(path)
        for path in (
            "/",
            "/nowhere",
            f"/r/{token[:-1]}",
            f"/r/{token}x/item/1",
            f"/r/{administrator}",
            f"/r/{token}/item/99",
            f"/r/{token}/item/-1",
            f"/admin/{token}",
            f"/admin/{token}/ratings.csv",
            f"/admin/{administrator}/key.csv",
            "/static/../app.py",
            "/static/%2e%2e/app.py",
            "/r/%00%ff",
        )
    ]
    assert {(reply.status_code, reply.text) for reply in wrong} == {(404, "Not found.")}
    assert study.browser.get(f"/r/{token}").status_code == 200


def test_no_page_of_a_rater_shows_what_another_said(study):
    for position in range(1, 7):
        study.post(f"{study.paths['Dr Ito']}/item/{position}/A", comment="seen by nobody else", omitted="minor")
    for path in ("", *(f"/item/{position}" for position in range(1, 7))):
        text = study.browser.get(study.paths["Dr Weiss"] + path).text
        assert "seen by nobody else" not in text
        assert "Dr Ito" not in text
        assert " checked>" not in text.replace('id="shortcuts" checked>', "")


def test_links_are_stored_as_hashes_only_and_no_file_of_the_server_names_a_model(study, item):
    study.post(item + "/A", incorrect="yes")
    stored = b"".join(path.read_bytes() for path in study.database.parent.glob("study.sqlite*"))
    assert b"Dr Ito" in stored
    for path in study.paths.values():
        assert path.rsplit("/", 1)[1].encode() not in stored
    for model in MODELS:
        assert model.encode() not in stored


def test_the_server_never_opens_the_key(study, item):
    (study.database.parent / "key.json").unlink()
    assert study.browser.get(item).status_code == 200
    assert study.post(item + "/A", omitted="nothing")["status"] == 200
    assert study.browser.get(study.paths["Administrator"] + "/ratings.csv").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://elsewhere.example"},
        {"Origin": "http://testserver.elsewhere.example"},
        {"Origin": "http://testserver", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://other.testserver", "Sec-Fetch-Site": "same-site"},
        {"Origin": ""},
    ],
)
def test_a_form_that_another_site_sends_is_refused(study, item, headers):
    reply = study.browser.post(item + "/A", data={"incorrect": "yes"}, headers=headers)
    assert reply.status_code == 403
    assert not study.log()


def test_a_form_without_script_may_come_with_the_origin_null_that_our_own_policy_causes(study, item):
    reply = study.browser.post(
        item + "/A", data={"incorrect": "yes"}, headers={"Origin": "null", "Sec-Fetch-Site": "same-origin"}
    )
    assert (reply.status_code, reply.headers["location"]) == (303, item + "#A")
    assert len(study.log()) == 1


def test_every_response_forbids_content_from_elsewhere_and_being_kept(study, item):
    for path in (item, study.paths["Administrator"], "/nowhere", "/static/page.js", "/static/page.css"):
        headers = study.browser.get(path).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == "'self'"
        assert policy["frame-ancestors"] == "'none'"
        assert headers.get_list("cache-control") == ["no-store"]
        assert headers["referrer-policy"] == "no-referrer"


# ---------------------------------------------------------------- what is shown


def test_markup_in_notes_instructions_answers_comments_and_names_is_text(tmp_path, capsys):
    study = Study(made_study.config(tmp_path, raters=(SCRIPT, "Dr Weiss")), capsys)
    with store.transaction(study.database) as db:
        position = db.execute("SELECT position FROM items WHERE rater_id = 1 AND question_id = 'q0'").fetchone()[0]
    start = study.paths[SCRIPT]
    item = f"{start}/item/{position}"
    study.post(f"{item}/A", comment="</textarea>" + SCRIPT)
    reply = study.post(f"{item}/A", quote=SCRIPT, type="fabrication", severity="major")
    pages = [study.browser.get(path).text for path in (start, item, study.paths["Administrator"])]
    for text in (*pages, reply["text"], reply["marks"]):
        assert "&lt;script&gt;" in text
        assert "<script>" not in text
        assert "<img" not in text


def test_the_note_keeps_its_layout_and_its_sentences_are_numbered(study):
    path = f"{study.paths['Dr Ito']}/item/{positions_of(study, 'Dr Ito', 'q1')[0]}"
    text = study.browser.get(path).text
    # As in prompts, a title has no number.
    assert 'DISCHARGE SUMMARY\n\n<span class="sentence" data-number="1">' in text
    assert '<span class="sentence" data-number="2">Dr. Adams found no ST elevation.</span>\n' in text
    assert "  <span" in text
    assert "- metoprolol   25 mg" in text


def test_pages_name_no_model_and_no_question(study):
    for path in ("", "/item/1", "/item/2"):
        text = study.browser.get(study.paths["Dr Ito"] + path).text
        for model in MODELS:
            assert model not in text


# ---------------------------------------------------------------- what is saved


def test_the_score_is_told_as_soon_as_nothing_can_change_it(study, item):
    told = [
        study.post(item + "/A", **form)
        for form in (
            {"omitted": "minor"},
            {"treatment": "answered"},
            {"incorrect": "no"},
            {"cannot_judge": "yes"},
            {"cannot_judge": "no"},
        )
    ]
    assert [(reply["score"], reply["complete"]) for reply in told] == [
        (None, False),
        (None, False),
        (3, True),
        (0, True),
        (3, True),
    ]
    assert told[2]["score_text"] == "satisfactory"
    other = [study.post(item + "/B", incorrect="yes"), study.post(item + "/B", treatment="rightly declined")]
    assert [(reply["score"], reply["complete"]) for reply in other] == [(1, False), (1, True)]
    assert other[1]["done"] == 1


def test_a_whole_form_without_script_saves_all_of_it(study, item):
    form = {"incorrect": "no", "omitted": "nothing", "treatment": "answered", "comment": "two\r\nlines"}
    reply = study.browser.post(item + "/A", data={**form, "cannot_judge": ["no", "yes"]})
    assert reply.status_code == 303
    study.browser.post(item + "/A", data={**form, "cannot_judge": "no", "omitted": "minor"})
    fields = [(entry["field"], entry["old"], entry["new"]) for entry in study.log()]
    assert fields == [
        ("incorrect", "null", "false"),
        ("omitted", "null", '"nothing"'),
        ("treatment", "null", '"answered"'),
        ("cannot_judge", "false", "true"),
        ("comment", '""', '"two\\nlines"'),
        ("omitted", '"nothing"', '"minor"'),
        ("cannot_judge", "true", "false"),
    ]
    page = study.browser.get(item).text
    assert "two\nlines</textarea>" in page


def test_a_span_is_marked_by_quote_or_place_and_taken_back(study, item):
    study.post(item + "/A", quote="warfarin", type="fabrication", severity="major")
    reply = study.post(item + "/A", place="0-4", type="context", severity="minor")
    assert '<mark class="minor">Text</mark>' in reply["text"]
    assert '<mark class="major">warfarin</mark>' in reply["text"]
    reply = study.post(item + "/A", unmark="0-4")
    assert '<mark class="minor">' not in reply["text"]
    spans = json.loads(study.log()[-1]["new"])
    assert [(span["type"], span["severity"]) for span in spans] == [("fabrication", "major")]


def test_the_log_cannot_be_changed(study, item):
    study.post(item + "/A", incorrect="yes")
    for statement in ("UPDATE log SET new = 'false'", "DELETE FROM log"):
        with sqlite3.connect(study.database) as db, pytest.raises(sqlite3.IntegrityError, match="only added to"):
            db.execute(statement)
    assert len(study.log()) == 1


# ---------------------------------------------------------------- the training round


@pytest.fixture
def trained(tmp_path, capsys) -> Study:
    reference = [
        Rating("consensus", f"q{n}", model, 2, incorrect=False, omitted="significant", comment="the dosage is left out")
        for n in range(6)
        for model in MODELS
    ]
    folder = made_study.write(tmp_path / "reference", "ratings", reference)
    return Study(replace(made_study.config(tmp_path), training_items=2, reference=folder), capsys)


def test_training_comes_first_gives_feedback_and_does_not_count(trained):
    start = trained.paths["Dr Ito"]
    assert trained.browser.get(start + "/item/3").headers["location"] == start
    assert trained.post(start + "/item/3/A", incorrect="no")["status"] == 400
    for position in (1, 2):
        for label in "AB":
            trained.post(f"{start}/item/{position}/{label}", incorrect="no", treatment="answered")
            assert "dosage" not in trained.browser.get(f"{start}/item/{position}").text.split(f'id="{label}"')[1]
            reply = trained.post(f"{start}/item/{position}/{label}", omitted="minor")
            assert "The reference disagrees" in reply["feedback"]
            assert "It says: Something significant." in reply["feedback"]
            assert "the dosage is left out" in reply["feedback"]
    agreed = trained.post(f"{start}/item/2/B", omitted="significant")["feedback"]
    assert "The reference agrees" in agreed
    assert trained.browser.get(start + "/item/3").status_code == 200
    reply = trained.post(start + "/item/3/A", incorrect="no", omitted="minor", treatment="answered")
    assert not reply["feedback"].strip()
    table = trained.browser.get(trained.paths["Administrator"] + "/ratings.csv").text
    counted = list(csv.DictReader(io.StringIO(table)))
    assert len(counted) == 2 * 4 * 2
    assert [row["score"] for row in counted if row["score"]] == ["3"]


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ({"incorrect": "5"}, "incorrect '5': must be one of no, yes"),
        ({"omitted": "some"}, "omitted 'some'"),
        ({"treatment": "ignored"}, "treatment 'ignored'"),
        ({"quote": "penicillin", "type": "cause", "severity": "major"}, "not in the answer"),
        ({"quote": "warfarin", "type": "lie", "severity": "major"}, "type 'lie'"),
        ({"quote": "warfarin", "type": "cause"}, "severity ''"),
        ({"place": "4-4", "type": "cause", "severity": "major"}, "place 4-4"),
        ({"place": "0-9999", "type": "cause", "severity": "major"}, "place 0-9999"),
        ({"place": "٣-4", "type": "cause", "severity": "major"}, "START-END"),
        ({"place": "3-٤", "type": "cause", "severity": "major"}, "START-END"),
        ({"comment": "x" * 4001}, "4,001 characters"),
        ({"comment": "x" * 70000}, "at most 65536 bytes"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_saved(study, item, form, told):
    reply = study.post(item + "/A", **{"omitted": "minor", **form})
    assert reply["status"] in (400, 413)
    assert told in reply["error"]
    assert not study.log()


def test_an_answer_that_was_not_shown_is_not_there(study, item):
    for label in ("C", "a", "AA", "%3Cscript%3E"):
        assert study.post(f"{item}/{label}", incorrect="yes")["status"] == 404


def test_a_locked_database_is_said_in_one_line_and_nothing_is_lost(study, item, monkeypatch):
    monkeypatch.setattr(store, "BUSY_SECONDS", 0.05)
    other = sqlite3.connect(study.database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    reply = study.post(item + "/A", incorrect="yes")
    assert reply["status"] == 503
    assert "in use by another program. Nothing was saved" in reply["error"]
    page = study.browser.post(item + "/A", data={"incorrect": "yes"})
    assert (page.status_code, "<h1>The study is in use" in page.text) == (503, True)
    other.execute("ROLLBACK")
    other.close()
    assert study.post(item + "/A", incorrect="yes")["score"] == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "does not exist"), (b"", "has version 0"), (b"not a database, " * 99, "is not a study")],
)
def test_what_is_no_study_is_refused_before_anything_is_served(tmp_path, content, told):
    from asclepius_jax.evaluate.clinicians import serve

    if content is not None:
        (tmp_path / store.DATABASE).write_bytes(content)
    with pytest.raises(UserError, match=told):
        serve.run(serve.ServeConfig(tmp_path))


def test_a_port_that_is_taken_is_refused(study):
    import socket

    from asclepius_jax.evaluate.clinicians import serve

    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="choose another --port"):
        serve.run(serve.ServeConfig(study.database.parent, port=taken.getsockname()[1]))
    with pytest.raises(UserError, match="must be between 0 and 65535"):
        serve.run(serve.ServeConfig(study.database.parent, port=70000))


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("::1", False), ("0.0.0.0", True)])
def test_an_address_that_others_can_reach_draws_a_warning(study, monkeypatch, capsys, host, warned):
    from asclepius_jax.evaluate.clinicians import serve

    monkeypatch.setattr(serve.uvicorn.Server, "run", lambda *_, **__: None)
    serve.run(serve.ServeConfig(study.database.parent, host=host, port=0))
    told = capsys.readouterr().out
    assert ("Warning" in told, "can be reached from other machines" in told) == (warned, warned)
    assert serve.ServeConfig(study.database.parent).host == "127.0.0.1"


def test_ending_the_server_is_no_error(study):
    command = [sys.executable, "-c", "from asclepius_jax.cli import main; main()", "evaluate", "serve", "--port", "0"]
    command += ["--study", str(study.database.parent)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.stdout
    address = server.stdout.readline().split(" on ")[1].split(";")[0]
    urllib.request.urlopen(address + study.paths["Dr Ito"]).close()  # from now on Ctrl-C is its own to handle
    server.send_signal(signal.SIGINT)
    assert (server.communicate(timeout=60), server.returncode) == (("", ""), 0)


def test_notes_never_reach_the_log_of_the_server(study, item, caplog):
    caplog.set_level("DEBUG")
    study.browser.get(item)
    study.post(item + "/A", quote="penicillin", type="cause", severity="major")
    assert "metoprolol" not in caplog.text
