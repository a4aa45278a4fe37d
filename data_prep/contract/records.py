"""The record types that stages exchange, and their Parquet layout."""

import dataclasses
import functools
import hashlib
import json
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.errors import UserError, first_line
from data_prep.contract.folders.buckets.objects import BucketPath

# The eight tasks of the recipe (arXiv 2309.00237, section 3).
TASKS = (
    "Named Entity Recognition",
    "Abbreviation Expansion",
    "Relation Extraction",
    "Temporal Information Extraction",
    "Coreference Resolution",
    "Paraphrasing",
    "Summarization",
    "Question Answering",
)


@dataclasses.dataclass(frozen=True)
class CaseReport:
    """A published case report, unchanged.

    `id` is the collection's own identifier, unique within it. `article` identifies the publication (PMID or DOI), so
    that a split can keep all patients of one article together.
    """

    id: str
    text: str
    source: str
    licence: str
    article: str = ""
    title: str = ""
    url: str = ""


@dataclasses.dataclass(frozen=True)
class Generation:
    """Provenance of a generated text."""

    teacher: str  # "offline" or "openai"
    model: str
    prompt_hash: str
    seed: int
    finish_reason: str


@dataclasses.dataclass(frozen=True)
class SecondReading:
    """Counts of the sentences of a text by what a second reader, a chat model, says of them."""

    model: str = ""  # empty if there was no second reader
    supported: int = 0
    contradicted: int = 0
    not_stated: int = 0
    unread: int = 0  # sentences with no verdict that could be read and verified
    not_asked: int = 0  # sentences that the rules have proved or refuted
    details: str = ""  # JSON: the sentences asked about, each with position, verdict, quote and the quote's position


@dataclasses.dataclass(frozen=True)
class Certificate:
    """Counts of the atoms (checkable facts) of a text by their support in the source; see `faithfulness`."""

    rules: str = ""  # version of the rules; empty if nothing was checked
    stated: int = 0
    derived: int = 0  # atoms that follow from the source by a named rule
    unsupported: int = 0
    omitted: int = 0  # atoms of the source that the text lacks
    details: str = ""  # JSON: derived and unsupported atoms, each with kind, text, position and rule
    evidence: str = (
        ""  # JSON: of each atom [start, end] and the [start, end] of the source's sentences that it rests on
    )
    reader: SecondReading = SecondReading()


@dataclasses.dataclass(frozen=True)
class Note:
    """A clinical note: a synthetic one, made from one case report, or a real one."""

    id: str
    report_id: str
    note_type: str
    text: str
    source: str
    licence: str
    article: str
    generation: Generation
    certificate: Certificate = Certificate()
    style: str = ""  # JSON: the edits of the style pass, which `style.undo` reverts; empty if there were none
    restricted: bool = False  # a real note, which may only be sent to the institution's own endpoints


@dataclasses.dataclass(frozen=True)
class Turn:
    """A follow-up question on the same note and its answer, given the conversation so far."""

    task: str
    question: str
    answer: str
    question_generation: Generation
    answer_generation: Generation
    certificate: Certificate = Certificate()  # for the answer, checked against the note


@dataclasses.dataclass(frozen=True)
class Example:
    """One instruction–answer pair on one note, and the follow-up turns of the same conversation."""

    id: str
    note_id: str
    report_id: str
    task: str
    note: str
    question: str
    answer: str
    source: str
    licence: str
    article: str
    question_generation: Generation
    answer_generation: Generation
    certificate: Certificate = Certificate()  # for the answer, checked against the note
    follow_ups: tuple[Turn, ...] = ()
    restricted: bool = False
    note_type: str = ""
    cites: bool = False  # the sentences of all answers end in markers with the numbers of the note's sentences


