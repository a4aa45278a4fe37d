"""Read the files of a data set: rows of a table with required columns, and texts."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_prep.contract.errors import UserError
from data_prep.contract.reading.rows import Values, shown
from data_prep.contract.reading.source_files import COMPRESSIONS
from data_prep.contract.tables import files_of, rows_of

# Bytes that are not UTF-8 are read as surrogates, which a Parquet file cannot store.
SURROGATE = re.compile("[\ud800-\udfff]")


def rows(path: Path, columns: Sequence[str], layout: str) -> Iterator[Values]:
    """Rows as text by column, whatever the case of its name.

    Raises UserError for a missing file or column or an unreadable row.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected {layout}")
    checked = False
    for row in rows_of(files_of(path)):
        if row.values is None:
            raise UserError(f"{row.place}: {row.error}")
        if not checked and (missing := [name for name in columns if name not in row.values]):
            raise UserError(
                f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; "
                f"it has {shown(row.values)}; expected {layout}"
            )
        checked = True
        texts = Values((name, "" if value is None else str(value)) for name, value in row.values.items())
        if any(SURROGATE.search(text) for text in texts.values()):
            raise UserError(f"{row.place}: not UTF-8; save the file in that encoding")
        yield texts


def files(source: Path, names: Sequence[str], layout: str) -> list[Path]:
    """`source` if it is a file, otherwise the named files that the folder contains, compressed or not.

    Raises UserError for none.
    """
    if source.is_file():
        return [source]
    present = [[source / f"{name}{end}" for end in ("", *COMPRESSIONS)] for name in names]
    found = [path for paths in present for path in paths if path.is_file()]
    if not found:
        raise UserError(f"{source} is neither a file nor a folder with {' or '.join(names)}; expected {layout}")
    return found
