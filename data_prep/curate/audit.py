"""Offline check of a finished folder of notes or instructions against its source texts.

    asclepius notes --audit notes [--source case_reports.jsonl]

The report shows the rates for each kind of atom and examples of unsupported atoms. Unsupported atoms are no error.
"""

import itertools
import json
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tyro

from data_prep.clinical_text.near_duplicates import RUN_WORDS, copied_share, longest_run
from data_prep.contract.errors import UserError
from data_prep.contract.manifests import read_manifest, verified_files
from data_prep.contract.prompt.cited_sentences import without_citations
from data_prep.contract.records import CaseReport, Certificate, Example, Note, SecondReading, read_parquet
from data_prep.execution.processes import process_pool
from data_prep.execution.shards import available_cores
from data_prep.faithfulness.atoms.kinds import KINDS
from data_prep.faithfulness.certificate import certificate, check, rules_version
from data_prep.faithfulness.citations import PROBLEMS, NoteSentences, ambiguous_citations, check_citations
from data_prep.ingest.case_reports import ReportsConfig, open_reports
from data_prep.synthesize import style

CHUNK = 64  # texts per task of a worker process


@dataclass(frozen=True)
class AuditConfig:
    """Check a finished folder of notes or instructions against its source again, without changing the folder."""

    audit: Path
    """Finished folder of notes or instructions to check."""

    source: str = ""
    """Case reports that the notes were written from; empty for the path in the folder's manifest."""

    reports: tyro.conf.OmitArgPrefixes[ReportsConfig] = field(default_factory=ReportsConfig)

    examples: int = 3
    """Number of unsupported atoms to show for each kind."""

    workers: int = 0
    """Number of worker processes; 0 for one per core."""


@dataclass(frozen=True)
class Checked:
    """A text to check: its id, the text, its source text, and its stored certificate."""

    id: str
    text: str
    source: str
    certificate: Certificate
    cites: bool = False  # the text's sentences cite those of the source


@dataclass
class Tally:
    """Counts and examples over some of the texts."""

    texts: int = 0
    overlaps: list[tuple[float, int, str]] = field(default_factory=list)  # share copied, words in the longest run, id
    with_unsupported: int = 0
    omitted: int = 0
    differing: int = 0  # texts whose stored certificate differs
    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)  # (kind, status)
    rules: Counter[tuple[str, str]] = field(default_factory=Counter)  # (status, rule)
    examples: list[tuple[str, str, str, str, str]] = field(default_factory=list)  # kind, text, why, id, sentence
    citing: Counter[int] = field(default_factory=Counter)  # sentences by the number of sentences that they cite
    citations: Counter[str] = field(default_factory=Counter)  # sentences by what is wrong with their citations
    resting: int = 0  # sentences that the rules alone find unsupported in the note without the cited sentences
    wrong: list[tuple[str, str, str]] = field(default_factory=list)  # id, problem, sentence

    def add(self, other: "Tally") -> None:
        self.texts += other.texts
        self.overlaps += other.overlaps
        self.with_unsupported += other.with_unsupported
        self.omitted += other.omitted
        self.differing += other.differing
        self.statuses += other.statuses
        self.rules += other.rules
        self.examples += other.examples
        self.citing += other.citing
        self.citations += other.citations
        self.resting += other.resting
        self.wrong += other.wrong


def check_chunk(chunk: list[Checked]) -> Tally:
    tally = Tally()
    for item in chunk:
        found = check(item.text, item.source)
        computed = certificate(found, item.source)
        tally.texts += 1
        tally.overlaps.append((copied_share(item.text, item.source), len(longest_run(item.text, item.source)), item.id))
        tally.with_unsupported += bool(computed.unsupported)
        tally.omitted += computed.omitted
        tally.differing += bool(item.certificate.rules) and computed != replace(
            item.certificate, reader=SecondReading()
        )
        if item.cites:
            check_cited(item, tally)
        for f in found:
            tally.statuses[f.atom.kind, f.verdict.status] += 1
            if f.verdict.rule:
                tally.rules[f.verdict.status, f.verdict.rule] += 1
            if not f.supported:
                tally.examples.append((f.atom.kind, f.atom.text, f.verdict.rule, item.id, f.sentence))
    return tally


def check_cited(item: Checked, tally: Tally) -> None:
    note = NoteSentences.of(item.source)
    ambiguous = {found.within: found for found in ambiguous_citations(item.source, item.text)}
    for found in check_citations(item.source, item.text):
        tally.citing[len(found.cited)] += 1
        found = ambiguous.get(found.within, found)
        if found.problem:
            tally.citations[found.problem] += 1
            tally.wrong.append((item.id, found.problem, found.sentence))
        elif found.cited:
            plain, rest = without_citations(found.sentence), note.rest(found.cited)
            tally.resting += any(not finding.supported for finding in check(plain, rest))


def run(config: AuditConfig) -> dict[str, Any]:
    """Print the report and return its figures. Raises UserError for errors that the user can fix."""
    if config.examples < 0 or config.workers < 0:
        raise UserError("--examples and --workers must be 0 or above")
    manifest = read_manifest(config.audit, "notes", "instructions")
    paths = verified_files(config.audit, manifest)
    items = of_notes(config, manifest, paths) if manifest["kind"] == "notes" else of_examples(paths)
    tally = Tally()
    for chunk_tally in map_chunks(items, config.workers or available_cores()):
        tally.add(chunk_tally)
    show(config, manifest["kind"], tally)
    counts = {status: sum(n for (_, s), n in tally.statuses.items() if s == status) for status in STATUSES}
    return {
        "texts": tally.texts,
        "with_unsupported": tally.with_unsupported,
        "omitted": tally.omitted,
        **counts,
        **overlap(tally),
        **cited_figures(tally),
    }


