"""The decoder computes what transformers computes, and documents in a row do not see each other."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asclepius_jax.model.activations import scaled
from asclepius_jax.model.decoder import ALONE, Inputs, Model, Params, build, init_params
from asclepius_jax.model.huggingface.names import read_config, write_config
from asclepius_jax.model.sizes import VARIANTS
from asclepius_jax.train.batches import unpack
from data_prep.contract.records import PackedRow
from tests.helpers.made_inputs import cache_for


@pytest.fixture(scope="module")
def tiny() -> tuple[Model, Params]:
    return build(VARIANTS["tiny"]), init_params(VARIANTS["tiny"], 0)


def forward(model: Model, params: Params, row: dict[str, np.ndarray], **options: str) -> np.ndarray:
    arrays = (row[name][None] for name in ("tokens", "positions", "segment_ids"))
    call = jax.jit(lambda params, *arrays: model.merge(params)(*arrays, dtype="float32", **options))
    return np.asarray(call(params, *arrays))[0]


def packed(*documents: np.ndarray, length: int = 48) -> dict[str, np.ndarray]:
    tokens = np.concatenate(documents)
    return unpack(PackedRow(tokens, np.array([len(d) for d in documents]), np.ones(len(tokens), bool)), length)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("llama2_7b", 6_738_415_616),
        ("llama2_13b", 13_015_864_320),
        ("llama3_8b", 8_030_261_248),
        ("mistral_7b", 7_248_023_552),
        ("llama32_1b", 1_235_814_400),
        ("llama32_3b", 3_212_749_824),
        ("smollm2_135m", 134_515_008),
        ("qwen3_0_6b", 596_049_920),
        ("qwen3_1_7b", 1_720_574_976),
        ("qwen3_4b", 4_022_468_096),
        ("qwen3_8b", 8_190_735_360),
        ("qwen3_14b", 14_768_307_200),
        ("qwen3_32b", 32_762_123_264),
        ("gemma3_1b", 999_885_952),
        ("gemma3_4b", 3_880_263_168),
        ("gemma3_12b", 11_766_034_176),
        ("gemma3_27b", 27_009_346_304),
    ],
)
def test_sizes_are_the_published_ones(name: str, count: int):
    model = build(VARIANTS[name])
    assert sum(shape.size for shape in jax.tree.leaves(model.shapes)) == count
    assert VARIANTS[name].num_params == count


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in ("demo", "tiny")])
def test_transformers_makes_a_model_of_each_size(tmp_path: Path, name: str):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(write_config(VARIANTS[name], "bfloat16", {"pad_token_id": 0}))
    assert read_config(tmp_path) == VARIANTS[name]
    with torch.device("meta"):
        theirs = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(tmp_path))
    assert theirs.num_parameters() == VARIANTS[name].num_params


def test_a_document_in_a_row_computes_what_it_computes_alone(tiny):
    random = np.random.default_rng(0)
    first, second = random.integers(3, 256, 17), random.integers(3, 256, 20)
    together = forward(*tiny, packed(first, second))
    np.testing.assert_allclose(together[:17], forward(*tiny, packed(first))[:17], atol=1e-5)
    np.testing.assert_allclose(together[17:37], forward(*tiny, packed(second))[:20], atol=1e-5)


def test_a_document_cannot_change_its_neighbour(tiny):
    random = np.random.default_rng(1)
    second = random.integers(3, 256, 20)
    one = forward(*tiny, packed(random.integers(3, 256, 17), second))
    other = forward(*tiny, packed(random.integers(3, 256, 17), second))
    np.testing.assert_array_equal(one[17:37], other[17:37])
    assert np.abs(one[:17] - other[:17]).max() > 1e-3


def test_a_token_cannot_see_the_future(tiny):
    tokens = np.arange(3, 33)
    changed = tokens.copy()
    changed[20] = 99
    one, other = forward(*tiny, packed(tokens)), forward(*tiny, packed(changed))
    np.testing.assert_array_equal(one[:20], other[:20])
    assert np.abs(one[20:30] - other[20:30]).max() > 1e-3


@pytest.mark.parametrize("remat", ["projections", "attention", "full"])
def test_remat_changes_no_gradient(tiny, remat: str):
    model, params = tiny
    row = packed(np.arange(3, 40))

    def total(params: Params, remat: str) -> jax.Array:
        inputs = Inputs(*(row[name][None] for name in ("tokens", "positions", "segment_ids")))
        llama = model.merge(params)
        return (llama.logits(llama.hidden(inputs, "float32", remat)) ** 2).mean()

    gradient = jax.jit(jax.grad(total), static_argnums=1)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7),
        gradient(params, "none"),
        gradient(params, remat),
    )


def test_decoding_with_a_cache_gives_the_logits_of_the_whole_text(tiny):
    model, params = tiny
    tokens = np.random.default_rng(2).integers(3, 256, (2, 24))
    whole = [forward(model, params, packed(row, length=24)) for row in tokens]

    @jax.jit
    def decode(params, tokens_BT, positions_BT, cache):
        llama = model.merge(params)
        x_BTD, cache = llama.decode(tokens_BT, positions_BT, cache, "float32")
        return llama.logits(x_BTD), cache

    cache = cache_for(model.config, 2, 24)
    positions = np.broadcast_to(np.arange(24), (2, 24))
    # A prompt of 16, of which the last 4 are padding that later tokens overwrite.
    padded = tokens[:, :16].copy()
    padded[:, 12:] = 0
    logits, cache = decode(params, padded, positions[:, :16], cache)
    np.testing.assert_allclose(logits[:, :12], np.stack(whole)[:, :12], atol=1e-5)
    for t in range(12, 24):
        logits, cache = decode(params, tokens[:, t : t + 1], positions[:, t : t + 1], cache)
        np.testing.assert_allclose(logits[:, 0], np.stack(whole)[:, t], atol=1e-5)


def test_multipliers_are_rounded_with_their_product_and_the_scale_of_an_embedding_before_it():
    x = jnp.asarray(np.random.default_rng(0).normal(size=1000), jnp.bfloat16)
    np.testing.assert_array_equal(scaled(x, 0.22), (x.astype(jnp.float32) * 0.22).astype(jnp.bfloat16))
    assert (scaled(x, 0.22) != x * jnp.asarray(0.22, jnp.bfloat16)).any()
    config = dataclasses.replace(VARIANTS["tiny"], embedding_scale=3072**0.5)
    decoder = build(config).merge(init_params(config, 0))
    tokens = jnp.arange(20)[None]
    table = decoder.embed_VD[...].astype(jnp.bfloat16)
    np.testing.assert_array_equal(decoder.embedded(tokens, ALONE, "bfloat16"), table[tokens] * jnp.bfloat16(55.5))
