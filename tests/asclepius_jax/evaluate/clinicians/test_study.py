"""Setting up a study, un-blinding it, and scoring on paper."""

import csv
import itertools
import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from asclepius_jax.evaluate.clinicians import paper, ratings, store, study
from asclepius_jax.evaluate.clinicians.sentences import numbered
from asclepius_jax.evaluate.clinicians.verdicts import Draft, Span, changed, pieces
from asclepius_jax.evaluate.records import Answer, Rating, read_records
from data_prep.contract.errors import UserError
from data_prep.contract.prompt.cited_sentences import numbered_sentences
from tests.helpers.evaluation import made_study
from tests.helpers.evaluation.made_study import MODELS, answer_text, links


def items(folder: Path, rater: str) -> list[store.Item]:
    with store.transaction(folder / store.DATABASE) as db:
        row = db.execute("SELECT id FROM raters WHERE name = ?", (rater,)).fetchone()
        return store.items_of(db, row["id"])


@pytest.fixture
def settings(tmp_path):
    return made_study.config(tmp_path, count=20)


# ---------------------------------------------------------------- who sees what


def test_the_order_of_items_and_labels_differs_between_raters(settings):
    study.run(settings)
    first, second = items(settings.out, "Dr Ito"), items(settings.out, "Dr Weiss")
    assert [item.question_id for item in first] != [item.question_id for item in second]
    assert sorted(item.question_id for item in first if item.kind == "scored") == sorted(f"q{n}" for n in range(20))
    for own in (first, second):
        labelled_a = [MODELS.index(model_of(item.question_id, item.answers[0].text)) for item in own]
        assert 0 < sum(labelled_a) < len(labelled_a)
        for item in own:
            assert [answer.label for answer in item.answers] == ["A", "B"]
    others = {item.question_id: item for item in second if item.kind == "scored"}
    same = [item.answers[0].text == others[item.question_id].answers[0].text for item in first if item.kind == "scored"]
    assert 0 < sum(same) < len(same)


def model_of(question: str, text: str) -> str:
    (model,) = [model for model in MODELS if answer_text(question, model) == text]
    return model


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("repeats", [0.0, 0.1, 0.5])
def test_repeated_items_come_once_more_and_never_next_to_one_another(tmp_path, count, repeats):
    settings = replace(made_study.config(tmp_path, count), repeats=repeats)
    for seed in range(30):
        order = list(study.order_of(replace(settings, seed=seed), "Dr Ito", [f"q{n}" for n in range(count)]))
        names = [name for name, _ in order]
        again = [name for name, kind in order if kind == "repeat"]
        assert sorted(name for name, kind in order if kind == "scored") == sorted(f"q{n}" for n in range(count))
        assert len(again) == len(set(again)) == min(round(repeats * count), count // 2)
        assert all(before != after for before, after in itertools.pairwise(names))
        for name in again:
            assert order.index((name, "scored")) < order.index((name, "repeat"))


def test_the_same_seed_gives_the_same_order_of_items_and_another_seed_another(tmp_path, settings):
    def order(name: str, seed: int) -> list[str]:
        own = replace(settings, out=tmp_path / name, seed=seed, items=8, training_items=2)
        study.run(own)
        return [f"{item.kind} {item.question_id}" for item in items(own.out, "Dr Ito")]

    assert order("one", 1) == order("again", 1) != order("two", 2)
    assert [line.split()[0] for line in order("three", 3)][:3] == ["training", "training", "scored"]


def test_neither_the_database_nor_its_ids_tell_a_model_and_the_key_does(settings):
    study.run(settings)
    assert {path.name for path in settings.out.iterdir()} <= {
        "study.sqlite",
        "study.sqlite-wal",
        "study.sqlite-shm",
        "key.json",
    }
    for path in settings.out.glob("study.sqlite*"):
        assert not any(model.encode() in path.read_bytes() for model in MODELS)
    key = json.loads((settings.out / "key.json").read_text())
    for item in items(settings.out, "Dr Ito"):
        for answer in item.answers:
            assert key["answers"][answer.answer_id]["model"] == model_of(item.question_id, answer.text)
    # Sorted by id, as the database holds them, one model's answers are mixed with the other's.
    models = [entry["model"] for _, entry in sorted(key["answers"].items())]
    assert len({tuple(models[:20]), tuple(models[20:])}) == 2
    assert set(models[:20]) == set(MODELS)
    assert (settings.out / "key.json").stat().st_mode & 0o77 == 0
    assert (settings.out / "study.sqlite").stat().st_mode & 0o77 == 0


def test_an_answer_that_is_an_error_message_is_not_shown(tmp_path, settings, capsys):
    broken = [replace(a, finish_reason="error") if a.question_id == "q3" else a for a in made_study.answers(20)]
    broken = [
        replace(a, finish_reason="too_long") if a.question_id == "q4" and a.model == MODELS[0] else a for a in broken
    ]
    study.run(replace(settings, answers=(made_study.write(tmp_path / "broken", "answers", broken),)))
    assert "Skipped 3 answers that ended in a model error" in capsys.readouterr().out
    shown = {item.question_id: len(item.answers) for item in items(settings.out, "Dr Ito")}
    assert "q3" not in shown
    assert (shown["q4"], shown["q5"]) == (1, 2)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"repeats": 0.7}, "--repeats 0.7"),
        ({"items": -1}, "--items -1"),
        ({"items": 21}, "20 questions are left"),
        ({"training_items": 21}, "only 20 questions have answers"),
        ({"training_items": 20}, "0 questions are left"),
        ({"raters": ("Dr Ito", "Dr Ito")}, "names must be unique"),
        ({"raters": ("Dr Ito", "Administrator")}, "Administrator: this name is reserved"),
        ({"raters": ("Dr Ito", " ")}, "give each rater a name"),
        ({"answers": ()}, "contains no answers"),
    ],
)
def test_what_cannot_be_set_up_is_refused_and_leaves_nothing(tmp_path, settings, change, told):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=told):
        study.run(replace(settings, **change))
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ([Answer("q99", MODELS[0], "text", "stop")], "answers q99, which is not in"),
        ([Answer("q1", MODELS[0], "text", "stop")], "zebrafish-7b answers q1 twice"),
        ([Answer("q1", "third", "text", "stop")], "third does not answer q0"),
    ],
)
def test_answers_that_do_not_fit_the_questions_are_refused(tmp_path, settings, wrong, told):
    more = made_study.write(tmp_path / "wrong", "answers", wrong)
    with pytest.raises(UserError, match=told):
        study.run(replace(settings, answers=(*settings.answers, more)))
    assert not settings.out.exists()


