"""Rows of JSON: a list of objects of any length, or one object per line."""

import json
import re
from collections.abc import Iterator
from typing import IO, Any

from data_prep.contract.errors import UserError
from data_prep.contract.reading.rows import LONGEST_FIELD, Row, bad_row, good_row
from data_prep.contract.reading.source_files import CHUNK, SourceFile, opened_text
from data_prep.contract.reading.strict_json import unique_keys

DECODER = json.JSONDecoder(object_pairs_hook=unique_keys)


def jsonl_rows(file: SourceFile) -> Iterator[Row]:
    with opened_text(file) as text:
        yield from rows_of_lines(file, text)


def rows_of_lines(file: SourceFile, text: IO[str]) -> Iterator[Row]:
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        try:
            values = DECODER.decode(line)
        except (ValueError, RecursionError) as error:
            yield bad_row(file, number, f"not JSON: {error}", line)
            continue
        if isinstance(values, dict):
            yield good_row(file, number, values)
        else:
            yield bad_row(file, number, "not a JSON object", line)


def json_rows(file: SourceFile) -> Iterator[Row]:
    """The rows of a JSON list of objects; a `.json` file with one object per line is read as JSONL."""
    with opened_text(file) as text:
        start = text.read(CHUNK)
        first = start.lstrip()[:1]
        if first == "[":
            yield from JsonList(file, text, start).rows()
    if first == "{":
        yield from jsonl_rows(file)
    elif first != "[":
        raise UserError(
            f"{file.path} contains neither a JSON list nor JSON lines: give the file the suffix of its format"
        )


class JsonList:
    """The items of a JSON list of any length, decoded from a window that slides over the file."""

    ANY = json.JSONDecoder()
    BETWEEN = re.compile(r"[\s,]*")
    SPACE = re.compile(r"\s*")
    # Where to continue after an item that cannot be read.
    NEXT_ITEM = re.compile(r"\}\s*,\s*(?=\{)")

    def __init__(self, file: SourceFile, text: IO[str], start: str):
        self.file, self.text = file, text
        self.window, self.position, self.line = start, 0, 1

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
                    yield bad_row(self.file, self.line, "the file ends before the list does", "")
                return
            if self.window[self.position] == "]":
                break
            row = self.item()
            last_is_broken = row.values is None
            yield row
        self.position += 1
        self.advance(self.SPACE)
        if self.position < len(self.window):
            raise UserError(f"{self.file.path}:{self.line}: text after the end of the JSON list: put it into the list")

    def item(self) -> Row:
        line = self.line
        while True:
            try:
                values, end = self.decoded()
            except (ValueError, RecursionError) as error:
                if self.is_cut(error) and len(self.window) - self.position < LONGEST_FIELD and self.more():
                    continue
                return bad_row(self.file, line, f"not JSON: {error}", self.skip_item())
            raw = self.window[self.position : end]
            self.move(end)
            if isinstance(values, dict):
                return good_row(self.file, line, values)
            problem = f"not JSON: {values}" if isinstance(values, ValueError) else "not a JSON object"
            return bad_row(self.file, line, problem, raw)

    def decoded(self) -> tuple[Any, int]:
        """The item at the position, or the ValueError for its repeated key; and the item's end."""
        try:
            return DECODER.raw_decode(self.window, self.position)
        except json.JSONDecodeError:
            raise
        except ValueError as repeated:
            return repeated, self.ANY.raw_decode(self.window, self.position)[1]

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
        chunk = self.text.read(CHUNK)
        self.window = self.window[self.position :] + chunk
        self.position = 0
        return bool(chunk)
