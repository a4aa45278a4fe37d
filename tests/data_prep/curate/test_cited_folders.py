"""Folders whose answers cite: their audit, their release and its return, and pairs that keep the markers."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.contract.manifests import read_manifest
from data_prep.contract.prompt.cited_sentences import cited, numbered_sentences, without_citations
from data_prep.contract.records import Example, Generation, Pair, read_parquet
from data_prep.curate import audit, release
from data_prep.curate.audit import AuditConfig
from data_prep.curate.pairs import pairs
from data_prep.curate.pairs.pairs import PairsConfig
from data_prep.curate.pairs.planted_pairs import with_markers_of
from data_prep.curate.release import ReleaseConfig
from data_prep.faithfulness.certificate import certify
from data_prep.ingest import published
from data_prep.ingest.published import AdoptConfig
from data_prep.synthesize import instructions, notes
from data_prep.synthesize.instructions import InstructionsConfig
from data_prep.synthesize.notes import NotesConfig
from tests.helpers.made_inputs import write_records
from tests.helpers.places import ROOT
from tests.helpers.text_stages import read_examples

MADE = Generation("offline", "rules-1", "h", 0, "stop")
NOTE = "COURSE:\nCreatinine rose to 3.1 mg/dL. Metformin 500 mg was stopped on 3 May 2012. She had no cough."


def example(name: str, answer: str) -> Example:
    task = "Question Answering"
    made = Example(name, "n", "r", task, NOTE, f"What of {name}?", answer, "s", "CC0", "", MADE, MADE, cites=True)
    return replace(made, certificate=certify(answer, NOTE))


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cited")
    notes.run(NotesConfig(str(ROOT / "data_prep/ingest/demo_reports.jsonl"), folder / "notes"))
    instructions.run(InstructionsConfig(folder / "notes", folder / "instructions", per_note=4, cite=True))
    return folder / "instructions"


def test_the_audit_finds_what_is_wrong_with_citations(tmp_path, capsys):
    answers = {
        "right": "Metformin 500 mg was stopped on 3 May 2012 [2].",
        "wrong": "Metformin 500 mg was stopped on 3 May 2012 [1].",
        "idle": "Metformin 500 mg was stopped on 3 May 2012 [2, 3].",
        "silent": "The dose of aspirin is not stated in the note.",
    }
    folder = write_records(tmp_path / "i", [example(name, answer) for name, answer in answers.items()])
    figures = audit.run(AuditConfig(folder, workers=1))
    assert (figures["sentences_citing"], figures["sentences_not_citing"]) == (3, 1)
    assert figures["citations_wrong"] == {"citation_idle": 1, "citation_unsupported": 1}
    assert figures["unsupported_without_cited"] == 1
    assert "the cited sentences do not support it, in wrong: Metformin" in capsys.readouterr().out


def test_the_audit_of_a_cited_run_finds_nothing(source):
    figures = audit.run(AuditConfig(source, workers=1))
    assert figures["sentences_citing"] > 50
    assert figures["citations_wrong"] == {}
    assert figures["unsupported"] == 0


def test_a_folder_that_cites_nothing_has_no_figures_of_citations(tmp_path):
    folder = write_records(tmp_path / "i", [replace(example("a", "She had no cough."), cites=False)])
    assert "sentences_citing" not in audit.run(AuditConfig(folder, workers=1))


def test_a_release_keeps_the_markers_and_comes_back(source, tmp_path):
    release.run(ReleaseConfig(source, tmp_path / "dataset"))
    card = (tmp_path / "dataset/README.md").read_text()
    assert "## Citations" in card
    published.run(AdoptConfig(str(tmp_path / "dataset/train-00000-of-00001.parquet"), tmp_path / "back"))
    back, _ = read_examples(tmp_path / "back")
    here, _ = read_examples(source)
    assert {e.answer for e in back} == {e.answer for e in here}
    assert all(e.cites for e in back)
    assert read_manifest(tmp_path / "back", "instructions")["cites"] is True
    plain = write_records(tmp_path / "plain", [replace(e, cites=False) for e in here])
    release.run(ReleaseConfig(plain, tmp_path / "uncited"))
    assert "## Citations" not in (tmp_path / "uncited/README.md").read_text()


def test_planted_errors_leave_the_markers_alone(source, tmp_path):
    manifest = pairs.run(PairsConfig(tmp_path / "pairs", source, per_example=3, workers=1))
    assert manifest["cites"] is True
    made = [pair for path in sorted((tmp_path / "pairs").glob("pairs-*")) for pair in read_parquet(path, Pair)]
    assert len(made) > 30
    for pair in made:
        assert pair.cites
        sides = [[cited(s.text) for s in numbered_sentences(text)] for text in (pair.chosen, pair.rejected)]
        assert sides[0] == sides[1]
        assert without_citations(pair.chosen) != without_citations(pair.rejected)
        change = json.loads(pair.change)
        assert pair.chosen[: change["start"]] + change["new"] + pair.chosen[change["end"] :] == pair.rejected


def test_markers_go_where_they_were():
    answer, plain = "Fever [1]. Cough [2, 3].\n- rash [4]", "Fever. Cough.\n- rash"
    assert with_markers_of(answer, plain, "Chills. Cough.\n- rash") == "Chills [1]. Cough [2, 3].\n- rash [4]"
    assert with_markers_of(answer, plain, "Fever. No cough.\n- rash") == "Fever [1]. No cough [2, 3].\n- rash [4]"
    assert (
        with_markers_of(answer, plain, "Fever. Cough.\n- rash and pain")
        == "Fever [1]. Cough [2, 3].\n- rash and pain [4]"
    )
    assert with_markers_of(answer, plain, "Fever. It hurt. Cough.\n- rash") is None
