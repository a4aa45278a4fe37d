"""Rows, whose columns are found whatever the case of their names and the white space around these."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from data_prep.contract.errors import UserError
from data_prep.contract.reading.characters import plain_value
from data_prep.contract.reading.source_files import SourceFile

# Characters. A case report has some thousands; a longer field means that a quotation mark was never closed.
LONGEST_FIELD = 10_000_000
NAMES_SHOWN = 300  # characters of column names in a message


def folded(name: Any) -> str:
    return str(name).strip().casefold()


@functools.lru_cache(maxsize=256)
def names_by_folded(names: tuple[Any, ...]) -> dict[str, Any]:
    return {folded(name): name for name in names}


class Values(dict[str, Any]):
    """The values of a row by column. "Text" also finds the column "TEXT"."""

    def __missing__(self, name: str) -> Any:
        actual = names_by_folded(tuple(self)).get(folded(name))
        if actual is None or actual == name:
            raise KeyError(name)
        return self[actual]

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or folded(name) in names_by_folded(tuple(self))

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401, dict.get would not ask __missing__


@functools.lru_cache(maxsize=256)
def repeated_names(names: tuple[Any, ...]) -> str:
    """The columns that a lookup cannot tell apart, such as "'Text' and 'TEXT'"; "" if there are none."""
    seen: dict[str, Any] = {}
    for name in names:
        key = folded(name)
        # Columns without a name, such as the index that pandas writes, are never looked up.
        if key and key in seen:
            return f"{seen[key]!r} and {name!r}"
        seen[key] = name
    return ""


def check_names(names: Iterable[Any], place: str) -> None:
    """Raise UserError if two columns have the same name for a lookup."""
    if repeated := repeated_names(tuple(names)):
        raise UserError(f"{place}: two columns have one name, {repeated}: rename or remove one of them")


def shown(names: Iterable[Any]) -> str:
    """Column names for a message of one line."""
    text = " ".join(", ".join(map(str, names)).split())
    return text if len(text) <= NAMES_SHOWN else f"{text[:NAMES_SHOWN]}…"


@dataclass(frozen=True)
class Row:
    """One row: its values by column, or None with the error and the unreadable text."""

    place: str  # file and first line of the row: "reports.csv:12"
    name: str  # id to use if the row has no id of its own
    values: dict[str, Any] | None  # a Values
    error: str = ""
    raw: str = ""


def bad_row(file: SourceFile, line: int, error: str, raw: str) -> Row:
    return Row(f"{file.name}:{line}", f"{file.stem}-{line}", None, error, raw[:LONGEST_FIELD])


def good_row(file: SourceFile, line: int, values: dict[str, Any]) -> Row:
    if repeated := repeated_names(tuple(values)):
        return bad_row(file, line, f"two columns have one name, {repeated}", repr(values))
    plain = Values((name, plain_value(value)) for name, value in values.items())
    return Row(f"{file.name}:{line}", f"{file.stem}-{line}", plain)
