"""config.json, read as transformers 5 reads it and written so that transformers 4 and 5 read the same.

    {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "rope_theta": 10000.0, ...}

A key that the file leaves out has the default of its family's class in transformers. A folder with a feature that this
model does not have is refused, because it would load and compute something else.
"""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from asclepius_jax.model.huggingface.families import FAMILIES, REFUSED, Family, Raw, nowhere_rotated
from asclepius_jax.model.huggingface.rotary_settings import (
    LARGEST,
    LARGEST_NUMBER,
    LAYER_TYPES,
    is_number,
    read_fraction,
    read_growth,
    read_rope,
    unsupported,
    written_rope,
)
from asclepius_jax.model.huggingface.safetensors import FolderError, other_format, read_json, shown
from asclepius_jax.model.sizes import FULL, WINDOW, DecoderConfig

# Keys that change what a model computes, as patterns, and the values with which they change nothing. Most belong to
# other families, and transformers ignores them here; but a folder that sets one was made for another model.
NEUTRAL: tuple[tuple[str, tuple[Any, ...]], ...] = (
    (r"hidden_act|hidden_activation", ("silu", "swish", "gelu", "gelu_pytorch_tanh")),
    (r"(\w+_)?bias", (False, None)),
    (r"partial_rotary_factor|rotary_pct|\w+_multiplier|logits?_scale|logits?_scaling|(input_)?emb\w*_scale", (1, None)),
    (r"scale_(emb|depth)|dim_model_base|query_pre_attn_scalar|\w*soft_?cap\w*|clip_qkv|rotary_dim", (None,)),
    (r"compression_config|per_layer_config|pruned_heads", (None, {})),
    (r"(\w+_)?num_experts|num_local_experts|n_routed_experts|moe_\w+|attention_chunk_size", (None, 0)),
    (r"num_nextn_predict_layers|no_rope_layers|no_rope_layer_interval", (None, 0, [])),
    (r"(use_)?qk_(layer)?norm|attn_temperature_tuning|rope_interleaved?|use_alibi|alibi", (False, None)),
    (r"use_parallel_residual|parallel_attn|is_encoder_decoder|add_cross_attention", (False, None)),
    (r"is_causal", (True,)),  # of every class: transformers masks nothing at false or null
    (r"text_config|text_encoder|decoder|generator", (None,)),  # transformers would read the layers from it
    (r"default_theta", ()),  # of Phi-3, which takes it for an argument, and others do not
)


ACTIVATION_NAMES = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu": "gelu",
    "xielu": "xielu",
}
# Keys and the fields that they set; attention_bias sets those that its family names.
BIASES = {"attention_bias": "", "attention_out_bias": "out_bias", "mlp_bias": "mlp_bias"}
NUMBERS = {
    "attn_logit_softcapping": "score_cap",
    "final_logit_softcapping": "logit_cap",
    "embedding_multiplier": "embedding_scale",
    "logits_scaling": "logit_divisor",
    "residual_multiplier": "residual_scale",
    "attention_multiplier": "query_scale",
}
TEXT_OF_GEMMA_3 = (
    'Gemma3ForCausalLM.from_pretrained(OLD, key_mapping={"^language_model.": ""}, dtype="auto")'
    ".save_pretrained(NEW, save_original_format=False)"
)
# A vocabulary that the first does not divide gets rows of zeros up to a multiple of the second.
DIVIDED_BY, PADDED_TO = 32, 128