def of_notes(config: AuditConfig, manifest: dict[str, Any], paths: list[Path]) -> Iterator[Checked]:
    (named, content), *_ = manifest["inputs"].items()
    reports = open_reports(config.source or named, config.reports)
    if not config.source and content not in reports.inputs.values():
        raise UserError(
            f"{named} has changed since {config.audit} was written: pass the original reports with --source"
        )
    wanted = {note.report_id for path in paths for note in read_parquet(path, Note)}
    texts = {r.id: r.text for r in reports.records() if isinstance(r, CaseReport) and r.id in wanted}
    for path in paths:
        for note in read_parquet(path, Note):
            if note.report_id not in texts:
                raise UserError(
                    f"note {note.id}: no report {note.report_id} in {reports.name}: choose another --source"
                )
            # The stored certificate was made before the style pass.
            text = style.undo(note.text, style.from_json(note.style))
            yield Checked(note.id, text, texts[note.report_id], note.certificate)


def of_examples(paths: list[Path]) -> Iterator[Checked]:
    for path in paths:
        for example in read_parquet(path, Example):
            yield Checked(example.id, example.answer, example.note, example.certificate, example.cites)
            for number, turn in enumerate(example.follow_ups):
                name = f"{example.id}, turn {number + 2}"
                yield Checked(name, turn.answer, example.note, turn.certificate, example.cites)


def map_chunks(items: Iterable[Checked], workers: int) -> Iterator[Tally]:
    """Check the items in chunks, in order, so that the examples shown are the same for any number of workers."""
    iterator = iter(items)
    chunks = iter(lambda: list(itertools.islice(iterator, CHUNK)), [])
    head = list(itertools.islice(chunks, 2))
    if workers == 1 or len(head) < 2:
        yield from map(check_chunk, itertools.chain(head, chunks))
        return
    with process_pool(workers) as pool:
        waiting = [pool.submit(check_chunk, chunk) for chunk in head]
        for chunk in chunks:
            waiting.append(pool.submit(check_chunk, chunk))
            if len(waiting) > 2 * workers:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


# ---------------------------------------------------------------- the report


def overlap(tally: Tally) -> dict[str, Any]:
    """Figures of verbatim copying: the shares of runs of words that also occur in the source, and the longest run."""
    if not tally.overlaps:
        return {"copied_median": 0.0, "copied_most": 0.0, "longest_run": 0, "longest_run_in": ""}
    shares = [share for share, _, _ in tally.overlaps]
    _, longest, where = max(tally.overlaps, key=lambda item: item[1])
    return {
        "copied_median": statistics.median(shares),
        "copied_most": max(shares),
        "longest_run": longest,
        "longest_run_in": where,
    }


def cited_figures(tally: Tally) -> dict[str, Any]:
    """Figures of citations; none for texts that cite nothing."""
    if not tally.citing:
        return {}
    return {
        "sentences_citing": sum(count for number, count in tally.citing.items() if number),
        "sentences_not_citing": tally.citing[0],
        "citations_wrong": dict(sorted(tally.citations.items())),
        "unsupported_without_cited": tally.resting,
    }


STATUSES = ("stated", "derived", "unsupported")


def show(config: AuditConfig, kind: str, tally: Tally) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True, highlight=False, markup=False)
    texts = "notes" if kind == "notes" else "answers"
    table = Table("atoms", *STATUSES, "unsupported %", title=f"{tally.texts} {texts}, rules {rules_version()}")
    for name in (*KINDS, "all"):
        counts = [
            sum(n for (k, s), n in tally.statuses.items() if s == status and name in (k, "all")) for status in STATUSES
        ]
        if sum(counts):
            table.add_row(name, *(f"{count:,}" for count in counts), f"{100 * counts[2] / sum(counts):.2f}")
    console.print(table)
    sources = "reports" if kind == "notes" else "notes"
    console.print(
        f"{tally.with_unsupported} of {tally.texts} {texts} contain unsupported atoms; "
        f"{tally.omitted:,} atoms of the {sources} are omitted"
    )
    copied = overlap(tally)
    console.print(
        f"copied verbatim, in runs of {RUN_WORDS} words: {copied['copied_median']:.0%} of the median text, "
        f"{copied['copied_most']:.0%} of the most copied; longest run {copied['longest_run']} words, in "
        f"{copied['longest_run_in']}"
    )
    derived = ", ".join(f"{rule} {n:,}" for (status, rule), n in tally.rules.most_common() if status == "derived")
    console.print(f"derived by: {derived or 'no rule'}")
    if tally.differing:
        console.print(
            f"{tally.differing} {texts} have a certificate that differs: written under other rules, or changed since"
        )
    show_citations(console, config, tally)
    shown: Counter[str] = Counter()
    for name, text, why, record_id, sentence in tally.examples:
        shown[name] += 1
        if shown[name] <= config.examples:
            console.print(f"- {name} {json.dumps(text, ensure_ascii=False)} ({why}) in {record_id}: {sentence}")


def show_citations(console: Any, config: AuditConfig, tally: Tally) -> None:
    figures = cited_figures(tally)
    if not figures:
        return
    total, wrong = figures["sentences_citing"], figures["citations_wrong"]
    console.print(
        f"{total:,} sentences cite the note, {figures['sentences_not_citing']:,} do not; "
        f"{sum(wrong.values()):,} have wrong citations"
        + (f" ({', '.join(f'{count} {problem}' for problem, count in wrong.items())})" if wrong else "")
        + f"; without the cited sentences the rules alone find {tally.resting:,} unsupported"
    )
    for record_id, problem, sentence in tally.wrong[: config.examples]:
        console.print(f"- {PROBLEMS[problem]}, in {record_id}: {sentence}")
