"""Variants of config.json over all families, and what this project says to each."""

import copy
import random
from typing import Any, NamedTuple

from asclepius_jax.model.huggingface.families import FAMILIES
from tests.helpers.huggingface.made_families import LINEAR, LLAMA3, SMALL, YARN

WINDOWED, WHOLE = "sliding_attention", "full_attention"
# What each family needs beyond SMALL, and the sizes that keep its program small.
OWN: dict[str, dict[str, Any]] = {
    "gemma2": {"query_pre_attn_scalar": 24, "sliding_window": 9},
    "gemma3_text": {"query_pre_attn_scalar": 24, "sliding_window": 9, "num_hidden_layers": 6},
    "mistral": {"sliding_window": 9},
    "ministral": {"sliding_window": 9},
    "olmo3": {"head_dim": ..., "sliding_window": 9, "num_hidden_layers": 4},
    "phi3": {"head_dim": ..., "original_max_position_embeddings": 64},
    **{family: {"head_dim": ...} for family in ("qwen2", "smollm3", "olmo2", "granite", "apertus")},
}
LONGROPE = {"short_factor": [1.0, 1.1, 1.5, 2.0], "long_factor": [2.0, 3.0, 4.0, 5.0]}
LONG = {"type": "longrope", **LONGROPE}
DEFAULT = {"rope_type": "default", "rope_theta": 5e4}


class Variant(NamedTuple):
    name: str
    family: str
    changes: dict[str, Any]
    refusal: str | None = None  # the end of the one line; None: accepted, with transformers' logits


