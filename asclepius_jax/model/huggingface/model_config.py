"""config.json, read as transformers 5 reads it and written so that transformers 4 and 5 read the same.

    {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "rope_theta": 10000.0, ...}

A key that the file leaves out has the default of its family's class in transformers. A folder with a feature that this
model does not have is refused, because it would load and compute something else.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

from asclepius_jax.model.huggingface.safetensors import FolderError, read_json, shown
from asclepius_jax.model.sizes import DecoderConfig, RopeScaling

# The defaults of transformers' configuration classes, by model_type. A None follows from other keys.
SHARED: dict[str, Any] = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "head_dim": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {
        **SHARED,
        "intermediate_size": 11_008,
        "num_key_value_heads": None,
        "max_position_embeddings": 2048,
        "attention_bias": False,
        "mlp_bias": False,
    },
    # LLaMA has no window: transformers ignores the key there.
    "mistral": {
        **SHARED,
        "intermediate_size": 14_336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131_072,
        "sliding_window": 4096,
    },
}
DEFAULT_THETA = 10_000.0
# Keys that may be null. In Mistral's class num_key_value_heads is an integer.
NULLABLE = {"llama": {"num_key_value_heads", "head_dim"}, "mistral": {"head_dim", "sliding_window"}}
# The largest sizes that are read, many times those of any model: beyond them a file is damaged or hostile, and listing
# the tensors of 10^9 layers would take all memory.
LARGEST = {
    "vocab_size": 2**24,
    "hidden_size": 2**20,
    "intermediate_size": 2**23,
    "num_hidden_layers": 2**12,
    "num_attention_heads": 2**14,
    "num_key_value_heads": 2**14,
    "head_dim": 2**14,
    "max_position_embeddings": 2**30,
    "sliding_window": 2**30,
}
LARGEST_NUMBER = 1e12  # of theta and of the numbers of a rotary scaling; float32 still computes with it
# Keys that change what a model computes, as patterns, and the values with which they change nothing. Most belong to
# other families, and transformers ignores them here; but a folder that sets one was made for another model.
NEUTRAL: tuple[tuple[str, tuple[Any, ...]], ...] = (
    (r"hidden_act|hidden_activation", ("silu", "swish")),
    (r"(\w+_)?bias", (False, None)),
    (r"partial_rotary_factor|rotary_pct|\w+_multiplier|logits?_scale|logits?_scaling|(input_)?emb\w*_scale", (1, None)),
    (r"scale_(emb|depth)|dim_model_base|query_pre_attn_scalar|\w*soft_?cap\w*|clip_qkv|rotary_dim", (None,)),
    (r"quantization_config|compression_config|auto_map|per_layer_config|pruned_heads", (None, {})),
    (r"(\w+_)?num_experts|num_local_experts|n_routed_experts|moe_\w+|attention_chunk_size", (None, 0)),
    (r"num_nextn_predict_layers|no_rope_layers|no_rope_layer_interval", (None, 0, [])),
    (r"(use_)?qk_(layer)?norm|attn_temperature_tuning|rope_interleaved?|use_alibi|alibi", (False, None)),
    (r"use_parallel_residual|parallel_attn|is_encoder_decoder|add_cross_attention", (False, None)),
)


def read_config(folder: Path) -> DecoderConfig:
    """The model shape that a folder's config.json describes.

    Raises FolderError for an invalid value or a feature that this model does not have.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FolderError(f"{folder} has no config.json")
    given = read_json(path, ())
    family = given.get("model_type")
    if not isinstance(family, str) or family not in DEFAULTS:
        raise unsupported(path, "model_type", family)
    raw = {**DEFAULTS[family], **given}
    check_features(raw, path)
    sizes = {key: read_size(raw, key, path) for key in DEFAULTS[family] if key in LARGEST}
    theta, scaling = read_rope(raw, path)
    if type(raw["tie_word_embeddings"]) is not bool:
        raise FolderError(
            f"{path}: tie_word_embeddings is {shown(raw['tie_word_embeddings'])}: set it to true or false"
        )
    if not is_number(raw["rms_norm_eps"]) or not 0 < raw["rms_norm_eps"] < 1:
        raise FolderError(f"{path}: rms_norm_eps is {shown(raw['rms_norm_eps'])}, which is not a number from 0 to 1")
    heads, length = sizes["num_attention_heads"], sizes["max_position_embeddings"]
    assert heads is not None
    assert length is not None
    kv_heads = sizes["num_key_value_heads"] or heads
    check_division(sizes, kv_heads, path)
    # Up to the sliding window of Mistral 7B v0.1, full attention is equivalent. Beyond it the models would differ.
    # Mistral has no switch for its window: use_sliding_window is of another family.
    window = sizes.get("sliding_window")
    return DecoderConfig(
        vocab_size=raw["vocab_size"],
        embed_dim=raw["hidden_size"],
        mlp_dim=raw["intermediate_size"],
        num_layers=raw["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=sizes["head_dim"] or raw["hidden_size"] // heads,
        max_length=length if window is None else min(length, window),
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=float(raw["rms_norm_eps"]),
        tie_embeddings=raw["tie_word_embeddings"],
    )


def unsupported(path: Path, key: str, value: Any) -> FolderError:
    return FolderError(f"{path}: {key} is {shown(value)}, which this LLaMA does not support")


def check_features(raw: dict[str, Any], path: Path) -> None:
    """Raise a FolderError for a key that changes the computation in a way that this model does not have."""
    for key, value in raw.items():
        for pattern, neutral in NEUTRAL:
            if re.fullmatch(pattern, key) and value not in neutral:
                raise unsupported(path, key, value)
    layer_types = raw.get("layer_types")
    if layer_types is not None and (
        not isinstance(layer_types, list) or set(map(str, layer_types)) - {"full_attention"}
    ):
        raise unsupported(path, "layer_types", layer_types)


def read_size(raw: dict[str, Any], key: str, path: Path) -> int | None:
    """A size of config.json, or None where the family lets it follow from others. Raises FolderError."""
    value = raw[key]
    if value is None and key in NULLABLE[raw["model_type"]]:
        return None
    if type(value) is not int or value < 1:
        raise FolderError(f"{path}: {key} is {shown(value)}, which is not a positive integer")
    if value > LARGEST[key]:
        raise FolderError(
            f"{path}: {key} is {shown(value)}, which is more than the largest that is read, {LARGEST[key]}"
        )
    return value


def check_division(sizes: dict[str, int | None], kv_heads: int, path: Path) -> None:
    """Raise a FolderError if heads do not divide what they share, or cannot be rotated in pairs of channels."""
    heads, width = sizes["num_attention_heads"], sizes["hidden_size"]
    assert heads is not None
    assert width is not None
    # transformers' LLaMA, as which a model is exported, asks for the second even where head_dim is given.
    for key, size, divisor in (("num_attention_heads", heads, kv_heads), ("hidden_size", width, heads)):
        if size % divisor:
            raise FolderError(f"{path}: {key} {size} is not a multiple of {divisor}, the heads that share it")
    head_dim = sizes["head_dim"] or width // heads
    if head_dim % 2:
        raise FolderError(f"{path}: head_dim is {head_dim}: rotary embedding needs an even number of channels")


# ---------------------------------------------------------------- rotary settings


def read_rope(raw: dict[str, Any], path: Path) -> tuple[float, RopeScaling | None]:
    """Theta and the scaling. Raises FolderError for a type of scaling that this model does not have.

    transformers 5 writes both into rope_parameters, earlier versions apart. Where a file has rope_scaling too,
    transformers ignores rope_parameters, the theta in it included.
    """
    for key in ("rope_scaling", "rope_parameters"):
        if raw.get(key) and not isinstance(raw[key], dict):
            raise FolderError(f"{path}: the rotary settings {shown(raw[key])} are not a JSON object")
    rope = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    if nested := [key for key, value in rope.items() if isinstance(value, dict)]:
        raise FolderError(
            f"{path}: rotary settings of {shown(nested[0])} alone: this model has the same in every layer"
        )
    if rope.get("partial_rotary_factor") not in (1, None):
        raise unsupported(path, "partial_rotary_factor", rope["partial_rotary_factor"])
    theta = rope["rope_theta"] if "rope_theta" in rope else raw.get("rope_theta", DEFAULT_THETA)
    if not is_number(theta) or not 1 <= theta <= LARGEST_NUMBER:
        raise FolderError(f"{path}: rope_theta is {shown(theta)}, which is not a number from 1 to {LARGEST_NUMBER:g}")
    kind = rope["rope_type"] if "rope_type" in rope else rope.get("type", "default")
    if kind == "default":
        return float(theta), None
    if kind != "llama3":
        raise FolderError(f"{path}: rotary scaling {shown(kind)} is not one of default, llama3")
    return float(theta), read_llama3(rope, raw, path)


def read_llama3(rope: dict[str, Any], raw: dict[str, Any], path: Path) -> RopeScaling:
    keys = ("factor", "low_freq_factor", "high_freq_factor")
    if missing := [key for key in keys if key not in rope]:
        raise FolderError(f"{path}: rotary scaling llama3 is missing {', '.join(missing)}")
    original = rope.get("original_max_position_embeddings", raw["max_position_embeddings"])
    outside = raw.get("original_max_position_embeddings", original)
    if type(original) is not int or not 1 <= original <= LARGEST["max_position_embeddings"] or outside != original:
        raise FolderError(
            f"{path}: original_max_position_embeddings of the rotary scaling is {shown(original)}, outside it "
            f"{shown(outside)}: it must be one positive integer"
        )
    numbers = [rope[key] for key in keys]
    if not all(is_number(number) and 0 < number <= LARGEST_NUMBER for number in numbers) or numbers[1] >= numbers[2]:
        raise FolderError(
            f"{path}: rotary scaling llama3 has {', '.join(keys)} {', '.join(map(shown, numbers))}: they must be "
            "positive numbers, and low_freq_factor below high_freq_factor"
        )
    factor, low, high = map(float, numbers)
    return RopeScaling(factor, low, high, original)


def is_number(value: Any) -> bool:
    """Return whether a value is a finite JSON number; true and false are none, and 10^400 has no float."""
    return (type(value) is int and abs(value) <= 2**53) or (type(value) is float and math.isfinite(value))


# ---------------------------------------------------------------- writing


def write_config(config: DecoderConfig, dtype: str, token_ids: dict[str, Any]) -> str:
    """The text of a config.json that transformers 4 and 5, vLLM and llama.cpp's converter can read.

    `token_ids` contains bos_token_id, eos_token_id (one or a list) and pad_token_id. Theta and scaling have the names
    of transformers 4, which ignores rope_parameters; transformers 5 reads these names too.
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
