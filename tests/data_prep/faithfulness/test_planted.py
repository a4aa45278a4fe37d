"""The gate on faithful notes with one planted error each, and on the same notes untouched and reworded."""

import json
from pathlib import Path
from random import Random

import pytest

from data_prep.faithfulness.certificate import check
from data_prep.synthesize.planted.meaning import MEANING
from data_prep.synthesize.planted.mutations import CLASSES, is_true_elsewhere
from data_prep.teachers.offline.note import write_note
from tests.helpers.places import shared
from tests.helpers.planted import LEAST_RECALL, LEAST_RECALL_OF_MEANING, in_other_words, reworded

Pair = tuple[str, str]  # report, note


def pairs(count: int) -> list[Pair]:
    """Reports from all over the collection, with the offline teacher's discharge summaries."""
    lines = shared("data/case_reports.jsonl").read_text(encoding="utf-8").splitlines()
    reports = [json.loads(line)["text"] for line in lines]
    return [(report, write_note(report)) for report in reports[:: len(reports) // count][:count]]


@pytest.fixture(scope="module")
def few() -> list[Pair]:
    return pairs(60)


@pytest.fixture(scope="module")
def many() -> list[Pair]:
    return pairs(700)


def recall(notes: list[Pair], name: str) -> tuple[int, int]:
    """Of the planted errors of a class: flagged, and all."""
    plant = CLASSES[name]
    flagged = planted_errors = 0
    for number, (report, note) in enumerate(notes):
        planted = plant(note, Random(f"{name} {number}"))
        if planted is None or (name in ("drug swapped", "finding invented") and is_true_elsewhere(planted, report)):
            continue
        planted_errors += 1
        found = check(planted.text, report)
        flagged += any(not f.supported and f.start < planted.end and planted.start < f.end for f in found)
    return flagged, planted_errors


def false_alarms(notes: list[Pair]) -> float:
    found = [f for report, note in notes for f in check(note, report)]
    assert len(found) > 20 * len(notes), "there was hardly anything to check"
    return sum(not f.supported for f in found) / len(found)


def test_nothing_in_a_note_of_the_offline_teacher_is_unsupported(few):
    for report, note in few:
        assert not [f for f in check(note, report) if not f.supported]


def test_a_reworded_note_is_no_less_faithful(few):
    assert false_alarms([(report, reworded(note, Random(k))) for k, (report, note) in enumerate(few)]) <= 0.01


def test_a_note_of_another_patient_is_unfaithful(few):
    reports, notes = zip(*few, strict=True)
    assert false_alarms(list(zip(reports[1:], notes, strict=False))) > 0.5


def test_planted_errors_are_found(few):
    """All classes together: sixty notes say little of each."""
    found = [recall(few, name) for name in CLASSES]
    flagged, planted = map(sum, zip(*found, strict=True))
    assert planted > 300
    assert flagged >= 0.9 * planted


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES)
def test_planted_errors_of_each_class_are_found(many, name):
    flagged, planted = recall(many, name)
    assert planted > 60
    assert flagged >= LEAST_RECALL[name] * planted


@pytest.mark.slow
def test_false_alarms_are_rare_at_length(many):
    assert false_alarms(many) == 0
    assert false_alarms([(report, reworded(note, Random(k))) for k, (report, note) in enumerate(many)]) <= 0.01


# ---------------------------------------------------------------- statements about more than single facts

STATEMENTS = Path(__file__).resolve().parents[3] / "benchmarks" / "statements.jsonl"


@pytest.fixture(scope="module")
def reports() -> dict[str, str]:
    lines = shared("data/case_reports.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["id"]: row["text"] for row in map(json.loads, lines)}


def statements(name: str) -> list[dict[str, str]]:
    rows = map(json.loads, STATEMENTS.read_text(encoding="utf-8").splitlines())
    return [row for row in rows if row["set"] == name]


def is_flagged(text: str, source: str) -> bool:
    return any(not f.supported for f in check(text, source))


def test_statements_are_of_known_reports_and_differ(reports):
    for name, least in (("develop", 80), ("hold", 160)):
        rows = statements(name)
        assert len(rows) >= least
        assert len({row["kind"] for row in rows}) >= 25
        for row in rows:
            assert row["report"] in reports
            assert row["faithful"] != row["wrong"]
            assert row["faithful"].lower() not in reports[row["report"]].lower()


@pytest.mark.slow
@pytest.mark.parametrize("name", MEANING)
def test_errors_of_meaning_are_found(reports, name):
    """One edit in a report that is checked against itself: the sentence with the edit is flagged."""
    errors = [(text, MEANING[name](text, Random(f"{name} {number}"))) for number, text in enumerate(reports.values())]
    found = [
        any(not f.supported and f.start < error.end and error.start < f.end for f in check(error.text, text))
        for text, error in [(text, error) for text, error in errors if error][:300]
    ]
    assert len(found) >= 50
    assert sum(found) >= LEAST_RECALL_OF_MEANING[name] * len(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["develop", "hold"])
def test_statements_in_other_words(reports, name):
    rows = statements(name)
    assert sum(is_flagged(row["wrong"], reports[row["report"]]) for row in rows) >= 0.75 * len(rows)
    assert sum(is_flagged(row["faithful"], reports[row["report"]]) for row in rows) <= 0.05 * len(rows)


@pytest.mark.slow
def test_reports_are_faithful_to_themselves_and_notes_in_other_words_to_their_reports(reports, many):
    assert false_alarms([(text, text) for text in reports.values()]) <= 0.001
    assert false_alarms([(report, in_other_words(note, Random(k))) for k, (report, note) in enumerate(many)]) <= 0.02
