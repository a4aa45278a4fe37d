"""Examples to pairs: what is planted in an answer, what the gate says of it, and how the classes are balanced."""

import dataclasses
import json
import statistics
from collections import Counter
from pathlib import Path

import pytest

from data_prep.contract.errors import UserError
from data_prep.contract.manifests import writing_folder
from data_prep.contract.records import Example, Pair, Reject, read_parquet
from data_prep.curate.pairs.pairs import PairsConfig, run
from data_prep.curate.pairs.planted_pairs import (
    balanced,
    change_between,
    classes_without,
    corrupted,
    tidied,
)
from data_prep.faithfulness.certificate import certify
from data_prep.ingest.case_reports import ReportsConfig
from data_prep.synthesize import instructions, notes
from data_prep.synthesize.second_reader.calibration import PLANTERS
from tests.helpers.made_inputs import example, write_records
from tests.helpers.places import ROOT, shared
from tests.helpers.text_stages import folder_content

DEMO = ROOT / "data_prep/ingest/demo_reports.jsonl"
NOTE = "She was given aspirin 100 mg daily for 7 days. The left lung was clear. She had no fever."


def instructions_from(reports: Path, folder: Path, per_note: int = 3) -> Path:
    notes.run(notes.NotesConfig(str(reports), folder / "notes", reports=ReportsConfig()))
    made = instructions.InstructionsConfig(folder / "notes", folder / "instructions", per_note=per_note)
    instructions.run(made)
    return folder / "instructions"


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    return instructions_from(DEMO, tmp_path_factory.mktemp("demo"))


def pairs_in(out: Path) -> tuple[list[Pair], list[Reject], dict]:
    found = [pair for path in sorted(out.glob("pairs-*.parquet")) for pair in read_parquet(path, Pair)]
    return found, list(read_parquet(out / "rejected.parquet", Reject)), json.loads((out / "manifest.json").read_text())


def check_pairs(found: list[Pair], manifest: dict) -> None:
    """What holds for every pair with a planted error."""
    for pair in found:
        change = json.loads(pair.change)
        chosen = pair.chosen
        assert chosen[change["start"] : change["end"]] == change["was"] != change["new"]
        assert chosen[: change["start"]] + change["new"] + chosen[change["end"] :] == pair.rejected
        assert certify(chosen, pair.note).unsupported == pair.chosen_certificate.unsupported == 0
        assert certify(pair.rejected, pair.note) == pair.rejected_certificate
        assert pair.flagged == (pair.rejected_certificate.unsupported > 0)
    blind = Counter(pair.error for pair in found if not pair.flagged)
    assert manifest["blind_spots"] == dict(sorted(blind.items()))
    assert manifest["errors"] == dict(sorted(Counter(pair.error for pair in found).items()))
    assert manifest["flagged"] == len(found) - blind.total()
    assert manifest["median_length_difference"] == statistics.median(
        abs(len(pair.chosen) - len(pair.rejected)) for pair in found
    )
    assert manifest["median_length_difference"] <= 2


def test_the_faithful_side_passes_and_the_other_is_flagged_or_listed(demo: Path, tmp_path: Path):
    run(PairsConfig(tmp_path / "pairs", demo, workers=1))
    found, rejects, manifest = pairs_in(tmp_path / "pairs")
    check_pairs(found, manifest)
    assert len(found) >= 40
    assert manifest["flagged"] >= 0.9 * len(found)
    assert {reject.reason for reject in rejects} == {"no_place"}
    assert manifest["in"] == len(found) + len(rejects)
    examples = {e.id: e for path in demo.glob("instructions-*.parquet") for e in read_parquet(path, Example)}
    for pair in found:
        origin = examples[pair.id.removesuffix(f" {pair.error}")]
        assert (pair.note, pair.question, pair.chosen) == (origin.note, origin.question, origin.answer)
        assert (pair.licence, pair.article, pair.task) == (origin.licence, origin.article, origin.task)


@pytest.mark.slow
def test_real_case_reports_give_pairs_of_nearly_all_classes(tmp_path: Path):
    source = instructions_from(shared("data/case_reports.jsonl"), tmp_path)
    run(PairsConfig(tmp_path / "pairs", source))
    found, _, manifest = pairs_in(tmp_path / "pairs")
    check_pairs(found, manifest)
    assert len(manifest["errors"]) >= 28
    assert manifest["flagged"] >= 0.9 * len(found)


def test_the_number_of_workers_changes_no_byte(demo: Path, tmp_path: Path):
    for workers in (1, 2):
        run(PairsConfig(tmp_path / f"{workers}", demo, shard_records=7, workers=workers))
    assert folder_content(tmp_path / "1") == folder_content(tmp_path / "2")


def test_classes_that_are_left_out_have_no_pairs(demo: Path, tmp_path: Path):
    run(PairsConfig(tmp_path / "pairs", demo, without=("dose", "sex", "age-changed"), workers=1))
    found, _, manifest = pairs_in(tmp_path / "pairs")
    left_out = {"dose x10", "dose exchanged", "sex", "age changed"}
    assert not {pair.error for pair in found} & left_out
    assert set(manifest["classes"]) == set(PLANTERS) - left_out


def test_an_unknown_class_is_refused_with_the_known_ones(demo: Path, tmp_path: Path):
    with pytest.raises(
        UserError, match=r"^--without dosage: no such class of errors; known: dose x10, number changed,"
    ):
        run(PairsConfig(tmp_path / "pairs", demo, without=("dosage",)))
    with pytest.raises(UserError, match="leaves no class of errors: name fewer"):
        classes_without(tuple(PLANTERS))
    assert not (tmp_path / "pairs").exists()