@dataclasses.dataclass(frozen=True)
class Pair:
    """A better and a worse answer to one question on one note, for training on preferences.

    A pair without `rejected` is a plain sample; one without `chosen` is a sample to be made less likely.
    """

    id: str
    note_id: str
    report_id: str
    task: str
    note: str
    question: str
    chosen: str
    rejected: str
    error: str  # class of the planted error; empty for two answers of models
    change: str  # JSON: characters [start, end) of `chosen`, `was`, became `new`; empty for two answers of models
    flagged: bool  # the certificate of `rejected` shows that it is worse; otherwise the gate cannot see the error
    source: str
    licence: str
    article: str
    chosen_generation: Generation
    rejected_generation: Generation
    chosen_certificate: Certificate = Certificate()  # both are checked against the note
    rejected_certificate: Certificate = Certificate()
    weight: float = 1.0
    restricted: bool = False
    note_type: str = ""
    cites: bool = False  # as for an example


@dataclasses.dataclass(frozen=True)
class Reject:
    """A rejected record: the reason is a short fixed word, the complete record is kept as JSON."""

    id: str
    reason: str
    detail: str
    record: str

    @classmethod
    def of(cls, record: Any, reason: str, detail: str = "") -> "Reject":
        return cls(record.id, reason, detail, json.dumps(dataclasses.asdict(record), ensure_ascii=False))


Record = CaseReport | Note | Example | Pair | Reject
T = typing.TypeVar("T")  # a dataclass of records, those above or those of the evaluation


def seeded_fraction(seed: int, *parts: object) -> float:
    """A number in [0, 1) that depends only on the seed and the parts, so it is the same on every machine."""
    digest = hashlib.sha256(json.dumps([seed, *map(str, parts)]).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def text_hash(*texts: str) -> str:
    """The first sixteen hex digits of the SHA-256 of the texts in order."""
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]


def file_hash(path: Path | BucketPath) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------------------------------------------------------- Parquet


