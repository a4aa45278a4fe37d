"""Splits go by patient and article, leave near-duplicates and evaluation texts out, and do not depend on the order."""

import dataclasses
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from data_prep.clinical_text.near_duplicates import Contamination, NearDuplicates, copied_share, longest_run, words_of
from data_prep.contract.errors import UserError
from data_prep.contract.manifests import read_manifest
from data_prep.contract.records import Example, Note, Reject, read_parquet
from data_prep.curate.split import SplitConfig, run
from tests.helpers.made_inputs import WORDS, example, note, write_records

TEXTS = [" ".join(words) for words in np.random.default_rng(5).choice(WORDS, (400, 60))]


def made(name: str, text: str, patient: str, article: str) -> Note:
    return dataclasses.replace(note(name, text), report_id=patient, article=article)


# 200 patients with two notes each; articles of one to three patients.
NOTES = [made(f"n{k}", TEXTS[k], f"p{k // 2}", f"a{k // 2 * 7 % 90}") for k in range(400)]


def read(folder: Path, kind: str = "notes", record_type: type = Note) -> list:
    manifest = read_manifest(folder, kind)
    return [record for file in manifest["files"] for record in read_parquet(folder / file["name"], record_type)]


def split(tmp_path: Path, records: list, **options) -> tuple[list, list, list[Reject]]:
    out = tmp_path / "split"
    run(SplitConfig(write_records(tmp_path / "source", records), out, **{"held_out": 0.2, **options}))
    kind, record_type = ("notes", Note) if isinstance(records[0], Note) else ("instructions", Example)
    sides = [read(out / side, kind, record_type) for side in ("train", "held_out")]
    return *sides, list(read_parquet(out / "train/rejected.parquet", Reject))


def test_no_patient_and_no_article_is_on_both_sides(tmp_path: Path):
    train, held_out, rejects = split(tmp_path, NOTES)
    assert not rejects
    assert sorted([*train, *held_out], key=lambda n: n.id) == sorted(NOTES, key=lambda n: n.id)
    for of in (lambda n: n.report_id, lambda n: n.article):
        assert not {of(n) for n in train} & {of(n) for n in held_out}
    assert 0.1 < len(held_out) / len(NOTES) < 0.3
    report = json.loads((tmp_path / "split/report.json").read_text())
    assert (report["train"]["records"], report["held_out"]["records"]) == (len(train), len(held_out))
    assert report["train"]["patients"] + report["held_out"]["patients"] == 200


def test_articles_that_share_a_patient_stay_together(tmp_path: Path):
    """A chain: each patient is in two articles, so that all of them are one group."""
    chain = [made(f"c{k}-{j}", TEXTS[2 * k + j], f"p{k}", f"a{k + j}") for k in range(20) for j in (0, 1)]
    train, held_out, _ = split(tmp_path, chain, held_out=0.5)
    assert (len(train), len(held_out)) in ((40, 0), (0, 40))


def test_the_order_of_the_records_changes_no_side(tmp_path: Path):
    train, held_out, _ = split(tmp_path / "a", NOTES)
    other = split(tmp_path / "b", NOTES[::-1])
    assert {n.id for n in other[0]} == {n.id for n in train}
    assert {n.id for n in other[1]} == {n.id for n in held_out}
    assert {n.id for n in split(tmp_path / "c", NOTES, seed=1)[1]} != {n.id for n in held_out}


def test_near_duplicates_of_other_patients_go(tmp_path: Path):
    """One word in sixty is another; the patient's own second note may say the same again."""
    words = TEXTS[0].split()
    near = made("near", " ".join([*words[:30], "otherwise", *words[31:]]), "somebody else", "")
    own = made("own", near.text, "p0", "")
    train, held_out, rejects = split(tmp_path, [*NOTES, own, near])
    assert [(reject.id, reject.reason) for reject in rejects] == [("near", "near_duplicate")]
    assert "n0" in rejects[0].detail or "own" in rejects[0].detail
    assert "own" in {n.id for n in [*train, *held_out]}


def test_similarity_is_what_minhash_estimates():
    near = NearDuplicates(0.5)
    assert near.earlier("a", TEXTS[0]) == []
    words = TEXTS[0].split()
    half = " ".join(words[: len(words) // 2] + TEXTS[1].split()[: len(words) // 2])
    assert near.earlier("half", half) == []  # about a third of all runs is shared
    assert near.earlier("again", TEXTS[0])[0] == "a"


@pytest.mark.parametrize("form", ["csv", "folder"])
def test_what_an_evaluation_holds_is_left_out(tmp_path: Path, form: str):
    leaked = " ".join(TEXTS[7].split()[20:40])
    if form == "csv":
        path = tmp_path / "benchmark.csv"
        path.write_text(f'question,text\nWhat?,"before it {leaked} after it"\n')
    else:
        path = write_records(
            tmp_path / "benchmark", [example("e", f"before it {leaked} after it", "What?", "Nothing.")]
        )
    train, held_out, rejects = split(tmp_path, NOTES, against=(path,))
    assert [(reject.id, reject.reason) for reject in rejects] == [("n7", "contaminated")]
    assert str(path) in rejects[0].detail
    assert len(train) + len(held_out) == 399


def test_twelve_words_in_common_are_chance():
    contamination = Contamination()
    contamination.add([("x", TEXTS[7])])
    words = TEXTS[7].split()
    assert contamination.find("alpha " + " ".join(words[10:22]) + " omega") is None
    assert contamination.find("alpha " + " ".join(words[10:23]) + " omega")[0] == "x"


def test_who_is_named_goes_with_every_record_of_the_text(tmp_path: Path):
    records = [example(f"e{k}", TEXTS[k], "Who?", "Nobody.") for k in range(30)]
    records[3] = dataclasses.replace(records[3], answer="Ask Dr. Miller.")
    records[4] = dataclasses.replace(records[4], note=records[4].note + " On March 3, 2014 she came back.")
    *_, rejects = split(tmp_path / "a", records)
    assert [(reject.id, reject.reason, reject.detail) for reject in rejects] == [
        ("e3", "identifier", "name 'Dr. Miller'")
    ]
    *_, rejects = split(tmp_path / "b", records, identifiers=True)
    assert [(reject.id, reject.detail) for reject in rejects] == [
        ("e3", "name 'Dr. Miller'"),
        ("e4", "date 'March 3, 2014'"),
    ]
    report = json.loads((tmp_path / "a/split/report.json").read_text())
    assert report["records_with_identifiers"] == {"date": 1, "name": 1}
    assert report["rejected"] == {"identifier": 1}


def test_copying_is_measured():
    source = "one two three four five six seven eight nine ten"
    assert longest_run("zero two three four zero", source) == ["two", "three", "four"]
    assert copied_share("two three four zero", source, 2) == pytest.approx(2 / 3)
    assert words_of("BP 120/80, n.p.o.") == ["bp", "120", "80", "n", "p", "o"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"held_out": 0.0}, "--held-out 0.0"),
        ({"similarity": 1.5}, "--similarity 1.5"),
        ({"against": (Path("nowhere.csv"),)}, "nowhere.csv: no such"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path: Path, options, says):
    with pytest.raises(UserError, match=says):
        split(tmp_path, NOTES[:4], **options)
    assert not (tmp_path / "split/train").exists()


def test_groups_are_found_whole(tmp_path: Path):
    train, held_out, _ = split(tmp_path, NOTES, held_out=0.5)
    patients = defaultdict(set)
    for n in [*train, *held_out]:
        patients[n.report_id].add(n in train)
    assert all(len(sides) == 1 for sides in patients.values())
