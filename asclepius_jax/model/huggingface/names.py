"""The model in Hugging Face's names and layouts. One table serves reading and writing, and is strict both ways."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from einops import rearrange

from asclepius_jax.model.decoder import Model, Params
from asclepius_jax.model.huggingface.layout import read_part
from asclepius_jax.model.huggingface.model_config import read_config as read_config
from asclepius_jax.model.huggingface.model_config import write_config as write_config
from asclepius_jax.model.huggingface.safetensors import FolderError, Tensors, open_folder, shown_name

# Our name, Hugging Face's name, layout "theirs -> ours" for einops. n, k, h: heads, key/value heads, head_dim.
GLOBAL = (
    ("embed_VD", "model.embed_tokens.weight", "v d -> v d"),
    ("norm.scale", "model.norm.weight", "d -> d"),
    ("head_DV", "lm_head.weight", "v d -> d v"),
)
PER_BLOCK = (
    ("attention.q_DNH", "self_attn.q_proj.weight", "(n h) d -> d n h"),
    ("attention.k_DKH", "self_attn.k_proj.weight", "(k h) d -> d k h"),
    ("attention.v_DKH", "self_attn.v_proj.weight", "(k h) d -> d k h"),
    ("attention.o_DNH", "self_attn.o_proj.weight", "d (n h) -> d n h"),
    ("mlp.gate_DF", "mlp.gate_proj.weight", "f d -> d f"),
    ("mlp.up_DF", "mlp.up_proj.weight", "f d -> d f"),
    ("mlp.down_DF", "mlp.down_proj.weight", "d f -> d f"),
    ("attention_norm.scale", "input_layernorm.weight", "d -> d"),
    ("mlp_norm.scale", "post_attention_layernorm.weight", "d -> d"),
)
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
    table = [row for row in GLOBAL if row[0] != "head_DV" or not model.config.tie_embeddings]
    table += [(f"blocks.{name}", f"model.layers.{{}}.{theirs}", layout) for name, theirs, layout in PER_BLOCK]
    listed = {row[0] for row in table}
    assert listed == set(ours), f"not in the table: {set(ours) - listed}; not in the model: {listed - set(ours)}"
    yield from table


def hf_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in this model's Hugging Face folder."""
    ours = flatten(model.shapes)
    shapes = {}
    for name, theirs, layout in names(model):
        stacked = "{}" in theirs
        shape = ours[name].shape[1:] if stacked else ours[name].shape
        # Broadcasting one zero to the shape lets einops work out Hugging Face's shape without using memory.
        hf_shape = rearrange(np.broadcast_to(np.int8(0), shape), flip(layout)).shape
        for layer in range(model.config.num_layers if stacked else 1):
            shapes[theirs.format(layer)] = hf_shape
    return shapes


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
    if model.config.tie_embeddings and HEAD in tensors:
        check_tied(tensors, folder)
    return tensors


def check_tensors(tensors: Tensors, model: Model, where: Path) -> None:
    """Raise a FolderError that lists missing, unknown and misshapen tensors."""
    expected = hf_shapes(model)
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
    """Load the folder's weights in the types of `model.shapes`, reading only the bytes that each device needs.

    Parts are loaded one at a time, largest parameters first. Host memory therefore holds at most one part, and only a
    small one at the end, when the devices are nearly full.
    """
    tensors = open_model(folder, model)
    flat_shardings, shapes = flatten(shardings), flatten(model.shapes)
    params: Params = {}
    found: dict[str, int] = {}
    for row in sorted(names(model), key=lambda row: -shapes[row[0]].size):
        shape, sharding = shapes[row[0]].shape, flat_shardings[row[0]]
        parts: dict[Any, jax.Array] = {}
        arrays = []
        for device, index in sharding.addressable_devices_indices_map(shape).items():
            place = tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))
            if place not in parts:  # otherwise a replica
                parts[place] = jax.device_put(read_our_part(tensors, row, index, shapes[row[0]], found), device)
                parts[place].block_until_ready()
            arrays.append(jax.device_put(parts[place], device))
        params[row[0]] = jax.make_array_from_single_device_arrays(shape, sharding, arrays)
    check_finite(found, folder)
    return unflatten({name: params[name] for name in shapes})


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