def read_config(folder: Path) -> DecoderConfig:
    """The model shape that a folder's config.json describes.

    Raises FolderError for an invalid value or a feature that the decoder does not have.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FolderError(f"{folder} has no config.json{other_format(folder)}")
    given = read_json(path, ())
    family = family_of(given, path)
    raw = {**family.defaults, **given}
    check_features(raw, family, path)
    sizes = {key: read_size(raw, key, path, family) for key in family.defaults if key in LARGEST}
    for key in ("tie_word_embeddings", "use_sliding_window", *BIASES):
        if key in family.defaults and type(raw[key]) is not bool:
            raise FolderError(f"{path}: {key} is {shown(raw[key])}: set it to true or false")
    if not is_number(raw["rms_norm_eps"]) or not 0 < raw["rms_norm_eps"] < 1:
        raise FolderError(f"{path}: rms_norm_eps is {shown(raw['rms_norm_eps'])}, which is not a number from 0 to 1")
    heads = raw["num_attention_heads"]
    if "head_dim" in raw and "head_dim" not in family.defaults:  # transformers reads it there too
        sizes["head_dim"] = read_size(raw, "head_dim", path, family)
    kv_heads = sizes["num_key_value_heads"] or heads
    check_division(sizes, kv_heads, family, path)
    theta, scaling, window_theta = read_rope(raw, family, path)
    config = DecoderConfig(
        vocab_size=raw["vocab_size"],
        embed_dim=raw["hidden_size"],
        mlp_dim=raw["intermediate_size"],
        num_layers=raw["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=sizes.get("head_dim") or raw["hidden_size"] // heads,
        max_length=raw["max_position_embeddings"],
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=float(raw["rms_norm_eps"]),
        tie_embeddings=raw["tie_word_embeddings"],
        family=raw["model_type"],
        vocab_padding=padding_of(raw["vocab_size"]),
        **family.features,
        **read_features(raw, family, path),
        **read_layers(raw, family, path),
        **read_growth(raw, family, path),
        window_rope_theta=window_theta,
    )
    rotated = read_fraction(raw, path) if "partial_rotary_factor" in family.optional else 1.0
    if int(config.head_dim * rotated) % 2 or not 0 < rotated <= 1:
        raise FolderError(
            f"{path}: partial_rotary_factor {rotated} of {config.head_dim} channels is not an even number"
        )
    return dataclasses.replace(config, rotary_fraction=rotated)


def family_of(given: Raw, path: Path) -> Family:
    """The row of a model_type, which is looked at before any other key. Raises FolderError if there is none."""
    name = given.get("model_type")
    if isinstance(name, str) and name in FAMILIES:
        return FAMILIES[name]
    text = given.get("text_config")
    if isinstance(text, dict):
        inner = text.get("model_type")
        remedy = f"its text part is {shown(inner)}, which is not supported either"
        if inner == "gemma3_text":
            # key_mapping: without it, transformers finds none of the weights and leaves them random.
            remedy = (
                f"save its text part with transformers 5, {TEXT_OF_GEMMA_3}, copy its tokenizer there and import NEW"
            )
        elif isinstance(inner, str) and inner in FAMILIES:
            remedy = f"save its text part, {FAMILIES[inner].architecture} of the model_type {inner}, and import that"
        raise FolderError(f"{path}: model_type is {shown(name)}, a model of text and images: {remedy}")
    for pattern, what in REFUSED:
        if isinstance(name, str) and re.fullmatch(pattern, name):
            raise FolderError(f"{path}: model_type is {shown(name)}, which needs {what}: this decoder has none")
    raise FolderError(
        f"{path}: model_type is {shown(name)}, which is not one of the supported {', '.join(sorted(FAMILIES))}"
    )


def padding_of(vocab_size: int) -> int:
    """Rows to add to a vocabulary that no usual tensor axis divides."""
    return 0 if vocab_size % DIVIDED_BY == 0 else -vocab_size % PADDED_TO


def check_features(raw: Raw, family: Family, path: Path) -> None:
    """Raise a FolderError for a key that changes the computation in a way that the decoder does not have."""
    if raw.get("quantization_config"):
        raise FolderError(
            f"{path}: quantization_config is {shown(raw['quantization_config'])}: the weights are quantised; import "
            "the folder that they were made from"
        )
    check_code(raw.get("auto_map") or {}, family, path)
    for key, value in raw.items():
        if key in family.neutral and value not in family.neutral[key]:
            raise unsupported(path, key, value)
        if key in family.defaults or key in family.optional or key in family.neutral:
            continue
        for pattern, neutral in NEUTRAL:
            if re.fullmatch(pattern, key) and value not in neutral:
                raise unsupported(path, key, value)


def check_code(auto_map: Any, family: Family, path: Path) -> None:
    """Raise a FolderError if the folder's own code computes the model, unless transformers has the very class."""
    if not isinstance(auto_map, dict):
        raise unsupported(path, "auto_map", auto_map)
    models = {key: value for key, value in auto_map.items() if key.startswith("AutoModel")}
    name = models.get("AutoModelForCausalLM")
    if models and (not isinstance(name, str) or name.rpartition(".")[2] != family.architecture):
        raise FolderError(
            f"{path}: auto_map is {shown(models)}, code of the folder's own, which is not run: if it computes what "
            f"{family.architecture} does, remove auto_map"
        )


