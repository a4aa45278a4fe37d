"""The bridge to Hugging Face's names, held against transformers itself."""

import dataclasses
import json
import math
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import Mesh

from asclepius_jax.config import MeshConfig
from asclepius_jax.distributed.sharding import make_mesh, param_shardings
from asclepius_jax.model.decoder import build
from asclepius_jax.model.huggingface import names
from asclepius_jax.model.huggingface.safetensors import open_folder
from asclepius_jax.model.sizes import DecoderConfig, RopeScaling
from tests.helpers.huggingface.made_families import LLAMA3
from tests.helpers.made_inputs import TOKEN_IDS, random_folder, to_hf, transformers_model

transformers = pytest.importorskip("transformers")

SMALL = DecoderConfig(96, 32, 80, 2, 4, 4, head_dim=8, max_length=128)
FAMILIES = {
    "llama2": SMALL,
    "llama31": dataclasses.replace(
        SMALL, num_kv_heads=2, rope_theta=500_000.0, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 32)
    ),
    "mistral": dataclasses.replace(SMALL, num_kv_heads=2, head_dim=16, rope_theta=1e6, family="mistral"),
    "smollm2": dataclasses.replace(SMALL, tie_embeddings=True, num_kv_heads=1, norm_eps=1e-6),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_weights_give_the_logits_of_transformers(tmp_path: Path, family: str):
    theirs = transformers_model(tmp_path, FAMILIES[family])
    config = names.read_config(tmp_path)
    assert config == FAMILIES[family]
    model = build(config)
    mesh = make_mesh(MeshConfig(2, 2, 1), jax.devices()[:4])
    params = names.load_params(tmp_path, model, param_shardings(mesh, model))
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (3, 100))
    positions = np.broadcast_to(np.arange(100), tokens.shape)
    call = jax.jit(lambda p, t, i: model.merge(p)(t, i, np.ones_like(tokens), dtype="float32"))
    ours = np.asarray(call(params, tokens, positions))
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    assert np.abs(ours - expected).max() < 1e-4
    assert np.abs(expected).max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_reading_and_writing_are_inverse(tmp_path: Path, family: str):
    transformers_model(tmp_path, FAMILIES[family], max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    model = build(FAMILIES[family])
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    flat = names.flatten(names.load_params(tmp_path, model, param_shardings(mesh, model)))
    tensors = open_folder(tmp_path)
    written = {name: x for row in names.names(model) for name, x in to_hf(row, np.asarray(flat[row[0]]))}
    assert written.keys() == names.hf_shapes(model).keys()
    for name, value in written.items():
        np.testing.assert_array_equal(value, tensors[name])


def test_a_permuted_projection_is_seen(tmp_path: Path):
    """Rotary pairs interleaved instead of half-split run without an error; the logits tell."""
    theirs = transformers_model(tmp_path, SMALL)
    model = build(SMALL)
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    params = names.load_params(tmp_path, model, param_shardings(mesh, model))
    q_LDNH = params["blocks"]["attention"]["q_DNH"]
    halves = q_LDNH.reshape(*q_LDNH.shape[:-1], 2, 4).swapaxes(-1, -2).reshape(q_LDNH.shape)
    params["blocks"]["attention"]["q_DNH"] = halves
    tokens = np.arange(60)[None]
    ours = model.merge(params)(tokens, tokens, np.ones_like(tokens), dtype="float32")
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    assert np.abs(np.asarray(ours) - expected).max() > 1e-3


def rewrite(folder: Path, change) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.pop("model.layers.1.mlp.up_proj.weight"), "1 missing: model.layers.1.mlp.up_proj.weight"),
        (lambda t: t.update({"model.extra": np.zeros(3, np.float32)}), "1 unknown: model.extra"),
        (
            lambda t: t.update({"model.norm.weight": np.ones(31, np.float32)}),
            r"1 misshapen: model.norm.weight \(31,\) for \(32,\)",
        ),
    ],
)
def test_a_foreign_folder_is_refused_with_a_list(tmp_path: Path, change, told: str):
    transformers_model(tmp_path, SMALL)
    rewrite(tmp_path, change)
    model = build(SMALL)
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    with pytest.raises(names.FolderError, match=told):
        names.load_params(tmp_path, model, param_shardings(mesh, model))


def alone() -> Mesh:
    return make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 4, 2), (2, 2, 2)])
def test_every_device_gets_its_part_exactly(tmp_path: Path, dtype: type, sizes: tuple[int, int, int]):
    model = build(FAMILIES["llama31"])
    tensors = random_folder(tmp_path, model.config, dtype)
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])
    shardings = param_shardings(mesh, model)
    flat = names.flatten(names.load_params(tmp_path, model, shardings))
    assert list(flat) == list(names.flatten(model.shapes))
    for row in names.names(model):
        assert flat[row[0]].dtype == np.float32
        assert flat[row[0]].sharding.is_equivalent_to(names.flatten(shardings)[row[0]], flat[row[0]].ndim)
        for name, value in to_hf(row, np.asarray(flat[row[0]])):
            np.testing.assert_array_equal(value, tensors[name].astype(np.float32), err_msg=name)


