"""Answers of models to pairs: which is better, and which answers are left out."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from asclepius_jax.evaluate.records import Answer, Question
from data_prep.contract.errors import UserError
from data_prep.contract.manifests import read_manifest, writing_folder
from data_prep.contract.records import Pair, Reject, read_parquet, text_hash
from data_prep.curate.pairs.pairs import PairsConfig, run
from tests.helpers.text_stages import folder_content

NOTE = "She was given aspirin 100 mg daily for 7 days. The left lung was clear. She had no fever."
RIGHT, WRONG, WORSE = "Aspirin 100 mg daily.", "Aspirin 500 mg daily.", "Aspirin 500 mg daily for 3 weeks, with fever."


def write_questions(
    folder: Path, names: tuple[str, ...] = ("a", "b", "c"), restricted: bool = False, reference: str = ""
) -> Path:
    questions = [
        Question(name, f"note {name}", "Question Answering", f"{NOTE} Visit {name}.", "Which dose?", reference,
                 source="made", restricted=restricted, report_id=name)
        for name in names
    ]  # fmt: skip
    with writing_folder(folder, "questions", {}) as writer:
        writer.add_shard(questions, Question)
    return folder


def write_answers(folder: Path, questions: Path, model: str, texts: Mapping[str, str], reason: str = "stop") -> Path:
    content = text_hash(*(file["sha256"] for file in read_manifest(questions, "questions")["files"]))
    with writing_folder(folder / model, "answers", {str(questions): content}) as writer:
        writer.add_shard([Answer(name, model, text, reason, seed=7) for name, text in texts.items()], Answer)
    return folder


def pairs_in(out: Path) -> tuple[list[Pair], list[Reject], dict]:
    found = [pair for path in sorted(out.glob("pairs-*.parquet")) for pair in read_parquet(path, Pair)]
    return found, list(read_parquet(out / "rejected.parquet", Reject)), json.loads((out / "manifest.json").read_text())


def test_the_certificates_say_which_answer_is_better(tmp_path: Path):
    questions = write_questions(tmp_path / "questions")
    write_answers(tmp_path / "answers", questions, "one", {"a": WRONG, "b": RIGHT, "c": WORSE})
    write_answers(tmp_path / "answers", questions, "two", {"a": RIGHT, "b": RIGHT + " ", "c": WRONG})
    run(PairsConfig(tmp_path / "pairs", answers=(tmp_path / "answers",), workers=1))
    found, rejects, manifest = pairs_in(tmp_path / "pairs")
    assert [(pair.id, pair.chosen, pair.rejected) for pair in found] == [("a 0", RIGHT, WRONG), ("c 0", WRONG, WORSE)]
    for pair in found:
        assert pair.chosen_certificate.unsupported < pair.rejected_certificate.unsupported
        assert (pair.error, pair.change, pair.flagged, pair.weight) == ("", "", True, 1.0)
        assert pair.note.startswith(NOTE)
    assert [found[0].chosen_generation.model, found[0].rejected_generation.model] == ["two", "one"]
    assert found[0].chosen_generation.seed == 7
    assert [(reject.id, reject.reason) for reject in rejects] == [("b", "too_few_answers")]
    assert (manifest["in"], manifest["out"], manifest["errors"], manifest["blind_spots"]) == (3, 2, {}, {})


def test_equal_counts_make_no_pair(tmp_path: Path):
    questions = write_questions(tmp_path / "questions", ("a",))
    write_answers(tmp_path / "answers", questions, "one", {"a": RIGHT})
    write_answers(tmp_path / "answers", questions, "two", {"a": "She was given aspirin 100 mg."})
    run(PairsConfig(tmp_path / "pairs", answers=(tmp_path / "answers",), workers=1))
    found, rejects, _ = pairs_in(tmp_path / "pairs")
    assert not found
    assert [reject.reason for reject in rejects] == ["equal"]


def paired(tmp_path: Path, one: str, two: str, reference: str = "") -> tuple[list[Pair], list[Reject], dict]:
    questions = write_questions(tmp_path / "questions", ("a",), reference=reference)
    write_answers(tmp_path / "answers", questions, "one", {"a": one})
    write_answers(tmp_path / "answers", questions, "two", {"a": two})
    run(PairsConfig(tmp_path / "pairs", answers=(tmp_path / "answers",), workers=1))
    return pairs_in(tmp_path / "pairs")


@pytest.mark.parametrize("shorter", ["The note was read.", RIGHT, f"{RIGHT} {RIGHT} {RIGHT}"])
def test_an_answer_that_states_less_of_the_note_is_not_better(tmp_path: Path, shorter: str):
    found, rejects, _ = paired(tmp_path, shorter, f"{RIGHT} The left lung was clear. She was given ibuprofen.")
    assert not found
    assert [reject.reason for reject in rejects] == ["says_less"]


CITED = "She was given aspirin 100 mg daily for 7 days [1]."


@pytest.mark.parametrize(
    "worse",
    [
        "She was given aspirin 100 mg daily for 7 days [2].",  # a sentence that does not support it
        "She was given aspirin 100 mg daily for 7 days [1, 3].",  # one that it does not need
        "She was given aspirin 100 mg daily for 7 days.",
        "She was given aspirin 100 mg daily for 7 days [9].",
    ],
)
def test_of_equal_answers_the_one_with_right_citations_is_better(tmp_path: Path, worse: str):
    found, _, manifest = paired(tmp_path / "cited", worse, CITED, reference=CITED)
    assert [(pair.chosen, pair.rejected, pair.cites, pair.flagged) for pair in found] == [(CITED, worse, True, False)]
    assert (manifest["cites"], manifest["flagged"], manifest["blind_spots"]) == (True, 0, {})
    assert not paired(tmp_path / "plain", worse, CITED)[0], "without citations to learn from, markers are not compared"


def test_better_citations_do_not_outweigh_an_unsupported_statement(tmp_path: Path):
    uncited = "She was given aspirin 100 mg daily for 7 days. The left lung was clear. She had no fever."
    found, rejects, _ = paired(tmp_path, f"{CITED} She was given ibuprofen [2].", uncited, reference=CITED)
    assert not found
    assert [reject.reason for reject in rejects] == ["equal"]


@pytest.mark.parametrize("reason", ["length", "unfinished", "error", "refusal"])
def test_unfinished_answers_are_left_out(tmp_path: Path, reason: str):
    questions = write_questions(tmp_path / "questions", ("a",))
    write_answers(tmp_path / "answers", questions, "one", {"a": RIGHT})
    write_answers(tmp_path / "answers", questions, "two", {"a": WRONG}, reason)
    run(PairsConfig(tmp_path / "pairs", answers=(tmp_path / "answers",), workers=1))
    assert [reject.reason for reject in pairs_in(tmp_path / "pairs")[1]] == ["too_few_answers"]


def test_answers_of_near_length_come_first_and_each_once(tmp_path: Path):
    questions = write_questions(tmp_path / "questions", ("a",))
    for model, text in {
        "one": RIGHT,
        "two": WRONG,
        "three": WORSE,
        "four": f"{RIGHT} The left lung was clear.",
    }.items():
        write_answers(tmp_path / "answers", questions, model, {"a": text})
    for most, expected in ((1, [(RIGHT, WRONG)]), (5, [(RIGHT, WRONG), (f"{RIGHT} The left lung was clear.", WORSE)])):
        run(PairsConfig(tmp_path / "pairs", answers=(tmp_path / "answers",), per_example=most, workers=1))
        found, _, manifest = pairs_in(tmp_path / "pairs")
        assert [(pair.chosen, pair.rejected) for pair in found] == expected
        assert manifest["median_length_difference"] <= 2


def test_the_number_of_workers_changes_no_byte(tmp_path: Path):
    questions = write_questions(tmp_path / "questions", tuple("abcdefgh"))
    write_answers(tmp_path / "answers", questions, "one", dict.fromkeys("abcdefgh", RIGHT))
    write_answers(tmp_path / "answers", questions, "two", dict.fromkeys("abcdefgh", WRONG))
    for workers in (1, 2):
        out = tmp_path / f"{workers}"
        run(PairsConfig(out, answers=(tmp_path / "answers",), shard_records=3, workers=workers))
    assert folder_content(tmp_path / "1") == folder_content(tmp_path / "2")


def test_restricted_notes_stay_restricted(tmp_path: Path):
    questions = write_questions(tmp_path / "questions", ("a",), restricted=True)
    write_answers(tmp_path / "answers", questions, "one", {"a": RIGHT})
    write_answers(tmp_path / "answers", questions, "two", {"a": WRONG})
    run(PairsConfig(tmp_path / "pairs", answers=(tmp_path / "answers",), workers=1))
    (pair,), _, manifest = pairs_in(tmp_path / "pairs")
    assert pair.restricted
    assert manifest["restricted"]


def test_answers_to_other_questions_are_refused(tmp_path: Path):
    questions = write_questions(tmp_path / "questions")
    other = write_questions(tmp_path / "other", ("d",))
    answers = write_answers(tmp_path / "answers", questions, "one", {"a": RIGHT})
    with pytest.raises(UserError, match="does not answer the questions of"):
        run(PairsConfig(tmp_path / "pairs", answers=(answers,), questions=other))
    (tmp_path / "questions/manifest.json").unlink()
    with pytest.raises(UserError, match="its questions are no longer where they were: name them with --questions"):
        run(PairsConfig(tmp_path / "pairs", answers=(answers,)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no finished folder of answers in it"):
        run(PairsConfig(tmp_path / "pairs", answers=(tmp_path / "empty",)))
    assert not (tmp_path / "pairs").exists()
