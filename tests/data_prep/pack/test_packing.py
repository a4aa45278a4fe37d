"""Rows hold whole documents, each once, and leave next to nothing empty."""

import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.pack.best_fit import cut, pack


def first_fit(lengths: Sequence[int], row_length: int) -> int:
    """Rows that the obvious method takes: each document into the first row with room."""
    rooms: list[int] = []
    for length in lengths:
        for i, room in enumerate(rooms):
            if length <= room:
                rooms[i] -= length
                break
        else:
            rooms.append(row_length - length)
    return len(rooms)


def random_lengths(count: int, mean: int, row_length: int, seed: int) -> list[int]:
    drawn = np.random.default_rng(seed).gamma(4.0, mean / 4.0, count)
    return [int(length) for length in np.clip(drawn, 1, row_length)]


def efficiency(lengths: Sequence[int], rows: int, row_length: int) -> float:
    return sum(lengths) / (rows * row_length)


@st.composite
def packings(draw) -> tuple[list[int], int]:
    row_length = draw(st.integers(1, 200))
    return draw(st.lists(st.integers(1, row_length), max_size=60)), row_length


@settings(max_examples=300, deadline=None)
@given(packings())
def test_every_document_stands_once_and_no_row_overflows(case: tuple[list[int], int]):
    lengths, row_length = case
    rows = pack(lengths, row_length)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    used = [sum(lengths[index] for index in row) for row in rows]
    assert all(0 < tokens <= row_length for tokens in used)
    # A row takes what fills it best, so the documents of a later one never all fit beside it.
    assert all(a + b > row_length for i, a in enumerate(used) for b in used[i + 1 :])


@settings(max_examples=50, deadline=None)
@given(packings())
def test_the_same_lengths_give_the_same_rows(case: tuple[list[int], int]):
    assert pack(*case) == pack(list(case[0]), case[1])


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("mean", [30, 300, 700])
def test_no_more_rows_than_first_fit(seed: int, mean: int):
    lengths = random_lengths(200, mean, 1024, seed)
    assert len(pack(lengths, 1024)) <= first_fit(lengths, 1024)


def test_first_fit_leaves_rows_that_this_fills():
    lengths = random_lengths(400, 300, 1024, 0)
    assert len(pack(lengths, 1024)) < first_fit(lengths, 1024)


def test_documents_of_two_thirds_and_one_third_fill_their_rows_exactly():
    rows = pack([6, 3, 6, 3, 3, 6], 9)
    assert sorted(map(sorted, rows)) == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize("seed", range(3))
def test_case_report_sized_documents_fill_99_percent(seed: int):
    lengths = random_lengths(1500, 550, 2048, seed)
    started = time.monotonic()
    rows = pack(lengths, 2048)
    assert efficiency(lengths, len(rows), 2048) >= 0.99
    assert time.monotonic() - started < 10


def test_nothing_makes_no_row():
    assert pack([], 64) == []


@pytest.mark.parametrize("length", [0, 65])
def test_a_document_that_fits_no_row_is_a_mistake_of_the_caller(length: int):
    with pytest.raises(AssertionError, match=r"\[1\]"):
        pack([5, length], 64)


@pytest.mark.parametrize(
    ("length", "pieces"),
    [(1, [(0, 1)]), (10, [(0, 10)]), (11, [(0, 10), (10, 11)]), (30, [(0, 10), (10, 20), (20, 30)])],
)
def test_a_long_document_becomes_consecutive_pieces(length: int, pieces: list[tuple[int, int]]):
    assert cut(length, 10) == pieces
