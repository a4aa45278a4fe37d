"""Read the files of a data set: CSV or JSONL rows with required columns, and texts."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_prep.contract.errors import UserError
from data_prep.contract.tables import csv_rows, jsonl_rows

# Bytes that are not UTF-8 are read as surrogates, which a Parquet file cannot store.
SURROGATE = re.compile("[\ud800-\udfff]")


def rows(path: Path, columns: Sequence[str], layout: str) -> Iterator[dict[str, str]]:
    """Rows as text by column. Raises UserError for a missing file or column or an unreadable row."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected {layout}")
    checked = False
    for row in (jsonl_rows if path.suffix == ".jsonl" else csv_rows)(path):
        if row.values is None:
            raise UserError(f"{row.place}: {row.error}")
        if not checked and (missing := [name for name in columns if name not in row.values]):
            raise UserError(
                f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; "
                f"it has {', '.join(row.values)}; expected {layout}"
            )
        checked = True
        texts = {name: "" if value is None else str(value) for name, value in row.values.items()}
        if any(SURROGATE.search(text) for text in texts.values()):
            raise UserError(f"{row.place}: not UTF-8; save the file in that encoding")
        yield texts


def read_text(path: Path) -> str:
    """Text of a file with its carriage returns, which offsets count. Raises UserError if it is not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from error


def files(source: Path, names: Sequence[str], layout: str) -> list[Path]:
    """`source` if it is a file, otherwise the named files that the folder contains. Raises UserError for none."""
    found = [source] if source.is_file() else [source / name for name in names if (source / name).is_file()]
    if not found:
        raise UserError(f"{source} is neither a file nor a folder with {' or '.join(names)}; expected {layout}")
    return found
