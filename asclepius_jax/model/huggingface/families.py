"""The families of models: one row each, from `model_type` in config.json to what the decoder does and how tensors are
called.

A row holds the keys of config.json that the family's class in transformers has, with their defaults, the features that
the family always has, and those of its names that are not LLaMA's. `model_config.py` reads and writes config.json by
these rows, `names.py` the tensors. A new family is a new row, and fields of `DecoderConfig` for what is new in it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from asclepius_jax.model.sizes import FULL, WINDOW

Raw = dict[str, Any]

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
    ("attention.q_bias_NH", "self_attn.q_proj.bias", "(n h) -> n h"),
    ("attention.k_bias_KH", "self_attn.k_proj.bias", "(k h) -> k h"),
    ("attention.v_bias_KH", "self_attn.v_proj.bias", "(k h) -> k h"),
    ("attention.o_bias_D", "self_attn.o_proj.bias", "d -> d"),
    ("attention.q_norm.scale", "self_attn.q_norm.weight", "h -> h"),
    ("attention.k_norm.scale", "self_attn.k_norm.weight", "h -> h"),
    ("mlp.gate_DF", "mlp.gate_proj.weight", "f d -> d f"),
    ("mlp.up_DF", "mlp.up_proj.weight", "f d -> d f"),
    ("mlp.down_DF", "mlp.down_proj.weight", "d f -> d f"),
    ("mlp.gate_bias_F", "mlp.gate_proj.bias", "f -> f"),
    ("mlp.up_bias_F", "mlp.up_proj.bias", "f -> f"),
    ("mlp.down_bias_D", "mlp.down_proj.bias", "d -> d"),
    ("mlp.alpha_p", "mlp.act_fn.alpha_p", "d -> d"),
    ("mlp.alpha_n", "mlp.act_fn.alpha_n", "d -> d"),
    ("mlp.beta", "mlp.act_fn.beta", " -> "),
    ("mlp.eps", "mlp.act_fn.eps", " -> "),
    ("attention_norm.scale", "input_layernorm.weight", "d -> d"),
    ("mlp_norm.scale", "post_attention_layernorm.weight", "d -> d"),
    ("attention_post_norm.scale", "post_attention_layernorm.weight", "d -> d"),
    ("mlp_post_norm.scale", "post_feedforward_layernorm.weight", "d -> d"),
)
# Matrices that a family stores as one, output rows after output rows, and their names there.
FUSED = {
    "self_attn.qkv_proj.weight": ("attention.q_DNH", "attention.k_DKH", "attention.v_DKH"),
    "mlp.gate_up_proj.weight": ("mlp.gate_DF", "mlp.up_DF"),
}
# In rotary settings, `query_growth` of the decoder.
GROWTH = "llama_4_scaling_beta"


def alike(raw: Raw) -> list[str]:
    """All layers have the window, if there is one."""
    return [FULL if raw["sliding_window"] is None else WINDOW] * raw["num_hidden_layers"]


def last_of(size: int) -> Callable[[Raw], list[str]]:
    """The last of every `size` layers sees everything."""
    return lambda raw: [FULL if (i + 1) % size == 0 else WINDOW for i in range(raw["num_hidden_layers"])]


def last_of_pattern(raw: Raw) -> list[str]:
    return last_of(raw["sliding_window_pattern"])(raw)


def above(raw: Raw) -> list[str]:
    """Layers from `max_window_layers` on have the window, if it is used."""
    used = raw["use_sliding_window"] and raw["sliding_window"] is not None
    return [WINDOW if used and i >= raw["max_window_layers"] else FULL for i in range(raw["num_hidden_layers"])]


def nowhere_rotated(raw: Raw) -> list[bool]:
    """Return for each of SmolLM3's layers whether it rotates nothing."""
    every, layers = raw["no_rope_layer_interval"], range(raw["num_hidden_layers"])
    listed = raw["no_rope_layers"]
    return [(i + 1) % every == 0 if listed is None else not listed[i] for i in layers]


@dataclass(frozen=True)
class Family:
    """The meaning of config.json and of the tensors for one `model_type`."""

    architecture: str  # the class in transformers
    defaults: Raw  # keys of config.json and their defaults there; a None follows from other keys
    nullable: frozenset[str] = frozenset()  # keys that may be null
    features: Raw = field(default_factory=dict)  # fields of DecoderConfig that the family always has
    attention_bias: tuple[str, ...] = ("qkv_bias", "out_bias")  # the fields that this key sets
    theta: float = 10_000.0
    layer_types: Callable[[Raw], list[str]] | None = None  # where config.json does not list them; None: no windows
    ropes: bool = False  # full and windowed layers have rotary settings of their own
    names: dict[str, str] = field(default_factory=dict)  # our name -> Hugging Face's, where it is not LLaMA's
    scaled_embedding: bool = False  # by the square root of the width
    fused: bool = False  # see FUSED
    whole_width: bool = False  # the class wants a hidden_size that the heads divide even where head_dim is given
    scalings: tuple[str, ...] = ("linear", "llama3", "yarn")  # of rotary frequencies
    optional: Raw = field(default_factory=dict)  # keys that the class reads without declaring them
    rope: Raw = field(default_factory=dict)  # rotary settings where config.json has none; with GROWTH, queries grow
    window_theta: float | None = None  # of windowed layers, with `ropes`; None: the theta of the others
    neutral: dict[str, tuple[Any, ...]] = field(default_factory=dict)  # keys and the only values that are read
    activations: dict[str, str] = field(default_factory=dict)  # names of activations that mean another one here


