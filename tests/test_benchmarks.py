"""The arithmetic of the benchmarks; what they measure is not asserted."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import data
import run


def test_padding_counts_the_slots_of_every_batch():
    lengths = [10, 10, 5, 5]
    assert data.padded(lengths, 4, 20) == 30 / 80
    assert data.padded(lengths, 4, None) == 30 / 40
    assert data.padded([10] * 8, 4, None) == 1.0
    assert data.padded([7, 9, 11], 2, 11) == 27 / 33


def test_a_table_is_markdown():
    assert run.table(["a", "b"], [[1, "x"]]) == "| a | b |\n| --- | --- |\n| 1 | x |"


def test_the_machine_is_named_without_paths():
    told = run.machine()
    assert "jax" in told
    assert "/" not in told.replace("`make bench`", "")
