"""Every family, as transformers itself makes its models: in, the same logits, and out again bit for bit."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from asclepius_jax.config import MeshConfig
from asclepius_jax.distributed.sharding import make_mesh, param_shardings
from asclepius_jax.model.decoder import build
from asclepius_jax.model.huggingface import names
from asclepius_jax.model.huggingface.families import FAMILIES
from tests.helpers.huggingface.made_families import VARIANTS, made_family

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LENGTH = 40


def logits_of(folder: Path, tokens: np.ndarray, segments: np.ndarray, positions: np.ndarray) -> np.ndarray:
    model = build(names.read_config(folder))
    mesh = make_mesh(MeshConfig(2, 2, 1), jax.devices()[:4])
    params = names.load_params(folder, model, param_shardings(mesh, model))
    call = jax.jit(lambda p, t, i, s: model.merge(p)(t, i, s, dtype="float32"))
    return np.asarray(call(params, tokens, positions, segments))


def theirs_of(model: Any, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.numpy()


@pytest.mark.parametrize("name", VARIANTS)
def test_the_logits_are_those_of_transformers_also_of_documents_in_one_row(tmp_path: Path, name: str):
    theirs = made_family(tmp_path, name)
    lengths = (17, 1, 22)
    tokens = np.random.default_rng(0).integers(3, 97, (2, LENGTH))
    positions = np.stack([np.arange(LENGTH), np.concatenate([np.arange(n) for n in lengths])])
    segments = np.stack([np.ones(LENGTH, int), np.repeat([1, 2, 3], lengths)])
    ours = logits_of(tmp_path, tokens, segments, positions)
    ends = np.cumsum(lengths)
    parts = [(0, slice(0, LENGTH)), *((1, slice(end - n, end)) for n, end in zip(lengths, ends, strict=True))]
    for row, part in parts:
        expected = theirs_of(theirs, tokens[row, None, part])[0]
        assert ours[row, part].shape == expected.shape
        assert np.abs(expected).max() > 0.1
        assert np.abs(ours[row, part] - expected).max() <= 1e-4


def test_every_family_is_tried():
    assert {family for family, _ in VARIANTS.values()} == set(FAMILIES)


@pytest.mark.parametrize("name", VARIANTS)
def test_config_json_is_read_as_it_was_written(tmp_path: Path, name: str):
    made_family(tmp_path, name)
    config = names.read_config(tmp_path)
    (tmp_path / "config.json").write_text(names.write_config(config, "float32", {"pad_token_id": 0}))
    assert names.read_config(tmp_path) == config
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, attn_implementation="eager"
    )
    tokens = np.random.default_rng(0).integers(3, 97, (2, LENGTH))
    assert type(again).__name__ == FAMILIES[config.family].architecture
    assert np.abs(theirs_of(again, tokens) - theirs_of(made_family(tmp_path / "other", name), tokens)).max() <= 1e-5
    stored = sum(tensor.numel() for name, tensor in again.state_dict().items() if name != "lm_head.weight")
    assert config.num_params == stored + (0 if config.tie_embeddings else again.lm_head.weight.numel())