def read_features(raw: Raw, family: Family, path: Path) -> dict[str, Any]:
    """The fields that follow from keys of the family: activation, biases, scales and caps."""
    key = "hidden_activation" if "hidden_activation" in family.defaults else "hidden_act"
    named = raw[key] if isinstance(raw[key], str) else ""
    activation = ACTIVATION_NAMES.get(family.activations.get(named, named))
    if activation is None or (activation == "xielu" and family.features.get("gated", True)):
        raise unsupported(path, key, raw[key])
    found: dict[str, Any] = {"activation": activation}
    if "attention_bias" in family.defaults:
        found |= dict.fromkeys(family.attention_bias, raw["attention_bias"])
    for key, name in BIASES.items():
        if key in family.defaults and name:
            found[name] = raw[key]
    for key, name in NUMBERS.items():
        if key not in family.defaults or (raw[key] is None and key in family.nullable):
            continue
        if not is_number(raw[key]) or not 0 < raw[key] <= LARGEST_NUMBER:
            raise FolderError(f"{path}: {key} is {shown(raw[key])}, which is not a positive number")
        found[name] = float(raw[key])
    if "query_pre_attn_scalar" in family.defaults:
        scalar = raw["query_pre_attn_scalar"]
        if type(scalar) is not int or not 1 <= scalar <= LARGEST["head_dim"]:
            raise FolderError(f"{path}: query_pre_attn_scalar is {shown(scalar)}, which is not a positive integer")
        found["query_scale"] = scalar**-0.5
    if family.scaled_embedding:
        found["embedding_scale"] = raw["hidden_size"] ** 0.5
    return found


def read_layers(raw: Raw, family: Family, path: Path) -> dict[str, Any]:
    """The window and the kind of every layer."""
    types, layers = raw.get("layer_types"), raw["num_hidden_layers"]
    if types is not None and (not is_list_of(types, set(LAYER_TYPES), layers) or len(types) != layers):
        raise unsupported(path, "layer_types", types)
    listed = None if types is None else [LAYER_TYPES[kind] for kind in types]
    for key, least in (("sliding_window_pattern", 1), ("no_rope_layer_interval", 1), ("max_window_layers", 0)):
        read_there = key in raw and key in (*family.defaults, *family.optional)
        if read_there and (type(raw[key]) is not int or raw[key] < least):
            raise FolderError(f"{path}: {key} is {shown(raw[key])}, which is not an integer from {least} on")
    raw = {**family.optional, **raw}
    expected = [FULL] * layers if family.layer_types is None else family.layer_types(raw)
    rotated = [True] * layers
    if "no_rope_layers" in family.defaults:
        listed_rotated = raw["no_rope_layers"]
        if listed_rotated is not None and not is_list_of(listed_rotated, {0, 1}, layers):
            raise unsupported(path, "no_rope_layers", listed_rotated)
        rotated = [not nowhere for nowhere in nowhere_rotated(raw)]
        if raw["use_sliding_window"] and raw["sliding_window"] is not None:
            expected = [FULL if turned else WINDOW for turned in rotated]
    if listed is not None and listed != expected and ("layer_types" not in family.defaults):
        raise unsupported(path, "layer_types", types)
    kinds = listed or expected
    used = raw["use_sliding_window"] if "use_sliding_window" in family.defaults else True
    window = raw.get("sliding_window") if used else None
    if WINDOW in kinds and window is None:
        raise FolderError(f"{path}: layer_types has sliding_attention, but there is no sliding_window that is used")
    if WINDOW not in kinds:
        window = None
    kinds = [kind if turned else f"{kind}_nope" for kind, turned in zip(kinds, rotated, strict=True)]
    return {"window": window, "layer_kinds": () if set(kinds) == {FULL} else tuple(kinds)}