def test_a_study_is_never_replaced(settings):
    study.run(settings)
    with pytest.raises(UserError, match="may contain ratings"):
        study.run(settings)


def test_a_reference_with_two_verdicts_on_one_answer_is_refused(tmp_path, settings):
    two = [Rating(rater, "q1", MODELS[0], 4, omitted="nothing") for rater in ("one", "two")]
    folder = made_study.write(tmp_path / "reference", "ratings", two)
    with pytest.raises(UserError, match="two verdicts on q1 by zebrafish-7b"):
        study.run(replace(settings, reference=folder, training_items=1))


# ---------------------------------------------------------------- notes and spans


@pytest.mark.parametrize(
    "text",
    [
        made_study.NOTE,
        "One.\r\n\r\n  Two\u200b\tthree.\u00a0Four!\u200b Five?",
        "no end",
        "\n\n",
        "",
        "Wrapped\nline here. The 1. January\n\n1. item\n2. item",
        "He was well.The patient left.",
    ],
)
def test_numbered_sentences_hold_the_text_exactly(text):
    assert "".join(part for _, part in numbered(text)) == text
    found = [(number, part) for number, part in numbered(text) if number]
    assert found == [(sentence.number, sentence.text) for sentence in numbered_sentences(text)]


def test_real_notes_keep_their_layout(request):
    from tests.helpers.places import shared

    lines = shared("data/mtsamples.jsonl").read_text(encoding="utf-8").splitlines()[::50]
    notes = [json.loads(line)["text"] for line in lines]
    assert len(notes) > 20
    for text in notes:
        assert "".join(part for _, part in numbered(text)) == text


def test_overlapping_spans_cut_the_answer_into_pieces_that_join_to_it():
    answer = "0123456789"
    spans = (Span(1, 6, "cause", "minor"), Span(4, 8, "context", "major"))
    found = pieces(answer, spans)
    assert [(piece, len(covering)) for piece, covering in found] == [
        ([("0", 0)], 0),
        ([("123", 0)], 1),
        ([("45", 0)], 2),
        ([("67", 0)], 1),
        ([("89", 0)], 0),
    ]
    assert pieces(answer, spans, [(7, 2, 3), (12, 5, 7)])[1:4] == [
        ([("1", 0), ("2", 7), ("3", 0)], spans[:1]),
        ([("4", 0), ("5", 12)], spans),
        ([("6", 12), ("7", 0)], spans[1:]),
    ]


def test_marking_the_same_words_again_replaces_the_mark():
    draft = changed(Draft(), "a b", {"quote": "b", "type": "cause", "severity": "minor"})
    draft = changed(draft, "a b", {"place": "2-3", "type": "context", "severity": "major"})
    assert draft.spans == (Span(2, 3, "context", "major"),)


# ---------------------------------------------------------------- un-blinding


