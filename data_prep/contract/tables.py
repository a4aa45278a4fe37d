"""Readers of case reports in CSV, JSON, JSONL, Parquet and text files, one row at a time, never a whole file.

Each reader yields a `Row` for every row, well-formed or malformed, and continues after a malformed one.
"""

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.contract.errors import UserError
from data_prep.contract.hub import is_hub_id

# Characters. A case report has some thousands; a longer field means that a quotation mark was never closed.
LONGEST_FIELD = 10_000_000
CHUNK = 1 << 20


@dataclass(frozen=True)
class Row:
    """One row: its values by column, or None with the error and the unreadable text."""

    place: str  # file and first line of the row: "reports.csv:12"
    name: str  # id to use if the row has no id of its own
    values: Mapping[str, Any] | None
    error: str = ""
    raw: str = ""


def bad_row(path: Path, line: int, error: str, raw: str) -> Row:
    return Row(f"{path.name}:{line}", f"{path.stem}-{line}", None, error, raw[:LONGEST_FIELD])


def good_row(path: Path, line: int, values: Mapping[str, Any]) -> Row:
    return Row(f"{path.name}:{line}", f"{path.stem}-{line}", values)


def open_text(path: Path) -> Any:
    # A byte that is not UTF-8 becomes a lone surrogate, so that it spoils only its own row, not the file.
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def csv_rows(path: Path) -> Iterator[Row]:
    csv.field_size_limit(LONGEST_FIELD)
    with open_text(path) as file:
        # strict: a stray quotation mark is reported; the lenient reader would silently join rows.
        reader = csv.reader(file, strict=True)
        header: list[str] | None = None
        while True:
            line = reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield bad_row(path, line, f"not CSV: {error}", "")
                continue
            if not fields:
                continue
            if header is None:
                header = fields
            elif len(fields) != len(header):
                yield bad_row(path, line, f"{len(fields)} fields under {len(header)} columns", json.dumps(fields))
            else:
                yield good_row(path, line, dict(zip(header, fields, strict=True)))


def jsonl_rows(path: Path) -> Iterator[Row]:
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield bad_row(path, number, f"not JSON: {error}", line)
                continue
            if isinstance(values, dict):
                yield good_row(path, number, values)
            else:
                yield bad_row(path, number, "not a JSON object", line)


class JsonList:
    """The items of a JSON list of any length, decoded from a window that slides over the file."""

    DECODER = json.JSONDecoder()
    BETWEEN = re.compile(r"[\s,]*")
    # Where to continue after an item that cannot be read.
    NEXT_ITEM = re.compile(r"\}\s*,\s*(?=\{)")

    def __init__(self, path: Path, file: Any):
        self.path, self.file = path, file
        self.window, self.position, self.line, self.ended = "", 0, 1, False

    def rows(self) -> Iterator[Row]:
        self.advance(self.BETWEEN)
        assert self.window[self.position] == "[", "the caller checks this"
        self.position += 1
        last_is_broken = False
        while True:
            self.advance(self.BETWEEN)
            if self.position >= len(self.window):
                # An item that is cut off has been reported already.
                if not last_is_broken:
                    yield bad_row(self.path, self.line, "the file ends before the list does", "")
                return
            if self.window[self.position] == "]":
                return
            row = self.item()
            last_is_broken = row.values is None
            yield row

    def item(self) -> Row:
        line = self.line
        while True:
            try:
                values, end = self.DECODER.raw_decode(self.window, self.position)
            except (ValueError, RecursionError) as error:
                if self.is_cut(error) and len(self.window) - self.position < LONGEST_FIELD and self.more():
                    continue
                return bad_row(self.path, line, f"not JSON: {error}", self.skip_item())
            raw = self.window[self.position : end]
            self.move(end)
            if isinstance(values, dict):
                return good_row(self.path, line, values)
            return bad_row(self.path, line, "not a JSON object", raw)

    def is_cut(self, error: Exception) -> bool:
        """Return True if an item may be unreadable only because the window ends inside it."""
        if not isinstance(error, json.JSONDecodeError):
            return False
        # The error of a string gives its beginning; others give where reading stopped, at most a \\uXXXX pair early.
        return error.msg.startswith("Unterminated string") or error.pos >= len(self.window) - 12

    def skip_item(self) -> str:
        """Move to the next item after a broken one, and return the skipped text."""
        skipped = ""
        while True:
            found = self.NEXT_ITEM.search(self.window, self.position)
            end = found.end() if found else len(self.window)
            # Text beyond the length of any record is of no use in a report.
            skipped = (skipped + self.window[self.position : end])[:LONGEST_FIELD]
            self.move(end)
            if found or not self.more():
                return skipped

    def advance(self, skip: re.Pattern[str]) -> None:
        """Skip separators, reading more text as needed."""
        while True:
            match = skip.match(self.window, self.position)
            assert match
            self.move(match.end())
            if self.position < len(self.window) or not self.more():
                return

    def move(self, end: int) -> None:
        self.line += self.window.count("\n", self.position, end)
        self.position = end

    def more(self) -> bool:
        """Read the next chunk and drop the text before the position; False at the end of the file."""
        chunk = self.file.read(CHUNK)
        self.window = self.window[self.position :] + chunk
        self.position = 0
        return bool(chunk)


