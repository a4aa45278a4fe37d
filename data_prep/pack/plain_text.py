"""Plain text of general corpora, which is read as a stream.

A stream cannot be cut into ranges before it is read, so document i belongs to shard i % shards. One process reads all
documents and appends them to spool files, one per shard, from which the shards are packed like those of other records.
The spool files lie in the folder that is being written, and are removed before it is finished.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from data_prep.contract.errors import UserError
from data_prep.contract.manifests import MANIFEST, REJECTED
from data_prep.contract.reading.rows import Row, shown
from data_prep.contract.reading.source_files import below, content_of, stem_of
from data_prep.contract.records import Reject
from data_prep.contract.tables import cell_text, files_of, is_true, looks_like_hub_id, open_hub, rows_of, storable
from data_prep.ingest.case_reports import Tally

SPOOLED_AT_ONCE = 1 << 24  # characters in memory


@dataclass(frozen=True)
class TextConfig:
    text_field: str = "text"
    """Column or JSON field with the text, of plain text in tables."""

    licence: str = ""
    """Licence to record for plain text; empty for "unknown". Records of other stages have their own."""

    source_name: str = ""
    """Source to record for plain text; empty for the name of the file, folder or data set."""

    max_documents: int = 0
    """Number of documents of plain text after which to stop; 0 reads all."""


@dataclass(frozen=True)
class PlainText:
    """One document of a general corpus."""

    id: str
    text: str
    source: str
    licence: str


@dataclass(frozen=True)
class Corpus:
    """An opened source of plain text."""

    name: str
    rows: Iterator[Row]
    content: str  # hash of the files, or of the version on the hub


def is_plain_text(source: Path) -> bool:
    """Return True if a source is text of its own rather than the folder of a stage, whether finished or damaged."""
    if source.is_dir():
        # Records that have lost their manifest may be restricted.
        of_a_stage = (source / MANIFEST).exists() or (source / REJECTED).exists()
        return not of_a_stage and next(below(source), None) is not None
    return source.exists() or looks_like_hub_id(str(source))


def open_corpus(source: Path, config: TextConfig) -> Corpus:
    """Open a file, a folder of files of one kind, or a data set on the hub.

    Raises UserError if it is empty or cannot be read, and for settings that no corpus can have.
    """
    if config.max_documents < 0:
        raise UserError(f"--max-documents {config.max_documents}: must be 0 or above")
    if source.exists():
        files = files_of(source)
        return Corpus(stem_of(source), rows_of(files), content_of(source, files))
    rows, version = open_hub(str(source))
    return Corpus(str(source), rows, version)


def documents_in(corpus: Corpus, config: TextConfig) -> Iterator[PlainText | Reject]:
    """Each row as a document or a reject.

    Raises UserError if the first row has no text, if a row is marked as restricted, or if more than 1 % are malformed.
    """
    tally = Tally(corpus.name)
    source, licence = config.source_name or corpus.name, config.licence or "unknown"
    for number, row in enumerate(corpus.rows):
        try:
            if row.values is None:
                raise ValueError(row.error)
            if config.text_field not in row.values:
                columns = shown(row.values) or "none"
                if not number:
                    raise UserError(
                        f"{row.place}: no text in {config.text_field!r} among the columns: {columns}; set --text-field"
                    )
                raise ValueError(f"no column {config.text_field!r} among {columns}")
            if is_true(row.values.get("restricted")):
                raise UserError(f"{row.place}: a restricted record is no plain text: pack the folder that it is from")
            text = cell_text(row.values[config.text_field], config.text_field)
        except ValueError as error:
            if isinstance(error, UserError):
                raise
            tally.count(f"{row.place}: {error}")
            raw = row.raw or json.dumps(row.values, ensure_ascii=False, default=str)
            yield Reject(row.place, "malformed", storable(str(error)), storable(raw))
            continue
        tally.count()
        document = PlainText(row.name, text, source, licence)
        yield document if text else Reject.of(document, "empty", row.place)
    tally.finish()


class Spool:
    """The spool files of the wanted shards: a JSON line per document, or per reject, with the name of its type."""

    def __init__(self, folder: Path, wanted: Collection[int]):
        self.folder, self.wanted = folder, wanted
        self.waiting: defaultdict[int, list[str]] = defaultdict(list)
        self.size = 0

    def add(self, shard: int, record: PlainText | Reject) -> None:
        if shard not in self.wanted:
            return
        self.waiting[shard].append(json.dumps([type(record).__name__, asdict(record)], ensure_ascii=False) + "\n")
        self.size += len(self.waiting[shard][-1])
        if self.size > SPOOLED_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        # Opened for each time, because a process may have fewer files open than there may be shards.
        for shard, lines in self.waiting.items():
            with spool_file(self.folder, shard).open("a", encoding="utf-8") as file:
                file.writelines(lines)
        self.waiting.clear()
        self.size = 0


def spool_file(folder: Path, shard: int) -> Path:
    return folder / f"spool-{shard:05d}.jsonl"


def spool(corpus: Corpus, config: TextConfig, shards: int, folder: Path, wanted: Collection[int]) -> None:
    """Write the documents of the wanted shards to their spool files, each reject with the document after it.

    Raises UserError if there are no documents, or fewer than shards.
    """
    files, count = Spool(folder, wanted), 0
    for document in documents_in(corpus, config):
        files.add(count % shards, document)
        count += isinstance(document, PlainText)
        if count == config.max_documents != 0:
            break
    files.flush()
    if not count:
        raise UserError(f"{corpus.name} contains no text: name another source, or another --text-field")
    if count < shards:
        raise UserError(f"--shards {shards}: must be from 1 to the number of documents, {count}")


def read_spool(path: Path) -> Iterator[PlainText | Reject]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            name, values = json.loads(line)
            yield Reject(**values) if name == Reject.__name__ else PlainText(**values)