@pytest.fixture
def filled(tmp_path, settings, capsys):
    """A study whose forms came back: every answer of Dr Ito's, by the model that wrote it."""
    links(capsys, settings)
    rows = []
    for item in items(settings.out, "Dr Ito"):
        for answer in item.answers:
            good = model_of(item.question_id, answer.text) == MODELS[1]
            verdict = ["no", "minor", "answered", "3"] if good else ["yes", "significant", "answered", ""]
            rows.append(["Dr Ito", item.position, answer.label, *verdict, "=HYPERLINK(1)"])
    write_csv(tmp_path / "forms.csv", rows)
    paper.run(paper.PaperConfig(settings.out, back_in=tmp_path / "forms.csv"))
    return settings


HEADING = ["rater", "item", "answer", "incorrect", "omitted", "treatment", "score", "comment"]


def write_csv(path: Path, rows: list[list], heading: list[str] = HEADING) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([heading, *rows])
    return path


def test_the_key_gives_each_model_its_own_scores(tmp_path, filled):
    out = tmp_path / "ratings"
    ratings.run(ratings.RatingsConfig(filled.out, filled.out / "key.json", out))
    found = list(read_records(out, "ratings", Rating))
    assert len(found) == 2 * 22
    assert {(rating.model, rating.score, rating.incorrect) for rating in found} == {
        (MODELS[0], 1, True),
        (MODELS[1], 3, False),
    }
    assert sum(rating.repeat for rating in found) == 4
    assert {rating.comment for rating in found} == {"=HYPERLINK(1)"}
    with (out / "ratings.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert {row["comment"] for row in table} == {"'=HYPERLINK(1)"}  # in a spreadsheet: text, not a formula
    assert [int(row["score"]) for row in table] == [rating.score for rating in found]
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["not_scored"], manifest["restricted"]) == (44, False)
    # A study on real notes passes their restriction on with its key.
    key = json.loads((filled.out / "key.json").read_text())
    (tmp_path / "key.json").write_text(json.dumps({**key, "restricted": True}))
    ratings.run(ratings.RatingsConfig(filled.out, tmp_path / "key.json", tmp_path / "restricted"))
    assert json.loads((tmp_path / "restricted/manifest.json").read_text())["restricted"]
    assert key["restricted"] is False


def test_the_key_of_another_study_is_refused_and_nothing_is_written(tmp_path, filled):
    other = replace(filled, out=tmp_path / "other")
    study.run(other)
    (tmp_path / "text.json").write_text("[]")
    cases = [
        (other.out / "key.json", "the key of another study"),
        (tmp_path / "text.json", "is not a key file"),
        (filled.out / "study.sqlite", "is not a key file"),
    ]
    for key, told in cases:
        with pytest.raises(UserError, match=told):
            ratings.run(ratings.RatingsConfig(filled.out, key, tmp_path / "ratings"))
    with pytest.raises(UserError, match="nobody has scored"):
        ratings.run(ratings.RatingsConfig(other.out, other.out / "key.json", tmp_path / "ratings"))
    assert not (tmp_path / "ratings").exists()


# ---------------------------------------------------------------- paper


def test_forms_to_print_hold_every_open_item_as_text(tmp_path, settings):
    study.run(settings)
    paper.run(paper.PaperConfig(settings.out, out=tmp_path / "forms.html"))
    text = (tmp_path / "forms.html").read_text(encoding="utf-8")
    assert text.count("<h3>Instruction</h3>") == 2 * 22
    assert text.count("I cannot judge") == 2 * 22 * 2
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert not any(model in text for model in MODELS)


def test_the_table_to_fill_in_lists_every_open_answer_and_empty_rows_mean_nothing(tmp_path, filled):
    paper.run(paper.PaperConfig(filled.out, out=tmp_path / "open.csv"))
    with (tmp_path / "open.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["rater"] for row in rows} == {"Dr Weiss"}
    assert (list(rows[0]), len(rows)) == (HEADING, 44)
    with pytest.raises(UserError, match="no row is filled in"):
        paper.run(paper.PaperConfig(filled.out, back_in=tmp_path / "open.csv"))


GOOD = ["Dr Weiss", 1, "A", "no", "minor", "answered", "", ""]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (["Dr Weiss", 1, "B", "no", "minor", "answered", "5", ""], "row 3: score '5' is off the scale"),
        (["Dr Weiss", 1, "B", "no", "minor", "answered", "-1", ""], "row 3: score '-1' is off the scale"),
        (
            ["Dr Weiss", 1, "B", "no", "minor", "answered", "4", ""],
            "row 3: score 4, but the three answers give 3 satisfactory",
        ),
        (["Dr Weiss", 1, "B", "no", "minor", "", "", ""], "row 3: give incorrect, omitted and treatment"),
        (["Dr Weiss", 1, "B", "maybe", "minor", "answered", "", ""], "row 3: incorrect 'maybe'"),
        (["Dr Weiss", 99, "B", "no", "minor", "answered", "", ""], "row 3: no answer B in item 99"),
        (["Dr Weiss", "one", "B", "no", "minor", "answered", "", ""], "row 3: item 'one' is not a number"),
        (["Dr Weiss", 1, "C", "no", "minor", "answered", "", ""], "row 3: no answer C in item 1"),
        (["Dr Who", 1, "B", "no", "minor", "answered", "", ""], "row 3: no answer B in item 1 of 'Dr Who'"),
        (["Dr Weiss", 1, "a", "no", "minor", "answered", "", ""], "row 3: duplicate verdict on the answer of row 2"),
        (["Dr Ito", 1, "A", "no", "minor", "answered", "", ""], "row 3: answer A of item 1 is already scored"),
        (["Dr Weiss", 1, "B", "no"], "row 3: the number of cells differs from the heading"),
    ],
)
def test_one_wrong_row_is_named_and_nothing_of_the_table_is_entered(tmp_path, filled, row, told):
    write_csv(tmp_path / "more.csv", [GOOD, row])
    with pytest.raises(UserError, match=told):
        paper.run(paper.PaperConfig(filled.out, back_in=tmp_path / "more.csv"))
    assert all(answer.draft == Draft() for item in items(filled.out, "Dr Weiss") for answer in item.answers)


