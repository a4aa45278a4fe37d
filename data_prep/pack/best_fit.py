"""Deterministic packing of token sequences into full rows, whole documents only.

Best-fit decreasing leaves 2 to 5 % of a row empty, because no remaining document fits the gap at the end. Here the
longest remaining document opens a row, and the others are chosen by their sum.
"""

from collections.abc import Sequence


def pack(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Assign documents to rows.

    Args:
      lengths: number of tokens of each document, from 1 to `row_length`.
      row_length: number of tokens in a row.
    Returns:
      rows of indices into `lengths`; every index occurs exactly once.
    """
    unfit = [i for i, length in enumerate(lengths) if not 1 <= length <= row_length]
    assert not unfit, f"documents {unfit[:5]} are empty or longer than a row of {row_length}"
    # length -> documents of this length. Lengths in descending order; pop() takes the earliest document.
    waiting: dict[int, list[int]] = {}
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], -i)):
        waiting.setdefault(lengths[index], []).append(index)
    rows = []
    while waiting:
        longest = next(iter(waiting))
        row = []
        for length in [longest, *fill(row_length - longest, longest, waiting)]:
            row.append(waiting[length].pop())
            if not waiting[length]:
                del waiting[length]
        rows.append(row)
    return rows


def fill(room: int, opened_by: int, waiting: dict[int, list[int]]) -> list[int]:
    """Lengths of waiting documents whose sum is the largest that is at most `room`, preferring long documents.

    This is a subset sum over a bit set: bit n of `sums` is set if the lengths so far can add up to n. The search ends
    at the first exact fit, usually after a few dozen lengths.
    """
    mask = (2 << room) - 1
    sums, history = 1, []
    for length, documents in waiting.items():
        if length > room:
            continue
        free = len(documents) - (length == opened_by)  # one of them opened the row
        for _ in range(min(free, room // length)):
            grown = (sums | sums << length) & mask
            if grown == sums:
                break
            history.append((length, sums))
            sums = grown
        if sums >> room:
            break
    target, chosen = sums.bit_length() - 1, []
    for length, before in reversed(history):
        if not before >> target & 1:
            chosen.append(length)
            target -= length
    return chosen


def cut(length: int, row_length: int) -> list[tuple[int, int]]:
    """(start, end) of the consecutive pieces of a document that is longer than a row."""
    return [(start, min(start + row_length, length)) for start in range(0, length, row_length)]
