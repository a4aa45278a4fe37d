"""Stage 2: case report → note. One discharge summary for each report, with where it comes from.

asclepius notes --source case_reports.jsonl --out notes --teacher offline
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tyro

from data_prep.case_reports import ReportsConfig, open_reports
from data_prep.filters import Duplicates, reason_to_reject
from data_prep.gate import Draft, GateConfig, Tally, check_gate, pass_gate
from data_prep.prompts import NOTE_PROMPT, note_messages
from data_prep.records import CaseReport, Generation, Note, Record, Reject
from data_prep.shards import ShardsConfig, Stage, check_shards, run_stage
from data_prep.teacher import Request, Teacher, TeacherConfig, check_teacher, request_seed, sampling

NOTE_TYPE = "discharge summary"


@dataclass(frozen=True)
class NotesConfig:
    """Case reports to synthetic notes. With --audit FOLDER instead: check a finished folder again, offline."""

    source: str
    """Case reports: a .csv, .json, .jsonl, .parquet or .txt file, a folder of one kind of these, or the id of a data
    set on the Hugging Face hub."""

    out: Path
    """The folder to write; a finished one of the same kind is replaced."""

    reports: tyro.conf.OmitArgPrefixes[ReportsConfig] = field(default_factory=ReportsConfig)
    teacher: tyro.conf.OmitArgPrefixes[TeacherConfig] = field(default_factory=TeacherConfig)
    shards: tyro.conf.OmitArgPrefixes[ShardsConfig] = field(default_factory=ShardsConfig)
    gate: tyro.conf.OmitArgPrefixes[GateConfig] = field(default_factory=GateConfig)

    seed: int = 0
    """Every request's sampling seed is derived from it and from the record's id."""


@dataclass(frozen=True)
class WriteNote:
    """The work on one report."""

    seed: int
    gate: GateConfig

    async def __call__(self, report: CaseReport, teacher: Teacher) -> list[Record]:
        seed = request_seed(self.seed, "note", report.id)
        request = Request("note", report.id, note_messages(report.text), {"report": report.text}, seed)
        reply = await teacher.ask(request)
        note = Note(
            id=f"{report.id}-ds",
            report_id=report.id,
            note_type=NOTE_TYPE,
            text=reply.text.strip(),
            source=report.source,
            licence=report.licence,
            article=report.article,
            generation=Generation(teacher.name, reply.model, NOTE_PROMPT.hash, seed, reply.finish_reason),
        )
        if broken := reason_to_reject("note", reply):
            return [Reject.of(note, *broken)]
        draft = Draft("note", report.id, report.text, NOTE_PROMPT.hash, seed)
        passed = await pass_gate(draft, reply, self.gate, teacher)
        note = replace(
            note, text=passed.text, certificate=passed.certificate, generation=passed.generation(teacher.name)
        )
        return [Reject.of(note, *passed.broken) if passed.broken else note]


def run(config: NotesConfig) -> dict[str, Any]:
    """Write the notes folder; its manifest. UserError for what the caller can mend."""
    check_teacher(config.teacher)
    check_shards(config.shards)
    check_gate(config.gate)
    source = open_reports(config.source, config.reports)
    seen = Duplicates()
    tally = Tally(config.gate)

    def judge(note: Note) -> Reject | None:
        if seen.is_duplicate(note.text):
            return Reject.of(note, "duplicate", "the same text as an earlier note")
        tally.count(note.certificate)
        return None

    facts = {"teacher": sampling(config.teacher), "seed": config.seed, "faithfulness": tally.facts}
    stage = Stage("notes", Note, config.out, config.teacher, config.shards, source.inputs, facts)
    return run_stage(stage, WriteNote(config.seed, config.gate), source.records(), judge)
