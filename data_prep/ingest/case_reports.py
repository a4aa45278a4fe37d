"""Stage 1: read a collection of published case reports of any size as `CaseReport`s, one at a time.

Known columns are found by name. PMC-Patients, for instance, has the columns

    patient_id, patient_uid, PMID, title, patient, age, gender, relevant_articles, similar_patients

where `patient` is the text. `tables.py` reads the rows of each kind of file.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.contract.errors import UserError
from data_prep.contract.manifests import MANIFEST
from data_prep.contract.reading.rows import shown
from data_prep.contract.reading.source_files import content_of, stem_of
from data_prep.contract.records import CaseReport, Reject
from data_prep.contract.tables import Row, cell_text, files_of, is_true, looks_like_hub_id, open_hub, rows_of, storable
from data_prep.ingest.article_ids import article_id
from data_prep.ingest.scope import out_of_scope

# Two dozen fictional reports, for the demo and for trying things out.
DEMO_REPORTS = Path(__file__).with_name("demo_reports.jsonl")

# Column names of each field, in any case, the most specific first.
COLUMNS = {
    "text": ("text", "patient", "case_report", "case_text", "full_text", "note", "case", "body", "content"),
    "id": ("patient_uid", "id", "_id", "uid", "patient_id", "case_id", "doc_id"),
    "article": ("pmid", "doi", "pmcid", "article", "article_id"),
    "title": ("title",),
    "url": ("url", "link"),
    "source": ("source", "corpus", "journal"),
    "licence": ("licence", "license"),
}
PMC_PATIENTS = ("patient_uid", "patient")
PMC_PATIENTS_LICENCE = "CC BY-NC-SA 4.0"

# A larger share of malformed rows means that the collection is wrong, not merely damaged; one malformed row is always
# allowed. Before the end, reading stops only above HOPELESS, because malformed rows come in clusters, which do not
# represent the rest of the file.
MOST_MALFORMED = 0.01
ROWS_TO_JUDGE, HOPELESS = 100, 0.5


@dataclass(frozen=True)
class ReportsConfig:
    text_column: str = ""
    """Column with the text; empty to find it by its common names."""

    source_name: str = ""
    """Source to record for the reports; empty for the file's own column or name."""

    licence: str = ""
    """Licence to record for the reports; empty for the file's own column."""


@dataclass(frozen=True)
class Reports:
    """An opened collection: its rows, name and hash."""

    name: str
    rows: Iterator[Row]
    inputs: dict[str, str]  # source -> hash
    config: ReportsConfig

    def records(self) -> Iterator[CaseReport | Reject]:
        """Every row as a report or a reject, in the collection's order.

        Raises UserError if there is no text column, or if more than 1 % of the rows are malformed.
        """
        seen: set[bytes] = set()
        tally = Tally(self.name)
        found: dict[tuple[str, ...], dict[str, str]] = {}
        columns: dict[str, str] = {}
        for row in self.rows:
            if row.values is not None:
                # The columns are found for each row, because rows of JSON may leave out empty fields.
                names = tuple(row.values)
                if names not in found:
                    found[names] = find_columns(row.values, self.config, row.place, first=not found)
                columns = found[names]
                if is_true(row.values.get("restricted")):
                    raise UserError(
                        f"{row.place}: a restricted record must not become a case report: pass its folder of notes to "
                        "asclepius instructions"
                    )
            try:
                report = to_report(row, columns, self.config, self.name)
            except ValueError as error:
                tally.count(f"{row.place}: {error}")
                raw = row.raw or json.dumps(row.values, ensure_ascii=False, default=str)
                yield Reject(row.place, "malformed", storable(str(error)), storable(raw))
                continue
            tally.count()
            key = hashlib.sha256(report.id.encode()).digest()[:8]
            if not report.text:
                yield Reject.of(report, "empty", row.place)
            elif broken := out_of_scope(report.text):
                yield Reject.of(report, *broken)
            elif key in seen:
                yield Reject.of(report, "duplicate_id", row.place)
            else:
                seen.add(key)
                yield report
        tally.finish()


@dataclass
class Tally:
    """Counts of rows and malformed rows. Raises UserError if too many are malformed."""

    name: str
    rows: int = 0
    malformed: int = 0
    last: str = ""

    def count(self, malformed: str = "") -> None:
        self.rows += 1
        if malformed:
            self.malformed += 1
            self.last = malformed
        if self.rows >= ROWS_TO_JUDGE and self.malformed > HOPELESS * self.rows:
            self.finish()

    def finish(self) -> None:
        if self.malformed > max(1, MOST_MALFORMED * self.rows) or 0 < self.malformed == self.rows:
            raise UserError(
                f"{self.name}: {self.malformed} of the first {self.rows} rows are malformed, more than "
                f"{MOST_MALFORMED:.0%}; the last: {self.last}"
            )


def open_reports(source: str, config: ReportsConfig) -> Reports:
    """Open a collection: an existing path, or otherwise `NAME/REPO` on the Hugging Face hub."""
    path = Path(source)
    if not path.exists():
        if not looks_like_hub_id(source):
            raise UserError(f"{source}: no such file or folder")
        rows, version = open_hub(source)
        return Reports(source, rows, {source: version}, config)
    manifest = path / MANIFEST
    if manifest.is_file():
        raise UserError(f"{source} is the output folder of another stage: pass the case reports themselves")
    files = files_of(path)
    return Reports(stem_of(path), rows_of(files), {source: content_of(path, files)}, config)


def find_columns(values: dict[str, Any], config: ReportsConfig, place: str, first: bool) -> dict[str, str]:
    """A dictionary of field to column name ("" if missing). Raises UserError if the first row has no text column."""
    seen = shown(values) or "none"
    columns = {field: next((name for name in names if name in values), "") for field, names in COLUMNS.items()}
    if config.text_column:
        columns["text"] = config.text_column
        if first and config.text_column not in values:
            raise UserError(f"{place}: --text-column {config.text_column} is not among the columns: {seen}")
    if first and not columns["text"]:
        raise UserError(f"{place}: no text column among the columns: {seen}; set it with --text-column")
    return columns


def article_of(values: dict[str, Any]) -> str:
    """The first identifier of the publication in the row; tables often have several such columns, with gaps."""
    found = (article_id(cell_text(values.get(column), column), column) for column in COLUMNS["article"])
    return next(filter(None, found), "")


def to_report(row: Row, columns: dict[str, str], config: ReportsConfig, collection: str) -> CaseReport:
    """Convert a row to a report. Raises ValueError, with the reason, if the row is malformed."""
    if row.values is None:
        raise ValueError(row.error)
    values = row.values
    if columns["text"] not in values:
        raise ValueError(f"no text column among {shown(values) or 'none'}")

    def field(name: str) -> str:
        # "" may be a column too: the index that pandas writes.
        return cell_text(values.get(columns[name]), columns[name]) if columns[name] else ""

    is_pmc_patients = all(name in values for name in PMC_PATIENTS)
    return CaseReport(
        id=field("id") or row.name,
        text=field("text"),
        source=config.source_name or ("PMC-Patients" if is_pmc_patients else field("source") or collection),
        licence=config.licence or (PMC_PATIENTS_LICENCE if is_pmc_patients else field("licence") or "unknown"),
        article=article_of(values) or article_id(field("url")),
        title=field("title"),
        url=field("url"),
    )
