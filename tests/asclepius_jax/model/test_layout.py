"""What is turned is what einops turns, whatever the type, the part and the remainder."""

import ml_dtypes
import numpy as np
import pytest
from einops import rearrange

from asclepius_jax.model.huggingface.families import GLOBAL, PER_BLOCK
from asclepius_jax.model.huggingface.layout import axes_of, is_turned, read_part, turn, write_part

DTYPES = (np.float32, ml_dtypes.bfloat16, np.float16)
LETTERS = {"v": 20, "d": 24, "f": 36, "n": 6, "k": 3, "h": 8}
LAYOUTS = sorted({layout for *_, layout in GLOBAL + PER_BLOCK})


def made(shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def shape_of(names: str) -> tuple[int, ...]:
    return tuple(LETTERS[name] for name in names.split())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (4, 7), (5, 8), (128, 3), (131, 260), (300, 129), (512, 64)])
def test_turning_is_transposing(shape: tuple[int, int], dtype: type):
    source = made(shape, dtype)
    target = np.zeros(shape[::-1], dtype)
    turn(target, source)
    np.testing.assert_array_equal(target, source.T)


def test_turning_into_a_part_leaves_the_rest():
    source, target = made((40, 30), np.float16), np.full((35, 50), -1, np.float16)
    turn(target[2:32, 3:43], source)
    np.testing.assert_array_equal(target[2:32, 3:43], source.T)
    target[2:32, 3:43] = -1
    assert (target == -1).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_parts_are_those_of_einops_both_ways(layout: str, dtype: type):
    names = layout.split(" -> ")[1]
    ours = made(shape_of(names), dtype)
    theirs = rearrange(ours, " -> ".join(reversed(layout.split(" -> "))))
    written = np.zeros(theirs.shape, dtype)
    for first in (slice(0, 9), slice(9, None)):
        for second in (slice(0, 2), slice(2, None)):
            index = (first, second, slice(None))[: ours.ndim]
            part = read_part(theirs, layout, index, ours.shape)
            np.testing.assert_array_equal(part, ours[index])
            assert part.flags.c_contiguous
            assert not np.shares_memory(part, theirs)
            write_part(written, layout, index, ours.shape, part)
    np.testing.assert_array_equal(written, theirs)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_axis_is_known(layout: str):
    ours = made(shape_of(layout.split(" -> ")[1]))
    theirs = rearrange(ours, " -> ".join(reversed(layout.split(" -> "))))
    view, axes = axes_of(theirs, layout, ours.shape)
    np.testing.assert_array_equal(view, ours.transpose(axes))
    assert is_turned(layout) == (axes != tuple(range(ours.ndim)))
