"""Prompts on a real pretrained model: transformers' greedy tokens, whatever the slots, the order and the mesh."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from asclepius_jax.config import MeshConfig
from asclepius_jax.distributed.sharding import make_mesh, param_shardings
from asclepius_jax.generate.engine import Engine
from asclepius_jax.generate.replica import Capacity, Request
from asclepius_jax.model.decoder import build
from asclepius_jax.model.huggingface.model_config import read_config
from asclepius_jax.model.huggingface.names import load_params
from data_prep.contract.tokenizer import load_tokenizer
from tests.helpers.huggingface.smollm2 import smollm2_folder
from tests.helpers.places import shared

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

PROMPTS, NEW_TOKENS = 40, 16


@pytest.fixture(scope="module")
def folder() -> Path:
    return smollm2_folder()


@pytest.fixture(scope="module")
def prompts(folder: Path) -> list[list[int]]:
    """Beginnings of real notes, of 1 to 200 tokens."""
    lines = shared("data/mtsamples.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [text for line in lines if len(text := json.loads(line)["text"]) > 1500][:PROMPTS]
    lengths = np.random.default_rng(0).integers(1, 201, PROMPTS)
    return [ids[:n] for ids, n in zip(load_tokenizer(folder).encode_batch(texts), lengths, strict=True)]


@pytest.fixture(scope="module")
def expected(folder: Path, prompts) -> list[list[int]]:
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    return [theirs.generate(torch.tensor([ids]), **settings)[0, len(ids) :].tolist() for ids in prompts]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("slots", "mesh", "turned"),
    [(1, (1, 1, 1), False), (4, (1, 1, 1), False), (16, (1, 1, 1), True), (16, (2, 2, 1), False)],
)
def test_prompts_are_continued_as_in_transformers(folder, prompts, expected, slots: int, mesh, turned: bool):
    model, sizes = build(read_config(folder)), MeshConfig(*mesh)
    shardings = param_shardings(make_mesh(sizes, jax.devices()[: int(np.prod(mesh))]), model)
    params = load_params(folder, model, shardings)
    order = np.random.default_rng(1).permutation(PROMPTS) if turned else np.arange(PROMPTS)
    engine = Engine(model, params, [model.config.vocab_size], Capacity(slots, 256), "float32")
    found = dict(engine.run(Request(tuple(prompts[place]), NEW_TOKENS) for place in order))
    assert [found[number].tokens for number in range(PROMPTS)] == [expected[place] for place in order]