SHARED: Raw = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
HEADS = frozenset({"num_key_value_heads"})
MISTRAL: Raw = {
    **SHARED, "intermediate_size": 14_336, "num_key_value_heads": 8, "head_dim": None,
    "max_position_embeddings": 131_072, "sliding_window": 4096,
}  # fmt: skip
QWEN: Raw = {
    **SHARED, "vocab_size": 151_936, "intermediate_size": 22_016, "num_key_value_heads": 32,
    "max_position_embeddings": 32_768, "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28,
    "layer_types": None,
}  # fmt: skip
GEMMA: Raw = {
    **{key: value for key, value in SHARED.items() if key != "hidden_act"},
    "vocab_size": 256_000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192, "tie_word_embeddings": True, "attention_bias": False,
    "query_pre_attn_scalar": 256, "sliding_window": 4096, "layer_types": None, "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0, "use_bidirectional_attention": None,
}  # fmt: skip
OLMO: Raw = {**SHARED, "vocab_size": 50_304, "rms_norm_eps": 1e-5, "attention_bias": False}
GEMMA_FEATURES: Raw = {"post_norm": True, "unit_offset": True}
CAUSAL = {"use_bidirectional_attention": (False, None)}
# Norms of queries and keys that the class always has, which its folders may say.
QK_NORM = {"qk_norm": (True, None), "use_qk_norm": (True, None)}
GEMMA_NAMES = {"mlp_norm.scale": "pre_feedforward_layernorm.weight"}
OLMO_FEATURES: Raw = {"pre_norm": False, "post_norm": True, "qk_norm": "whole"}

