"""Splits go by patient and article, leave near-duplicates and evaluation texts out, and do not depend on the order."""

import contextlib
import dataclasses
import itertools
import json
import tempfile
import unicodedata
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from data_prep.clinical_text.near_duplicates import (
    Contamination,
    NearDuplicates,
    copied_share,
    longest_run,
    runs,
    shingles_of,
    words_of,
)
from data_prep.contract.errors import UserError
from data_prep.contract.folders import output_folders
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


def test_a_pair_at_the_threshold_is_found_and_one_below_it_is_not():
    """Of pairs just above the threshold none is missed, which MinHash alone does to every second one."""
    random = np.random.default_rng(3)
    with tempfile.TemporaryFile() as file:
        near = NearDuplicates(0.7, file)
        for pair in range(300):
            words = [f"w{k}" for k in random.integers(10_000, size=200)]
            near.add(shingles_of(" ".join(words)), 2 * pair)
            for place in random.choice(200, random.integers(4, 12), replace=False):
                words[place] = "otherwise"
            near.add(shingles_of(" ".join(words)), 2 * pair + 1)
        similar = {k: near.similarity(k - 1, k) for k in range(1, 600, 2)}
        assert sum(0.7 <= each < 0.75 for each in similar.values()) > 20
        assert sum(0.65 <= each < 0.7 for each in similar.values()) > 20
        assert near.pairs() == {k: k - 1 for k, each in similar.items() if each >= 0.7}


def test_the_similarity_of_texts_is_that_of_their_runs_of_five_words():
    texts = [
        TEXTS[0],
        " ".join(TEXTS[0].split()[:40] + TEXTS[1].split()[:20]),
        "A few words.",
        "a FEW words",
        "",
        "Ωμέγα",
    ]
    runs_of = [set(runs(words_of(text), min(5, max(1, len(words_of(text)))))) for text in texts]
    with tempfile.TemporaryFile() as file:
        near = NearDuplicates(0.5, file)
        for owner, text in enumerate(texts):
            near.add(shingles_of(text), owner)
        for one, other in itertools.product(range(len(texts)), repeat=2):
            common = len(runs_of[one] & runs_of[other])
            union = len(runs_of[one] | runs_of[other])
            assert near.similarity(one, other) == common / union


def test_many_copies_of_one_text_take_one_comparison_each():
    with tempfile.TemporaryFile() as file:
        near = NearDuplicates(0.7, file)
        for owner in (0, 0, *range(1, 400)):
            near.add(shingles_of(TEXTS[0]), owner)
        compared: list[tuple[int, int]] = []
        similarity = near.similarity
        near.similarity = lambda *pair: compared.append(pair) or similarity(*pair)  # type: ignore[method-assign]
        assert near.pairs() == dict.fromkeys(range(2, 401), 0)
        assert len(compared) == 399


def test_one_article_in_several_spellings_is_one_article(tmp_path: Path):
    spellings = ["10.1000/ABC", "https://doi.org/10.1000/abc", "doi: 10.1000/abc", "http://dx.doi.org/10.1000%2Fabc"]
    chain = [made(f"c{k}", TEXTS[k], f"p{k}", spellings[k % 4]) for k in range(40)]
    train, held_out, _ = split(tmp_path, chain, held_out=0.5)
    assert (len(train), len(held_out)) in ((40, 0), (0, 40))


LEAKED = " ".join(TEXTS[7].split()[20:40])
ACCENTED = "La patiente âgée a été traitée à l'hôpital près de Besançon où elle a reçu de l'héparine sans bénéfice"


