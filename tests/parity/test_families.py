"""The full circle for a small model of each family: in from transformers, some training, and out to transformers."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from asclepius_jax.config import (
    BatchConfig,
    ComputeConfig,
    DataConfig,
    InitConfig,
    LogConfig,
    MeshConfig,
    OptimizerConfig,
    TrainConfig,
)
from asclepius_jax.convert import verify
from asclepius_jax.convert.export_hf import ExportConfig, run_export
from asclepius_jax.convert.import_hf import ImportConfig, run_import
from asclepius_jax.generate import load_checkpoint
from asclepius_jax.model.huggingface.names import write_config
from asclepius_jax.model.huggingface.safetensors import open_folder
from asclepius_jax.model.sizes import DecoderConfig, RopeScaling
from asclepius_jax.train.loop import train
from data_prep.contract.tokenizer import JsonTokenizer
from tests.helpers.made_inputs import TOKEN_IDS, packed_notes, transformers_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LENGTH = 64
SMALL = DecoderConfig(320, 64, 160, 3, 8, 8, head_dim=8, max_length=128)
FAMILIES = {
    "llama1": dataclasses.replace(SMALL, norm_eps=1e-6),
    "llama2": SMALL,
    "llama31": dataclasses.replace(
        SMALL, num_kv_heads=2, rope_theta=500_000.0, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 32)
    ),
    "mistral": dataclasses.replace(SMALL, num_kv_heads=2, head_dim=16, rope_theta=1e6),
    "tied": dataclasses.replace(SMALL, num_kv_heads=4, tie_embeddings=True),
}


def write_mistral(folder: Path, config: DecoderConfig) -> None:
    """A real MistralForCausalLM, whose sliding window of 96 tokens is longer than the rows."""
    raw = json.loads(write_config(config, "float32", TOKEN_IDS))
    raw |= {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 96}
    (folder / "config.json").write_text(json.dumps(raw))
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(folder))
    assert type(model).__name__ == "MistralForCausalLM"
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.float().eval().save_pretrained(folder)


def largest_difference(checkpoint: Path, folder: Path) -> float:
    """Between the logits of our model and of transformers', on random tokens."""
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model, params, _ = load_checkpoint(checkpoint, MeshConfig(2, 2, 2))
    tokens = np.random.default_rng(1).integers(3, 320, (8, LENGTH))
    positions = np.broadcast_to(np.arange(LENGTH), tokens.shape)
    call: Any = jax.jit(lambda p, t, i: model.merge(p)(t, i, np.ones_like(tokens), dtype="float32"))
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    assert np.abs(expected).max() > 0.1
    return float(np.abs(np.asarray(call(params, tokens, positions)) - expected).max())


@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=[] if name == "llama31" else pytest.mark.slow) for name in FAMILIES],
)
def test_the_circle_closes(family: str, small_tokenizer: Path, tmp_path: Path, capsys):
    config = FAMILIES[family]
    start = tmp_path / "start"
    start.mkdir()
    JsonTokenizer(small_tokenizer).save(start)
    if family == "mistral":
        write_mistral(start, config)
        config = dataclasses.replace(config, max_length=96)
    else:
        transformers_model(start, config)
    run_import(ImportConfig(start, tmp_path / "imported"))
    assert largest_difference(tmp_path / "imported", start) <= 1e-3
    data = packed_notes(tmp_path, small_tokenizer, 200, LENGTH)
    rows = json.loads((data / "manifest.json").read_text())["rows"]
    run_dir = train(
        TrainConfig(
            run_dir=str(tmp_path / "run"),
            model=str(start),
            init=InitConfig(checkpoint=str(tmp_path / "imported")),
            data=DataConfig(str(data), row_length=LENGTH, epochs=4.5 * 8 / rows),
            batch=BatchConfig(8),
            mesh=MeshConfig(2, 2, 2),
            compute=ComputeConfig("float32", "none"),
            optimizer=OptimizerConfig(learning_rate=1e-2),
            log=LogConfig(tensorboard=False, progress=False),
            few_steps=True,
        )
    )
    capsys.readouterr()
    run_export(ExportConfig(run_dir, tmp_path / "out", "float32", verify=True))
    assert "to transformers is" in capsys.readouterr().out
    assert largest_difference(run_dir, tmp_path / "out") <= 1e-3
    before, after = open_folder(start), open_folder(tmp_path / "out")
    assert not [name for name in after if np.array_equal(before[name], after[name])]
    # And in again: the same parameters, bit for bit.
    run_import(ImportConfig(tmp_path / "out", tmp_path / "again"))
    run_export(ExportConfig(tmp_path / "again", tmp_path / "out2", "float32"))
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "out2/model.safetensors").read_bytes()
    exported = json.loads((tmp_path / "out/config.json").read_text())
    assert exported["max_position_embeddings"] == config.max_length


def test_the_bound_is_below_what_a_mistake_makes(small_tokenizer: Path, tmp_path: Path):
    """Rotary pairs interleaved instead of half-split, the classic mistake, are far beyond it."""
    transformers_model(tmp_path / "start", SMALL)
    JsonTokenizer(small_tokenizer).save(tmp_path / "start")
    run_import(ImportConfig(tmp_path / "start", tmp_path / "imported"))
    from safetensors.numpy import load_file, save_file

    tensors = load_file(tmp_path / "start/model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors[name] = np.ascontiguousarray(tensors[name].reshape(8, 2, 4, 64).swapaxes(1, 2).reshape(64, 64))
    save_file(tensors, tmp_path / "start/model.safetensors", metadata={"format": "pt"})
    assert largest_difference(tmp_path / "imported", tmp_path / "start") > 10 * verify.LEAST_BOUND
