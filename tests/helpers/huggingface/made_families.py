"""Small models of every family, as transformers itself makes them."""

import json
from pathlib import Path
from typing import Any

# Three layers or one period; a head width that is not D / N; grouped queries; a vocabulary that no axis divides; a
# window shorter than the rows.
SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
YARN8 = {  # of Ministral 3, whose queries grow beyond the original length
    "rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 8, "beta_fast": 32.0,
    "beta_slow": 1.0, "mscale": 1.0,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "factor": 8.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
GEMMA = {"query_pre_attn_scalar": 24, "sliding_window": 9}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama2": ("llama", {"head_dim": 8}),
    "llama31": ("llama", {"rope_scaling": LLAMA3, "rope_theta": 5e5}),
    "llama32": ("llama", {"rope_scaling": LLAMA3, "rope_theta": 5e5, "tie_word_embeddings": True}),
    "llama-biased": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-linear": ("llama", {"rope_scaling": LINEAR}),
    "mistral-v0.1": ("mistral", {"sliding_window": 9}),
    "mistral-v0.3": ("mistral", {"sliding_window": None, "rope_theta": 1e6}),
    "ministral": (
        "ministral",
        {"sliding_window": 9, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    "ministral3": (
        "ministral3", {"rope_parameters": {**YARN8, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1}}
    ),
    "ministral3-mscale": (
        "ministral3",
        {
            "rope_parameters": {**YARN8, "mscale_all_dim": 0.0, "llama_4_scaling_beta": 0.0}, "sliding_window": 9,
            "tie_word_embeddings": True,
        },
    ),
    "ministral3-unscaled": (
        "ministral3",
        {
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e6, "original_max_position_embeddings": 8,
                "llama_4_scaling_beta": 0.1,
            },
        },
    ),
    "smollm3": ("smollm3", {"num_hidden_layers": 4, "head_dim": 8}),
    "smollm3-windows": (
        "smollm3",
        {"num_hidden_layers": 4, "use_sliding_window": True, "sliding_window": 9, "head_dim": ...},
    ),
    "qwen2": ("qwen2", {"head_dim": ..., "tie_word_embeddings": True}),
    "qwen2.5-yarn": ("qwen2", {"head_dim": ..., "rope_scaling": YARN}),
    "qwen2-windows": (
        "qwen2", {"head_dim": ..., "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}
    ),
    "qwen3": ("qwen3", {"rope_theta": 1e6}),
    "qwen3-tied": ("qwen3", {"tie_word_embeddings": True, "rope_scaling": {**YARN, "rope_theta": 1e6}}),
    "gemma-7b": ("gemma", {"num_key_value_heads": 4}),
    "gemma2": ("gemma2", {**GEMMA, "num_hidden_layers": 5}),
    "gemma3": ("gemma3_text", {**GEMMA, "num_hidden_layers": 8, "rope_scaling": LINEAR}),
    "gemma3-long": ("gemma3_text", {**GEMMA, "num_hidden_layers": 12, "tie_word_embeddings": False}),
    "phi3": ("phi3", {"head_dim": ..., "sliding_window": 9}),
    "phi4-mini": (
        "phi3",
        {
            "head_dim": ..., "partial_rotary_factor": 0.75, "tie_word_embeddings": True,
            "original_max_position_embeddings": 64,
            "rope_scaling": {
                "type": "longrope", "short_factor": [1.0, 1.1, 1.5], "long_factor": [2.0, 3.0, 4.0],
            },
        },
    ),
    "olmo2": ("olmo2", {"head_dim": ...}),
    "olmo3": ("olmo3", {"head_dim": ..., "num_hidden_layers": 4, "sliding_window": 9, "rope_scaling": YARN}),
    "granite": (
        "granite",
        {
            "head_dim": ..., "embedding_multiplier": 12.0, "logits_scaling": 8.0, "residual_multiplier": 0.22,
            "attention_multiplier": 0.1, "tie_word_embeddings": True,
        },
    ),
    "apertus": ("apertus", {"head_dim": ...}),
    "apertus-unscaled": ("apertus", {"head_dim": ..., "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}),
    "seed-oss": ("seed_oss", {}),
    "seed-oss-out": ("seed_oss", {"attention_out_bias": True, "mlp_bias": True, "attention_bias": False}),
}  # fmt: skip


def made_family(folder: Path, name: str, **more: Any) -> Any:
    """A random model of transformers, saved by it, in float32. Every parameter is moved, so that none is neutral."""
    import torch
    import transformers

    family, changes = VARIANTS[name]
    given = {key: value for key, value in {**SMALL, **changes, **more}.items() if value is not ...}
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(family, **json.loads(json.dumps(given))), attn_implementation="eager"
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.float().eval().save_pretrained(folder)
    return model
