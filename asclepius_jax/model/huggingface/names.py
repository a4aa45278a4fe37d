"""The model in Hugging Face's names and layouts. One table serves reading and writing, and is strict both ways."""

import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from einops import rearrange

from asclepius_jax.model.decoder import Model, Params
from asclepius_jax.model.huggingface.families import FAMILIES, FUSED, GLOBAL, PER_BLOCK
from asclepius_jax.model.huggingface.layout import read_part
from asclepius_jax.model.huggingface.model_config import read_config as read_config
from asclepius_jax.model.huggingface.model_config import write_config as write_config
from asclepius_jax.model.huggingface.safetensors import FolderError, Tensors, open_folder, shown_name, stored_name
from asclepius_jax.model.quantized import Quantized, in_type_of
from asclepius_jax.model.sizes import DecoderConfig

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
BAND_ROWS = 1024  # rows of the embedding compared at a time
EXPONENTS = {
    np.dtype(np.float32): np.uint32(0x7F800000),
    np.dtype(np.float16): np.uint16(0x7C00),
    np.dtype(ml_dtypes.bfloat16): np.uint16(0x7F80),
}


# ---------------------------------------------------------------- names


def flatten(tree: Params, prefix: str = "") -> dict[str, Any]:
    """Flatten a nested dict: {"blocks.attention.q_DNH": ...}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def unflatten(flat: dict[str, Any]) -> Params:
    tree: Params = {}
    for name, value in flat.items():
        *branches, leaf = name.split(".")
        branch = tree
        for key in branches:
            branch = branch.setdefault(key, {})
        branch[leaf] = value
    return tree


def names(model: Model) -> Iterator[tuple[str, str, str]]:
    """Yield (our name, Hugging Face's name, layout) of every parameter.

    Hugging Face's name contains {} for the layer number if we stack the parameter over layers.
    """
    ours = flatten(model.shapes)
    table = [row for row in GLOBAL if row[0] in ours]
    table += [
        (f"blocks.{name}", f"model.layers.{{}}.{theirs}", layout)
        for name, theirs, layout in block_rows(model.config)
        if f"blocks.{name}" in ours
    ]
    listed = {row[0] for row in table}
    assert listed == set(ours), f"not in the table: {set(ours) - listed}; not in the model: {listed - set(ours)}"
    yield from table


def block_rows(config: DecoderConfig) -> Iterator[tuple[str, str, str]]:
    """The rows of a block, those of features that the family lacks included.

    A part of a fused tensor is called as that tensor, with our name in brackets.
    """
    family = FAMILIES[config.family]
    whole = {part: fused for fused, parts in FUSED.items() for part in parts} if family.fused else {}
    for name, theirs, layout in PER_BLOCK:
        theirs = family.names.get(name, theirs)
        if config.qk_norm == "whole" and name in ("attention.q_norm.scale", "attention.k_norm.scale"):
            layout = {"q": "(n h) -> n h", "k": "(k h) -> k h"}[name.partition(".")[2][0]]
        yield name, f"{whole[name]}[{name}]" if name in whole else theirs, layout


def hf_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in this model's Hugging Face folder."""
    ours = flatten(model.shapes)
    shapes = {}
    for name, theirs, layout in names(model):
        stacked = "{}" in theirs
        shape = ours[name].shape[1:] if stacked else ours[name].shape
        # Broadcasting one zero to the shape lets einops work out Hugging Face's shape without using memory.
        shape = unpadded(shape, layout, model.config)
        hf_shape = rearrange(np.broadcast_to(np.int8(0), shape), flip(layout)).shape if shape else ()
        for layer in range(model.config.num_layers if stacked else 1):
            shapes[theirs.format(layer)] = hf_shape
    # Parts of one tensor follow one another, as in the file.
    first: dict[str, int] = {}
    for name in shapes:
        first.setdefault(stored_name(name), len(first))
    return dict(sorted(shapes.items(), key=lambda item: first[stored_name(item[0])]))


def unpadded(shape: tuple[int, ...], layout: str, config: DecoderConfig) -> tuple[int, ...]:
    """The shape of an array without the rows that pad the vocabulary."""
    ours = layout.split(" -> ")[1].split()
    return tuple(config.vocab_size if axis == "v" else size for axis, size in zip(ours, shape, strict=True))


def flip(layout: str) -> str:
    left, right = layout.split(" -> ")
    return f"{right} -> {left}"


# ---------------------------------------------------------------- weights


def open_model(folder: Path, model: Model) -> Tensors:
    """The tensors of a folder, after checking that they are exactly those of this model.

    Raises FolderError if tensors are missing, unknown or of the wrong shape.
    """
    tensors = open_folder(folder)
    if model.config.tie_embeddings and HEAD in tensors and EMBEDDING not in tensors:
        tensors.rename(HEAD, EMBEDDING)  # saved once, under the other of its two names
    check_tensors(tensors, model, folder)
    split_fused(tensors, model)
    if model.config.tie_embeddings and HEAD in tensors:
        check_tied(tensors, folder)
    return tensors


def check_tensors(tensors: Tensors, model: Model, where: Path) -> None:
    """Raise a FolderError that lists missing, unknown and misshapen tensors."""
    expected = stored_shapes(model)
    # transformers may save a tied head a second time.
    ignored = {HEAD} if model.config.tie_embeddings else set()
    problems = {
        "missing": sorted(expected.keys() - tensors.keys()),
        "unknown": sorted(tensors.keys() - expected.keys() - ignored),
        "misshapen": [
            f"{name} {tensors[name].shape} for {shape}"
            for name, shape in expected.items()
            if name in tensors and tensors[name].shape != shape
        ],
    }
    lines = [
        f"{len(found)} {problem}: {', '.join(map(shown_name, found[:8]))}{', …' if found[8:] else ''}"
        for problem, found in problems.items()
        if found
    ]
    if lines:
        raise FolderError(f"{where}: the tensors do not match config.json: {'; '.join(lines)}")


def stored_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in the files of a folder, where some are several of `hf_shapes` in one."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in hf_shapes(model).items():
        stored = stored_name(name)
        shapes[stored] = (shapes[stored][0] + shape[0], *shape[1:]) if stored in shapes else shape
    return shapes


def split_fused(tensors: Tensors, model: Model) -> None:
    """Give the parts of fused tensors names of their own, as in `hf_shapes`."""
    fused: dict[str, dict[str, int]] = {}
    for name, shape in hf_shapes(model).items():
        if name != stored_name(name):
            fused.setdefault(stored_name(name), {})[name] = shape[0]
    for stored, parts in fused.items():
        tensors.split(stored, parts)


def check_tied(tensors: Tensors, where: Path) -> None:
    head, embedding = tensors[HEAD], tensors[EMBEDDING]
    same = head.shape == embedding.shape and head.dtype == embedding.dtype
    bands = range(0, len(embedding), BAND_ROWS)
    if not same or not all(
        head[row : row + BAND_ROWS].tobytes() == embedding[row : row + BAND_ROWS].tobytes() for row in bands
    ):
        raise FolderError(
            f"{where}: tie_word_embeddings is true, but {HEAD} differs from {EMBEDDING}: set it to false in "
            "config.json if the head is a separate parameter, otherwise remove the tensor"
        )
    tensors.release(HEAD)
    tensors.release(EMBEDDING)


def load_params(folder: Path, model: Model, shardings: Params) -> Params:
    """Load the folder's weights in the types of `model.shapes`, reading only the bytes that each device needs."""
    params = dict(load_leaves(folder, model, shardings))
    return unflatten({name: params[name] for name in flatten(model.shapes)})


def load_leaves(folder: Path, model: Model, shardings: Params) -> Iterator[tuple[str, Any]]:
    """Yield (our name, array) of the folder's weights, as `load_params` returns them.

    Parts are loaded one at a time, largest parameters first. Host memory therefore holds at most one part, and only a
    small one at the end, when the devices are nearly full. A part to be quantized is read in float32 and quantized on
    its device. Raises FolderError after the last one if any weights are infinite or NaN.
    """
    tensors = open_model(folder, model)
    flat_shardings, shapes = flatten(shardings), flatten(model.shapes)
    found: dict[str, int] = {}
    for row in sorted(names(model), key=lambda row: -math.prod(shapes[row[0]].shape)):
        like, sharding = shapes[row[0]], flat_shardings[row[0]]
        is_quantized = isinstance(like, Quantized)
        whole = jax.ShapeDtypeStruct(like.shape, np.float32) if is_quantized else like
        convert = jax.jit(functools.partial(in_type_of, shape=like)) if is_quantized else lambda part: part
        parts: dict[Any, Any] = {}
        arrays = []
        where = sharding.codes if is_quantized else sharding
        for device, index in where.addressable_devices_indices_map(like.shape).items():
            place = tuple(part.indices(size)[:2] for part, size in zip(index, like.shape, strict=True))
            if place not in parts:  # otherwise a replica
                part = jax.device_put(read_our_part(tensors, row, index, whole, found), device)
                parts[place] = jax.block_until_ready(convert(part))
                del part
            arrays.append(jax.device_put(parts[place], device))
        yield row[0], jax.tree.map(assembled, like, sharding, *arrays)
    check_finite(found, folder)


def assembled(like: jax.ShapeDtypeStruct, sharding: Any, *arrays: jax.Array) -> jax.Array:
    return jax.make_array_from_single_device_arrays(like.shape, sharding, list(arrays))


def read_our_part(
    tensors: Tensors,
    row: tuple[str, str, str],
    index: tuple[slice, ...],
    whole: jax.ShapeDtypeStruct,
    found: dict[str, int],
) -> np.ndarray:
    """Read a part of one of our parameters, in its type. Adds the count of non-finite elements by name to `found`."""
    _, theirs, layout = row
    stacked, shape = "{}" in theirs, whole.shape
    layers = range(shape[0])[index[0]] if stacked else range(1)
    sizes, inner = (shape[1:], index[1:]) if stacked else (shape, index)
    out = np.empty([len(layers), *(len(range(n)[part]) for n, part in zip(sizes, inner, strict=True))], whole.dtype)
    for place, layer in enumerate(layers):
        name = theirs.format(layer)
        out[place] = read_part(tensors[name], layout, inner, sizes)
        tensors.release(name)
        if bad := non_finite(out[place]):
            found[name] = found.get(name, 0) + bad
    return out if stacked else out[0]


def non_finite(x: np.ndarray) -> int:
    """Number of elements of a float array that are infinite or NaN, recognized by an exponent of all ones."""
    bits, exponent = x.reshape(-1).view(f"u{x.itemsize}"), EXPONENTS[x.dtype]
    count = 0
    for start in range(0, bits.size, 2**18):  # small enough for a core's cache
        masked = bits[start : start + 2**18] & exponent
        if masked.max() == exponent:
            count += int(np.count_nonzero(masked == exponent))
    return count


def check_finite(found: dict[str, int], where: object) -> None:
    """Raise a FolderError with names and counts if any weights are infinite or NaN."""
    bad = sorted(name for name, count in found.items() if count)
    if bad:
        listed = ", ".join(f"{name} ({found[name]})" for name in bad[:8]) + (", …" if bad[8:] else "")
        raise FolderError(
            f"{where} contains infinite or NaN values in {len(bad)} tensors: {listed}; the weights are unusable, "
            "choose another step or another copy"
        )
