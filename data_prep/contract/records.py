"""The types on disk: what the stages hand to one another, and how it lies in a Parquet file."""

import dataclasses
import functools
import hashlib
import json
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

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
    """A published case report, as it came.

    `id` is the collection's own identifier, unique within it; `article` names the publication (PMID or DOI), so that
    a split can keep all patients of one article together.
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
    """Where a generated text comes from."""

    teacher: str  # "offline" or "openai"
    model: str
    prompt_hash: str
    seed: int
    finish_reason: str


@dataclasses.dataclass(frozen=True)
class Certificate:
    """How many atoms (facts that can be checked) of a text stand in its source, by the rules of `faithfulness`."""

    rules: str = ""  # their version; empty where nothing was checked
    stated: int = 0
    derived: int = 0  # follow by a named rule
    unsupported: int = 0
    omitted: int = 0  # atoms of the source that the text lacks
    details: str = ""  # JSON: the atoms that are derived or unsupported, each with kind, text, place and rule


@dataclasses.dataclass(frozen=True)
class Note:
    """A clinical note: synthetic, made from one case report, or a real one."""

    id: str
    report_id: str
    note_type: str
    text: str
    source: str
    licence: str
    article: str
    generation: Generation
    certificate: Certificate = Certificate()
    style: str = ""  # JSON: the edits of the style pass, which `style.undo` takes back; empty where there were none
    restricted: bool = False  # a real note: it goes to no endpoint but one of the house's own


@dataclasses.dataclass(frozen=True)
class Turn:
    """A follow-up question on the same note, asked and answered after what came before."""

    task: str
    question: str
    answer: str
    question_generation: Generation
    answer_generation: Generation
    certificate: Certificate = Certificate()  # of the answer against the note


@dataclasses.dataclass(frozen=True)
class Example:
    """One instruction–answer pair on one note, and the turns that follow it in the same conversation."""

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
    certificate: Certificate = Certificate()  # of the answer against the note
    follow_ups: tuple[Turn, ...] = ()
    restricted: bool = False


@dataclasses.dataclass(frozen=True)
class Reject:
    """What a stage left out: the reason is a short fixed word, the record is kept whole as JSON."""

    id: str
    reason: str
    detail: str
    record: str

    @classmethod
    def of(cls, record: Any, reason: str, detail: str = "") -> "Reject":
        return cls(record.id, reason, detail, json.dumps(dataclasses.asdict(record), ensure_ascii=False))


Record = CaseReport | Note | Example | Reject


def seeded_fraction(seed: int, *parts: object) -> float:
    """A number in [0, 1) that depends on the seed and the parts alone: the same on every machine, in any order."""
    digest = hashlib.sha256(json.dumps([seed, *map(str, parts)]).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def text_hash(*texts: str) -> str:
    """Sixteen hex digits over the texts in order."""
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------------------------------------------------------- Parquet


def arrow_schema(record_type: type) -> Any:
    """The Parquet columns of a record type; a nested dataclass is a struct, a tuple of them a list."""
    import pyarrow as pa

    scalars = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}

    def arrow_type(annotation: Any) -> Any:
        if typing.get_origin(annotation) is tuple:
            return pa.list_(arrow_type(typing.get_args(annotation)[0]))
        if dataclasses.is_dataclass(annotation):
            return pa.struct(arrow_schema(typing.cast(type, annotation)))
        return scalars[annotation]

    hints = typing.get_type_hints(record_type)
    return pa.schema([(field.name, arrow_type(hints[field.name])) for field in dataclasses.fields(record_type)])


def write_parquet(path: Path, records: Iterable[Record], record_type: type) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist([dataclasses.asdict(r) for r in records], schema=arrow_schema(record_type))
    pq.write_table(table, path, compression="zstd")


class ParquetAppender:
    """Records into one file as they come, so that they never sit in memory all at once."""

    ROWS = 1000

    def __init__(self, path: Path, record_type: type):
        self.path, self.schema = path, arrow_schema(record_type)
        self.waiting: list[Any] = []
        self.writer: Any = None

    def add(self, record: Record) -> None:
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
        """What is left; without any record, a file of no rows."""
        if self.waiting or self.writer is None:
            self._write()
        self.writer.close()


def read_parquet(path: Path, record_type: type) -> Iterator[Any]:
    """The records of one file, a batch at a time, so that a large file never sits in memory whole."""
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(path).iter_batches(1024):
        for row in batch.to_pylist():
            yield typed(row, record_type)


def typed(value: Any, annotation: Any) -> Any:
    """What Parquet gives back, as the type that was written."""
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
    """One row of training data: documents end to end, without their padding.

    On disk, little-endian: the number of segments (uint32), their lengths (uint32 each), the token ids (uint16 where
    the vocabulary fits, else uint32), and one bit a token that says whether the token is trained on.
    """

    tokens: np.ndarray  # (used,) ids
    segment_lengths: np.ndarray  # (segments,) sums to `used`
    loss_mask: np.ndarray  # (used,) bool: this token is a target that counts

    def to_bytes(self, token_dtype: str) -> bytes:
        lengths = np.asarray(self.segment_lengths, "<u4")
        tokens = np.asarray(self.tokens, np.dtype(token_dtype).newbyteorder("<"))
        mask = np.packbits(np.asarray(self.loss_mask, bool))
        return np.uint32(len(lengths)).tobytes() + lengths.tobytes() + tokens.tobytes() + mask.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes, token_dtype: str) -> "PackedRow":
        segments = int(np.frombuffer(data, "<u4", 1)[0])
        lengths = np.frombuffer(data, "<u4", segments, 4)
        used = int(lengths.sum())
        start = 4 + 4 * segments
        dtype = np.dtype(token_dtype).newbyteorder("<")
        tokens = np.frombuffer(data, dtype, used, start)
        bits = np.frombuffer(data, np.uint8, -1, start + used * dtype.itemsize)
        return cls(tokens, lengths, np.unpackbits(bits, count=used).astype(bool))


def token_dtype(vocab_size: int) -> str:
    return "uint16" if vocab_size <= 2**16 else "uint32"
