"""config.json says to this project what it says to transformers, or is refused in one line."""

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asclepius_jax.model.huggingface import rotary_settings
from asclepius_jax.model.huggingface.families import FAMILIES
from asclepius_jax.model.huggingface.model_config import read_config, write_config
from asclepius_jax.model.huggingface.safetensors import FolderError
from asclepius_jax.model.rope import frequencies
from asclepius_jax.model.sizes import DecoderConfig
from tests.helpers.huggingface.made_families import LLAMA3

transformers = pytest.importorskip("transformers")

CLASSES = {family: type(transformers.AutoConfig.for_model(family)) for family in FAMILIES}
# Fields of these classes that change nothing in the computation of the forward pass, or are read elsewhere.
WITHOUT_EFFECT = {
    *("initializer_range", "use_cache", "attention_dropout", "pretraining_tp"),
    *("resid_pdrop", "embd_pdrop", "residual_dropout"),  # of training alone
    *("bos_token_id", "eos_token_id", "pad_token_id", "rope_parameters"),
}
SMALL: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
}
UNSCALED = {"rope_type": "default", "rope_theta": 5e5}


def written(folder: Path, changes: dict[str, Any]) -> Path:
    """A folder whose config.json is SMALL with these changes; an absent key is `...`."""
    raw = {key: value for key, value in {**SMALL, **changes}.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


def ours(folder: Path, **changes: Any) -> DecoderConfig:
    return read_config(written(folder, changes))


# ---------------------------------------------------------------- defaults


@pytest.mark.parametrize("family", CLASSES)
def test_a_key_that_is_absent_has_the_default_of_its_class(family: str):
    declared = CLASSES[family].__dataclass_fields__
    own = set(declared) - set(transformers.PreTrainedConfig.__dataclass_fields__) | {"tie_word_embeddings"}
    defaults = FAMILIES[family].defaults
    assert own - WITHOUT_EFFECT == set(defaults)
    assert {name: declared[name].default for name in defaults} == defaults


@pytest.mark.parametrize("family", CLASSES)
def test_a_key_may_be_null_where_its_class_says_so(family: str):
    declared = CLASSES[family].__dataclass_fields__
    nullable = {key for key in FAMILIES[family].defaults if type(None) in typing.get_args(declared[key].type)}
    assert nullable == FAMILIES[family].nullable


@pytest.mark.parametrize("family", CLASSES)
def test_a_file_of_its_family_alone_is_the_model_that_transformers_makes(tmp_path: Path, family: str):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    config, theirs = read_config(tmp_path), transformers.AutoConfig.from_pretrained(tmp_path)
    heads = getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads
    sizes = (
        theirs.vocab_size, theirs.hidden_size, theirs.intermediate_size, theirs.num_hidden_layers,
        theirs.num_attention_heads, theirs.num_key_value_heads, heads, theirs.max_position_embeddings,
    )  # fmt: skip
    assert dataclasses.astuple(config)[: len(sizes)] == sizes
    assert (config.norm_eps, config.tie_embeddings) == (theirs.rms_norm_eps, theirs.tie_word_embeddings)
    rope = theirs.rope_parameters
    assert config.rope_theta == rope.get("full_attention", rope)["rope_theta"]
    types = getattr(theirs, "layer_types", None) or ["full_attention"] * theirs.num_hidden_layers
    if family == "mistral":  # of which every layer has the window
        types = ["sliding_attention"] * theirs.num_hidden_layers
    windows = {"sliding_attention": theirs.sliding_window if "sliding_attention" in types else None}
    assert [config.window_of(kind) for kind in config.kinds] == [windows.get(each) for each in types]


# ---------------------------------------------------------------- rotary settings


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_parameters": UNSCALED, "rope_scaling": LLAMA3},
        {"rope_parameters": UNSCALED, "rope_scaling": LLAMA3, "rope_theta": 7e5},
        {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}, "rope_scaling": {"type": "default"}},
        {"rope_parameters": LLAMA3, "rope_scaling": {}, "rope_theta": 7e5},
        {"rope_parameters": LLAMA3, "rope_scaling": None},
        {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}, "rope_theta": 7e5},
        {"rope_scaling": {**LLAMA3, "rope_theta": 5e5}, "rope_theta": 7e5},
        {"rope_scaling": {**LLAMA3, "rope_type": ..., "type": "llama3"}},
        {"rope_scaling": {"rope_type": "default", "type": "llama3"}},
        {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": ...}},
        {"rope_scaling": {**LLAMA3, "type": "linear"}},
        {"rope_theta": 10_000},
        {"rope_parameters": {}},
    ],
)
@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if not (family.ropes or family.fused)])
def test_theta_and_scaling_are_those_that_transformers_takes(tmp_path: Path, family: str, changes: dict[str, Any]):
    torch = pytest.importorskip("torch")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    for key in ("rope_parameters", "rope_scaling"):
        if changes.get(key):
            changes = {**changes, key: {k: v for k, v in changes[key].items() if v is not ...}}
    usual = FAMILIES[family].rope
    if usual and "rope_theta" in changes and not {"rope_scaling", "rope_parameters"} & changes.keys():
        changes["rope_theta"] = usual["rope_theta"]  # without scaling, transformers takes no other
    config = ours(tmp_path, model_type=family, **changes)
    theirs = LlamaRotaryEmbedding(transformers.AutoConfig.from_pretrained(tmp_path))
    assert theirs.attention_scaling == 1.0
    np.testing.assert_allclose(frequencies(config), theirs.inv_freq.to(torch.float32).numpy(), rtol=2e-6)


