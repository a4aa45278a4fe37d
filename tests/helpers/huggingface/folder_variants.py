"""Hugging Face folders from a config.json as someone wrote it, loaded by transformers and by this project."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from asclepius_jax.config import MeshConfig
from asclepius_jax.distributed.sharding import make_mesh, param_shardings
from asclepius_jax.model.decoder import build
from asclepius_jax.model.huggingface import names
from asclepius_jax.model.sizes import DecoderConfig

LENGTH = 24  # tokens of a row, more than every window that is to be seen
TOKENS = np.random.default_rng(0).integers(3, 97, (2, LENGTH))
WEIGHTS = "model.safetensors"


def write_config(folder: Path, raw: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw))


def write_weights(folder: Path, raw: dict[str, Any], **more: Any) -> None:
    """Random weights of the model that transformers makes of config.json, the same for the same tensors.

    Raises whatever transformers raises. config.json stays as it is.
    """
    import torch
    import transformers

    write_config(folder, raw)
    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.float().save_pretrained(folder, **more)
    write_config(folder, raw)
    (folder / "generation_config.json").unlink(missing_ok=True)


def theirs(folder: Path) -> np.ndarray:
    """The logits of transformers."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        return model.eval()(torch.tensor(TOKENS)).logits.numpy()


def ours(folder: Path, config: DecoderConfig | None = None) -> np.ndarray:
    model = build(names.read_config(folder) if config is None else config)
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    params = names.load_params(folder, model, param_shardings(mesh, model))
    positions = np.broadcast_to(np.arange(LENGTH), TOKENS.shape)
    call = jax.jit(lambda p, t, i, s: model.merge(p)(t, i, s, dtype="float32"))
    return np.asarray(call(params, TOKENS, positions, np.ones_like(TOKENS)))
