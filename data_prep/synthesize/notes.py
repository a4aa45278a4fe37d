"""Stage 2: generate notes of one or several types from case reports, with their provenance.

asclepius notes --source case_reports.jsonl --out notes --teacher offline --note-types all --per-report 2
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tyro

from data_prep.contract.errors import UserError
from data_prep.contract.records import CaseReport, Generation, Note, Reject
from data_prep.execution.shards import ShardsConfig, check_shards, first
from data_prep.ingest.case_reports import ReportsConfig, open_reports
from data_prep.synthesize import style
from data_prep.synthesize.filters import Duplicates, reason_to_reject
from data_prep.synthesize.gate import Draft, GateConfig, Tally, check_gate, pass_gate, reader_of
from data_prep.synthesize.note_types import NoteType, types_named, types_of_report
from data_prep.synthesize.prompts import note_messages, note_prompt_hash
from data_prep.synthesize.stage import Stage, run_stage
from data_prep.teachers.base import Request, Teacher, TeacherConfig, check_teacher, request_seed, sampling


@dataclass(frozen=True)
class NotesConfig:
    """Generate synthetic notes from case reports. With --audit FOLDER, check a finished folder offline instead."""

    source: str
    """Case reports: a .csv, .json, .jsonl, .parquet or .txt file, a folder of one kind of these, or the id of a data
    set on the Hugging Face hub."""

    out: Path
    """Output folder; a finished folder of the same kind is replaced, unless it contains files of yours."""

    note_types: tuple[str, ...] = ("discharge summary",)
    """Types of notes to generate, each in quotation marks, or `all`: discharge summary, history and physical, progress
    note, emergency department note, radiology report, operative note, nursing note, consultation letter."""

    per_report: int = 0
    """Number of notes per report, each of another type, drawn at random from --note-types; 0 generates one of each."""

    reports: tyro.conf.OmitArgPrefixes[ReportsConfig] = field(default_factory=ReportsConfig)
    teacher: tyro.conf.OmitArgPrefixes[TeacherConfig] = field(default_factory=TeacherConfig)
    shards: tyro.conf.OmitArgPrefixes[ShardsConfig] = field(default_factory=ShardsConfig)
    gate: tyro.conf.OmitArgPrefixes[GateConfig] = field(default_factory=GateConfig)

    style: float = 0.0
    """Fraction of the phrases with a chart-style form (abbreviations, lay words, clipped grammar) to rewrite, after the
    note was checked against its report. Every edit is recorded with the note."""

    seed: int = 0
    """Random seed for the teacher's sampling, the choice of note types and chart style."""


@dataclass(frozen=True)
class WriteNote:
    """The work on one report: a note of each of its types."""

    seed: int
    types: list[NoteType]
    per_report: int
    style: float
    gate: GateConfig

    async def __call__(self, report: CaseReport, teacher: Teacher) -> list[Note | Reject]:
        types = types_of_report(report.id, self.types, self.per_report, self.seed)
        return [await self.note(report, note_type, teacher) for note_type in types]

    async def note(self, report: CaseReport, note_type: NoteType, teacher: Teacher) -> Note | Reject:
        note_id = f"{report.id}-{note_type.code}"
        seed = request_seed(self.seed, "note", note_id)
        inputs = {"report": report.text, "note_type": note_type.name}
        reply = await teacher.ask(Request("note", note_id, note_messages(report.text, note_type), inputs, seed))
        note = Note(
            id=note_id,
            report_id=report.id,
            note_type=note_type.name,
            text=reply.text.strip(),
            source=report.source,
            licence=report.licence,
            article=report.article,
            generation=Generation(teacher.name, reply.model, note_prompt_hash(note_type), seed, reply.finish_reason),
        )
        if broken := reason_to_reject("note", reply):
            return Reject.of(note, *broken)
        draft = Draft("note", note_id, report.text, note_prompt_hash(note_type), seed)
        passed = await pass_gate(draft, reply, self.gate, teacher)
        note = replace(
            note, text=passed.text, certificate=passed.certificate, generation=passed.generation(teacher.name)
        )
        return Reject.of(note, *passed.broken) if passed.broken else self.styled(note)

    def styled(self, note: Note) -> Note:
        text, edits = style.apply(note.text, self.style, self.seed, note.id)
        return replace(note, text=text, style=style.to_json(edits))


def run(config: NotesConfig) -> dict[str, Any]:
    """Write the folder of notes and return its manifest. Raises UserError for errors that the user can fix."""
    check_teacher(config.teacher)
    check_shards(config.shards)
    check_gate(config.gate)
    style.check_rate(config.style)
    types = types_named(config.note_types)
    if not 0 <= config.per_report <= len(types):
        raise UserError(f"--per-report {config.per_report}: must be from 0 to {len(types)}, the number of --note-types")
    reader = reader_of(config.gate, config.teacher)
    source = open_reports(config.source, config.reports)
    seen = Duplicates()
    tally = Tally(config.gate, reader)

    def judge(note: Note) -> Reject | None:
        if seen.is_duplicate(note.text):
            return Reject.of(note, "duplicate", "the same text as an earlier note")
        tally.count(note.certificate)
        return None

    facts = {
        "teacher": sampling(config.teacher),
        "seed": config.seed,
        "note_types": [row.name for row in types],
        "style": config.style,
        "faithfulness": tally.facts,
    }
    # The total is for the progress line, which only a slow run on an endpoint needs.
    api = config.teacher.teacher != "offline" and not config.teacher.estimate
    total = sum(1 for _ in open_reports(config.source, config.reports).records()) if api else 0
    stage = Stage(
        "notes",
        Note,
        config.out,
        config.teacher,
        config.shards,
        source.inputs,
        facts,
        total,
        reader,
        settings=("notes", config),
    )
    if reader:
        records = first(open_reports(config.source, config.reports).records(), config.shards.limit)
        reports = ((record.id, record.text) for record in records if isinstance(record, CaseReport))
        stage = replace(stage, calibration=tally.calibration(reports, config.seed))
    work = WriteNote(config.seed, types, config.per_report, config.style, config.gate)
    return run_stage(stage, work, source.records(), judge)
