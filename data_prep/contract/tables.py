"""Readers of texts in CSV, JSON, JSONL, Parquet and text files, one row at a time, never a whole file.

Each reader yields a `Row` for every row, well-formed or malformed, and continues after a malformed one. What ends a
file early or makes its rows uncertain is a UserError. `reading/` has the parts.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from data_prep.contract.errors import UserError, first_line
from data_prep.contract.hub import is_hub_id
from data_prep.contract.reading.characters import plain_text
from data_prep.contract.reading.csv_rows import csv_rows
from data_prep.contract.reading.json_rows import json_rows, jsonl_rows
from data_prep.contract.reading.rows import Row, Values, check_names, good_row
from data_prep.contract.reading.source_files import (
    SourceFile,
    changed,
    opened_bytes,
    opened_text,
    readable,
    say_encodings,
    state_of,
    suffixes_of,
)
from data_prep.contract.reading.source_files import (
    files_of as files_of,
)


def parquet_rows(file: SourceFile) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Without the checksums of pages, a flipped bit would become part of a text.
        table = pq.ParquetFile(file.path, page_checksum_verification=True)
    except pa.ArrowInvalid as error:
        raise UserError(
            f"{file.path} is not a Parquet file ({first_line(error)}): give the file the suffix of its format"
        ) from error
    check_names(table.schema_arrow.names, str(file.path))
    number = 0
    try:
        for batch in table.iter_batches(256):
            if state_of(file.path.stat()) != file.survey.state:
                raise changed(file)
            for values in batch.to_pylist():
                number += 1
                yield good_row(file, number, values)
    except (pa.ArrowException, ValueError, OverflowError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file.path} is damaged after row {number} ({first_line(error)}): fetch it again") from error


def text_rows(file: SourceFile) -> Iterator[Row]:
    with opened_text(file) as text:
        yield Row(file.name, file.stem, Values(text=plain_text(text.read())))


READERS: dict[str, Callable[[SourceFile], Iterator[Row]]] = {
    ".csv": csv_rows,
    ".tsv": csv_rows,
    ".json": json_rows,
    ".jsonl": jsonl_rows,
    ".ndjson": jsonl_rows,
    ".parquet": parquet_rows,
    ".txt": text_rows,
}


def rows_of(files: Sequence[SourceFile]) -> Iterator[Row]:
    """The rows of all files. Raises UserError for a file that cannot be read, is damaged or changes meanwhile."""
    say_encodings(files)
    for file in files:
        with readable(file):
            yield from READERS[file.format](file)


def raw_text_file(path: Path) -> str:
    """The text of a file of any suffix, with each of its characters, which annotations count.

    Raises UserError if it cannot be read as text.
    """
    file = SourceFile(path, f"{path.name}.txt")
    with readable(file):
        say_encodings([file])
        with opened_bytes(file, file.survey) as (_, content):
            data = content.read()
    encoding = file.survey.encoding.removesuffix("-sig")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not {encoding.upper()} ({error.reason} at byte {error.start})") from error


def read_text_file(path: Path) -> str:
    """The text of a file of any suffix, with plain characters. Raises UserError if it cannot be read as text."""
    return plain_text(raw_text_file(path))


# ---------------------------------------------------------------- the hub


def looks_like_hub_id(source: str) -> bool:
    """Return True if a name may be a data set on the hub: not a path, and without the suffix of a known file kind."""
    return is_hub_id(source) and not suffixes_of(source)[0]


def open_hub(hub_id: str) -> tuple[Iterator[Row], str]:
    """The rows of all splits of a data set on the Hugging Face hub, streamed, and a hash of its version."""
    import datasets

    try:
        version = datasets.load_dataset_builder(hub_id).hash
        splits = datasets.load_dataset(hub_id, streaming=True)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{hub_id}: no such file, and loading it from the hub failed ({reason})") from error

    def rows() -> Iterator[Row]:
        for split, data in splits.items():
            for number, values in enumerate(data, 1):
                check_names(values, f"{hub_id} {split}")
                row = good_row(SourceFile(Path(split), split), number, values)
                yield Row(f"{hub_id} {split}:{number}", row.name, row.values)

    return rows(), version


# ---------------------------------------------------------------- cells


def cell_text(value: object, column: str) -> str:
    """A cell as text; identifiers may be numbers. Raises ValueError for other types and for text that is not UTF-8."""
    if value is None or value != value:  # NaN is how pandas stores a missing cell
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"column {column!r} contains {type(value).__name__}, not text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"column {column!r} is not UTF-8") from error
    return value.strip()


def is_true(value: object) -> bool:
    """Return True for a cell that says yes: true, yes or 1, as text or not."""
    return str(value).strip().lower() in ("true", "yes", "1", "1.0")


def storable(text: str) -> str:
    """The text with undecodable bytes as backslash escapes, because Parquet strings are UTF-8."""
    return text.encode(errors="backslashreplace").decode()
