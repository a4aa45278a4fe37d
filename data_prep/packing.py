"""Token sequences to full rows: best-fit decreasing over whole documents. Pure, fast, deterministic."""

from collections import defaultdict
from collections.abc import Sequence


def pack(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Which documents share a row: the longest first, each into the fullest row that still has room.

    Args:
      lengths: tokens of each document, at most `row_length`.
      row_length: tokens of a row.
    Returns:
      rows of indices into `lengths`; every index stands once.
    """
    too_long = [i for i, length in enumerate(lengths) if length > row_length]
    assert not too_long, f"documents {too_long[:5]} are longer than a row of {row_length}"
    rows: list[list[int]] = []
    open_rows: dict[int, list[int]] = defaultdict(list)  # free tokens -> rows with that many
    free_sizes = 0  # bit n is set where a row with n free tokens exists
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        fitting = free_sizes >> length
        if fitting:
            free = length + (fitting & -fitting).bit_length() - 1
            row = open_rows[free].pop()
            if not open_rows[free]:
                free_sizes ^= 1 << free
            rows[row].append(index)
        else:
            free, row = row_length, len(rows)
            rows.append([index])
        left = free - length
        open_rows[left].append(row)
        free_sizes |= 1 << left
    return rows


def cut(length: int, row_length: int) -> list[tuple[int, int]]:
    """(start, end) of the consecutive pieces of a document that is longer than a row."""
    return [(start, min(start + row_length, length)) for start in range(0, length, row_length)]