def test_what_is_no_number_is_named_and_counted(tmp_path: Path):
    model = build(SMALL)
    random_folder(tmp_path, SMALL, ml_dtypes.bfloat16)

    def spoil(tensors):
        tensors["model.layers.1.mlp.down_proj.weight"][3, 5:8] = np.inf
        tensors["model.embed_tokens.weight"][0, 0] = np.nan

    rewrite(tmp_path, spoil)
    told = r"in 2 tensors: model.embed_tokens.weight \(1\), model.layers.1.mlp.down_proj.weight \(3\)"
    with pytest.raises(names.FolderError, match=told):
        names.load_params(tmp_path, model, param_shardings(alone(), model))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_only_infinities_and_nan_are_no_numbers(dtype: type):
    whole = np.zeros(2**18 + 9, dtype)  # more than is looked at in one piece
    limits = ml_dtypes.finfo(dtype)
    whole[:6] = [limits.max, limits.min, limits.tiny, limits.smallest_subnormal, -0.0, 1.0]
    assert names.non_finite(whole) == 0
    whole[[7, 2**18 + 3]] = [np.inf, -np.inf]
    whole[2**18 + 8] = np.nan
    assert names.non_finite(whole) == 3


def test_a_tied_head_may_be_there_twice_but_not_another(tmp_path: Path):
    model = build(FAMILIES["smollm2"])
    random_folder(tmp_path, model.config)
    rewrite(tmp_path, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].copy()}))
    assert names.open_model(tmp_path, model)
    rewrite(tmp_path, lambda t: t["lm_head.weight"].__setitem__((95, 31), 1.0))
    with pytest.raises(names.FolderError, match="tie_word_embeddings is true, but lm_head"):
        names.open_model(tmp_path, model)


# ---------------------------------------------------------------- config.json


def config_with(folder: Path, **changes: object) -> DecoderConfig:
    """The configuration of SMALL with these keys changed; None stands for null, an absent key for `...`."""
    raw = json.loads(names.write_config(SMALL, "float32", TOKEN_IDS))
    raw |= changes
    (folder / "config.json").write_text(json.dumps({key: value for key, value in raw.items() if value is not ...}))
    return names.read_config(folder)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("model_type", "gpt2", "model_type is 'gpt2'"),
        ("attention_bias", 1, "attention_bias is 1: set it to true or false"),
        ("hidden_act", "relu", "hidden_act is 'relu'"),
        ("partial_rotary_factor", 0.5, "partial_rotary_factor is 0.5"),
        ("quantization_config", {"bits": 4}, "quantization_config is"),
        ("rope_scaling", {"rope_type": "longrope", "factor": 2.0}, "rotary scaling 'longrope'"),
        ("rope_scaling", {"type": "dynamic", "factor": 2.0}, "rotary scaling 'dynamic'"),
        ("rope_parameters", {"rope_type": "linear", "rope_theta": 1e4}, "rotary scaling linear is missing factor"),
        ("rope_scaling", {"rope_type": "llama3", "factor": 2.0}, "llama3 is missing low_freq_factor, high_freq_factor"),
        ("rope_scaling", "linear", "the rotary settings 'linear' are not a JSON object"),
        ("vocab_size", "96", "vocab_size is '96', which is not a positive integer"),
        ("num_hidden_layers", 0, "num_hidden_layers is 0"),
        ("num_key_value_heads", 3, "num_attention_heads 4 is not a multiple of 3"),
    ],
)
def test_what_the_model_cannot_honour_is_refused(tmp_path: Path, key: str, value: object, told: str):
    with pytest.raises(names.FolderError, match=told):
        config_with(tmp_path, **{key: value})


@pytest.mark.parametrize(("content", "told"), [("{", "is not JSON"), ('{"vocab_size": 3}', "model_type is None")])
def test_a_broken_config_is_refused(tmp_path: Path, content: str, told: str):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(names.FolderError, match=told):
        names.read_config(tmp_path)


def test_decoder_1_has_no_key_value_heads_no_head_width_and_no_theta(tmp_path: Path):
    gone = dict.fromkeys(("num_key_value_heads", "head_dim", "rope_theta", "rope_scaling", "tie_word_embeddings"), ...)
    assert config_with(tmp_path, **gone, pad_token_id=-1) == SMALL


@pytest.mark.parametrize(
    ("changes", "window"),
    [
        ({"sliding_window": 64}, 64),  # Mistral 7B v0.1
        ({"sliding_window": None}, None),  # v0.2 on
        ({"sliding_window": 64, "use_sliding_window": False}, 64),  # a switch of another family
        ({}, 4096),  # the default of the family
        ({"model_type": "llama", "sliding_window": 64}, None),
    ],
)
def test_a_sliding_window_is_one_of_every_layer(tmp_path: Path, changes: dict[str, object], window: int | None):
    config = config_with(tmp_path, **{"model_type": "mistral", **changes})
    assert {config.window_of(kind) for kind in config.kinds} == {window}
    assert config.context == 128
    leaving = json.loads(names.write_config(config, "bfloat16", TOKEN_IDS))
    assert leaving.get("sliding_window") == window


def test_both_spellings_of_the_rotary_settings_are_read(tmp_path: Path):
    old = config_with(tmp_path, rope_theta=5e5, rope_scaling=LLAMA3)
    new = config_with(tmp_path, rope_theta=..., rope_scaling=..., rope_parameters={**LLAMA3, "rope_theta": 5e5})
    assert old == new
    assert old.rope_theta == 5e5
    assert old.rope_scaling == RopeScaling(8.0, 1.0, 4.0, 32)