def test_a_table_that_lacks_columns_or_is_no_text_is_refused(tmp_path, filled):
    write_csv(tmp_path / "short.csv", [["Dr Weiss", 1]], ["rater", "item"])
    with pytest.raises(UserError, match="lacks the column answer, incorrect, omitted, treatment"):
        paper.run(paper.PaperConfig(filled.out, back_in=tmp_path / "short.csv"))
    (tmp_path / "latin.csv").write_bytes("rater,item\nDr Müller,1".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        paper.run(paper.PaperConfig(filled.out, back_in=tmp_path / "latin.csv"))
    with pytest.raises(UserError, match="give one of"):
        paper.run(paper.PaperConfig(filled.out))
    with pytest.raises(UserError, match="must end in"):
        paper.run(paper.PaperConfig(filled.out, out=tmp_path / "forms.pdf"))


def test_a_table_from_a_spreadsheet_with_semicolons_is_read(tmp_path, filled):
    text = "\ufeffRater;item;answer;incorrect;omitted;treatment\r\nDr Weiss;1;b;NO;Minor;Answered\r\n"
    (tmp_path / "excel.csv").write_text(text.replace("Rater", "rater"), encoding="utf-8", newline="")
    paper.run(paper.PaperConfig(filled.out, back_in=tmp_path / "excel.csv"))
    assert items(filled.out, "Dr Weiss")[0].answers[1].draft == Draft(False, "minor", "answered")


def test_scores_on_paper_are_logged_as_such(filled):
    with store.transaction(filled.out / store.DATABASE) as db:
        origins = {row["origin"] for row in db.execute("SELECT DISTINCT origin FROM log")}
    assert origins == {"paper"}


def test_a_locked_study_is_said_in_one_line(tmp_path, filled, monkeypatch):
    monkeypatch.setattr(store, "BUSY_SECONDS", 0.05)
    write_csv(tmp_path / "more.csv", [GOOD])
    other = sqlite3.connect(filled.out / store.DATABASE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(UserError, match=r"study.sqlite is locked by another program: nothing was saved"):
        paper.run(paper.PaperConfig(filled.out, back_in=tmp_path / "more.csv"))
    other.close()
    paper.run(paper.PaperConfig(filled.out, back_in=tmp_path / "more.csv"))


def test_the_command_line_reaches_every_part(tmp_path, settings, monkeypatch, capsys):
    from asclepius_jax import cli

    def ask(*arguments: object) -> str:
        monkeypatch.setattr("sys.argv", ["asclepius", "evaluate", *map(str, arguments)])
        cli.main()
        return capsys.readouterr().out

    (answers,) = settings.answers
    folders = ("--questions", settings.questions, "--answers", answers, "--out", settings.out)
    told = ask("study", *folders, "--raters", "Dr Ito", "Dr Weiss", "--url", "https://study.example/")
    assert told.count("https://study.example/r/") == 2
    assert told.count("https://study.example/admin/") == 1
    write_csv(tmp_path / "forms.csv", [["Dr Ito", 1, "A", "", "", "", "0", ""]])
    assert "1 answers entered" in ask("paper", "--study", settings.out, "--back-in", tmp_path / "forms.csv")
    key = ("--key", settings.out / "key.json")
    assert "1 ratings in" in ask("ratings", "--study", settings.out, *key, "--out", tmp_path / "ratings")
    (rating,) = read_records(tmp_path / "ratings", "ratings", Rating)
    assert (rating.score, rating.omitted) == (0, "")
