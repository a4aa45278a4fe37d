"""The same model in Hugging Face's names and layouts. One table serves reading and writing, and is strict both ways."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from einops import rearrange

from asclepius_jax.model.llama import Model, Params
from asclepius_jax.model.variants import LlamaConfig, RopeScaling

# ours, theirs, theirs -> ours (einops; n, k and h are heads, key/value heads and head_dim)
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
REQUIRED = (  # of config.json; what else it may hold has a default in transformers
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "rms_norm_eps",
)
DTYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16)}


class FolderError(ValueError):
    """A Hugging Face folder that is not this model; the message lists what differs."""


# ---------------------------------------------------------------- names


def flatten(tree: Params, prefix: str = "") -> dict[str, Any]:
    """Nested dict to one level: {"blocks.attention.q_DNH": ...}."""
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
    """(ours, theirs, layout) of every parameter of this model; theirs holds {} for the layer where it is stacked."""
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
        # Broadcasting one zero to the shape lets einops work out the other layout without memory.
        other = rearrange(np.broadcast_to(np.int8(0), shape), flip(layout)).shape
        for layer in range(model.config.num_layers if stacked else 1):
            shapes[theirs.format(layer)] = other
    return shapes


def flip(layout: str) -> str:
    left, right = layout.split(" -> ")
    return f"{right} -> {left}"


# ---------------------------------------------------------------- reading


def open_folder(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor of a folder's safetensors files as a memory map: bytes are read where they are indexed."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = sorted(set(read_json(index, ("weight_map",))["weight_map"].values()))
    elif (folder / "model.safetensors").is_file():
        files = ["model.safetensors"]
    else:
        pickles = sorted(path.name for path in folder.glob("*.bin"))
        hint = (
            f"; {pickles[0]} is a pickle, which can run code: save it again with safe_serialization" if pickles else ""
        )
        raise FolderError(f"{folder} has no model.safetensors and no index of shards{hint}")
    tensors: dict[str, np.ndarray] = {}
    for file in files:
        if not (folder / file).is_file():
            raise FolderError(f"{index} names {file}, which is missing")
        tensors |= open_safetensors(folder / file)
    return tensors


def read_json(path: Path, required: tuple[str, ...]) -> dict[str, Any]:
    """A JSON object that holds the required keys."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FolderError(f"{path} is not JSON: {error}") from error
    missing = [key for key in required if not isinstance(raw, dict) or key not in raw]
    if missing:
        raise FolderError(f"{path} lacks {', '.join(missing)}")
    return raw


def open_safetensors(path: Path) -> dict[str, np.ndarray]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= size - 8:
            raise FolderError(f"{path} is not a safetensors file, or cut short: its header would have {length} bytes")
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise FolderError(f"{path} is not a safetensors file: {error}") from error
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, end = entry["data_offsets"]
        if 8 + length + end > size:
            raise FolderError(f"{path} is cut short: {name} ends at byte {8 + length + end}, the file at {size}")
        if entry["dtype"] not in DTYPES:
            raise FolderError(f"{path}: {name} is {entry['dtype']}, not one of {', '.join(DTYPES)}")
        dtype = DTYPES[entry["dtype"]]
        raw = np.memmap(path, np.uint8, "r", offset=8 + length + start, shape=(end - start,))
        tensors[name] = raw.view(dtype).reshape(entry["shape"])
    return tensors


def check_tensors(tensors: dict[str, np.ndarray], model: Model, where: Path) -> None:
    """Refuse missing, unknown and misshapen tensors, listing them."""
    expected = hf_shapes(model)
    # transformers may save a tied head a second time, and old LLaMA folders hold the rotary frequencies.
    ignored = {"lm_head.weight"} if model.config.tie_embeddings else set()
    ignored |= {name for name in tensors if name.endswith("rotary_emb.inv_freq")}
    problems = {
        "missing": sorted(expected.keys() - tensors.keys()),
        "unknown": sorted(tensors.keys() - expected.keys() - ignored),
        "misshapen": [
            f"{name} {tensors[name].shape} for {shape}"
            for name, shape in expected.items()
            if name in tensors and tensors[name].shape != shape
        ],
    }
    told = [
        f"{kind} {len(what)}: {', '.join(what[:8])}{', …' if len(what) > 8 else ''}"
        for kind, what in problems.items()
        if what
    ]
    if told:
        raise FolderError(f"{where} is not the model that its config.json describes: {'; '.join(told)}")