TRIED = [
    # ------------------------------------------------------------ rotary settings
    Variant("theta outside", "llama", {"rope_theta": 5e4}),
    Variant("theta an integer", "qwen3", {"rope_theta": 50_000}),
    Variant("theta inside", "llama", {"rope_parameters": DEFAULT}),
    Variant("theta inside and outside", "qwen2", {"rope_parameters": DEFAULT, "rope_theta": 7e5}),
    Variant("theta inside the old spelling", "granite", {"rope_scaling": {**LINEAR, "rope_theta": 5e4}}),
    Variant("theta of both spellings", "olmo2", {"rope_scaling": LINEAR, "rope_parameters": DEFAULT}),
    Variant("theta by its default", "phi3", {"default_theta": 5e4},
            "default_theta is 50000.0, which this decoder does not support"),
    Variant("theta null", "llama",
        {"rope_theta": None}, "rope_theta is None, which is not a number above 1, up to 1e+12"),
    Variant("theta below one", "llama",
        {"rope_theta": 0.5}, "rope_theta is 0.5, which is not a number above 1, up to 1e+12"),
    Variant("theta one of yarn", "llama",
        {"rope_theta": 1, "rope_scaling": YARN}, "rope_theta is 1, which is not a number above 1, up to 1e+12"),
    Variant("linear of an integer", "mistral", {"rope_scaling": {"type": "linear", "factor": 2}}),
    Variant("llama3", "smollm3", {"rope_scaling": LLAMA3, "rope_theta": 5e4}),
    Variant("llama3 without original length", "seed_oss",
        {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": ...}}),
    Variant("llama3 with its original length outside", "llama", {
        "rope_scaling": {**LLAMA3, "original_max_position_embeddings": ...}, "original_max_position_embeddings": 16,
    }),
    Variant("llama3 in the new spelling", "apertus", {"rope_parameters": {**LLAMA3, "rope_theta": 5e4}}),
    Variant("apertus without settings", "apertus", {}),
    Variant("apertus with theta alone", "apertus",
        {"rope_theta": 5e4}, "rope_theta 50000.0 stands alone: add it to rope_parameters"),
    Variant("yarn", "qwen2", {"rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 16}}),
    Variant("yarn without original length", "qwen3", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
    Variant("yarn with attention_factor", "llama", {"rope_scaling": {**YARN, "attention_factor": 1.3}}),
    Variant("yarn with mscale", "llama", {"rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.1}}),
    Variant("yarn with one mscale", "granite", {"rope_scaling": {**YARN, "mscale": 0.7}}),
    Variant("yarn with betas", "smollm3", {"rope_scaling": {**YARN, "beta_fast": 8, "beta_slow": 2}}),
    Variant("yarn without truncation", "llama", {"rope_scaling": {**YARN, "truncate": False, "beta_fast": 4}}),
    Variant("yarn whose ramp is after the last pair", "llama", {
        "rope_scaling": {**YARN, "original_max_position_embeddings": 100_000}, "rope_theta": 3,
    }),
    Variant("yarn whose ramp is before the first pair", "llama", {
        "rope_scaling": {**YARN, "original_max_position_embeddings": 2}, "rope_theta": 10,
    }),
    Variant("yarn of full layers", "olmo3", {"rope_scaling": YARN}),
    Variant("yarn of full layers without truncation", "olmo3", {"rope_scaling": {**YARN, "truncate": False}},
            "truncate of the rotary scaling is False, which transformers ignores here: remove it"),
    Variant("yarn of full layers with its length outside", "olmo3", {
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "original_max_position_embeddings": 16,
    }, "scaling is 128, outside it 16: it must be one positive integer"),
    Variant("growing queries", "ministral3", {
        "rope_parameters": {
            **YARN, "rope_theta": 5e4, "original_max_position_embeddings": 8, "llama_4_scaling_beta": 0.3,
        },
    }),
    Variant("growing queries in the old spelling", "ministral3", {
        "rope_scaling": {**YARN, "original_max_position_embeddings": 8, "llama_4_scaling_beta": 0.3, "mscale": 0},
    }),
    Variant("growth below zero", "ministral3", {"rope_scaling": {**YARN, "llama_4_scaling_beta": -0.1}},
            "llama_4_scaling_beta is -0.1, which is not a number from 0 to 1e+12"),
    Variant("gelu by another name", "gemma", {"hidden_act": "gelu"}),
    Variant("dynamic", "llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
            "rotary scaling 'dynamic' is not one of default, linear, llama3, yarn"),
    Variant("longrope", "phi3", {"rope_scaling": LONG}),
    Variant("longrope with factor", "phi3", {"rope_scaling": {**LONG, "factor": 8}}),
    Variant("longrope with attention_factor", "phi3", {"rope_scaling": {**LONG, "attention_factor": 1.5}}),
    Variant("longrope as yarn", "phi3",
        {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64, **LONGROPE}}),
    Variant("longrope of a part, outside", "phi3", {
        "partial_rotary_factor": 0.5, "rope_scaling": {**LONG, "short_factor": [1.0, 1.5], "long_factor": [2.0, 3.0]},
    }),
    Variant("a part of the channels, inside", "phi3", {"rope_parameters": {**DEFAULT, "partial_rotary_factor": 0.5}}),
    Variant("a part of the channels, odd", "phi3", {"partial_rotary_factor": 0.4},
            "partial_rotary_factor 0.4 of 8 channels is not an even number"),
    Variant("a part of the channels", "llama", {"partial_rotary_factor": 0.5},
            "partial_rotary_factor is 0.5, which this decoder does not support"),
    Variant("longrope elsewhere", "llama", {"rope_scaling": LONG},
            "rotary scaling 'longrope' is not one of default, linear, llama3, yarn"),
    Variant("gemma 3 as transformers 4 writes it", "gemma3_text", {
        "rope_theta": 5e4, "rope_local_base_freq": 3e3, "sliding_window_pattern": 3, "rope_scaling": LINEAR,
    }),
    Variant("gemma 3 as transformers 5 writes it", "gemma3_text", {
        "rope_parameters": {WHOLE: {**LINEAR, "rope_theta": 5e4}, WINDOWED: {**DEFAULT, "rope_theta": 3e3}},
        "layer_types": [WINDOWED, WHOLE, WINDOWED] * 2, "_sliding_window_pattern": 2,
    }),
    Variant("gemma 3 with full settings alone", "gemma3_text", {"rope_parameters": {WHOLE: DEFAULT}}),
    Variant("gemma 3 with a scaling of an old name", "gemma3_text", {"rope_scaling": {"type": "linear", "factor": 8.0}},
            "rope_scaling has type, which transformers 5 ignores here: name it rope_type"),
    Variant("gemma 3 with settings that are flat", "gemma3_text", {"rope_parameters": DEFAULT},
            "rope_parameters must hold full_attention and sliding_attention, each with its own"),
    Variant("gemma 3 with settings that are none", "gemma3_text", {"rope_parameters": {WHOLE: "x"}},
            "the rotary settings 'x' of full_attention are not a JSON object"),
    Variant("a window with a scaling", "gemma3_text", {"rope_parameters": {WINDOWED: LINEAR}},
            "sliding_attention has a rotary scaling, which this decoder has for full_attention"),
    Variant("nested settings of one kind of layer", "qwen3", {"rope_parameters": {WHOLE: DEFAULT}},
            "rotary settings of 'full_attention' alone: this model has the same in every layer"),
    # ------------------------------------------------------------ biases
    Variant("attention_bias", "llama", {"attention_bias": True}),
    Variant("attention_bias before norms", "olmo2", {"attention_bias": True}),
    Variant("attention_bias and mlp_bias", "granite", {"attention_bias": True, "mlp_bias": True}),
    Variant("attention_out_bias", "seed_oss", {"attention_out_bias": True}),
    Variant("attention_bias of a class without it", "mistral", {"attention_bias": True},
            "attention_bias is True, which this decoder does not support"),
    Variant("mlp_bias of a class without it", "qwen3",
        {"mlp_bias": True}, "mlp_bias is True, which this decoder does not support"),
    Variant("a bias of null", "llama", {"mlp_bias": None}, "mlp_bias is None: set it to true or false"),
    # ------------------------------------------------------------ layers and windows
    Variant("no window in any layer", "mistral", {"sliding_window": None}),
    Variant("a window beyond the rows", "mistral", {"sliding_window": 1000}),
    Variant("a switch of another class", "mistral", {"use_sliding_window": False}),
    Variant("a window of one token", "phi3", {"sliding_window": 1}),
    Variant("types that say otherwise", "mistral", {"layer_types": [WHOLE] * 3},
            "layer_types is ['full_attention', 'full_attention', 'full_attention'], which this decoder does not "
            "support"),
    Variant("types without a window", "ministral", {"layer_types": [WHOLE, WINDOWED, WHOLE]}),
    Variant("windows from a layer on", "qwen2",
        {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}),
    Variant("windows that are off", "qwen3",
        {"use_sliding_window": False, "sliding_window": 9, "max_window_layers": 1}),
    Variant("windows from nowhere on", "qwen3", {"use_sliding_window": True, "max_window_layers": None},
            "max_window_layers is None, which is not an integer from 0 on"),
    Variant("types of windows that are off", "qwen3", {"layer_types": [WINDOWED, WHOLE, WHOLE], "sliding_window": 9},
            "layer_types has sliding_attention, but there is no sliding_window that is used"),
    Variant("types of windows without one", "gemma2", {"sliding_window": None},
            "layer_types has sliding_attention, but there is no sliding_window that is used"),
    Variant("a pattern of another class", "gemma2", {"sliding_window_pattern": 3}),
    Variant("the hidden name of the pattern alone", "gemma3_text", {"_sliding_window_pattern": 3}),
    Variant("layers that rotate nothing, by interval", "smollm3", {"no_rope_layer_interval": 2}),
    Variant("layers that rotate nothing, by list", "smollm3", {"no_rope_layers": [0, 1, 0, 1]}),
    Variant("and have windows", "smollm3", {
        "no_rope_layers": [0, 1, 0], "use_sliding_window": True, "sliding_window": 9,
    }),
    Variant("too few of them", "smollm3",
        {"no_rope_layers": [0, 1]}, "no_rope_layers is [0, 1], which this decoder does not support"),
    Variant("linear attention", "qwen3", {"layer_types": ["linear_attention", WHOLE, WHOLE]},
            "layer_types is ['linear_attention', 'full_attention', 'full_attention'], which this decoder does not "
            "support"),
    Variant("not causal", "llama", {"is_causal": False}, "is_causal is False, which this decoder does not support"),
    Variant("causal as said", "llama", {"is_causal": True}),
    Variant("both directions", "gemma3_text", {"use_bidirectional_attention": True},
            "use_bidirectional_attention is True, which this decoder does not support"),
    Variant("one layer", "gemma2", {"num_hidden_layers": 1}),
    # ------------------------------------------------------------ heads, activations, scales
    Variant("head_dim null", "llama", {"head_dim": None}),
    Variant("head_dim absent", "seed_oss", {"head_dim": ..., "hidden_size": 64}),
    Variant("head_dim null where it must follow", "seed_oss", {"head_dim": None}),
    Variant("head_dim of a class without it", "qwen2", {"head_dim": 16}),
    Variant("head_dim null of a class without it", "qwen2",
        {"head_dim": None}, "head_dim is None, which is not a positive integer"),
    Variant("as many key heads", "qwen3", {"num_key_value_heads": 4}),
    Variant("key heads absent", "olmo2", {"num_key_value_heads": ...}),
    Variant("key heads null", "phi3", {"num_key_value_heads": None}),
    Variant("one key head", "gemma3_text", {"num_key_value_heads": 1}),
    Variant("hidden_act of gemma", "gemma2", {"hidden_act": "silu"}),
    Variant("hidden_activation of gemma", "gemma2", {"hidden_activation": "silu", "hidden_act": "gelu"}),
    Variant("hidden_activation elsewhere", "llama", {"hidden_activation": "gelu", "hidden_act": "gelu_pytorch_tanh"}),
    Variant("another activation", "llama",
        {"hidden_act": "relu"}, "hidden_act is 'relu', which this decoder does not support"),
    Variant("another activation of xielu's", "apertus", {"hidden_act": "silu"}),
    Variant("caps null", "gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    Variant("a cap of logits", "gemma3_text", {"final_logit_softcapping": 2.0}),
    Variant("a cap that transformers ignores", "gemma3_text", {"attn_logit_softcapping": 2.0},
            "attn_logit_softcapping is 2.0, which this decoder does not support"),
    Variant("a scale of queries", "gemma2", {"query_pre_attn_scalar": 7}),
    Variant("multipliers", "granite", {
        "embedding_multiplier": 12, "logits_scaling": 8, "residual_multiplier": 0.22, "attention_multiplier": 0.1,
    }),
    Variant("a multiplier of zero", "granite",
        {"logits_scaling": 0}, "logits_scaling is 0, which is not a positive number"),
    Variant("norms that the class has", "apertus", {"qk_norm": True, "post_norm": False}),
    Variant("norms that the class lacks", "llama",
        {"qk_norm": True}, "qk_norm is True, which this decoder does not support"),
    Variant("norms that the class does not lack", "qwen3",
        {"use_qk_norm": False}, "use_qk_norm is False, which this decoder does not support"),
    # ------------------------------------------------------------ keys of other classes, and of none
    Variant("keys of no class", "llama", {
        "attention_sink_size": 4, "use_mup": True, "qk_clip": 3.0, "embedding_norm": True, "layer_norm_type": "np",
        "parallel_residual": True, "torch_dtype": "float16", "_name_or_path": "x", "transformers_version": "4.38.2",
    }),
    Variant("a cap of no class", "llama",
        {"logit_softcapping": 30.0}, "logit_softcapping is 30.0, which this decoder does not support"),
    Variant("experts", "llama",
        {"num_local_experts": 8}, "num_local_experts is 8, which this decoder does not support"),
    Variant("a second model inside", "llama", {"text_config": {"model_type": "llama"}},
            "text_config is {'model_type': 'llama'}, which this decoder does not support"),
    Variant("its own class", "phi3", {"auto_map": {
        "AutoConfig": "configuration_phi3.Phi3Config", "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
    }}),
    Variant("its own tokenizer", "llama", {"auto_map": {"AutoTokenizer": ["tokenization_mine.Mine", None]}}),
    Variant("its own class of another task", "llama", {"auto_map": {"AutoModel": "modeling_mine.Mine"}},
            "remove auto_map"),
    Variant("a foreign class", "llama", {"auto_map": {"AutoModelForCausalLM": "modeling_mine.Mine"}},
            "auto_map is {'AutoModelForCausalLM': 'modeling_mine.Mine'}, code of the folder's own, which is not "
            "run: if it computes what LlamaForCausalLM does, remove auto_map"),
    Variant("quantised", "llama", {"quantization_config": {"bits": 4}},
            "the weights are quantised; import the folder that they were made from"),
]  # fmt: skip


def config_of(variant: Variant) -> dict[str, Any]:
    raw = {"model_type": variant.family, **SMALL, **OWN.get(variant.family, {}), **variant.changes}
    for key in ("rope_scaling", "rope_parameters"):
        if isinstance(raw.get(key), dict):
            raw[key] = {name: value for name, value in raw[key].items() if value is not ...}
    return {key: value for key, value in raw.items() if value is not ...}


# ------------------------------------------------------------ mutations

# Keys that some class has, or the base class of all, or none.
KEYS = sorted(
    {key for family in FAMILIES.values() for key in (*family.defaults, *family.optional)}
    | {
        *("rope_theta", "rope_scaling", "rope_parameters", "rope_local_base_freq", "partial_rotary_factor"),
        *("_sliding_window_pattern", "is_causal", "is_decoder", "attention_chunk_size", "qk_norm", "use_qk_norm"),
        *("pruned_heads", "chunk_size_feed_forward", "num_experts", "mlp_layer_types", "default_theta", "clip_qkv"),
        *("cross_attention", "post_norm", "logit_scale", "rope_type", "experts", "architectures", "auto_map"),
        *("quantization_config", "per_layer_config", "embedding_norm", "use_mup", "qk_clip", "attention_sink_size"),
    }
)
# Not of these: the weights of other sizes would be large, and other tokens change nothing.
KEPT = {
    "model_type",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
}
PLAIN = (None, True, False, 0, -1, 1, 2, 3, 0.5, 1.0, 9, 16, 24, "2", "silu", "gelu", "relu", "full_attention")
VALUES: tuple[Any, ...] = (
    *PLAIN, [], {}, [1], [1, 0, 1, 0], [WHOLE] * 3, [WINDOWED, WHOLE, WINDOWED], [WINDOWED] * 4, DEFAULT, LINEAR,
    LLAMA3, YARN, LONG, {"type": "linear", "factor": 2.0}, {"rope_type": "yarn", "factor": 4},
    {**YARN, "truncate": False}, {**YARN, "original_max_position_embeddings": 2, "rope_theta": 10.0},
    {**YARN, "original_max_position_embeddings": 100_000, "rope_theta": 3.0}, {**YARN, "rope_theta": 1.0},
    {WHOLE: DEFAULT}, {WHOLE: "x"}, {WHOLE: None, WINDOWED: None}, {WHOLE: LINEAR, WINDOWED: DEFAULT},
    {WHOLE: {"type": "linear", "factor": 2.0}, WINDOWED: {"rope_theta": 3e3}},
    {"rope_theta": 100.0}, {"rope_theta": None}, {"partial_rotary_factor": 0.5},
)  # fmt: skip
WITHIN = ("beta_fast", "mscale", "attention_factor", "truncate", "type", "rope_theta", "partial_rotary_factor")


def mutated(raw: dict[str, Any], choice: random.Random) -> tuple[str, dict[str, Any]]:
    """config.json with one key deleted, added, or given another value, and what was done."""
    raw = copy.deepcopy(raw)
    own = sorted(raw.keys() - KEPT)
    key = choice.choice(own if choice.random() < 0.4 else sorted({*KEYS} - KEPT))
    if key in raw and choice.random() < 0.15:
        del raw[key]
        return f"without {key}", raw
    if isinstance(raw.get(key), dict) and choice.random() < 0.5:
        inner = choice.choice((*raw[key], *WITHIN))
        raw[key][inner] = choice.choice(PLAIN)
        return f"{key}[{inner}] = {raw[key][inner]!r}", raw
    raw[key] = copy.deepcopy(choice.choice(VALUES))
    return f"{key} = {raw[key]!r}", raw