FAMILIES: dict[str, Family] = {
    "llama": Family(
        "LlamaForCausalLM",
        {**SHARED, "head_dim": None, "attention_bias": False, "mlp_bias": False},
        HEADS | {"head_dim"},
        whole_width=True,
    ),
    "mistral": Family("MistralForCausalLM", MISTRAL, frozenset({"head_dim", "sliding_window"}), layer_types=alike),
    "ministral": Family(
        "MinistralForCausalLM",
        {**MISTRAL, "layer_types": None},
        frozenset({"head_dim", "sliding_window", "layer_types"}),
        layer_types=alike,
    ),
    "ministral3": Family(
        "Ministral3ForCausalLM",
        {
            **MISTRAL, "vocab_size": 131_072, "num_hidden_layers": 34, "head_dim": 128,
            "max_position_embeddings": 262_144, "rms_norm_eps": 1e-5, "sliding_window": None,
        },
        frozenset({"sliding_window"}),
        layer_types=alike,
        rope={
            "rope_type": "yarn", "rope_theta": 1_000_000.0, "factor": 16.0, "original_max_position_embeddings": 16_384,
            "beta_fast": 32.0, "beta_slow": 1.0, "mscale_all_dim": 1.0, "mscale": 1.0, GROWTH: 0.1,
        },
    ),
    "smollm3": Family(
        "SmolLM3ForCausalLM",
        {
            **SHARED, "vocab_size": 128_256, "hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16,
            "num_key_value_heads": 4, "max_position_embeddings": 32_768, "use_sliding_window": False,
            "sliding_window": None, "no_rope_layers": None, "no_rope_layer_interval": 4, "layer_types": None,
            "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": True,
        },
        HEADS | {"sliding_window", "no_rope_layers", "layer_types"},
        theta=2_000_000.0,
    ),
    "qwen2": Family(
        "Qwen2ForCausalLM", QWEN, HEADS | {"sliding_window", "layer_types"}, {"qkv_bias": True}, layer_types=above
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        {**QWEN, "head_dim": 128, "attention_bias": False},
        HEADS | {"sliding_window", "layer_types"},
        {"qk_norm": "head"},
        layer_types=above,
        neutral=QK_NORM,
    ),
    "gemma": Family(
        "GemmaForCausalLM",
        {
            **SHARED, "vocab_size": 256_000, "hidden_size": 3072, "intermediate_size": 24_576, "num_hidden_layers": 28,
            "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
            "max_position_embeddings": 8192, "tie_word_embeddings": True, "attention_bias": False,
            "use_bidirectional_attention": None,
        },
        frozenset({"use_bidirectional_attention"}),
        {"unit_offset": True},
        scaled_embedding=True,
        neutral={**CAUSAL, "hidden_activation": (None, "gelu_pytorch_tanh")},  # which transformers 4 writes too
        activations={"gelu": "gelu_pytorch_tanh"},  # the first folders say gelu
    ),
    "gemma2": Family(
        "Gemma2ForCausalLM",
        GEMMA,
        frozenset({
            "sliding_window", "layer_types", "final_logit_softcapping", "attn_logit_softcapping",
            "use_bidirectional_attention",
        }),
        GEMMA_FEATURES,
        whole_width=True,
        layer_types=last_of(2),
        names=GEMMA_NAMES,
        scaled_embedding=True,
        neutral=CAUSAL,
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM",
        {
            **GEMMA, "vocab_size": 262_208, "max_position_embeddings": 131_072, "final_logit_softcapping": None,
            "attn_logit_softcapping": None, "use_bidirectional_attention": False,
        },
        frozenset({
            "sliding_window", "layer_types", "final_logit_softcapping", "attn_logit_softcapping",
            "use_bidirectional_attention",
        }),
        {**GEMMA_FEATURES, "qk_norm": "head"},
        theta=1_000_000.0,
        whole_width=True,
        layer_types=last_of_pattern,
        ropes=True,
        window_theta=10_000.0,
        optional={"sliding_window_pattern": 6},
        names=GEMMA_NAMES,
        scaled_embedding=True,
        neutral={**CAUSAL, **QK_NORM, "attn_logit_softcapping": (None,)},  # transformers ignores it
    ),
    "phi3": Family(
        "Phi3ForCausalLM",
        {
            **SHARED, "vocab_size": 32_064, "hidden_size": 3072, "intermediate_size": 8192,
            "max_position_embeddings": 4096, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
            "sliding_window": None,
        },
        HEADS | {"sliding_window"},
        layer_types=alike,
        fused=True,
        scalings=("longrope",),
        optional={"partial_rotary_factor": 1.0},
    ),
    "olmo2": Family("Olmo2ForCausalLM", OLMO, HEADS, OLMO_FEATURES, neutral=QK_NORM),
    "olmo3": Family(
        "Olmo3ForCausalLM",
        {**OLMO, "sliding_window": 4096, "layer_types": None},
        HEADS | {"sliding_window", "layer_types"},
        OLMO_FEATURES,
        theta=500_000.0,
        layer_types=last_of(4),
        ropes=True,
        neutral=QK_NORM,
    ),
    "granite": Family(
        "GraniteForCausalLM",
        {
            **SHARED, "attention_bias": False, "mlp_bias": False, "embedding_multiplier": 1.0, "logits_scaling": 1.0,
            "residual_multiplier": 1.0, "attention_multiplier": 1.0,
        },
        HEADS,
    ),
    "apertus": Family(
        "ApertusForCausalLM",
        {
            **SHARED, "vocab_size": 131_072, "intermediate_size": 14_336, "hidden_act": "xielu",
            "max_position_embeddings": 65_536, "rms_norm_eps": 1e-5, "attention_bias": False,
        },
        HEADS,
        {"qk_norm": "head", "gated": False},
        theta=12_000_000.0,
        neutral=QK_NORM,
        rope={
            "rope_type": "llama3", "rope_theta": 12_000_000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        },
        names={
            "attention_norm.scale": "attention_layernorm.weight",
            "mlp_norm.scale": "feedforward_layernorm.weight",
        },
    ),
    "seed_oss": Family(
        "SeedOssForCausalLM",
        {
            **SHARED, "vocab_size": 155_136, "intermediate_size": 27_648, "num_hidden_layers": 64,
            "num_attention_heads": 80, "num_key_value_heads": 8, "max_position_embeddings": 524_288,
            "attention_bias": True, "attention_out_bias": False, "mlp_bias": False, "head_dim": 128,
        },
        HEADS | {"head_dim"},
        attention_bias=("qkv_bias",),
    ),
}  # fmt: skip

# What other types of models need that the decoder does not have, by patterns of `model_type`.
REFUSED = (
    (r"\w*moe\w*|mixtral|gpt_oss|dbrx|deepseek_v\d+|ernie4_5_moe|llama4\w*|minimax\w*|glm4_moe\w*|kimi\w*|jetmoe",
     "a mixture of experts"),
    (r"qwen3_next|qwen3_5\w*|mamba\w*|falcon_h1|jamba|bamba|zamba\w*|rwkv\w*|recurrent_gemma|nemotron_h|lfm2\w*|"
     r"granitemoehybrid|kimi_linear|olmo_hybrid", "linear attention or a state space"),
    (r"bert|roberta|\w*bert\w*|t5\w*|bart|\w*encoder\w*|whisper|clip\w*", "an encoder"),
)  # fmt: skip