def test_an_unfaithful_answer_makes_no_pair(tmp_path: Path):
    records = [example("right", NOTE, "Which dose?", "Aspirin 100 mg daily."),
               example("wrong", NOTE, "Which dose?", "Aspirin 500 mg daily.")]  # fmt: skip
    run(PairsConfig(tmp_path / "pairs", write_records(tmp_path / "source", records), workers=1))
    found, rejects, _ = pairs_in(tmp_path / "pairs")
    assert [pair.id.split()[0] for pair in found] == ["right"]
    assert [(reject.id, reject.reason) for reject in rejects] == [("wrong", "unsupported")]


def test_restricted_notes_stay_restricted(tmp_path: Path):
    record = dataclasses.replace(example("e", NOTE, "Which dose?", "Aspirin 100 mg daily."), restricted=True)
    run(PairsConfig(tmp_path / "pairs", write_records(tmp_path / "source", [record]), workers=1))
    (pair,), _, manifest = pairs_in(tmp_path / "pairs")
    assert pair.restricted
    assert manifest["restricted"]
    assert "Restricted" in (tmp_path / "pairs/README.md").read_text()


def test_limits_per_example_and_class(demo: Path, tmp_path: Path):
    run(PairsConfig(tmp_path / "pairs", demo, per_example=3, per_class=2, workers=1))
    found, rejects, manifest = pairs_in(tmp_path / "pairs")
    assert max(manifest["errors"].values()) == 2
    assert len({pair.id for pair in found}) == len(found)
    assert {reject.reason for reject in rejects} == {"no_place", "class_full"}
    assert max(Counter(pair.id.removesuffix(f" {pair.error}") for pair in found).values()) > 1


# ---------------------------------------------------------------- balance and words


def test_classes_are_used_as_evenly_as_the_offers_allow():
    offers = {f"both {k}": ("sex", "order") for k in range(10)} | {f"one {k}": ("sex",) for k in range(6)}
    chosen = balanced(offers, per_example=1, per_class=0, seed=0)
    assert Counter(error for errors in chosen.values() for error in errors) == {"sex": 8, "order": 8}
    assert balanced(offers, 1, 3, 0) != chosen
    assert Counter(error for errors in balanced(offers, 2, 3, 0).values() for error in errors) == {"sex": 3, "order": 3}


@pytest.mark.parametrize(
    ("one", "other", "was", "new"),
    [
        ("took 100 mg", "took 1000 mg", "100", "1000"),
        ("had no fever", "had fever", "no ", ""),
        ("He felt better.", "He felt better. Gout was noted.", "", " Gout was noted."),
        ("left arm", "right arm", "left", "right"),
        ("in 2012.", "in 2013.", "2012", "2013"),
        ("a man", "a woman", "man", "woman"),
    ],
)
def test_a_change_is_the_shortest_in_whole_words(one: str, other: str, was: str, new: str):
    change = change_between(one, other)
    assert (change.was, change.new) == (was, new)
    assert change.applied(one) == other


@pytest.mark.parametrize(
    ("answer", "text", "tidy"),
    [
        ("No fever was seen.", "fever was seen.", "Fever was seen."),
        ("Aspirin was given.", "gentamicin was given.", "Gentamicin was given."),
        ("It showed a decrease in size.", "It showed a increase in size.", "It showed an increase in size."),
        ("It showed a normal uterus.", "It showed abnormal uterus.", "It showed an abnormal uterus."),
        ("She had a mass.", "She had no mass.", "She had no mass."),
        ("It was without  any mass.", "It was with  any mass.", "It was with  any mass."),
        ("He took it in May.", "He took it in June.", "He took it in June."),
    ],
)
def test_an_error_is_not_betrayed_by_its_article_or_its_first_letter(answer: str, text: str, tidy: str):
    assert tidied(answer, text) == tidy


def test_what_the_note_says_elsewhere_is_no_error():
    answer = "Her left lung was clear."
    for seed in range(5):
        note = f"{answer} Her right lung was clear."
        assert corrupted(example("e", note, "Which?", answer), "side swapped", seed) is None
    assert corrupted(example("e", answer, "Which?", answer), "side swapped", 0) == "Her right lung was clear."


def test_no_negation_comes_between_had_and_its_verb():
    answer = "She had presented with fever."
    e = example("e", answer, "Why?", answer)
    assert {corrupted(e, "negation added", seed) for seed in range(20)} == {"She had presented with no fever."}


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "name either --source"),
        ({"source": Path("a"), "answers": (Path("b"),)}, "name either --source"),
        ({"answers": (Path("b"),), "without": ("sex",)}, "--without and --per-class are about planted errors"),
        ({"source": Path("a"), "questions": Path("q")}, "--questions q is for --from"),
        ({"source": Path("a"), "per_example": 0}, "--per-example 0: must be at least 1"),
        ({"source": Path("a"), "per_class": -1}, "--per-class -1: must be 0 or above"),
        ({"source": Path("absent")}, "absent: no such folder"),
        ({"answers": (Path("absent"),)}, "absent: no such folder"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(options: dict, message: str, tmp_path: Path):
    with pytest.raises(UserError, match=message):
        run(PairsConfig(tmp_path / "pairs", **options))
    assert not (tmp_path / "pairs").exists()


def test_a_source_without_records_is_refused(tmp_path: Path):
    with writing_folder(tmp_path / "source", "instructions", {}) as writer:
        writer.add_shard([], Example)
    with pytest.raises(UserError, match="contains no records"):
        run(PairsConfig(tmp_path / "pairs", tmp_path / "source"))
    assert not (tmp_path / "pairs").exists()
