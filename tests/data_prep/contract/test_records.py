"""Records come back from Parquet as they were, with all that is nested in them."""

import dataclasses
import json

from data_prep.contract.records import (
    CaseReport,
    Certificate,
    Example,
    Generation,
    Reject,
    Turn,
    read_parquet,
    seeded_fraction,
    write_parquet,
)

GENERATION = Generation("offline", "rules", "hash", 7, "stop")
EXAMPLE = Example(
    "e", "n", "r", "Paraphrasing", "note µ", "q", "a", "here", "CC0", "article", GENERATION, GENERATION,
    certificate=Certificate("1", 3, 1, 0, 2, "[]"),
)  # fmt: skip


def test_a_conversation_comes_back_equal(tmp_path):
    turns = tuple(Turn("Paraphrasing", f"q{k}", f"a{k}", GENERATION, GENERATION, Certificate("1", k)) for k in range(3))
    examples = [EXAMPLE, dataclasses.replace(EXAMPLE, id="f", follow_ups=turns, restricted=True)]
    write_parquet(tmp_path / "x.parquet", examples, Example)
    assert list(read_parquet(tmp_path / "x.parquet", Example)) == examples


def test_seeded_fractions_are_spread_evenly_and_stay_what_they_are():
    assert seeded_fraction(0, "task", "r1-ds") == seeded_fraction(0, "task", "r1-ds")
    assert seeded_fraction(0, "a", "b") != seeded_fraction(0, "ab") != seeded_fraction(1, "ab")
    mean = sum(seeded_fraction(3, k) for k in range(4000)) / 4000
    assert abs(mean - 0.5) < 0.02


def test_a_reject_keeps_its_record():
    report = CaseReport("a", "t", "s", "l")
    assert json.loads(Reject.of(report, "empty").record)["text"] == "t"