def json_rows(path: Path) -> Iterator[Row]:
    """The rows of a JSON list of objects; a `.json` file with one object per line is read as JSONL."""
    with open_text(path) as file:
        start = file.read(CHUNK).lstrip()[:1]
        if start == "[":
            file.seek(0)
            yield from JsonList(path, file).rows()
        elif start == "{":
            yield from jsonl_rows(path)
        else:
            raise UserError(
                f"{path} contains neither a JSON list nor JSON lines: give the file the suffix of its format"
            )


def parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} is not a Parquet file ({error}): give the file the suffix of its format") from error
    number = 0
    for batch in file.iter_batches(256):
        for values in batch.to_pylist():
            number += 1
            yield good_row(path, number, values)


def text_rows(path: Path) -> Iterator[Row]:
    with open_text(path) as file:
        yield Row(path.name, path.stem, {"text": file.read().replace("\r\n", "\n")})


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".csv": csv_rows,
    ".json": json_rows,
    ".jsonl": jsonl_rows,
    ".ndjson": jsonl_rows,
    ".parquet": parquet_rows,
    ".txt": text_rows,
}


def files_of(source: Path) -> list[Path]:
    """The source file, or the files of a folder, sorted by path.

    Raises UserError if a file is of no known kind, or if a folder contains several kinds.
    """
    kinds = ", ".join(READERS)
    if source.is_file():
        if source.suffix.lower() not in READERS:
            raise UserError(f"{source}: unknown file suffix {source.suffix!r}; known: {kinds}")
        return [source]
    files = [
        path
        for path in sorted(source.rglob("*"))
        if path.suffix.lower() in READERS
        and path.is_file()
        and not any(name.startswith(".") for name in path.relative_to(source).parts)
    ]
    found = sorted({path.suffix.lower() for path in files})
    if not found:
        raise UserError(f"{source} contains no files of a known kind ({kinds})")
    if len(found) > 1:
        raise UserError(
            f"{source} contains files of several kinds ({', '.join(found)}): pass one file, or separate them"
        )
    return files


def rows_of(files: list[Path]) -> Iterator[Row]:
    for path in files:
        yield from READERS[path.suffix.lower()](path)


# ---------------------------------------------------------------- the hub


def looks_like_hub_id(source: str) -> bool:
    """Return True if a name may be a data set on the hub: not a path, and without the suffix of a known file kind."""
    return is_hub_id(source) and Path(source).suffix.lower() not in READERS


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
                yield Row(f"{hub_id} {split}:{number}", f"{split}-{number}", values)

    return rows(), version
