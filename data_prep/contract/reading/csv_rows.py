"""Rows of CSV: any separator, fields over many lines, and quotation marks that are not closed.

A quotation mark that is never closed swallows the rows after it. Notes of thousands of lines are fields too, so nobody
can say which of the swallowed lines were rows. The run stops there and names the place, instead of going on without
them.
"""

import csv
import itertools
import json
import re
from collections.abc import Iterator
from typing import IO

from data_prep.contract.errors import UserError
from data_prep.contract.reading.characters import plain_text
from data_prep.contract.reading.rows import LONGEST_FIELD, Row, bad_row, check_names, good_row
from data_prep.contract.reading.source_files import SourceFile, opened_text, say_once

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
QUOTED = re.compile(r'"[^"]*(?:""[^"]*)*"?')
# The first line by which Excel is told the separator.
EXCEL_SEPARATOR = re.compile(r'"?sep=(.)"?\s*')
SHOWN = 30  # characters after a quotation mark in a message


class Lines:
    """The lines of a file, of which those of the current row are kept for messages."""

    def __init__(self, lines: Iterator[str]):
        self.lines = lines
        self.of_row: list[str] = []

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> str:
        line = next(self.lines)
        self.of_row.append(line)
        return line


def csv_rows(file: SourceFile) -> Iterator[Row]:
    """Each row below the header, also those that cannot be read.

    Raises UserError if the header is not usable, or if a quotation mark makes the number of lost rows unknown.
    """
    csv.field_size_limit(LONGEST_FIELD)
    with opened_text(file) as text:
        before, header_line, separator = start_of(file, text)
        lines = Lines(itertools.chain([header_line] if header_line else [], text))
        # strict: a stray quotation mark is reported; the lenient reader would silently join rows.
        reader = csv.reader(lines, delimiter=separator, strict=True)
        header: list[str] | None = None
        doubtful: tuple[int, list[str]] | None = None
        while True:
            lines.of_row.clear()
            line = before + reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if header is None or not is_one_row(lines.of_row, separator, len(header), error):
                    raise broken_quoting(file, line, lines.of_row, separator, error) from error
                yield bad_row(file, line, f"not CSV: {error}", lines.of_row[0])
                continue
            if not fields:
                continue
            if header is None:
                header = [plain_text(name).strip() for name in fields]
                check_names(header, f"{file.path}:{line}")
                if separator != "," and file.format == ".csv":
                    say_once(f"{file.path}: columns are separated by {SEPARATORS.get(separator, repr(separator))}")
                continue
            unpaired = sum(part.count('"') for part in lines.of_row) % 2
            if unpaired and (doubtful or len(fields) != len(header)):
                # The end of a field whose beginning an earlier quotation mark took.
                place = doubtful or (line, lines.of_row)
                raise broken_quoting(file, *place, separator, csv.Error("a quotation mark has no partner"))
            if len(lines.of_row) > 1 and lines.of_row[-1].rstrip("\r\n").endswith(f'{separator}"'):
                # The mark that ends the row may be one that begins a field: 1,"never closed / 2," / a text"
                doubtful = line, list(lines.of_row)
            if len(fields) == len(header):
                yield good_row(file, line, dict(zip(header, fields, strict=True)))
            else:
                yield bad_row(file, line, f"{len(fields)} fields under {len(header)} columns", json.dumps(fields))


def start_of(file: SourceFile, text: IO[str]) -> tuple[int, str, str]:
    """The number of lines before the header, the header's first line ("" if there is none), and the separator."""
    separator = ""
    for number, line in enumerate(text):
        if match := EXCEL_SEPARATOR.fullmatch(line):
            separator = match[1]
        elif line.strip():
            return number, line, separator or separator_of(line, file)
    return 0, "", ","


def separator_of(line: str, file: SourceFile) -> str:
    """The separator that a header's line has most of; of a .tsv file the tab, if it has one."""
    outside = QUOTED.sub("", line)
    if file.format == ".tsv" and "\t" in outside:
        return "\t"
    return max(SEPARATORS, key=outside.count)


def is_one_row(lines: list[str], separator: str, columns: int, error: csv.Error) -> bool:
    """Return True if an error certainly spoils one row: it does so within a line that has all fields of a row."""
    if len(lines) > 1:
        return False
    if "end of data" in str(error):
        return True  # the last line
    line = lines[0].rstrip("\r\n")
    closing = re.compile(f'"(?={re.escape(separator)}|$)')
    place = count = 0
    while True:
        if line.startswith('"', place):
            end = closing.search(line, place + 1)
            if not end:
                return False
            place = end.end()
        else:
            place = line.find(separator, place) if separator in line[place:] else len(line)
        count += 1
        if place == len(line):
            return count == columns
        place += 1


def broken_quoting(file: SourceFile, line: int, lines: list[str], separator: str, error: csv.Error) -> UserError:
    """The error that names the quotation mark at which a row became unreadable."""
    text = "".join(lines)
    place = opening_quote(text, separator)
    row_line, passed = line, 0
    for part in lines:
        if passed + len(part) > place:
            break
        passed += len(part)
        row_line += 1
    after = " ".join(text[place : place + SHOWN].split())
    where = f"lines {line} to {line + len(lines) - 1}" if len(lines) > 1 else f"line {line}"
    return UserError(
        f"{file.path}:{row_line}: not CSV ({error}), so the rows from {where} on cannot be told apart: close the "
        f"quotation mark at {after!r}, or double it if it belongs to the text"
    )


def opening_quote(text: str, separator: str) -> int:
    """Place of the quotation mark after which the text of a row is no longer CSV."""
    place = last = 0
    while place < len(text):
        if quoted := QUOTED.match(text, place):
            last, place = place, quoted.end()
            if text[place : place + 1] != separator:
                return last
        else:
            separated = text.find(separator, place)
            stray = text.find('"', place, separated if separated >= 0 else len(text))
            last = stray if stray >= 0 else last
            place = separated if separated >= 0 else len(text)
        place += 1
    return last