def arrow_schema(record_type: type) -> Any:
    """The Parquet schema of a record type; a nested dataclass becomes a struct, a tuple a list."""
    import pyarrow as pa

    scalars = {str: pa.string(), bytes: pa.binary(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}

    def arrow_type(annotation: Any) -> Any:
        if typing.get_origin(annotation) is tuple:
            return pa.list_(arrow_type(typing.get_args(annotation)[0]))
        if dataclasses.is_dataclass(annotation):
            return pa.struct(arrow_schema(typing.cast(type, annotation)))
        return scalars[annotation]

    hints = typing.get_type_hints(record_type)
    return pa.schema([(field.name, arrow_type(hints[field.name])) for field in dataclasses.fields(record_type)])


def write_parquet(path: Path, records: Iterable[T], record_type: type[T]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist(
        [dataclasses.asdict(typing.cast(Any, r)) for r in records], schema=arrow_schema(record_type)
    )
    pq.write_table(table, path, compression="zstd")


class ParquetAppender:
    """Writes records to one file in groups of ROWS, so that they are never all in memory."""

    ROWS = 1000

    def __init__(self, path: Path, record_type: type):
        self.path, self.schema = path, arrow_schema(record_type)
        self.waiting: list[Any] = []
        self.writer: Any = None

    def add(self, record: Any) -> None:
        self.waiting.append(dataclasses.asdict(record))
        if len(self.waiting) >= self.ROWS:
            self._write()

    def _write(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self.writer is None:
            self.writer = pq.ParquetWriter(self.path, self.schema, compression="zstd")
        self.writer.write_table(pa.Table.from_pylist(self.waiting, schema=self.schema))
        self.waiting = []

    def close(self) -> None:
        """Write the remaining records and close the file; without any record, it has no rows."""
        if self.waiting or self.writer is None:
            self._write()
        self.writer.close()


def read_parquet(path: Path, record_type: type[T], columns: Sequence[str] | None = None) -> Iterator[T]:
    """The records of one file, read in batches, so that a large file is never completely in memory.

    `columns` names those to read, if the record type has fewer than the file. Raises UserError if the file is damaged
    or contains records of another type.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        batches = pq.ParquetFile(path).iter_batches(1024, columns=columns)
        while (batch := next(batches, None)) is not None:
            yield from [typed(row, record_type) for row in batch.to_pylist()]
    except (pa.ArrowException, OSError, TypeError, ValueError, AttributeError, KeyError) as error:
        raise UserError(
            f"{path} does not contain readable records ({first_line(error)}): run the stage that writes it again"
        ) from error


def typed(value: Any, annotation: Any) -> Any:
    """Convert a value that was read from Parquet to the annotated type."""
    if typing.get_origin(annotation) is tuple:
        return tuple(typed(item, typing.get_args(annotation)[0]) for item in value)
    if not dataclasses.is_dataclass(annotation):
        return value
    record_type = typing.cast(type, annotation)
    hints = type_hints(record_type)
    return record_type(**{name: typed(item, hints[name]) for name, item in value.items()})


@functools.cache
def type_hints(record_type: type) -> dict[str, Any]:
    return typing.get_type_hints(record_type)


# ---------------------------------------------------------------- packed rows


@dataclasses.dataclass(frozen=True)
class PackedRow:
    """One row of training data: documents end to end, without padding.

    On disk, little-endian: the number of segments (uint32), their lengths (uint32 each), the token ids (uint16 if the
    vocabulary fits, else uint32), and the loss mask, one bit per token. A row of preferences continues with three
    arrays of one entry per segment: weights (float32), pairs (uint32) and reference (float32).
    """

    tokens: np.ndarray  # (used,) ids
    segment_lengths: np.ndarray  # (segments,) sums to `used`
    loss_mask: np.ndarray  # (used,) bool: True if the token is a target of the loss
    weights: np.ndarray | None = None  # (segments,) positive for a chosen answer, negative for a rejected one
    pairs: np.ndarray | None = None  # (segments,) number of the pair in this row, from 1; 0 for an unpaired answer
    reference: np.ndarray | None = None  # (segments,) log-probability under the reference model; NaN if not computed

    def to_bytes(self, token_dtype: str) -> bytes:
        lengths = np.asarray(self.segment_lengths, "<u4")
        tokens = np.asarray(self.tokens, np.dtype(token_dtype).newbyteorder("<"))
        mask = np.packbits(np.asarray(self.loss_mask, bool))
        row = np.uint32(len(lengths)).tobytes() + lengths.tobytes() + tokens.tobytes() + mask.tobytes()
        extra = [getattr(self, name) for name in SEGMENT_ARRAYS]
        if all(array is None for array in extra):
            return row
        assert all(array is not None and len(array) == len(lengths) for array in extra), "one entry per segment"
        return row + b"".join(
            np.asarray(array, kind).tobytes() for array, kind in zip(extra, SEGMENT_ARRAYS.values(), strict=True)
        )

    @classmethod
    def from_bytes(cls, data: bytes, token_dtype: str, weighted: bool = False) -> "PackedRow":
        """Parse a row; `weighted` for a folder of phase "preference", whose rows have the arrays of one per segment.

        Raises ValueError if the bytes are not exactly such a row with tokens of this type.
        """
        segments = int(np.frombuffer(data, "<u4", 1)[0])
        lengths = np.frombuffer(data, "<u4", segments, 4)
        used = int(lengths.sum())
        start = 4 + 4 * segments
        dtype = np.dtype(token_dtype).newbyteorder("<")
        end = start + used * dtype.itemsize + -(-used // 8)
        if len(data) != end + weighted * segments * sum(np.dtype(kind).itemsize for kind in SEGMENT_ARRAYS.values()):
            with_weights = " with weights" if weighted else ""
            raise ValueError(f"{len(data)} bytes are not a row of {used} tokens as {token_dtype}{with_weights}")
        tokens = np.frombuffer(data, dtype, used, start)
        bits = np.frombuffer(data, np.uint8, -(-used // 8), start + used * dtype.itemsize)
        row = cls(tokens, lengths, np.unpackbits(bits, count=used).astype(bool))
        extra = {}
        for name, kind in SEGMENT_ARRAYS.items() if weighted else ():
            extra[name] = np.frombuffer(data, kind, segments, end)
            end += extra[name].nbytes
        return dataclasses.replace(row, **extra)


# Optional arrays of a row, in their order on disk, and their types.
SEGMENT_ARRAYS = {"weights": "<f4", "pairs": "<u4", "reference": "<f4"}


def token_dtype(vocab_size: int) -> str:
    return "uint16" if vocab_size <= 2**16 else "uint32"
