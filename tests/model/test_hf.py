"""The bridge to Hugging Face's names, held against transformers itself."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from made_inputs import TOKEN_IDS, to_hf, transformers_model

from asclepius_jax.config import MeshConfig
from asclepius_jax.model import hf
from asclepius_jax.model.llama import build
from asclepius_jax.model.safetensors import open_folder
from asclepius_jax.model.variants import LlamaConfig, RopeScaling
from asclepius_jax.sharding import make_mesh, param_shardings

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SMALL = LlamaConfig(96, 32, 80, 2, 4, 4, head_dim=8, max_length=128)
FAMILIES = {
    "llama2": SMALL,
    "llama31": dataclasses.replace(
        SMALL, num_kv_heads=2, rope_theta=500_000.0, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 32)
    ),
    "mistral": dataclasses.replace(SMALL, num_kv_heads=2, head_dim=16, rope_theta=1e6),
    "smollm2": dataclasses.replace(SMALL, tie_embeddings=True, num_kv_heads=1, norm_eps=1e-6),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_weights_give_the_logits_of_transformers(tmp_path: Path, family: str):
    theirs = transformers_model(tmp_path, FAMILIES[family])
    config = hf.read_config(tmp_path)
    assert config == FAMILIES[family]
    model = build(config)
    mesh = make_mesh(MeshConfig(2, 2, 1), jax.devices()[:4])
    params = hf.load_params(tmp_path, model, param_shardings(mesh, model))
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (3, 100))
    positions = np.broadcast_to(np.arange(100), tokens.shape)
    call = jax.jit(lambda p, t, i: model.merge(p)(t, i, np.ones_like(tokens), dtype="float32"))
    ours = np.asarray(call(params, tokens, positions))
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
    flat = hf.flatten(hf.load_params(tmp_path, model, param_shardings(mesh, model)))
    tensors = open_folder(tmp_path)
    written = {name: x for row in hf.names(model) for name, x in to_hf(row, np.asarray(flat[row[0]]))}
    assert written.keys() == hf.hf_shapes(model).keys()
    for name, value in written.items():
        np.testing.assert_array_equal(value, tensors[name])


def test_a_permuted_projection_is_seen(tmp_path: Path):
    """Rotary pairs interleaved instead of half-split run without an error; the logits tell."""
    theirs = transformers_model(tmp_path, SMALL)
    model = build(SMALL)
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    params = hf.load_params(tmp_path, model, param_shardings(mesh, model))
    q_LDNH = params["blocks"]["attention"]["q_DNH"]
    halves = q_LDNH.reshape(*q_LDNH.shape[:-1], 2, 4).swapaxes(-1, -2).reshape(q_LDNH.shape)
    params["blocks"]["attention"]["q_DNH"] = halves
    tokens = np.arange(60)[None]
    ours = model.merge(params)(tokens, tokens, np.ones_like(tokens), dtype="float32")
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
        (lambda t: t.pop("model.layers.1.mlp.up_proj.weight"), "missing 1: model.layers.1.mlp.up_proj.weight"),
        (lambda t: t.update({"model.extra": np.zeros(3, np.float32)}), "unknown 1: model.extra"),
        (
            lambda t: t.update({"model.norm.weight": np.ones(31, np.float32)}),
            r"misshapen 1: model.norm.weight \(31,\) for \(32,\)",
        ),
    ],
)
def test_a_foreign_folder_is_refused_with_a_list(tmp_path: Path, change, told: str):
    transformers_model(tmp_path, SMALL)
    rewrite(tmp_path, change)
    model = build(SMALL)
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    with pytest.raises(hf.FolderError, match=told):
        hf.load_params(tmp_path, model, param_shardings(mesh, model))


def test_a_file_that_was_cut_short_is_refused(tmp_path: Path):
    transformers_model(tmp_path, SMALL)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(hf.FolderError, match="cut short"):
        open_folder(tmp_path)


def test_a_pickle_is_refused(tmp_path: Path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(hf.FolderError, match="pickle"):
        open_folder(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("model_type", "gpt2"), ("attention_bias", True), ("hidden_act", "gelu"), ("rope_scaling", {"rope_type": "yarn"})],
)
def test_what_the_model_cannot_honour_is_refused(tmp_path: Path, key: str, value: object):
    raw = json.loads(hf.write_config(SMALL, "float32", TOKEN_IDS))
    (tmp_path / "config.json").write_text(json.dumps({**raw, key: value}))
    with pytest.raises(hf.FolderError, match=str(value["rope_type"] if isinstance(value, dict) else value)):
        hf.read_config(tmp_path)


@pytest.mark.parametrize(("content", "told"), [("{", "is not JSON"), ('{"vocab_size": 3}', "lacks hidden_size")])
def test_a_broken_config_is_refused(tmp_path: Path, content: str, told: str):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(hf.FolderError, match=told):
        hf.read_config(tmp_path)


def test_a_sliding_window_limits_the_row(tmp_path: Path):
    raw = json.loads(hf.write_config(SMALL, "float32", TOKEN_IDS))
    (tmp_path / "config.json").write_text(json.dumps({**raw, "model_type": "mistral", "sliding_window": 64}))
    assert hf.read_config(tmp_path).max_length == 64
