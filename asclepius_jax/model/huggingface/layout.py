"""Fast conversion of matrices between Hugging Face's order of axes (output first) and ours (input first).

Shape suffixes, as in x_RC:  R rows and C columns of the source.
"""

import numpy as np

# Rows transposed at a time. With 4,096 columns they fit in a core's cache.
ROWS = 128


def turn(target_CR: np.ndarray, source_RC: np.ndarray) -> None:
    """Write the transpose of source to target. Both matrices have the same type and contiguous rows.

    Four rows of 16-bit or two rows of 32-bit elements are first interleaved into 64-bit elements. The cost of a
    transposition depends on the number of elements, not of bytes, so this makes it two to three times as fast.
    """
    assert target_CR.shape == source_RC.shape[::-1], f"{target_CR.shape} for {source_RC.shape} transposed"
    assert target_CR.dtype == source_RC.dtype
    bits = np.dtype(f"u{source_RC.itemsize}")
    target_CR, source_RC = target_CR.view(bits), source_RC.view(bits)
    together = 8 // bits.itemsize
    R, C = source_RC.shape
    whole = R - R % together if target_CR.strides[0] % 8 == 0 else 0
    wide_CR = target_CR[:, :whole].view(np.uint64)
    scratch = np.empty((ROWS // together, C, together), bits)
    for row in range(0, whole, ROWS):
        count = min(ROWS, whole - row) // together
        for place in range(together):
            scratch[:count, :, place] = source_RC[row + place : row + count * together : together]
        wide_CR[:, row // together : row // together + count] = scratch[:count].view(np.uint64)[..., 0].T
    target_CR[:, whole:] = source_RC[whole:].T


def is_turned(layout: str) -> bool:
    """Return whether the layout `theirs -> ours`, for example "(n h) d -> d n h", swaps rows and columns."""
    theirs, ours = layout.replace("(", "").replace(")", "").split(" -> ")
    return theirs != ours


def matrix_index(index: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Translate an index of whole heads in (D, N, H) to (D, N H). An index of fewer axes is returned unchanged."""
    if len(shape) < 3:
        return index
    rows, heads, within = index
    assert within.indices(shape[2]) == (0, shape[2], 1), "a part must contain whole heads"
    start, end, _ = heads.indices(shape[1])
    return rows, slice(start * shape[2], end * shape[2])


def as_ours(tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor of a bias or norm of heads with heads as an axis; any other tensor as it is."""
    return tensor.reshape(shape) if tensor.ndim == 1 and len(shape) == 2 else tensor


def read_part(tensor: np.ndarray, layout: str, index: tuple[slice, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Copy part `index` of our array of shape `shape` out of the Hugging Face tensor.

    Rows that the vocabulary lacks there are zeros.
    """
    tensor, place = as_ours(tensor, shape), matrix_index(index, shape)
    if padding(tensor, layout, shape):
        rows, columns = place[::-1] if is_turned(layout) else place
        found = tensor[rows, columns]
        start, end, _ = rows.indices(len(tensor) + padding(tensor, layout, shape))
        whole = np.concatenate([found, np.zeros((end - start - len(found), found.shape[1]), tensor.dtype)])
        return np.ascontiguousarray(whole.T) if is_turned(layout) else whole
    if not is_turned(layout):
        part = np.array(tensor[place])
    else:
        source_RC = tensor[place[::-1]]
        part = np.empty(source_RC.shape[::-1], tensor.dtype)
        turn(part, source_RC)
    return part.reshape(*part.shape[:1], -1, shape[2]) if len(shape) == 3 else part


def write_part(
    tensor: np.ndarray, layout: str, index: tuple[slice, ...], shape: tuple[int, ...], part: np.ndarray
) -> None:
    """Write part `index` of our array of shape `shape` into the Hugging Face tensor."""
    tensor, place = as_ours(tensor, shape), matrix_index(index, shape)
    part = part.reshape(part.shape[0], -1) if part.ndim == 3 else part
    if padding(tensor, layout, shape):
        rows, columns = place[::-1] if is_turned(layout) else place
        kept = tensor[rows, columns]  # as a view, without the rows that the tensor lacks
        kept[...] = (part.T if is_turned(layout) else part)[: len(kept)]
    elif is_turned(layout):
        turn(tensor[place[::-1]], part)
    else:
        tensor[place] = part


def padding(tensor: np.ndarray, layout: str, shape: tuple[int, ...]) -> int:
    """Rows of the vocabulary that our array has beyond those of the tensor."""
    return shape[1 if is_turned(layout) else 0] - len(tensor) if len(shape) == tensor.ndim == 2 else 0


def axes_of(tensor: np.ndarray, layout: str, shape: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, ...]]:
    """The Hugging Face tensor with heads as an axis of its own, and for each of its axes the number of our axis."""
    ours = tuple(range(len(shape)))
    axes = (*ours[1:], 0) if is_turned(layout) else ours
    if padding(tensor, layout, shape):  # of zeros, which no checksum counts
        return tensor, axes
    return tensor.reshape([shape[axis] for axis in axes]), axes