@pytest.mark.parametrize(
    ("scaling", "told"),
    [
        ({"type": "linear"}, "rotary scaling linear is missing factor"),
        ({"rope_type": "dynamic", "factor": 2.0}, "rotary scaling 'dynamic'"),
        ({"rope_type": "yarn", "factor": 2.0, "beta_fast": 1, "beta_slow": 32}, "yarn needs beta_fast above beta_slow"),
        ({"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}, "rotary scaling 'longrope'"),
        ({"rope_type": "proportional"}, "rotary scaling 'proportional'"),
        ({"rope_type": None, "type": "default"}, "rotary scaling None"),
        ({"rope_type": ["default"]}, r"rotary scaling \['default'\]"),
        ({"full_attention": LLAMA3}, "rotary settings of 'full_attention' alone"),
        ({"rope_type": "default", "partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"rope_type": "default", "rope_theta": None}, "rope_theta is None, which is not a number above 1, up to 1e"),
        ({**LLAMA3, "factor": "8"}, "llama3 has factor, low_freq_factor, high_freq_factor '8', 1.0, 4.0"),
        ({**LLAMA3, "factor": 0}, "they must be positive numbers"),
        ({**LLAMA3, "low_freq_factor": 4.0}, "low_freq_factor below high_freq_factor"),
        ({**LLAMA3, "high_freq_factor": True}, "they must be positive numbers"),
        (
            {**LLAMA3, "original_max_position_embeddings": 0},
            "original_max_position_embeddings of the rotary scaling is 0",
        ),
        ({**LLAMA3, "original_max_position_embeddings": 32.0}, "scaling is 32.0"),
        ([1], r"the rotary settings \[1\] are not a JSON object"),
    ],
)
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_a_scaling_that_the_model_does_not_have_is_refused(tmp_path: Path, key: str, scaling: Any, told: str):
    with pytest.raises(FolderError, match=told):
        ours(tmp_path, **{key: scaling})


@pytest.mark.parametrize("value", [None, "0.1", True, -0.1, [0.1], 1e300])
def test_a_growth_of_queries_that_no_model_has_is_refused(tmp_path: Path, value: Any):
    with pytest.raises(FolderError, match=r"llama_4_scaling_beta is .*from 0 to"):
        ours(tmp_path, model_type="ministral3", rope_parameters={**UNSCALED, "llama_4_scaling_beta": value})


def test_queries_of_ministral_3_grow_beyond_the_original_length(tmp_path: Path):
    config = ours(tmp_path, model_type="ministral3")
    theirs = transformers.AutoConfig.from_pretrained(tmp_path).rope_parameters
    growth = theirs["llama_4_scaling_beta"], theirs["original_max_position_embeddings"]
    assert (config.query_growth, config.query_period) == growth == (0.1, 16_384)
    assert ours(tmp_path, model_type="ministral3", rope_parameters=UNSCALED).query_growth == 0
    out = json.loads(write_config(config, "float32", {}))["rope_parameters"]
    needed = ("rope_type", "mscale_all_dim", "llama_4_scaling_beta")  # by llama.cpp's converter
    assert [out[key] for key in needed] == ["yarn", 1.0, 0.1]


def test_a_second_original_length_outside_the_scaling_is_refused(tmp_path: Path):
    assert ours(tmp_path, rope_scaling=LLAMA3, original_max_position_embeddings=32).rope_scaling
    with pytest.raises(FolderError, match="outside it 64: it must be one positive integer"):
        ours(tmp_path, rope_scaling=LLAMA3, original_max_position_embeddings=64)


# ---------------------------------------------------------------- features


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention_multiplier", 0.0156),
        ("residual_multiplier", 0.22),
        ("embedding_multiplier", 12.0),
        ("logits_scaling", 8.0),
        ("logit_scale", 0.0625),
        ("scale_emb", 12),
        ("scale_depth", 1.4),
        ("attn_logit_softcapping", 50.0),
        ("final_logit_softcapping", 30.0),
        ("attention_softcap", 15),
        ("query_pre_attn_scalar", 256),
        ("clip_qkv", 8.0),
        ("quantization_config", {"quant_method": "gptq"}),
        ("compression_config", {"format": "int"}),
        ("auto_map", {"AutoModelForCausalLM": "modeling_mine.Mine"}),
        ("per_layer_config", {"0": {"num_key_value_heads": 2}}),
        ("layer_types", ["full_attention", "sliding_attention"]),
        ("layer_types", "sliding_attention"),
        ("num_local_experts", 8),
        ("no_rope_layers", [1, 0]),
        ("use_qk_norm", True),
        ("rope_interleave", True),
        ("qkv_bias", True),
        ("attention_bias", "true"),
        ("hidden_act", None),
        ("hidden_act", "xielu"),
        ("rotary_pct", 0.25),
        ("is_encoder_decoder", True),
    ],
)
def test_a_key_that_changes_the_computation_is_refused(tmp_path: Path, key: str, value: Any):
    with pytest.raises(FolderError, match=f"{key} is "):
        ours(tmp_path, **{key: value})


@pytest.mark.parametrize("given", [{}, {"hidden_act": "gelu"}, {"hidden_act": "gelu", "hidden_activation": None}])
def test_gelu_is_the_approximate_one_in_gemma(tmp_path: Path, given: dict[str, Any]):
    config = ours(tmp_path, model_type="gemma", **given)
    assert transformers.AutoConfig.from_pretrained(tmp_path).hidden_act == "gelu_pytorch_tanh"
    assert config.activation == "gelu_tanh"


@pytest.mark.parametrize("family", ["llama", "qwen3", "granite"])
def test_keys_without_effect_and_neutral_values_pass(tmp_path: Path, family: str):
    plain = ours(tmp_path, model_type=family)
    harmless = {
        "use_sliding_window": False, "max_window_layers": 28, "layer_types": ["full_attention"] * 2,
        "attention_multiplier": 1.0, "logit_scale": 1, "final_logit_softcapping": None, "quantization_config": None,
        "pretraining_tp": 2, "attention_dropout": 0.1, "use_cache": False, "torch_dtype": "float16", "auto_map": {},
        "partial_rotary_factor": 1.0, "unsloth_version": "2025.1", "hidden_act": "swish", "pad_token_id": -1,
        "num_experts": 0, "rope_interleaved": False, "_name_or_path": "x", "transformers_version": "4.31.0",
    }  # fmt: skip
    read_there = FAMILIES[family].defaults.keys()
    others = {key: value for key, value in harmless.items() if key not in read_there}
    assert ours(tmp_path, model_type=family, **others) == plain


# ---------------------------------------------------------------- sizes that no model has


@pytest.mark.parametrize("key", [*rotary_settings.LARGEST])
@pytest.mark.parametrize("value", [0, -1, 1.0, "32", True, [32], {"a": 1}, 10**9 + 10**8, 10**18, 10**400])
def test_a_size_that_no_model_has_is_refused(tmp_path: Path, key: str, value: Any):
    with pytest.raises(
        FolderError, match=f"{key} is .*which is (not a positive integer|more than the largest)"
    ) as told:
        ours(tmp_path, model_type="mistral", **{key: value})
    assert len(str(told.value).replace(str(tmp_path), "")) < 200


@pytest.mark.parametrize(
    "key", sorted(set(rotary_settings.LARGEST) - {"head_dim", "num_key_value_heads", "sliding_window"})
)
def test_null_is_no_size(tmp_path: Path, key: str):
    with pytest.raises(FolderError, match=f"{key} is None, which is not a positive integer"):
        ours(tmp_path, **{key: None})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"num_hidden_layers": 10**6},
            "num_hidden_layers is 1000000, which is more than the largest that is read, 4096",
        ),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple of 3, the heads that share it"),
        ({"num_attention_heads": 5, "num_key_value_heads": 5}, "hidden_size 32 is not a multiple of 5"),
        ({"num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": 8}, "hidden_size 32 is not a multiple of 5"),
        ({"head_dim": 7}, "head_dim is 7: rotary embedding needs an even number"),
        ({"hidden_size": 36}, "head_dim is 9"),
        ({"model_type": "mistral", "num_key_value_heads": None}, "num_key_value_heads is None"),
        *[({"rms_norm_eps": value}, "rms_norm_eps is") for value in (0, -1e-5, 1.5, "1e-5", None, True, 10**400, [1])],
        *[({"rope_theta": value}, "rope_theta is") for value in (0, -1e4, "1e4", None, 1e300, 10**400, False, [1e4])],
        *[({"tie_word_embeddings": value}, "tie_word_embeddings is") for value in (None, 1, "false")],
        *[({"model_type": value}, "model_type is") for value in (None, ..., 3, ["llama"], {"a": 1}, "gpt2", "LLAMA")],
    ],
)
def test_a_value_that_no_model_has_is_refused(tmp_path: Path, changes: dict[str, Any], told: str):
    with pytest.raises(FolderError, match=told):
        ours(tmp_path, **changes)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is not JSON: Expecting value"),
        (b"[]", "it is not a JSON object"),
        (b"null", "it is not a JSON object"),
        (b"3", "it is not a JSON object"),
        (b'{"rms_norm_eps": NaN}', "NaN is not a JSON number"),
        (b'{"rope_theta": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"vocab_size": 96, "vocab_size": 97}', "vocab_size occurs twice"),
        (b'{"a": {"b\\n": 1, "b\\n": 2}}', r"'b\\n' occurs twice"),
        (b"\xef\xbb\xbf{}", "BOM"),
        ("{}".encode("utf-16"), "is not JSON"),
        (b'{"a": "\xff"}', "is not JSON"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", "is not JSON"),
        (b'{"vocab_size": 1e999, "model_type": "llama"}', "vocab_size is inf"),
    ],
)
def test_a_file_that_is_no_json_object_is_refused_in_one_line(tmp_path: Path, content: bytes, told: str):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(FolderError, match=told) as refused:
        read_config(tmp_path)
    assert "\n" not in str(refused.value)