@pytest.mark.parametrize(
    ("name", "rows", "texts"),
    [
        (
            "chat.jsonl",
            [{"messages": [{"role": "user", "content": LEAKED}, {"role": "assistant", "content": "ok"}]}],
            4,
        ),
        ("chat.json", [{"conversations": [{"from": "human", "value": f"x {LEAKED}"}], "turns": {"a": {"b": "c"}}}], 3),
        ("words.jsonl", [{"tokens": LEAKED.split(), "tags": ["O"] * 3, "count": 3, "none": None, "empty": []}], 2),
        ("options.jsonl", [{"question": "Which?", "options": {"A": "none", "B": LEAKED}}], 3),
    ],
)
def test_every_text_of_an_evaluation_set_is_read_however_deep(
    tmp_path: Path, capsys, name: str, rows: list, texts: int
):
    path = tmp_path / name
    path.write_text(json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows))
    *_, rejects = split(tmp_path, NOTES, against=(path,))
    assert [(reject.id, reject.reason) for reject in rejects] == [("n7", "contaminated")]
    assert f"split: {texts} texts of {path}" in capsys.readouterr().out
    report = json.loads((tmp_path / "split/report.json").read_text())
    assert (report["against"][str(path)]["texts"], report["against"][str(path)]["compared"]) == (texts, 1)


def test_texts_are_compared_in_any_unicode_form(tmp_path: Path):
    path = tmp_path / "benchmark.txt"
    path.write_text(unicodedata.normalize("NFD", ACCENTED).replace("patiente", "pa\u00adtiente"), encoding="utf-8")
    records = [*NOTES[:9], made("leaked", f"{unicodedata.normalize('NFC', ACCENTED).upper()} enfin.", "q", "")]
    *_, rejects = split(tmp_path, records, against=(path,))
    assert [(reject.id, reject.reason) for reject in rejects] == [("leaked", "contaminated")]


def test_texts_without_spaces_are_compared_by_characters(tmp_path: Path):
    text = "患者は五十八歳の男性で胸痛を主訴に来院した。心電図でST上昇を認めた。"
    path = tmp_path / "benchmark.txt"
    path.write_text(text, encoding="utf-8")
    *_, rejects = split(tmp_path, [*NOTES[:9], made("leaked", f"症例。{text}", "q", "")], against=(path,))
    assert [(reject.id, reject.reason) for reject in rejects] == [("leaked", "contaminated")]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"text": "fine"}\n{"text": "torn\n', r"benchmark.jsonl:2"),
        ('{"text": "too short"}\n', "no text of 13 or more words among 1"),
        ('{"number": 3}\n', "no text of 13 or more words among 0"),
    ],
)
def test_an_evaluation_set_of_which_nothing_can_be_compared_is_refused(tmp_path: Path, content: str, says: str):
    path = tmp_path / "benchmark.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=says):
        split(tmp_path, NOTES[:4], against=(path,))


class Killed(BaseException):
    pass


def test_a_killed_split_never_leaves_sides_of_two_runs(tmp_path: Path, monkeypatch):
    """Killed at any of its renames: what is there is of one run, and the next run brings back all of it."""
    split(tmp_path, NOTES)
    rename, empty = Path.rename, output_folders.empty
    for at in itertools.count():
        renames: list[Path] = []

        def dying(self: Path, target: Path, renames=renames, at=at) -> Path:
            renames.append(self)
            if len(renames) > at:
                raise Killed
            return rename(self, target)

        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            patch.setattr(Path, "rename", dying)
            # A dead process cleans up nothing.
            patch.setattr(
                output_folders, "empty", lambda work, renames=renames, at=at: len(renames) > at or empty(work)
            )
            run(SplitConfig(tmp_path / "source", tmp_path / "split", seed=1))
        assert len(seeds(tmp_path)) <= 1
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            patch.setattr("data_prep.curate.split.look", lambda *_: raising(Killed()))
            run(SplitConfig(tmp_path / "source", tmp_path / "split", seed=2))
        assert all((tmp_path / "split" / name).exists() for name in ("train", "held_out", "report.json"))
        if seeds(tmp_path) == {1}:
            break
    assert at > 5


def seeds(tmp_path: Path) -> set[int]:
    sides = [tmp_path / "split" / side for side in ("train", "held_out")]
    return {read_manifest(side, "notes")["split"]["seed"] for side in sides if side.exists()}


def raising(error: BaseException) -> None:
    raise error


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