def load_params(folder: Path, model: Model, shardings: Params) -> Params:
    """The folder's weights in the types of `model.shapes`, each device's part read from its own byte ranges."""
    tensors = open_folder(folder)
    check_tensors(tensors, model, folder)
    flat_shardings, shapes = flatten(shardings), flatten(model.shapes)
    params = {}
    for ours, theirs, layout in names(model):
        sizes = {"h": model.config.head_dim} if "h" in layout.split("->")[0] else {}
        stacked = "{}" in theirs
        layers = range(model.config.num_layers if stacked else 1)
        views = [rearrange(tensors[theirs.format(layer)], layout, **sizes) for layer in layers]

        shape, dtype = shapes[ours].shape, shapes[ours].dtype

        def part(
            index: tuple[slice, ...], views: list[np.ndarray] = views, stacked: bool = stacked, dtype: Any = dtype
        ) -> np.ndarray:
            if not stacked:
                return np.asarray(views[0][index], dtype)
            return np.stack([np.asarray(view[index[1:]], dtype) for view in views[index[0]]])

        params[ours] = jax.make_array_from_callback(shape, flat_shardings[ours], part)
    return unflatten(params)


# ---------------------------------------------------------------- writing


def to_hf(name_rows: tuple[str, str, str], value: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The Hugging Face tensors of one of our parameters."""
    _, theirs, layout = name_rows
    if "{}" in theirs:
        for layer, part in enumerate(value):
            yield theirs.format(layer), np.ascontiguousarray(rearrange(part, flip(layout)))
    else:
        yield theirs, np.ascontiguousarray(rearrange(value, flip(layout)))


# ---------------------------------------------------------------- config.json


def read_config(folder: Path) -> LlamaConfig:
    """The shape that a folder's config.json describes; whatever this model cannot honour is refused."""
    path = folder / "config.json"
    if not path.is_file():
        raise FolderError(f"{folder} has no config.json")
    raw = read_json(path, REQUIRED)
    refused = {
        "model_type": raw.get("model_type") not in ("llama", "mistral"),
        "hidden_act": raw.get("hidden_act", "silu") != "silu",
        "attention_bias": bool(raw.get("attention_bias")),
        "mlp_bias": bool(raw.get("mlp_bias")),
        "quantization_config": bool(raw.get("quantization_config")),
    }
    for key, bad in refused.items():
        if bad:
            raise FolderError(f"{path}: {key} is {raw.get(key)!r}, which this LLaMA does not have")
    # transformers 5 keeps both in rope_parameters, earlier versions apart.
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    heads = raw["num_attention_heads"]
    length = raw["max_position_embeddings"]
    return LlamaConfig(
        vocab_size=raw["vocab_size"],
        embed_dim=raw["hidden_size"],
        mlp_dim=raw["intermediate_size"],
        num_layers=raw["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=raw.get("num_key_value_heads") or heads,
        head_dim=raw.get("head_dim") or raw["hidden_size"] // heads,
        # Within the sliding window of Mistral 7B v0.1 attention is plain; beyond it this model would differ.
        max_length=min(length, raw.get("sliding_window") or length),
        rope_theta=float(rope.get("rope_theta") or raw.get("rope_theta") or 10_000.0),
        rope_scaling=read_rope_scaling(rope, path),
        norm_eps=raw["rms_norm_eps"],
        tie_embeddings=raw.get("tie_word_embeddings", False),
    )


def read_rope_scaling(rope: dict[str, Any], path: Path) -> RopeScaling | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind != "llama3":
        raise FolderError(f"{path}: rotary scaling {kind!r} is not one of default, llama3")
    return RopeScaling(
        factor=rope["factor"],
        low_freq_factor=rope["low_freq_factor"],
        high_freq_factor=rope["high_freq_factor"],
        original_length=rope["original_max_position_embeddings"],
    )


def write_config(config: LlamaConfig, dtype: str, token_ids: dict[str, int | None]) -> str:
    """A config.json that transformers 4 and 5, vLLM and llama.cpp's converter read.

    `token_ids` holds bos_token_id, eos_token_id and pad_token_id.
    """
    scaling = None
    if config.rope_scaling is not None:
        scaling = {
            "rope_type": "llama3",
            "factor": config.rope_scaling.factor,
            "low_freq_factor": config.rope_scaling.low_freq_factor,
            "high_freq_factor": config.rope_scaling.high_freq_factor,
            "original_max_position_embeddings": config.rope_scaling.original_length,
        }
    raw = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.embed_dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_length,
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "initializer_range": 0.02,
        "use_cache": True,
        "torch_dtype": dtype,
        **token_ids,
    }
    return json.dumps(raw, indent=2) + "\n"
