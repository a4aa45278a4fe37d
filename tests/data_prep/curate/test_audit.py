"""A finished folder checked again: what the report says, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from asclepius_jax import cli
from data_prep.contract.errors import UserError
from data_prep.contract.manifests import writing_folder
from data_prep.contract.records import Example, Note, read_parquet
from data_prep.curate.audit import AuditConfig, run
from data_prep.execution.shards import ShardsConfig
from data_prep.synthesize import instructions, notes
from data_prep.synthesize.instructions import InstructionsConfig
from data_prep.synthesize.notes import NotesConfig
from tests.helpers.made_inputs import write_records
from tests.helpers.text_stages import read_notes, write_reports


@pytest.fixture
def finished(tmp_path):
    """A folder of notes, and the path of its reports."""
    source = write_reports(tmp_path / "a.jsonl", 90)
    notes.run(NotesConfig(source, tmp_path / "notes", shards=ShardsConfig(workers=1)))
    return tmp_path / "notes", source


def damage(folder, out, source: str, changed: dict[str, str]):
    """The folder again, with some of its notes' texts replaced and their certificates kept."""
    made, _ = read_notes(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    with writing_folder(out, "notes", manifest["inputs"]) as writer:
        texts = [replace(n, text=n.text.replace(*changed[n.id])) if n.id in changed else n for n in made]
        writer.add_shard(texts, Note)
    return out


def test_what_the_stage_wrote_passes(finished, capsys):
    folder, _ = finished
    figures = run(AuditConfig(folder))
    assert (figures["texts"], figures["unsupported"], figures["with_unsupported"]) == (90, 0, 0)
    assert figures["stated"] > 90 * 10
    out = capsys.readouterr().out
    assert "90 notes" in out
    assert "0 of 90 notes contain unsupported atoms" in out
    assert "otherwise" not in out


def test_what_is_copied_word_for_word_is_visible(finished, tmp_path, capsys):
    folder, source = finished
    (first, *_), _ = read_notes(folder)
    reports = [json.loads(line) for line in Path(source).read_text().splitlines()]
    report = next(report["text"] for report in reports if report["id"] == first.report_id)
    words = report.split()
    # A note of 40 copied words between 40 of its own, and 89 that are nothing but the report's sentences.
    mixed = " ".join([*(f"word{n}" for n in range(40)), *words[:40]])
    out = damage(folder, tmp_path / "mixed", source, {note.id: (note.text, mixed) for note in read_notes(folder)[0]})
    figures = run(AuditConfig(out, workers=1))
    assert figures["longest_run"] >= 40
    assert figures["copied_most"] == pytest.approx((40 - 12) / (80 - 12), abs=0.03)
    assert "copied verbatim" in capsys.readouterr().out


def test_errors_that_came_in_later_are_shown_with_their_sentence(finished, tmp_path, capsys):
    folder, source = finished
    changed = {"r3-ds": ("aspirin 100 mg", "aspirin 900 mg"), "r80-ds": ("hypertension", "diabetes mellitus")}
    out = damage(folder, tmp_path / "damaged", source, changed)
    one = run(AuditConfig(out, workers=1))
    alone = capsys.readouterr().out
    assert (one["unsupported"], one["with_unsupported"]) == (2, 2)
    assert '- dose "900 mg" (absent) in r3-ds: ' in alone
    assert "treated with aspirin 900 mg daily" in alone
    assert '- finding "diabetes mellitus" (absent) in r80-ds: ' in alone
    assert "2 notes have a certificate that differs" in alone
    assert run(AuditConfig(out, workers=2)) == one
    assert capsys.readouterr().out == alone, "the report does not depend on the number of processes"


def test_instructions_are_checked_against_their_notes(finished, tmp_path, capsys):
    folder, _ = finished
    config = InstructionsConfig(folder, tmp_path / "pairs", per_note=2, shards=ShardsConfig(limit=20, workers=1))
    instructions.run(config)
    assert run(AuditConfig(tmp_path / "pairs"))["unsupported"] == 0
    (path,) = (tmp_path / "pairs").glob("instructions-*.parquet")
    examples = list(read_parquet(path, Example))
    bad = write_records(tmp_path / "bad", [replace(examples[0], answer="She was given 5000 mg of rituximab.")])
    assert run(AuditConfig(bad))["unsupported"] == 2
    assert "1 of 1 answers" in capsys.readouterr().out


def test_other_reports_than_those_of_the_notes_are_refused(finished, tmp_path):
    folder, source = finished
    with pytest.raises(UserError, match="--examples and --workers"):
        run(AuditConfig(folder, workers=-1))
    (tmp_path / "b.jsonl").write_text(json.dumps({"id": "x", "text": "y"}))
    with pytest.raises(UserError, match="no report r0 in b: choose another --source"):
        run(AuditConfig(folder, str(tmp_path / "b.jsonl")))
    with open(source, "a") as file:  # noqa: PTH123
        file.write(json.dumps({"id": "x", "text": "y"}) + "\n")
    with pytest.raises(UserError, match=r"has changed since .* was written"):
        run(AuditConfig(folder))
    assert run(AuditConfig(folder, source))["texts"] == 90


def test_the_command_line_audits(finished, capsys):
    folder, _ = finished
    cli.dispatch("notes", ["--audit", str(folder), "--examples", "1"], debug=False)
    assert "90 notes" in capsys.readouterr().out
    with pytest.raises(UserError, match="no such folder"):
        cli.dispatch("instructions", [f"--audit={folder}-absent"], debug=False)