def is_list_of(value: Any, allowed: set[Any], least: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) >= least
        and all(isinstance(each, (str, int)) and each in allowed for each in value)
    )


def read_size(raw: Raw, key: str, path: Path, family: Family) -> int | None:
    """A size of config.json, or None where the family lets it follow from others. Raises FolderError."""
    value = raw[key]
    if value is None and key in family.nullable:
        return None
    if type(value) is not int or value < 1:
        raise FolderError(f"{path}: {key} is {shown(value)}, which is not a positive integer")
    if value > LARGEST[key]:
        raise FolderError(
            f"{path}: {key} is {shown(value)}, which is more than the largest that is read, {LARGEST[key]}"
        )
    return value


def check_division(sizes: dict[str, int | None], kv_heads: int, family: Family, path: Path) -> None:
    """Raise a FolderError if heads do not divide what they share, or cannot be rotated in pairs of channels."""
    heads, width = sizes["num_attention_heads"], sizes["hidden_size"]
    assert heads is not None
    assert width is not None
    strict = sizes.get("head_dim") is None or family.whole_width
    for key, size, divisor in (("num_attention_heads", heads, kv_heads), ("hidden_size", width, heads)):
        if size % divisor and (strict or key != "hidden_size"):
            raise FolderError(f"{path}: {key} {size} is not a multiple of {divisor}, the heads that share it")
    head_dim = sizes.get("head_dim") or width // heads
    if head_dim % 2:
        raise FolderError(f"{path}: head_dim is {head_dim}: rotary embedding needs an even number of channels")


# ---------------------------------------------------------------- writing


def write_config(config: DecoderConfig, dtype: str, token_ids: dict[str, Any]) -> str:
    """The text of a config.json that transformers 4 and 5, vLLM and llama.cpp's converter can read.

    `token_ids` contains bos_token_id, eos_token_id (one or a list) and pad_token_id. Theta and scaling have the names
    of transformers 4, which ignores rope_parameters; transformers 5 reads these names too.
    """
    family = FAMILIES[config.family]
    values = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.embed_dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_length,
        **written_rope(config, family),
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
    }
    if "head_dim" not in family.defaults and config.head_dim * config.num_heads == config.embed_dim:
        del values["head_dim"]
    raw = {
        "architectures": [family.architecture],
        "model_type": config.family,
        **values,
        **{key: value for key, value in written_features(config, family).items() if key in family.defaults},
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "torch_dtype": dtype,
        **token_ids,
    }
    return json.dumps(raw, indent=2) + "\n"


def written_features(config: DecoderConfig, family: Family) -> Raw:
    activation = next(name for name, ours in ACTIVATION_NAMES.items() if ours == config.activation)
    windowed = config.window is not None
    found: Raw = {
        "hidden_act": activation,
        "hidden_activation": activation,
        "attention_bias": all(getattr(config, name) for name in family.attention_bias),
        **{key: getattr(config, name) for key, name in BIASES.items() if name},
        **{key: getattr(config, name) for key, name in NUMBERS.items()},
        "query_pre_attn_scalar": round((config.query_scale or 1) ** -2),
        "sliding_window": config.window,
        "use_sliding_window": windowed,
        "max_window_layers": config.num_layers,
        "no_rope_layers": [0 if kind.endswith("_nope") else 1 for kind in config.kinds],
        "no_rope_layer_interval": 4,
        "layer_types": ["sliding_attention" if config.window_of(kind) else "full_attention" for kind in config.kinds],
        "use_bidirectional_attention": False,
    }
    if config.rope_scaling and config.rope_scaling.kind == "longrope":
        found["original_max_position_embeddings"] = config.rope_scaling.original_length
    elif "original_max_position_embeddings" in family.defaults:
        found["original_max_position_embeddings"] = config.max_length
    return found
